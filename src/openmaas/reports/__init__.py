"""Results of jobs as pages and plots for people: pure functions of plain data, for the command line and the console."""
