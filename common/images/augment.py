"""Random changes of training images, row by row, with their masks. Axes turn in the axial plane.

Source: the kinds are those of Isensee et al. 2021, Nature Methods 18:203, supplementary note 4.
Ours: how often and how much; greys change little, since Hounsfield units mean something.

Legend: B rows, X the chosen ones among them; `*size` are D, H, W or H, W.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fedward.common.images.rows import IMAGE, IN_BATCH, MASK, SPACING_MM
from fedward.common.task import Batch

Kind = Literal["none", "flips", "full"]

WARP_SHARE, MAX_TURN, SCALES = 0.3, 0.26, (0.85, 1.2)
"""Of the rows; radians (15 degrees), and how much larger."""
CONTRAST_SHARE, CONTRASTS, MAX_SHIFT = 0.3, (0.9, 1.1), 0.02
GAMMA_SHARE, GAMMAS = 0.2, (0.8, 1.25)
NOISE_SHARE, MAX_NOISE = 0.2, 0.03
"""Of the rows; in units of the window."""


@torch.no_grad()
def augment(batch: Batch, kind: Kind, rng: torch.Generator) -> Batch:
    """Return the batch with changed `image` (B, 1, *size) and `mask` (B, *size).

    Args:
        batch: as in `fedward.common.images.rows`; other keys stay as they are.
        kind: `none`, `flips`, or `full`: also turned by quarters and a little, scaled, and
            changed in grey. Rows without an image keep their zeros.
        rng: on the CPU.
    """
    if kind == "none" or len(batch[IMAGE]) == 0:
        return batch
    image, mask = batch[IMAGE], batch.get(MASK)
    layers = [image] if mask is None else [image, mask.unsqueeze(1)]
    layers = _flipped(layers, rng)
    if kind == "full":
        layers = _turned(layers, rng)
        layers = _warped(layers, batch.get(SPACING_MM), rng)
        layers[0] = _regreyed(layers[0], batch[IN_BATCH + IMAGE], rng)
    changed = {IMAGE: layers[0]}
    if mask is not None:
        changed[MASK] = layers[1].squeeze(1)
    return {**batch, **changed}


def _flipped(layers: list[Tensor], rng: torch.Generator) -> list[Tensor]:
    """Return the layers (B, 1, *size), each row mirrored along each axis half of the time."""
    for axis in range(2, layers[0].dim()):
        flip = _column(_chosen(layers[0], 0.5, rng), layers[0])
        layers = [torch.where(flip, layer.flip(axis), layer) for layer in layers]
    return layers


def _turned(layers: list[Tensor], rng: torch.Generator) -> list[Tensor]:
    """Return the layers with H and W swapped half of the time: with flips, all quarter turns."""
    if layers[0].shape[-1] != layers[0].shape[-2]:
        return layers
    swap = _column(_chosen(layers[0], 0.5, rng), layers[0])
    return [torch.where(swap, layer.transpose(-1, -2), layer) for layer in layers]


def _warped(layers: list[Tensor], spacing_mm: Tensor | None, rng: torch.Generator) -> list[Tensor]:
    """Return the layers, some rows turned by a small angle and scaled in the axial plane."""
    image = layers[0]
    chosen = _chosen(image, WARP_SHARE, rng)
    angle = _uniform(image, (-MAX_TURN, MAX_TURN), rng)[chosen]
    scale = _uniform(image, SCALES, rng)[chosen]
    if not len(angle):
        return layers
    height = _aspect(image, spacing_mm)[chosen]
    dims = image.dim() - 2
    # Coordinates run from -1 to 1 along each axis, x (W) first: hence the aspect.
    theta = torch.zeros(len(angle), dims, dims + 1, device=image.device)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) / scale
    theta[:, 0, 1] = -torch.sin(angle) / scale * height
    theta[:, 1, 0] = torch.sin(angle) / scale / height
    if dims == 3:
        theta[:, 2, 2] = 1.0
    grid = functional.affine_grid(theta, [len(angle), 1, *image.shape[2:]], align_corners=False)
    warped = []
    for layer, mode in zip(layers, ("bilinear", "nearest"), strict=False):
        rows = functional.grid_sample(
            layer[chosen].float(), grid, mode=mode, padding_mode="zeros", align_corners=False
        )
        new = layer.clone()
        new[chosen] = rows.to(layer.dtype)
        warped.append(new)
    return warped


def _regreyed(image: Tensor, has_image: Tensor, rng: torch.Generator) -> Tensor:
    """Return the images with other contrast, level, gamma and noise, still in [0, 1]."""
    grey = image.float()
    contrast, shift = _uniform(image, CONTRASTS, rng), _uniform(image, (-MAX_SHIFT, MAX_SHIFT), rng)
    changed = grey * _column(contrast, grey) + _column(shift, grey)
    grey = _where(_chosen(image, CONTRAST_SHARE, rng), changed.clamp(0.0, 1.0), grey)
    gamma = _column(_uniform(image, GAMMAS, rng), grey)
    grey = _where(_chosen(image, GAMMA_SHARE, rng), grey**gamma, grey)
    level = _column(_uniform(image, (0.0, MAX_NOISE), rng), grey)
    noisy = (grey + level * _noise(grey, rng)).clamp(0.0, 1.0)
    grey = _where(_chosen(image, NOISE_SHARE, rng), noisy, grey)
    return _where(has_image, grey, torch.zeros_like(grey)).to(image.dtype)


def _aspect(image: Tensor, spacing_mm: Tensor | None) -> Tensor:
    """Return (B,) how much longer H is than W, in mm; in voxels where spacing is not known."""
    ratio = torch.full((len(image),), image.shape[-2] / image.shape[-1], device=image.device)
    if spacing_mm is None:
        return ratio
    of_voxels = (spacing_mm[:, -2] / spacing_mm[:, -1]).to(ratio)
    return ratio * torch.nan_to_num(of_voxels, nan=1.0)


def _chosen(like: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Return (B,) bool, True for about `share` of the rows."""
    return (torch.rand(len(like), generator=rng) < share).to(like.device)


def _uniform(like: Tensor, bounds: tuple[float, float], rng: torch.Generator) -> Tensor:
    low, high = bounds
    return (low + (high - low) * torch.rand(len(like), generator=rng)).to(like.device)


def _noise(like: Tensor, rng: torch.Generator) -> Tensor:
    if like.device == rng.device:
        return torch.randn(like.shape, generator=rng)
    # Drawn where it is used, from a seed that the CPU's generator gives.
    there = torch.Generator(like.device)
    there.manual_seed(int(torch.randint(2**62, (), generator=rng)))
    return torch.randn(like.shape, generator=there, device=like.device)


def _where(rows_B: Tensor, changed: Tensor, unchanged: Tensor) -> Tensor:
    return torch.where(_column(rows_B, changed), changed, unchanged)


def _column(value_B: Tensor, like: Tensor) -> Tensor:
    return value_B.reshape(-1, *(1,) * (like.dim() - 1))
