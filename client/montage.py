"""Pictures of a site's cases: image, truth and prediction of the best, middle and worst one.

A picture of a patient is a patient's datum: for private data it is written to the site's own disk
when its people ask, and never sent. Reports show phantoms and public data only
(`image.shown` of the schema).

Legend: S structures, D depth, H rows, W columns of the slice that is shown.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from fedward.client.model_file import TrainedModel
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.rows import IMAGE, MASK
from fedward.common.keys import write_private
from fedward.common.tables.table import TableSource
from fedward.common.task import Batch, PatientDataset
from fedward.common.tasks.ct import CtTask

DPI = 110
TRUTH, PREDICTED = "#1b9e3e", "#ff5a5f"
CASE_INCHES, MIN_INCHES = 2.7, 6.0
DESCRIPTION = "Description"
"""The text of the PNG that says which cases it shows, for those who cannot see it."""


@dataclass(frozen=True, repr=False)
class Case:
    """One row of images: the slice in which the truth is largest."""

    rank: str
    """`best`, `median` or `worst` of the site's rows."""
    dice: float
    """Of the whole row, not of the slice, of the schema's first structure."""
    image_HW: npt.NDArray[np.float32]
    truth_SHW: npt.NDArray[np.bool_]
    predicted_SHW: npt.NDArray[np.bool_]


def cases(model: nn.Module, task: CtTask, data: PatientDataset) -> list[Case]:
    """Return the best, median and worst row by Dice; fewer where there are fewer with a truth.

    The median is the lower one of an even number. Rows whose truth is empty have no Dice and are
    not shown.

    Args:
        model: trained.
        task: what it was trained for.
        data: patients that it was not trained on.
    """
    rows = data.all_rows()
    dice = _dice_of_rows(model, task, rows)
    there = np.flatnonzero(np.isfinite(dice))
    if not len(there):
        return []
    # Stable, so that the same run gives the same pictures.
    order = there[np.argsort(-dice[there], kind="stable")]
    places = {int(order[0]): "best", int(order[-1]): "worst"}
    if len(order) > 2:
        middle = int(order[len(order) // 2])
        places = {int(order[0]): "best", middle: "median", int(order[-1]): "worst"}
    if len(order) == 1:
        places = {int(order[0]): "only"}
    return [_case(model, task, rows, place, rank) for place, rank in places.items()]


def montage(found: list[Case], *, title: str) -> bytes:
    """Return a PNG of the cases side by side, truth in green and prediction in red.

    Args:
        found: from `cases`, at least one.
        title: of whom, such as the site's name.
    """
    width = max(MIN_INCHES, CASE_INCHES * len(found))
    figure = Figure(figsize=(width, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    for place, case in enumerate(found, start=1):
        axes = figure.add_subplot(1, len(found), place)
        axes.imshow(case.image_HW, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        for masks_SHW, colour, style in (
            (case.truth_SHW, TRUTH, "solid"),
            (case.predicted_SHW, PREDICTED, "dashed"),
        ):
            for mask_HW in masks_SHW:
                if mask_HW.any() and not mask_HW.all():
                    axes.contour(mask_HW, levels=[0.5], colors=[colour], linestyles=[style])
        axes.set_title(f"{case.rank}: Dice {case.dice:.2f}", fontsize=12)
        axes.set_axis_off()
    # A site's name must not be read as mathematics.
    figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    figure.supxlabel("truth: green; prediction: red, dashed", fontsize=11)
    picture = io.BytesIO()
    figure.savefig(
        picture, format="png", dpi=DPI, metadata={"Software": None, DESCRIPTION: described(found)}
    )
    return picture.getvalue()


def described(found: list[Case]) -> str:
    """Return the cases in words: 'best: Dice 0.91, median: Dice 0.80, worst: Dice 0.12'."""
    return ", ".join(f"{case.rank}: Dice {case.dice:.2f}" for case in found)


def site_cases(model: TrainedModel, source: TableSource, *, own_models: bool = False) -> list[Case]:
    """Return the cases of the site's own test patients: those that the run held out.

    Args:
        model: with the sums that scale its features.
        source: the site's rows.
        own_models: whether its network may be an importable class.

    Raises:
        ConfigError: the model draws no masks.
        SiteDataError: no test patient has a mask to compare with, or the data cannot be used.
    """
    study = model.study(own_models=own_models)
    task = study.task
    if not isinstance(task, CtTask) or not task.images.structures:
        raise ConfigError(
            f"model {model.name}: it finds no structures in images, so there is nothing to draw"
        )
    test = task.datasets(source, study.split, model.statistics).test
    found = cases(model.network(own_models=own_models), task, test)
    if not found:
        raise SiteDataError(
            f"model {model.name}: no test patient of {source.site_id} has a mask to compare with, "
            "or the network answers with none"
        )
    return found


def write_montage(path: Path, found: list[Case], *, title: str) -> None:
    """Write the picture for this site's own eyes: mode 0600.

    Raises:
        StorageError: it cannot be written.
    """
    write_private(path, montage(found, title=title))


def _dice_of_rows(model: nn.Module, task: CtTask, rows: Batch) -> npt.NDArray[np.float64]:
    """Return (N,) the Dice of the first structure; NaN without truth, image or masks at all."""
    found = [np.zeros(0)]
    for batch in _batches(rows, task.rows_per_pass):
        outputs = _outputs(model, batch)
        if "mask" not in outputs:
            return np.zeros(0)
        kept = task.condense(outputs, batch)
        own = kept[f"mask.{task.images.structures[0]}.dice"].cpu().numpy()
        found.append(np.where(kept["masked"].cpu().numpy(), own, np.nan))
    return np.concatenate(found)


def _case(model: nn.Module, task: CtTask, rows: Batch, place: int, rank: str) -> Case:
    batch = {key: values[place : place + 1] for key, values in rows.items()}
    outputs = _outputs(model, batch)
    dice = task.condense(outputs, batch)[f"mask.{task.images.structures[0]}.dice"]
    voxels = batch[IMAGE][0, 0].float().cpu().numpy()
    labels = batch[MASK][0].cpu().numpy()
    truth = np.stack([labels == number + 1 for number in range(len(task.images.structures))])
    predicted = (outputs["mask"][0] > 0).cpu().numpy()
    if voxels.ndim == 3:
        level = int(truth[0].sum(axis=(1, 2)).argmax())
        voxels, truth, predicted = voxels[level], truth[:, level], predicted[:, level]
    return Case(rank, float(dice[0]), voxels, truth, predicted)


def _outputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        outputs: dict[str, Tensor] = model(batch)
    return outputs


def _batches(rows: Batch, at_once: int) -> Iterator[Batch]:
    for start in range(0, len(rows["patient_id"]), at_once):
        yield {key: values[start : start + at_once] for key, values in rows.items()}
