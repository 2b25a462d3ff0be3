"""Start, watch and stop processes: the supervisor and what it needs. Processes are known by their command line."""
