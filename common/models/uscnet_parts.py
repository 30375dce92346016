"""The parts of USCNet that no other network has: encoder with all states, mask guide, class head.

Shapes: B samples, N patches, d token width, v width of the fused vector, K structures, V voxels,
C classes; `*size` are D, H, W or H, W.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log1p

import torch
from torch import Tensor, nn

from fedward.common.models.attention import EncoderBlock
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_parts import OrMissing
from fedward.common.models.patch_encoder import EncoderSize, Patches

GAIN = 10.0
"""What is measured under a mask varies by tenths; weights start, and steps are made, for ones."""
VARIANCE_FLOOR = 1e-6


class StateEncoder(nn.Module):
    """Patches of the image, and transformer blocks, each of whose states can be read.

    Where a row has no image, each of its patches is a learnt vector that says so.

    Source: Wang et al. 2026, "USCNet", arXiv:2604.07141, sections 2.1 and 2.2.
    """

    def __init__(self, form: ImageForm, size: EncoderSize, *, num_blocks: int) -> None:
        super().__init__()
        self.patches = Patches(form, size)
        self.or_missing = OrMissing(size.hidden)
        self.blocks = nn.ModuleList(
            EncoderBlock(size.hidden, size.heads, size.mlp_dim, dropout=size.dropout)
            for _ in range(num_blocks)
        )

    def forward(self, image: Tensor, has_image_B: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the embedded patches (B, N, d), and the same after each block.

        Args:
            image: (B, 1, *size), zeros where a row has none.
            has_image_B: which rows have one.
        """
        patches_BNd = self.or_missing(self.patches(image), has_image_B)
        states, x_BNd = [], patches_BNd
        for block in self.blocks:
            x_BNd = block(x_BNd)
            states.append(x_BNd)
        return patches_BNd, states


class MaskGuide(nn.Module):
    """Tells the class what is under the mask that the network has just drawn.

    Mean and standard deviation of the grey under each structure's mask, and the mask's size, go
    through one linear layer. Patches mix a lesion's grey with its volume, and few hundred patients
    do not teach an encoder to part them. No gradient passes to the mask: it is drawn for its own
    loss.

    Source: ours. The paper's SMA, too, is to let the segmentation guide the class.
    """

    def __init__(self, num_structures: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * num_structures, width)

    def forward(self, image: Tensor, mask: Tensor, has_image_B: Tensor) -> Tensor:
        """Return (B, v), zeros where a row has no image.

        Args:
            image: (B, 1, *size).
            mask: (B, K, *size) logits.
            has_image_B: which rows have an image.
        """
        # In the type of the weights: under autocast the sums over voxels would lose their digits.
        # Inside or outside, not shares: a little of each of all the voxels outside is a lot.
        share_BKV = (mask.detach() > 0).to(self.linear.weight.dtype).flatten(2)
        grey_B1V = image.flatten(2)
        voxels_BK1 = share_BKV.sum(2, keepdim=True)
        weight_BKV = share_BKV / (voxels_BK1 + 1)
        mean_BK1 = (weight_BKV * grey_B1V).sum(2, keepdim=True)
        variance_BK = (weight_BKV * (grey_B1V - mean_BK1).square()).sum(2)
        size_BK = voxels_BK1.squeeze(2).log1p() / log1p(share_BKV.shape[2])
        facts_BKs = torch.stack(
            [mean_BK1.squeeze(2), (variance_BK + VARIANCE_FLOOR).sqrt(), size_BK], dim=2
        )
        guided_Bv = self.linear(GAIN * (facts_BKs - 0.5).flatten(1))
        return torch.where(has_image_B[:, None], guided_Bv, 0)


class DeepHead(nn.Sequential):
    """Logits (B, C) of a vector (B, v): linear, layer norm, ReLU and dropout per hidden width.

    The last hidden width has no norm. Source: the authors' code, which has batch normalisation
    where ours has layer normalisation: there, samples would see each other.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], num_classes: int, *, dropout: Sequence[float]
    ) -> None:
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise([width, *hidden])):
            layers.append(nn.Linear(before, after))
            if number + 1 < len(hidden):
                layers.append(nn.LayerNorm(after))
            layers += [nn.ReLU(), nn.Dropout(dropout[number])]
        super().__init__(*layers, nn.Linear([width, *hidden][-1], num_classes))
