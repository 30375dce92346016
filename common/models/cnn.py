"""A small convolutional network for square images; the benchmark's 136,874 parameters."""

from torch import Tensor, nn
from torch.nn import functional

from fedward.common.models.layout import FieldLayout
from fedward.common.models.options import PositiveInt
from fedward.common.task import Batch


class CNN(nn.Module):
    """Two 3x3 convolutions, each with ReLU and 2x2 max-pooling, then two linear layers.

    As it stands, for 10 classes of 3x32x32 images: 448 + 4,640 + 131,136 + 650 = 136,874
    parameters.

    Args:
        layout: not used; every model is built alike.
        num_classes: C.
        in_channels: of `batch["image"]`.
        image_size_px: height and width of `batch["image"]`, at least 4.
        channels: of the first convolution; the second has twice as many.
        hidden: width of the first linear layer.
    """

    def __init__(  # noqa: PLR0913 - a model's own keys are its parameters
        self,
        layout: FieldLayout | None,
        num_classes: int,
        *,
        in_channels: PositiveInt = 3,
        image_size_px: PositiveInt = 32,
        channels: PositiveInt = 16,
        hidden: PositiveInt = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1)
        self.fc = nn.Linear(2 * channels * (image_size_px // 4) ** 2, hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (B, C) of `batch["image"]` (B, channels, H, W)."""
        x_BCHW = functional.max_pool2d(functional.relu(self.conv1(batch["image"])), 2)
        x_BCHW = functional.max_pool2d(functional.relu(self.conv2(x_BCHW)), 2)
        logits_BC: Tensor = self.head(functional.relu(self.fc(x_BCHW.flatten(1))))
        return logits_BC
