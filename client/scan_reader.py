"""What a trained network and the scan itself say of one series: masks, lesions, classes.

Legend: D, H, W as in a volume; N rows, S axes of a row, C classes, K structures, F columns; A, B, C
the axes of a scan as it is stored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedward.client.bundle_images import ImageNetwork
from fedward.client.clinical_rows import ClinicalRows
from fedward.client.ct_inference import CERTAIN, Probabilities, ScanNetwork, label_map
from fedward.client.data.ct_rows import AIR, Grid, Voxels, resampled, rows_of
from fedward.client.data.volumes import Series, Volume, check_hu, load_volume
from fedward.client.dicom_seg import segmentation_bytes
from fedward.client.mask_files import nifti_bytes, on_stored_grid, stored_grid
from fedward.client.measurements import Lesion, lesions_in_mask, stones_in_kidneys
from fedward.client.model_file import TrainedModel
from fedward.client.scan_report import SeriesReport, grid_of
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.images.lesions import two_largest_components
from fedward.common.images.measure import THRESHOLD_HU
from fedward.common.keys import write_private
from fedward.common.tables.encode import layout_of
from fedward.common.tables.schema import ImageSchema

KIDNEY, STONE = "kidney", "stone"
KIDNEY_PROBABILITY = 0.65
"""From here on a voxel is kidney, as in the paper whose U-Net draws kidneys."""
MASKS = "masks"
"""The folder of masks below the output folder."""
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, repr=False)
class _Found:
    """What the network drew in a volume, and the lesions of it."""

    labels_DHW: Labels
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True, repr=False)
class ScanReader:
    """A model with all that one series needs."""

    model: TrainedModel
    network: ScanNetwork
    structures: tuple[str, ...]
    """Of the masks that are written."""
    lesion: str | None
    stone_hu: float | None
    """None: lesions are what the network draws."""

    @classmethod
    def of(cls, model: TrainedModel, *, stone_hu: float | None, own_models: bool) -> "ScanReader":
        """Return the reader.

        Raises:
            ConfigError: the model is of no images, lacks the kidneys, or an option is of another
                task.
        """
        image, schema = _sections(model)
        fields = model.schema.select(model.config.data.features)
        layout = layout_of(fields) if fields else None
        network = ScanNetwork(
            ImageNetwork(
                model.network(own_models=own_models),
                num_columns=layout.stops[-1] if layout else 0,
            ),
            image,
            schema,
            torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        )
        if model.config.task != "ct-kidney":
            if stone_hu is not None:
                raise ConfigError("--stone-hu: only for models of the task ct-kidney")
            return cls(model, network, schema.structures, schema.lesion, None)
        _check_kidneys(network, schema)
        structures = schema.structures
        if STONE not in structures:
            structures = (*structures, STONE)
        return cls(model, network, structures, STONE, stone_hu or THRESHOLD_HU)

    def report(
        self, series: Series, number: int, *, clinic: ClinicalRows, folder: Path, out: Path
    ) -> SeriesReport:
        """Return what was found in a series, of which the masks are written.

        Raises:
            SiteDataError: with the reason why it cannot be used.
            StorageError: a file cannot be written.
        """
        volume = load_volume(series)
        _check_unit(volume, series, self.network.schema)
        owner = clinic.owner(series, folder)
        features_F = clinic.features_of(owner)
        found = _Found(np.zeros(volume.voxels_DHW.shape, dtype=np.uint8), ())
        files: dict[str, str] = {}
        notes: list[str] = []
        draws = "mask" in self.network.answers
        if draws:
            found = self._found(volume, features_F)
        each, probability_NC = self._classes(volume, found, features_F)
        if draws:
            files, notes = self._write_masks(series, volume, found, out / MASKS / f"{number:04}")
        voxel_mm3 = float(np.prod(volume.spacing_mm))
        counts = np.bincount(found.labels_DHW.ravel(), minlength=len(self.structures) + 1)
        sizes = zip(self.structures, counts[1:].tolist(), strict=True) if draws else ()
        return SeriesReport(
            number=number,
            series=series,
            owner=owner,
            volume_mm3={name: voxels * voxel_mm3 for name, voxels in sizes},
            lesions=found.lesions,
            lesion_probability=each,
            probability_NC=probability_NC,
            files=files,
            grid=grid_of(volume),
            notes=tuple(notes),
            has_table=features_F is not None,
        )

    def _found(self, volume: Volume, features_F: Tensor | None) -> _Found:
        """Return what the network draws, and its lesions, on the grid of the volume."""
        grid = Grid(volume.voxels_DHW, None, volume.spacing_mm)
        probability_KDHW = self.network.structures(grid, features_F)
        if self.stone_hu is not None:
            return self._stones(volume, probability_KDHW)
        labels_DHW = label_map(probability_KDHW)
        kidneys_DHW = None
        if KIDNEY in self.structures:
            kidneys_DHW = labels_DHW == self.structures.index(KIDNEY) + 1
        lesions: list[Lesion] = []
        for name in self.structures if self.lesion is None else (self.lesion,):
            finding = lesions_in_mask(
                volume,
                labels_DHW == self.structures.index(name) + 1,
                name,
                min_volume_mm3=self._least_mm3(volume),
                kidneys_DHW=kidneys_DHW,
            )
            lesions += finding.lesions
        return _Found(labels_DHW, tuple(lesions))

    def _stones(self, volume: Volume, probability_KDHW: Probabilities) -> _Found:
        """Return the kidneys as the network draws them, and the stones in them by raw HU."""
        assert self.stone_hu is not None
        kidney = self.structures.index(KIDNEY)
        kidneys_DHW = probability_KDHW[kidney] >= KIDNEY_PROBABILITY * CERTAIN
        kidneys_DHW = two_largest_components(kidneys_DHW)
        finding = stones_in_kidneys(volume, kidneys_DHW, self.stone_hu)
        labels_DHW = kidneys_DHW.astype(np.uint8) * np.uint8(kidney + 1)
        labels_DHW[finding.mask_DHW] = self.structures.index(STONE) + 1
        return _Found(labels_DHW, finding.lesions)

    def _least_mm3(self, volume: Volume) -> float:
        """Return the volume of the smallest lesion that was a row in training."""
        image = self.network.image
        wanted = image.spacing_mm or ()
        spacing_mm = [*volume.spacing_mm[: 3 - len(wanted)], *wanted]
        # Of one voxel any part is left, also where the scan's own voxels are finer.
        return (
            0.0
            if image.min_lesion_voxels == 1
            else image.min_lesion_voxels * float(np.prod(spacing_mm))
        )

    def _classes(
        self, volume: Volume, found: _Found, features_F: Tensor | None
    ) -> tuple[tuple[npt.NDArray[np.float64] | None, ...], npt.NDArray[np.float64]]:
        """Return the (C,) probabilities of each lesion, and (N, C) of all that was classified."""
        nothing = (None,) * len(found.lesions)
        none_NC = np.zeros((0, self.model.schema.num_classes))
        if "label" not in self.network.answers:
            return nothing, none_NC
        image = self.network.image
        if image.rows == "lesion" and "mask" in self.network.answers:
            lesions = found.lesions[: image.max_rows_per_patient]
            if not lesions:
                return nothing, none_NC
            rows_NS = self._round(volume, lesions)
            probability_NC = self.network.classes(rows_NS, features_F)
            return (*probability_NC, *nothing[len(lesions) :]), probability_NC
        labels_DHW = None
        if "mask" in self.network.answers and image.rows == "slice":
            # The structures that the network was trained with; stones by HU lie within them.
            labels_DHW = np.minimum(found.labels_DHW, len(self.network.schema.structures))
            if not labels_DHW.any():
                return nothing, none_NC
        grid = Grid(volume.voxels_DHW, labels_DHW, volume.spacing_mm)
        rows = rows_of(grid, image, self.network.schema)
        return nothing, self.network.classes(rows.image_NS, features_F)

    def _round(self, volume: Volume, lesions: tuple[Lesion, ...]) -> Voxels:
        """Return (N, S) the regions round lesions, as training rows are cut."""
        image = self.network.image
        grid = Grid(volume.voxels_DHW, None, volume.spacing_mm)
        small = resampled(grid, image.spacing_mm)
        ratio = np.array(small.voxels_DHW.shape) / np.array(volume.voxels_DHW.shape)
        fill = AIR[self.network.schema.unit]
        rows = []
        for lesion in lesions:
            # From the middle of a voxel to the face where both grids begin, and back.
            place = (np.array(lesion.voxel(volume)) + 0.5) * ratio
            rows.append(small.around(np.floor(place).astype(int), image.size, fill=fill)[0])
        return np.stack(rows)

    def _write_masks(
        self, series: Series, volume: Volume, found: _Found, path: Path
    ) -> tuple[dict[str, str], list[str]]:
        """Write the masks of a series; return their files' names, and why one is missing."""
        grid = stored_grid(series)
        is_dicom = series.kind == "dicom"
        labels_ABC = on_stored_grid(found.labels_DHW, volume, grid)
        mask = path.with_suffix(".nii.gz")
        write_private(mask, nifti_bytes(labels_ABC, grid, is_dicom=is_dicom))
        files = {"mask": f"{MASKS}/{mask.name}"}
        if not is_dicom:
            return files, []
        if not labels_ABC.any():
            return files, ["no DICOM Segmentation: nothing was found"]
        try:
            content = segmentation_bytes(
                labels_ABC,
                series,
                self.structures,
                lesion=self.lesion,
                algorithm=(self.model.name, f"round {self.model.round}"),
            )
        except SiteDataError as error:
            return files, [str(error)]
        segmentation = path.with_suffix(".dcm")
        write_private(segmentation, content)
        return {**files, "segmentation": f"{MASKS}/{segmentation.name}"}, []


def _sections(model: TrainedModel) -> tuple[ImageConfig, ImageSchema]:
    image, schema = model.config.data.image, model.schema.image
    if image is None or schema is None:
        raise ConfigError(f"model {model.name}: of tables, not of images; --input is a table then")
    if "image" not in model.config.data.modalities:
        raise ConfigError(
            f"model {model.name}: looks at no image (data.modalities); it cannot read scans"
        )
    return image, schema


def _check_kidneys(network: ScanNetwork, schema: ImageSchema) -> None:
    if KIDNEY not in schema.structures or "mask" not in network.answers:
        raise ConfigError(
            f"task ct-kidney: the model draws no structure called {KIDNEY!r} (image.structures)"
        )
    if schema.unit != "HU":
        raise ConfigError("task ct-kidney: stones are found by their HU, and the unit is another")


def _check_unit(volume: Volume, series: Series, schema: ImageSchema) -> None:
    if schema.unit != "HU":
        if series.kind == "dicom":
            raise SiteDataError("in HU, and the model was trained on grey levels of another scale")
        return
    problem = check_hu(volume)
    if problem is not None:
        raise SiteDataError(problem)
