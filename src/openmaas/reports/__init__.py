"""Results of jobs as pages and plots for people: pure functions of plain data, for the command line and the console.

render_html(comparison)    a page that needs nothing besides itself: tables, plots, the rows whose answers changed
terminal_plot(comparison)  the Pareto front in characters
"""

from __future__ import annotations

from openmaas.reports.page import render_html
from openmaas.reports.terminal import terminal_plot

__all__ = ["render_html", "terminal_plot"]
