"""Numbers and names as people read them."""

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a display starts before torch is loaded
    from fedward.common.task import Metric

HUGE = 1e6
MINUS = "\N{MINUS SIGN}"
TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "Calibration error",
    "f1": "F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "accuracy": "Accuracy",
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95 (mm)",
    "hd95_px": "HD95 (pixels)",
    "lesion_sensitivity": "Lesions found",
    "false_lesions": "False lesions per row",
    "num_truth_empty": "Rows without a lesion",
    "num_prediction_empty": "Rows with nothing found",
    "train_loss": "Training loss",
    "eval_loss": "Loss on test patients",
    "validation_loss": "Loss on validation patients",
}


def title(metric: str) -> str:
    """Return the name of a figure for headings."""
    name, _, structure = metric.partition(".")
    if structure:
        return f"{title(name)}, {structure}"
    return TITLES.get(metric, metric.replace("_", " ").replace("-", " ").capitalize())


def number(value: float | None, *, signed: bool = False) -> str:
    """Return three decimals (huge values: three digits) with a true minus sign, or a dash."""
    if value is None:
        return "–"
    if abs(value) >= HUGE:
        return f"{value:.3g}".replace("-", MINUS)
    value = round(value, 3) or 0.0  # no minus before a zero
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", MINUS)


def figure(metric: "Metric", *, signed: bool = False) -> str:
    """Return '0.910 [0.850, 0.960]', without the interval where there is none."""
    return f"{number(metric.value, signed=signed)}{interval(metric)}"


def interval(metric: "Metric") -> str:
    """Return ' [0.850, 0.960]', or nothing where there is no interval."""
    if metric.value is None or metric.low is None or metric.high is None:
        return ""
    return f" [{number(metric.low)}, {number(metric.high)}]"


def duration(seconds: float) -> str:
    """Return '0.8 s', '31 s', '4 min 10 s' or '2 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(num_bytes: float) -> str:
    """Return '512 B', '12.3 kB' or '1.2 GB', by powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            break
        num_bytes /= 1000
    return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"


def standing_still(saturated: Collection[str], resting: Collection[str]) -> list[str]:
    """Return how many sites are saturated and how many rest, as '2 saturated'; [] for none."""
    named = (("saturated", saturated), ("resting", resting))
    return [f"{len(sites):,} {word}" for word, sites in named if sites]


def moment(created: object) -> str:
    """Return an ISO time as '2025-11-21 10:33 UTC'; other text as it is."""
    try:
        when = datetime.fromisoformat(str(created))
    except ValueError:
        return str(created)
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()


def short(name: str, limit: int = 24) -> str:
    """Return `name`, cut in the middle: hospitals' names often differ only at the end."""
    if len(name) <= limit:
        return name
    half = (limit - 1) // 2
    return f"{name[: limit - 1 - half]}…{name[-half:]}"
