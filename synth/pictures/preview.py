"""A picture of a cohort of pictures: those of the first patients of each site.

Legend: S sites, P pictures of a row; N pictures of a patient.
"""

from itertools import islice
from pathlib import Path

from fedward.common.config.image import PicturesConfig
from fedward.synth.pictures.cohort import classes_of, patients_of, sensor_of
from fedward.synth.sheet import new_sheet, outline, write_sheet

_PER_SITE = 8


def write_preview(config: PicturesConfig, path: Path) -> None:
    """Write a PNG with a row per site, a picture after the other with the outlines of its mask.

    The patients are made anew, so the cohort's files need not be there.

    Raises:
        StorageError: the file cannot be written.
    """
    classes = classes_of(config)
    figure, axes_SP = new_sheet(len(config.patients), _PER_SITE)
    for index, site in enumerate(config.patients):
        pictures = (
            picture
            for _, patient in patients_of(config, site, most=_PER_SITE)
            for picture in zip(patient.pictures_NYX, patient.masks_NYX, patient.labels, strict=True)
        )
        for axes, (picture_YX, mask_YX, label) in zip(
            axes_SP[index], islice(pictures, _PER_SITE), strict=False
        ):
            axes.imshow(picture_YX, cmap="gray", vmin=0, vmax=255)
            outline(axes, mask_YX)
            axes.text(
                *(0.03, 0.03),
                classes[label],
                transform=axes.transAxes,
                color="white",
                fontsize=5,
                bbox={"facecolor": "black", "alpha": 0.4, "linewidth": 0, "pad": 1},
            )
        title = f"{site}: {sensor_of(config, site).name}"
        axes_SP[index][0].set_title(title, loc="left", fontsize=8)
    write_sheet(figure, path)
