"""What a run leaves for people: `report.html`, `plots/*.png` and `model_card.md`."""

from fedward.server.report.card import write_model_card
from fedward.server.report.page import build_report
from fedward.server.report.plots import write_plots

__all__ = ["build_report", "write_model_card", "write_plots"]
