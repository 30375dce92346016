"""A sheet of pictures with the outlines of what masks hold: a row per site.

Legend: S sites, P pictures of a row; Y, X rows and columns of a picture.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward.common.errors import StorageError

_COLOURS = ("#ffb000", "#00b4ff", "#60e060")
_INCHES = 1.9


def new_sheet(num_sites: int, columns: int) -> tuple[Figure, npt.NDArray[Any]]:
    """Return an empty figure, and its axes (S, P) without ticks and frames."""
    size = (columns * _INCHES, num_sites * (_INCHES + 0.25))
    figure = Figure(figsize=size, layout="compressed")
    FigureCanvasAgg(figure)
    axes_SP: npt.NDArray[Any] = figure.subplots(num_sites, columns, squeeze=False)
    for axes in axes_SP.flat:
        axes.set_axis_off()
    return figure, axes_SP


def outline(axes: Axes, mask_YX: npt.NDArray[np.generic]) -> None:
    """Draw round each structure of a mask, in a colour of its own."""
    for value, colour in enumerate(_COLOURS, start=1):
        if (mask_YX == value).any():
            axes.contour(mask_YX == value, levels=[0.5], colors=[colour], linewidths=0.7)


def write_sheet(figure: Figure, path: Path) -> None:
    """Write a PNG.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, format="png")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
