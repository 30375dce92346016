"""What a network of images needs to know of the task, without data; and what it answers with.

A network is built as `(form, **own)`. Its forward takes a batch (`fedward.common.images.rows`):
`image` (B, 1, *size) float, already windowed to [0, 1], any float dtype; `mask.image` (B,) bool;
where the form has a layout, `features` (B, F) float32 and `mask.table` (B,) bool. A row whose flag
is False has zeros there, and the network must answer as if it had never looked.

It answers with a dict: `mask` (B, K, *size), a logit per structure (sigmoid: structures are looked
for one by one); `label` (B, C) logits; `signs` (B, S), a logit per sign. A network leaves out what
it does not answer. Under deep supervision, while training, `mask.1`, `mask.2` ... hold coarser
masks of any smaller size. No sample sees another one; B = 0 is legal.
"""

from dataclasses import dataclass

from torch import Tensor

from fedward.common.models.layout import FieldLayout

ImageOutputs = dict[str, Tensor]


@dataclass(frozen=True)
class ImageForm:
    """The form of the images, masks and fields of a task."""

    size: tuple[int, ...]
    """D, H, W; or H, W for axial slices."""
    num_structures: int
    """K; 0 where there are no masks."""
    num_classes: int
    """C; 0 where there is no label."""
    layout: FieldLayout | None = None
    """The clinical fields; None where there are none."""
    signs: tuple[str, ...] = ()
    """S names of what is, or is not, to be seen in an image beside its label."""

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.size)
