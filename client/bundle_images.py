"""A network of images as a MONAI bundle has it, and what the bundle's metadata say of it.

MONAI calls a network with a tensor and wants one back. What ours takes beside the image, the
clinical fields, is marked as missing there: `fedward predict` has it, reads DICOM, and finds the
lesions that a class is about. Written without MONAI.

Legend: B rows, K structures, C classes, F columns of clinical fields; `...` the axes of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedward.common.config.image import ImageConfig
from fedward.common.tables.schema import TableSchema

Answer = Literal["mask", "label"]


class ImageNetwork(nn.Module):
    """A network of ours in the form that MONAI calls: from an image to one tensor.

    Its `state_dict` is that of the network itself, as `models/model.pt` holds it.

    Args:
        network: as `fedward.common.models.image_form` has it.
        num_columns: F of the clinical fields; 0 where the network takes none.
        answer: which of its outputs; None: masks where it gives them, else classes.
    """

    def __init__(
        self, network: nn.Module, *, num_columns: int = 0, answer: Answer | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.num_columns = num_columns
        self.answer = answer

    def forward(self, image: Tensor, features_BF: Tensor | None = None) -> Tensor:
        """Return logits: masks (B, K, ...) or classes (B, C).

        Args:
            image: (B, 1, ...) after the window, in [0, 1].
            features_BF: encoded clinical fields; None: they are missing.
        """
        outputs = self.outputs(image, features_BF)
        answer = self.answer or ("mask" if "mask" in outputs else "label")
        return outputs[answer]

    def outputs(self, image: Tensor, features_BF: Tensor | None = None) -> Mapping[str, Tensor]:
        """Return all that the network answers with."""
        # A plain tensor: MONAI's own keeps a log of every operation.
        image = torch.as_tensor(image).as_subclass(Tensor)
        there = torch.ones(len(image), dtype=torch.bool, device=image.device)
        batch = {"image": image, "mask.image": there, "mask.table": ~there}
        if self.num_columns:
            batch["features"] = image.new_zeros(len(image), self.num_columns)
        if features_BF is not None:
            batch |= {"features": features_BF, "mask.table": there}
        found: Mapping[str, Tensor] = self.network(batch)
        return found

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Return that of the network."""
        return self.network.state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Load into the network."""
        return self.network.load_state_dict(*args, **options)


def output_channels(network: ImageNetwork, image: ImageConfig) -> dict[Answer, int]:
    """Return how many channels each output has, from one pass over an empty image.

    Left out is a mask of which a window holds a part only: it is no answer about a scan.
    """
    network.eval()
    with torch.inference_mode():
        outputs = network.outputs(torch.zeros(1, 1, *image.size))
    draws_part = getattr(network.network, "draws_part", False)
    kinds: tuple[Answer, ...] = ("label",) if draws_part else ("mask", "label")
    return {kind: outputs[kind].shape[1] for kind in kinds if kind in outputs}


def data_format(
    schema: TableSchema, image: ImageConfig, channels: Mapping[Answer, int]
) -> dict[str, Any]:
    """Return `network_data_format` of the metadata, without the clinical fields.

    Args:
        schema: names of structures and classes.
        image: size and window.
        channels: from `output_channels`.
    """
    assert schema.image is not None, "a model of images has a schema of images"
    in_hu = schema.image.unit == "HU"
    low, high = image.window
    outputs = {
        "mask": _tensor(
            ("image", "classes"),
            channels.get("mask", 0),
            spatial_shape=image.size,
            channel_def=[f"{name}, logit" for name in schema.image.structures],
            is_patch_data=image.rows != "volume",
        ),
        "label": _tensor(
            ("logits", "classes"), channels.get("label", 0), channel_def=schema.class_names
        ),
    }
    given = [outputs[kind] for kind in channels]
    return {
        "inputs": {
            "image": _tensor(
                ("image", "hounsfield" if in_hu else "magnitude"),
                1,
                spatial_shape=image.size,
                channel_def=[f"{low:g} to {high:g} {schema.image.unit} as 0 to 1"],
                is_patch_data=image.rows != "volume",
                value_range=(0, 1),
            )
            | {"modality": "CT"}
        },
        "outputs": dict(zip(("pred", "label"), given, strict=False)),
    }


def _tensor(  # noqa: PLR0913 - the keys that the format has
    kind: tuple[str, str],
    num_channels: int,
    *,
    channel_def: Sequence[str],
    spatial_shape: Sequence[int] = (),
    is_patch_data: bool = False,
    value_range: Sequence[int] = (),
) -> dict[str, Any]:
    return {
        "type": kind[0],
        "format": kind[1],
        "num_channels": num_channels,
        "spatial_shape": list(spatial_shape),
        "dtype": "float32",
        "value_range": list(value_range),
        "is_patch_data": is_patch_data,
        "channel_def": {str(number): name for number, name in enumerate(channel_def)},
    }
