"""A plan as one HTML page that needs nothing else: no network, no library, no server."""

from npas.html.page import report_html
from npas.html.write import write_report

__all__ = ["report_html", "write_report"]
