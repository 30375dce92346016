"""A pair of Swin transformer blocks: attention within windows, then within shifted windows.

MONAI folds the windows into the batch, and keeps the places of a window in a buffer: nothing can
then tell one patient's gradient from another's (Opacus refuses it), and an empty batch is an error.
Here the batch stays in front, windows come second. From the same weights the numbers are those of
MONAI's `swin_unetr.BasicLayer`, but where an image is smaller than a window: there MONAI takes the
first places of the larger window for those of the smaller one, ours are as far apart as they lie.

Source: Liu et al. 2021, "Swin Transformer", arXiv:2103.14030, section 3.2.

Legend: B rows, N windows, T tokens of a window, d token width, H heads, X 3 d; `*size` are D, H, W
or H, W; S stands for those axes, W for those of a window.
"""

from math import prod

import torch
from monai.networks.blocks.mlp import MLPBlock
from torch import Tensor, nn
from torch.nn import functional

from fedward.common.models.image_parts import drop_idle_parts

MLP_RATIO = 4
APART = -100.0
"""Added to the logits of two tokens that only the shift has brought together."""

Size = tuple[int, ...]


class SwinPair(nn.Module):
    """Two blocks, the second one's windows shifted by half a window.

    Args:
        dims: axes of the images, 2 or 3.
        width: of a token; a multiple of `heads`.
        heads: attention heads.
        window: tokens of a window along each axis; smaller where the image is.
    """

    def __init__(self, dims: int, width: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _SwinBlock(dims, width, heads=heads, window=window, is_shifted=is_shifted)
            for is_shifted in (False, True)
        )

    def forward(self, x_BdS: Tensor) -> Tensor:
        """Return feature maps (B, d, *size) of feature maps (B, d, *size)."""
        x_BSd = x_BdS.movedim(1, -1)
        for block in self.blocks:
            x_BSd = block(x_BSd)
        return x_BSd.movedim(-1, 1)


