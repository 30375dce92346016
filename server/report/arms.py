"""How the ways of training are drawn, on every page and in every picture."""

from dataclasses import dataclass

from fedward.common.page.palette import BLUE, GREEN, VERMILLION


@dataclass(frozen=True)
class ArmStyle:
    """How one way of training is drawn everywhere."""

    label: str
    colour: str
    mark: str
    mark_png: str
    """The same mark in matplotlib's alphabet."""


ARMS = {
    "local": ArmStyle("Alone", VERMILLION, "square", "s"),
    "federated": ArmStyle("Federated", BLUE, "circle", "o"),
    "pooled": ArmStyle("Pooled", GREEN, "diamond", "D"),
}
