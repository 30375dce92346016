"""Networks whose every answer a test can work out by hand.

Legend: B rows, K structures, C classes.
"""

import torch
from torch import Tensor, nn

from fedward.common.models.image_form import ImageForm


class Threshold(nn.Module):
    """Draws each structure where the windowed image is between two levels.

    With `classes`, the logit of class 1 is the share of the structures in the image, times 10,
    plus the first clinical field where the row has any.
    """

    def __init__(
        self,
        form: ImageForm,
        *,
        low: float = 0.3,
        high: float = 2.0,
        sharpness: float = 1e4,
        masks: bool = True,
        classes: bool = False,
    ) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([low, high]))
        self.sharpness = sharpness
        self.num_structures = form.num_structures
        self.num_classes = form.num_classes
        self.masks, self.classes = masks, classes

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch["image"].float()
        inside = torch.minimum(image - self.levels[0], self.levels[1] - image)
        found = {}
        if self.masks:
            found["mask"] = (self.sharpness * inside).expand(
                -1, self.num_structures, *image.shape[2:]
            )
        if self.classes:
            share_B = (inside > 0).flatten(1).float().mean(1)
            first_B = torch.zeros(len(image))
            if "features" in batch:
                first_B = batch["features"][:, 0] * batch["mask.table"]
            logit_B = 10 * share_B + first_B
            found["label"] = torch.stack([torch.zeros_like(logit_B), logit_B], dim=1)
        return found
