"""How MONAI's tools run a network of images: from a folder of NIfTI files to masks or classes.

`inference_config` is `configs/inference.json`; the rest is what it names. It is run by
`python -m monai.bundle run --config_file configs/inference.json` in the bundle's folder.

Legend: K structures, C classes, or the one channel of an image; D, H, W voxels as in
`fedward.common.images.rows`.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedward.client.bundle_images import Answer
from fedward.common.config.image import ImageConfig
from fedward.common.errors import SiteDataError
from fedward.common.keys import write_private
from fedward.common.tables.schema import TableSchema

CHUNK_ROWS = 16
OVERLAP = 0.5
FILE_NAME = "classes.csv"
_HERE = "fedward.client.bundle_inference"
_AXES = "SPL"
"""What D, H and W grow towards: superior, posterior, left."""
_ENDS = [["L", "R"], ["P", "A"], ["I", "S"]]

Case = Mapping[str, Any]


def inference_config(image: ImageConfig, schema: TableSchema, answer: Answer) -> dict[str, Any]:
    """Return the configuration, as `monai.bundle` reads it.

    Args:
        image: size, spacing and window.
        schema: names of the classes.
        answer: what the network gives first.
    """
    return {
        "imports": ["$import numpy", "$from fedward.client import bundle_inference"],
        "bundle_root": ".",
        "device": "cpu",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "network_def": {
            "_target_": "fedward.client.bundle.bundle_network",
            "bundle_root": "@bundle_root",
        },
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(image, answer)},
        "dataset": {
            "_target_": "Dataset",
            "data": {"_target_": f"{_HERE}.cases_in", "folder": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "inferer": _inferer(image, answer),
        **_evaluator(image, schema, answer),
        "run": ["$@evaluator.run()"],
    }


def cases_in(folder: str) -> list[dict[str, str]]:
    """Return the NIfTI files in a folder, as MONAI's data sets list them.

    Raises:
        SiteDataError: there is none.
    """
    files = sorted(path for path in Path(folder).glob("*.nii*") if path.is_file())
    if not files:
        raise SiteDataError(
            f"{folder}: no .nii or .nii.gz file; for DICOM use `fedward predict`, which reads it"
        )
    return [{"image": str(path)} for path in files]


class MaskInference:
    """Finds the structures in whole scans.

    Args:
        dataset: of cases whose `image` is (1, D, H, W).
        network: from an image to logits of masks.
        inferer: MONAI's, window by window.
        postprocessing: MONAI's, of a case with `pred` (K, D, H, W) logits; it writes the file.
        output_dir: made if needed, readable by its owner only.
    """

    def __init__(
        self,
        dataset: Iterable[Case],
        network: nn.Module,
        inferer: Any,
        *,
        postprocessing: Any,
        output_dir: str,
    ) -> None:
        self._dataset = dataset
        self._network = network
        self._inferer = inferer
        self._postprocessing = postprocessing
        self._out = Path(output_dir)

    def run(self) -> None:
        """Write a mask per case: 0, or k for the k-th structure, on the grid of the image."""
        self._out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._out.chmod(0o700)  # MONAI writes files that others may read
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            for case in self._dataset:
                logits = self._inferer(case["image"][None].to(device), self._network)[0]
                self._postprocessing({**case, "pred": logits.cpu()})


class ClassInference:
    """Classifies scans: the middle of each, or each of its axial slices.

    Args:
        dataset: of cases whose `image` is (1, D, H, W), cut to what the network sees.
        network: from images to logits (B, C).
        inferer: MONAI's.
        classes: their names.
        spatial_dims: 2 for a network of slices.
        output_dir: made if needed, readable by its owner only.
    """

    def __init__(  # noqa: PLR0913 - the parts of MONAI's configuration
        self,
        dataset: Iterable[Case],
        network: nn.Module,
        inferer: Any,
        *,
        classes: Sequence[str],
        spatial_dims: int,
        output_dir: str,
    ) -> None:
        self._dataset = dataset
        self._network = network
        self._inferer = inferer
        self._classes = classes
        self._spatial_dims = spatial_dims
        self._out = Path(output_dir)

    def run(self) -> None:
        """Write `classes.csv`: file, slice where the network is of slices, probabilities."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [f"probability_{name}" for name in self._classes]
        writer.writerow(["file", "slice", *names])
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            for case in self._dataset:
                image = case["image"].to(device)
                rows = image.swapaxes(0, 1) if self._spatial_dims == 2 else image[None]
                parts = [self._inferer(part, self._network) for part in rows.split(CHUNK_ROWS)]
                probability_BC = torch.cat(parts).double().softmax(dim=1).tolist()
                name = Path(str(image.meta["filename_or_obj"])).name
                for number, found in enumerate(probability_BC, 1):
                    place = number if self._spatial_dims == 2 else ""
                    writer.writerow([name, place, *(f"{value:.6f}" for value in found)])
        write_private(self._out / FILE_NAME, text.getvalue().encode())


