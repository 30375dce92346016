"""What the arrays of a `Table` with images are called, and what is in them.

Legend: N rows, D depth (slices, from the feet to the head), H height (from front to back), W width
(from the patient's right to the left). Axial slices have no D. The order is that of a volume in
LPS orientation, transposed: index (d, h, w) grows towards superior, posterior, left.

| array | form | holds |
|---|---|---|
| `image` | (N, D, H, W) int16 or uint8 | voxels in the schema's unit (HU), before any window |
| `mask` | (N, D, H, W) uint8 | 0, or k for the k-th of the schema's structures |
| `signs` | (N, S) int8 | 1, 0, or -1 where nobody looked, for each of the schema's signs |
| `has.image`, `has.mask`, `has.table`, `has.label` | (N,) bool | whether the row has it; zeros stand where not |
| `spacing_mm` | (N, 3) float32 | size of a voxel along D, H, W; NaN where it is not known |
| `original.size` | (N, 3) int32 | voxels of the scan along D, H, W before anything was done to it |
| `original.spacing_mm` | (N, 3) float32 | size of those voxels |

A batch has the same names, but: `image` is (B, 1, ...) float16 in [0, 1] after the window, and the
flags are called `mask.image`, `mask.mask`, `mask.table`, `mask.label`.
"""  # noqa: E501 - a table

IMAGE = "image"
MASK = "mask"
SPACING_MM = "spacing_mm"
SIGNS = "signs"
ORIGINAL_SIZE = "original.size"
ORIGINAL_SPACING_MM = "original.spacing_mm"
MODALITIES = ("image", "mask", "table", "label")
HAS = "has."
"""Before a modality's name: in a `Table`."""
IN_BATCH = "mask."
"""Before a modality's name: in a batch."""
