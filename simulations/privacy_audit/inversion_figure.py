"""The picture of a gradient inversion: truth, what was made of each update, and another patient.

Legend: K attacked images, H rows, W columns.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedward.common.errors import StorageError
from fedward.simulations.privacy_audit.inversion import Images, Inversion, psnr_db

DPI, CASE_INCHES, LABEL_INCHES = 110, 1.35, 2.6
DESCRIPTION = "Description"
"""The text of the PNG that says what it shows, for those who cannot see it."""


def write_figure(found: Inversion, path: Path) -> None:
    """Write a PNG with a row per attack and a column per patient; under each its PSNR in dB.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = list(_rows(found))
    num_patients = len(found.attacked.truth_KHW)
    size = (LABEL_INCHES + num_patients * CASE_INCHES, len(rows) * (CASE_INCHES + 0.2))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes_RK = figure.subplots(len(rows), num_patients, squeeze=False)
    for axes_K, (name, image_KHW, mse) in zip(axes_RK, rows, strict=True):
        axes_K[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for number, axes in enumerate(axes_K):
            axes.imshow(image_KHW[number], cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            if mse:
                axes.set_xlabel(f"{psnr_db(mse)[number]:.1f} dB", fontsize=7, labelpad=2)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=DPI, format="png", metadata={DESCRIPTION: described(found)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.getvalue())
    except OSError as error:
        raise StorageError(f"--out: cannot write {path}: {error.strerror}") from error


def described(found: Inversion) -> str:
    """Return what the picture shows, in a sentence."""
    parts = [
        f"{one.network} {'with' if one.is_private else 'without'} privacy "
        f"{one.num_named} of {len(one.mse)} patients named"
        for one in found.found
    ]
    return f"Images made of updates of site {found.site}: {'; '.join(parts)}."


def _rows(found: Inversion) -> Iterator[tuple[str, Images, Sequence[float]]]:
    yield "truth", found.attacked.truth_KHW, ()
    for one in found.found:
        how = f"clipped, noise {found.noise_multiplier:g}" if one.is_private else "unprotected"
        yield f"{one.network},\n{how}", one.image_KHW, one.mse
    yield (
        "another patient:\nthe nearest of the site",
        found.attacked.other_KHW,
        (found.attacked.other_mse),
    )
