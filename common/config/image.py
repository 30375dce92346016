"""The keys of `run.yaml` that are about images: `data.image`, what is made for it, and `loss`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.common.config.section import Section, Seed, SiteName

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]


class ImageConfig(Section):
    """How the images of a site become what a model sees."""

    size: tuple[Positive, ...] = Field(strict=False, min_length=2, max_length=3)
    """Voxels of one row: depth, height, width; or height, width for axial slices."""
    rows: Literal["lesion", "slice", "volume"] = "lesion"
    """What one row is: the region round a lesion, an axial slice, or all of a scan."""
    spacing_mm: tuple[Millimetres, ...] | None = Field(default=None, strict=False)
    """Resampled to this, in the order of `size`; absent: as the images are stored."""
    window: tuple[float, float] = Field(strict=False)
    """Values that become 0 and 1, in the schema's unit (HU)."""
    clahe: bool = False
    """Contrast-limited adaptive histogram equalisation, slice by slice, after the window."""
    min_lesion_voxels: int = Field(default=1, ge=1)
    """Lesions of fewer voxels, after resampling, are no rows of their own."""
    max_rows_per_patient: int | None = Field(default=None, ge=1)
    """Rows of one patient that are used: the largest lesions, or slices evenly apart."""
    augment: Literal["none", "flips", "full"] = "none"
    """Of training rows: mirrored; or mirrored, turned, scaled, shifted in grey and made noisy."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ImageConfig":
        if self.window[0] >= self.window[1]:
            raise ValueError("window: expected [lowest, highest]")
        if self.spacing_mm is not None and len(self.spacing_mm) != len(self.size):
            raise ValueError("spacing_mm: expected as many figures as `size` has")
        if (self.rows == "slice") != (len(self.size) == 2):
            raise ValueError("rows: `slice` goes with a size of two figures, the others with three")
        return self


class PhantomConfig(Section):
    """A cohort of CT phantoms, made when it is first used (see `fedward synth phantom`)."""

    kind: Literal["stones", "nodules", "abdomen"] = "stones"
    """Regions round urinary stones, regions round lung nodules, or whole abdomens."""
    patients: dict[SiteName, Positive] = Field(min_length=1)
    """How many patients each site has; each site has a scanner of its own."""
    labels_from: Literal["both", "ct", "ehr", "none"] = "both"
    """What the label depends on; `none`: on nothing, as a control."""
    size: Positive = 64
    """Millimetres of a region along each side; an abdomen is as large as its body."""
    files: Literal["dicom", "nifti"] = "dicom"
    """How the scans are written."""
    missing: Share = 0.1
    """Share of the clinical values that are left out."""
    seed: Seed
    """Of the cohort; the run's own seed does not change it."""


class PicturesConfig(Section):
    """A cohort of phantoms of pictures, made when it is first used (see `fedward synth phantom`).

    Their labels follow from the picture alone, nothing is missing, and a site is one `.npz` file.
    """

    kind: Literal["skin", "retina"]
    """Spots of the skin, one picture per patient; or volumes of four B-scans of the retina."""
    patients: dict[SiteName, Positive] = Field(min_length=1)
    """How many patients each site has; each site has a camera or scanner of its own."""
    size: Annotated[int, Field(ge=16, le=1024)] = 64
    """Pixels along each side; a patient is the same one at any size."""
    seed: Seed
    """Of the cohort; the run's own seed does not change it."""


class LossConfig(Section):
    """What training minimises where a model segments, classifies, or both."""

    classification: tuple[Literal["bce", "focal"], ...] = Field(
        default=("bce", "focal"), strict=False, min_length=1
    )
    """Terms of the classification loss (USCNet, table 4)."""
    segmentation: Literal["dice", "dice-ce"] = "dice"
    """Dice, or Dice and cross-entropy in equal parts."""
    weights: Literal["dynamic", "fixed"] = "dynamic"
    """`dynamic`: by the Dice of the site's validation patients (USCNet, algorithm 1)."""
    class_weight: Share = 0.5
    """Of the classification loss, where weights are `fixed`; segmentation has the rest."""
    class_balance: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, strict=False, min_length=2
    )
    """How much each class counts, in the schema's order (weighted cross-entropy); absent: alike."""
    sign_weight: float = Field(default=0.3, ge=0)
    """Of each of the schema's signs, in units of the classification loss."""
    bce_share: Share = 0.1
    """Of the binary cross-entropy within the classification loss; focal has the rest."""
    focal_gamma: float = Field(default=2.0, ge=0)
    """How much easy samples count less."""
    focal_scale: float = Field(default=0.25, gt=0)
    """Scale of the focal term."""
    deep_supervision: bool = True
    """Whether coarser masks count too, where the network gives them."""
