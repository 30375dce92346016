"""What a network says of a whole scan: its structures, window by window, and classes of regions.

Legend: K structures, C classes, F columns, B windows, N rows; D, H, W and S (the axes of a row) as
in `fedward.client.data.ct_rows`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from fedward.client.bundle_images import Answer, ImageNetwork, output_channels
from fedward.client.data.ct_rows import AIR, Grid, Voxels, resampled, resized
from fedward.common.config.image import ImageConfig
from fedward.common.images.prepare import prepared_images
from fedward.common.tables.schema import ImageSchema

OVERLAP = 0.5
PASS_VOXELS = 1 << 22
"""What goes through the network at once: more windows of a small size than of a large one."""
CERTAIN = 60_000
"""Stands for a probability of 1: 16 bits take half of a float's memory, and are exact enough."""
Probabilities = npt.NDArray[np.uint16]


@dataclass(frozen=True, repr=False)
class ScanNetwork:
    """A trained network, and how scans are prepared for it.

    Args:
        network: ready to predict.
        image: as it was trained.
        schema: unit and structures.
        device: where it runs.
    """

    network: ImageNetwork
    image: ImageConfig
    schema: ImageSchema
    device: torch.device

    @cached_property
    def answers(self) -> frozenset[Answer]:
        """What it gives: masks, classes or both."""
        self.network.cpu()
        found = frozenset(output_channels(self.network, self.image))
        self.network.to(self.device)
        return found

    def structures(self, scan: Grid, features_F: Tensor | None) -> Probabilities:
        """Return (K, D, H, W) probabilities in parts of `CERTAIN`, on the grid of the scan.

        The logits of windows that overlap by half are averaged with Gaussian weights; networks of
        slices see slice by slice. What is smaller than a window is padded with air, as in training.

        Args:
            scan: in the schema's unit.
            features_F: the patient's encoded clinical fields; None: they are missing.

        Raises:
            SiteDataError: a spacing is wanted, and that of the scan is not known.
        """
        small = resampled(Grid(scan.voxels_DHW, None, scan.spacing_mm), self.image.spacing_mm)
        shape = small.voxels_DHW.shape
        least = (0,) * (3 - len(self.image.size)) + tuple(self.image.size)
        padded = [max(pair) for pair in zip(shape, least, strict=True)]
        voxels_DHW, _ = small.around(small.middle, padded, fill=AIR[self.schema.unit])
        logits_KDHW = self._logits(voxels_DHW, features_F)
        inside = tuple(
            slice(want // 2 - length // 2, want // 2 - length // 2 + length)
            for want, length in zip(padded, shape, strict=True)
        )
        return np.stack(
            [
                resized(_in_parts(logits_DHW[inside]), scan.voxels_DHW.shape)
                for logits_DHW in logits_KDHW
            ]
        )

    def classes(self, image_NS: Voxels, features_F: Tensor | None) -> npt.NDArray[np.float64]:
        """Return (N, C) probabilities of rows as `ct_rows` cuts them."""
        prepared = torch.from_numpy(
            prepared_images(image_NS, np.ones(len(image_NS), dtype=bool), self.image)
        )
        with torch.inference_mode():
            parts = [
                torch.softmax(self._outputs(part, features_F)["label"].double(), dim=1).cpu()
                for part in prepared.split(self._windows_at_once)
            ]
        return np.asarray(torch.cat(parts).numpy())

    @property
    def _windows_at_once(self) -> int:
        return max(1, PASS_VOXELS // int(np.prod(self.image.size)))

    def _outputs(self, windows: Tensor, features_F: Tensor | None) -> Any:
        windows = windows.float().to(self.device)
        if features_F is None:
            return self.network.outputs(windows)
        features_BF = features_F.to(self.device).expand(len(windows), -1)
        return self.network.outputs(windows, features_BF)

    def _logits(self, voxels_DHW: Voxels, features_F: Tensor | None) -> Tensor:
        """Return (K, D, H, W)."""
        is_flat = len(self.image.size) == 2
        rows = voxels_DHW if is_flat else voxels_DHW[None]
        prepared = prepared_images(rows, np.ones(len(rows), dtype=bool), self.image)
        with torch.inference_mode():
            found = sliding_window_inference(
                torch.from_numpy(prepared).float(),
                self.image.size,
                self._windows_at_once,
                # MONAI weighs it in place.
                lambda windows: self._outputs(windows, features_F)["mask"].float().contiguous(),
                overlap=OVERLAP,
                mode="gaussian",
                sw_device=self.device,
                device=torch.device("cpu"),
            )
        assert isinstance(found, Tensor)
        return found.swapaxes(0, 1) if is_flat else found[0]


def label_map(probability_KDHW: Probabilities) -> npt.NDArray[np.uint8]:
    """Return (D, H, W): 0, or k where the k-th structure is the most probable and above 1/2."""
    best_DHW = np.full(probability_KDHW.shape[1:], CERTAIN // 2, dtype=np.uint16)
    labels_DHW = np.zeros(best_DHW.shape, dtype=np.uint8)
    for number, probability_DHW in enumerate(probability_KDHW, start=1):
        is_better = probability_DHW > best_DHW
        labels_DHW[is_better] = number
        best_DHW[is_better] = probability_DHW[is_better]
    return labels_DHW


def _in_parts(logits_DHW: Tensor) -> Probabilities:
    parts: Probabilities = (torch.sigmoid(logits_DHW) * CERTAIN).round().numpy().astype(np.uint16)
    return parts