def label_map(probability_KDHW: Tensor) -> Tensor:
    """Return (1, D, H, W): 0, or k where the k-th structure is the most probable and above 1/2."""
    none = torch.full_like(probability_KDHW[:1], 0.5)
    return torch.cat([none, probability_KDHW]).argmax(dim=0, keepdim=True)


def equalised_image(image_CDHW: Tensor) -> Tensor:
    """Return the axial slices, each equalised as in training (`data.image.clahe`)."""
    from fedward.common.images.measure import clahe

    found = image_CDHW.clone()  # it keeps what MONAI knows of the scan
    for number, plane in enumerate(image_CDHW[0].cpu().numpy()):
        found[0, number] = torch.from_numpy(clahe(plane))
    return found


def _preprocessing(image: ImageConfig, answer: Answer) -> list[dict[str, Any]]:
    low, high = image.window
    steps: list[dict[str, Any]] = [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
        },
        {"_target_": "Orientationd", "keys": "image", "axcodes": _AXES, "labels": _ENDS},
    ]
    if image.spacing_mm is not None:
        # Slices stay as far apart as they are, for a network of slices.
        spacing = [-1.0] * (3 - len(image.spacing_mm)) + list(image.spacing_mm)
        steps.append({"_target_": "Spacingd", "keys": "image", "pixdim": spacing})
    scale = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
    steps.append({"_target_": "ScaleIntensityRanged", "keys": "image", **scale})
    if image.clahe:
        steps.append(
            {"_target_": "Lambdad", "keys": "image", "func": "$bundle_inference.equalised_image"}
        )
    if answer == "label":
        size = [-1] * (3 - len(image.size)) + list(image.size)
        steps.append({"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": size})
    return steps


def _inferer(image: ImageConfig, answer: Answer) -> dict[str, Any]:
    if answer == "label":
        return {"_target_": "SimpleInferer"}
    windows = {"roi_size": list(image.size), "sw_batch_size": CHUNK_ROWS, "overlap": OVERLAP}
    if len(image.size) == 2:
        return {"_target_": "SliceInferer", "spatial_dim": 0, **windows}
    return {"_target_": "SlidingWindowInferer", "mode": "gaussian", **windows}


def _evaluator(image: ImageConfig, schema: TableSchema, answer: Answer) -> dict[str, Any]:
    """Return `evaluator`, and `postprocessing` where it has some."""
    common = {
        "dataset": "@dataset",
        "network": "@network",
        "inferer": "@inferer",
        "output_dir": "@output_dir",
    }
    if answer == "label":
        own = {"classes": list(schema.class_names), "spatial_dims": len(image.size)}
        return {"evaluator": {"_target_": f"{_HERE}.ClassInference", **common, **own}}
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        {"_target_": "Lambdad", "keys": "pred", "func": "$bundle_inference.label_map"},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "mask",
            "separate_folder": False,
            "output_dtype": "$numpy.uint8",
            "print_log": False,
        },
    ]
    own = {"postprocessing": "@postprocessing"}
    return {
        "postprocessing": {"_target_": "Compose", "transforms": steps},
        "evaluator": {"_target_": f"{_HERE}.MaskInference", **common, **own},
    }
