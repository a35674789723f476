"""One self-contained HTML page about one or several runs: curves, and a viewer of their trajectories."""

from sd_search_verl.report.html import write_report

__all__ = ["write_report"]