class _SwinBlock(nn.Module):
    def __init__(self, dims: int, width: int, *, heads: int, window: int, is_shifted: bool) -> None:
        super().__init__()
        self.window = (window,) * dims
        self.is_shifted = is_shifted
        self.norm1 = nn.LayerNorm(width)
        self.attn = _WindowAttention(width, heads, self.window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, MLP_RATIO * width, dropout_mode="swin")
        drop_idle_parts(self)

    def forward(self, x_BSd: Tensor) -> Tensor:
        """Return tokens (B, *size, d)."""
        x_BSd = x_BSd + self._attended(self.norm1(x_BSd))
        out_BSd: Tensor = x_BSd + self.mlp(self.norm2(x_BSd))
        return out_BSd

    def _attended(self, x_BSd: Tensor) -> Tensor:
        size = tuple(x_BSd.shape[1:-1])
        axes = tuple(range(1, 1 + len(size)))
        window = tuple(min(pair) for pair in zip(size, self.window, strict=True))
        shift = tuple(
            w // 2 if self.is_shifted and w < side else 0
            for w, side in zip(self.window, size, strict=True)
        )
        whole = tuple(-(-side // w) * w for side, w in zip(size, window, strict=True))
        surplus = [s for side, w in zip(size, whole, strict=True) for s in (w - side, 0)]
        x_BSd = functional.pad(x_BSd, [0, 0, *surplus[::-1]])
        x_BSd = torch.roll(x_BSd, [-s for s in shift], axes)
        apart_NTT = _apart(whole, window, shift, x_BSd) if any(shift) else None
        y_BNTd = self.attn(_windows(x_BSd, window), window, apart_NTT)
        y_BSd = torch.roll(_image(y_BNTd, whole, window), shift, axes)
        for axis, side in zip(axes, size, strict=True):
            y_BSd = y_BSd.narrow(axis, 0, side)
        return y_BSd


class _WindowAttention(nn.Module):
    """Multi-head attention of the tokens of each window, with a bias by their relative place."""

    def __init__(self, width: int, heads: int, window: Size) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = _RelativeBias(heads, window)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BNTd: Tensor, window: Size, apart_NTT: Tensor | None) -> Tensor:
        """Return tokens (B, N, T, d).

        Args:
            x_BNTd: tokens.
            window: their places: T is its product.
            apart_NTT: 0, or `APART` where two tokens must not see each other.
        """
        qkv_BNTX = self.qkv(x_BNTd).unflatten(-1, (3, self.heads, x_BNTd.shape[-1] // self.heads))
        q, k, v = qkv_BNTX.movedim(-3, 0).transpose(-3, -2)  # each (B, N, H, T, d / H)
        logits_BNHTT = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        logits_BNHTT = self.bias(logits_BNHTT.unflatten(-2, window)).flatten(3, -2)
        if apart_NTT is not None:
            logits_BNHTT = logits_BNHTT + apart_NTT[:, None]
        seen_BNHTd = logits_BNHTT.softmax(-1) @ v
        out_BNTd: Tensor = self.proj(seen_BNHTd.transpose(-3, -2).flatten(-2))
        return out_BNTd


class _RelativeBias(nn.Module):
    """Adds a learnt number per head and relative place.

    A leaf of its own with one tensor as its input: what hooks per sample can take.
    """

    def __init__(self, heads: int, window: Size) -> None:
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.empty(prod(2 * side - 1 for side in window), heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, logits_BNHWT: Tensor) -> Tensor:
        """Return logits (B, N, H, *window, T) of every token of a window for every other."""
        window = logits_BNHWT.shape[3:-1]
        place_TA = torch.cartesian_prod(
            *(torch.arange(side, device=logits_BNHWT.device) for side in window)
        )
        index_TT = torch.zeros((), dtype=torch.int64, device=place_TA.device)
        for axis, side in enumerate(self.window):
            apart_TT = place_TA[:, None, axis] - place_TA[None, :, axis]
            index_TT = index_TT * (2 * side - 1) + apart_TT + side - 1
        bias_HWT: Tensor = self.table[index_TT].movedim(-1, 0).unflatten(1, window)
        return logits_BNHWT + bias_HWT


def _windows(x_BSd: Tensor, window: Size) -> Tensor:
    """Return (B, N, T, d), the tokens of an image (B, *size, d) window by window."""
    dims = len(window)
    for axis, side in enumerate(window):
        at = 1 + 2 * axis
        x_BSd = x_BSd.unflatten(at, (x_BSd.shape[at] // side, side))
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return x_BSd.permute(order).flatten(1, dims).flatten(2, -2)


def _image(x_BNTd: Tensor, size: Size, window: Size) -> Tensor:
    """Return (B, *size, d): the inverse of `_windows`."""
    dims = len(window)
    grid = tuple(side // w for side, w in zip(size, window, strict=True))
    x: Tensor = x_BNTd.unflatten(2, window).unflatten(1, grid)
    order = [axis for at in range(1, 1 + dims) for axis in (at, at + dims)]
    x = x.permute(0, *order, 1 + 2 * dims)
    for axis in range(1, 1 + dims):
        x = x.flatten(axis, axis + 1)
    return x


def _apart(size: Size, window: Size, shift: Size, like: Tensor) -> Tensor:
    """Return (N, T, T): `APART` where the shift has brought tokens of two sides together."""
    part_S = torch.zeros(size, dtype=torch.int64, device=like.device)
    for axis, (side, w, moved) in enumerate(zip(size, window, shift, strict=True)):
        if moved:
            place = torch.arange(side, device=like.device)
            part = (place >= side - w).long() + (place >= side - moved).long()
            part_S = 3 * part_S + part.view(-1, *(1,) * (len(size) - 1 - axis))
    part_NT = _windows(part_S[None, ..., None], window)[0, ..., 0]
    return (part_NT[:, :, None] != part_NT[:, None, :]).to(like.dtype) * APART
