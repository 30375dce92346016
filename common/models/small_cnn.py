"""A small convolutional network that classifies images, in 2D and 3D, with two hidden layers.

Legend: B rows, C classes, F features of the last feature maps; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import (
    Normalisation,
    OrMissing,
    needs_classes,
    normalisation,
    seen_image,
)
from fedward.common.models.options import PositiveInt, Probability
from fedward.common.task import Batch

Widths = Annotated[Sequence[PositiveInt], Field(min_length=1, max_length=8)]


class SmallCNN(nn.Module):
    """Convolutions of 3 voxels a side, each followed by a pooling by two, then linear layers.

    Where a thing is in the image stays known: the last feature maps are flattened, not averaged.
    The layers are defined in the order in which they are passed, so that with `hidden: [128, 128]`
    the second to last weight lies between two layers of 128 neurons.

    Args:
        channels: of each convolution; each halves every side.
        stem_stride: of the first convolution; with 2 it halves every side once more.
        hidden: width of each hidden linear layer, the last one just before the classes.
        norm: of the feature maps. `batch` couples the patients of a batch: it is refused under
            differential privacy.
        dropout: after each hidden layer.

    Source: the head of 128, 128 and C neurons is that of Kumar et al. 2025, "Visualizing Dynamics
    of Federated Medical Models via Conversational Memory Elements", ICPR 2024, LNCS 15312, figure
    2, which puts it on ResNet50, DenseNet121 and AlexNet; the convolutions are ours.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        form: ImageForm,
        *,
        channels: Widths = (8, 16, 32),
        hidden: Widths = (128, 128),
        stem_stride: Literal[1, 2] = 2,
        norm: Normalisation = "group",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        needs_classes(form, "small-cnn")
        grid = _grid_left(form, stem_stride, len(channels))
        convolution = nn.Conv2d if form.spatial_dims == 2 else nn.Conv3d
        pooling = nn.MaxPool2d if form.spatial_dims == 2 else nn.MaxPool3d
        trunk: list[nn.Module] = []
        for place, (width_in, width) in enumerate(pairwise([1, *channels])):
            stride = 1 if place else stem_stride
            trunk += [
                convolution(width_in, width, kernel_size=3, stride=stride, padding=1),
                normalisation(norm, width),
                nn.ReLU(),
                pooling(2),
            ]
        self.trunk = nn.Sequential(*trunk)
        num_features = channels[-1] * prod(grid)
        self.or_missing = OrMissing(num_features)
        layers: list[nn.Module] = []
        for width_in, width in pairwise([num_features, *hidden]):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden[-1], form.num_classes)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C)."""
        features_BF: Tensor = self.trunk(seen_image(batch, self)).flatten(1)
        features_BF = self.or_missing(features_BF, batch["mask.image"])
        return {"label": self.head(self.body(features_BF))}


def _grid_left(form: ImageForm, stem_stride: int, num_halvings: int) -> list[int]:
    """Return the voxels along each axis of the last feature maps."""
    # A convolution rounds up, a pooling down.
    grid = [-(-side // stem_stride) // 2**num_halvings for side in form.size]
    if not all(grid):
        least = stem_stride * (2**num_halvings - 1) + 1
        raise ConfigError(
            f"data.image.size: of {list(form.size)} nothing is left at the end of small-cnn; "
            f"expected at least {least} a side, fewer model.channels, or model.stem_stride: 1"
        )
    return grid
