"""What the gradients of a dense layer's weights come to: norms per patient, and weighted sums.

A linear layer with inputs x and gradients d of its outputs has the gradient sum_t d_t x_t^T over
the rows (and tokens) t of a patient. Its squared norm is sum_tu (x_t . x_u)(d_t . d_u), which needs
no matrix per patient; and the weighted sum is one product of matrices, (c d)^T x. Layers with few
weights, norms and the tokenizer, have their gradients per row written out.

Source: Li et al. 2022, arXiv:2110.05679, section 4, after Goodfellow 2015, arXiv:1510.01799.

Shapes: K sites, B rows of each, R = K * B, G patients, L layers, T tokens, M rows of a patient or
their tokens, i inputs, o outputs, O outputs of all layers, F features, N fields, w columns of a
field, d token width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.privacy.patients import Patients
from fedward.common.models import ft_transformer, layers


@dataclass(frozen=True)
class TrainedLayer:
    """A layer, and the model's names of its trained weights by the layer's own."""

    layer: nn.Module
    names: dict[str, str]


@dataclass(frozen=True, repr=False)
class Call:
    """One call of a layer: (K, B, ...) each or, of one site, (B, ...)."""

    trained: TrainedLayer
    x: Tensor
    output: Tensor


class Rule(Protocol):
    """The gradients of some layers' weights."""

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows by the name of the weight: (K, ...)."""


class PlainLinears:
    """Of all linear layers that see one vector per row, taken together: fewer, larger kernels.

    Args:
        calls: with the gradients of their outputs.
        num_sites: K, where the model is stacked; None for one site.
    """

    def __init__(self, calls: Sequence[tuple[Call, Tensor]], num_sites: int | None) -> None:
        self._num_sites = num_sites
        self._names = [call.trained.names for call, _ in calls]
        # The axis of rows is 0 or, where sites are stacked, spread over two: one for both.
        self._xs_Ri = [call.x.reshape(-1, call.x.shape[-1]) for call, _ in calls]
        self._widths = [d.shape[-1] for _, d in calls]
        self._d_RO = torch.cat([d.reshape(-1, d.shape[-1]) for _, d in calls], dim=1)

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""
        if patients.is_one_each:
            norm = torch.linalg.vector_norm
            x_LG = torch.stack([norm(x_Ri, dim=1) for x_Ri in self._xs_Ri]).square_()
            ds_Ro = self._d_RO.split(self._widths, dim=1)
            d_LG = torch.stack([norm(d_Ro, dim=1) for d_Ro in ds_Ro]).square_()
            return self._joined(x_LG, d_LG).sum(0)
        both_GMv = patients.side_by_side(torch.cat([*self._xs_Ri, self._d_RO], dim=1))
        widths = [x_Ri.shape[1] for x_Ri in self._xs_Ri] + self._widths
        grams = [_gram(part_GMv) for part_GMv in both_GMv.split(widths, dim=2)]
        x_LGMM, d_LGMM = torch.stack(grams).chunk(2)
        return self._joined(x_LGMM, d_LGMM).sum((0, 2, 3))

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""
        self._xs_Ri = [x_Ri.masked_fill(rows_R[:, None], 0.0) for x_Ri in self._xs_Ri]
        self._d_RO = self._d_RO.masked_fill(rows_R[:, None], 0.0)

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows: (K, o, i) and (K, o)."""
        d_KBO = (self._d_RO * factor_R[:, None]).view(self._num_sites or 1, -1, sum(self._widths))
        bias_KO = d_KBO.sum(1)
        found: dict[str, Tensor] = {}
        for names, x_Ri, d_KBo, bias_Ko in zip(
            self._names,
            self._xs_Ri,
            d_KBO.split(self._widths, dim=2),
            bias_KO.split(self._widths, dim=1),
            strict=True,
        ):
            if "weight" in names:
                found[names["weight"]] = _weight_sum(x_Ri, d_KBo, self._num_sites)
            if "bias" in names:
                found[names["bias"]] = bias_Ko
        return found

    def _joined(self, x_L: Tensor, d_L: Tensor) -> Tensor:
        """Return d x + d, of each layer what is trained: weights, bias or both."""
        if all(len(names) == 2 for names in self._names):
            return torch.addcmul(d_L, d_L, x_L)
        shape = (-1, *(1,) * (x_L.dim() - 1))
        weights, biases = (
            x_L.new_tensor([name in names for names in self._names]).view(shape)
            for name in ("weight", "bias")
        )
        return d_L * (x_L * weights + biases)


class TokenLinear:
    """Of a linear layer that sees several tokens of a row."""

    def __init__(self, call: Call, d: Tensor, num_sites: int | None) -> None:
        num_rows = len(d) if num_sites is None else d.shape[0] * d.shape[1]
        self._num_sites = num_sites
        self._names = call.trained.names
        self._x_RTi = call.x.reshape(num_rows, -1, call.x.shape[-1])
        self._d_RTo = d.reshape(num_rows, -1, d.shape[-1])

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), by Gram matrices, or from the patients' gradients where they are smaller."""
        x_GMi, d_GMo = self._x_RTi, self._d_RTo
        if not patients.is_one_each:
            x_GMi, d_GMo = (patients.side_by_side(v).flatten(1, 2) for v in (x_GMi, d_GMo))
        has_weight, has_bias = "weight" in self._names, "bias" in self._names
        num_tokens, num_in, num_out = x_GMi.shape[1], x_GMi.shape[2], d_GMo.shape[2]
        if has_weight and num_tokens * (num_in + num_out) <= num_in * num_out:
            gram_GMM = _gram(x_GMi)
            return (_gram(d_GMo) * (gram_GMM + 1.0 if has_bias else gram_GMM)).sum((1, 2))
        square_G = d_GMo.new_zeros(len(d_GMo))
        if has_weight:
            gradient_Gio = torch.bmm(x_GMi.mT, d_GMo)
            square_G = torch.linalg.vector_norm(gradient_Gio, dim=(1, 2)).square_()
        if has_bias:
            square_G = square_G + d_GMo.sum(1).square_().sum(1)
        return square_G

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""
        self._x_RTi = self._x_RTi.masked_fill(rows_R[:, None, None], 0.0)
        self._d_RTo = self._d_RTo.masked_fill(rows_R[:, None, None], 0.0)

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows: (K, o, i) and (K, o)."""
        d_RTo = self._d_RTo * factor_R[:, None, None]
        d_Kto = d_RTo.view(self._num_sites or 1, -1, d_RTo.shape[-1])
        found: dict[str, Tensor] = {}
        if "weight" in self._names:
            x_ti = self._x_RTi.reshape(-1, self._x_RTi.shape[-1])
            found[self._names["weight"]] = _weight_sum(x_ti, d_Kto, self._num_sites)
        if "bias" in self._names:
            found[self._names["bias"]] = d_Kto.sum(1)
        return found


class WrittenOut:
    """Of a layer with few weights: the gradient of each row is in memory, by name (R, ...)."""

    def __init__(self, call: Call, d: Tensor, num_sites: int | None) -> None:
        x = call.x
        if num_sites is not None:
            x, d = x.flatten(0, 1), d.flatten(0, 1)
        layer, names = call.trained.layer, call.trained.names
        by_name = _ROWS[type(layer)](layer, x, d)
        self._rows = {names[own]: rows_R for own, rows_R in by_name.items() if own in names}
        self._num_sites = num_sites or 1

    def square_norms(self, patients: Patients) -> Tensor:
        """Return (G,), the squared norms of the patients' gradients."""
        flat_RF = torch.cat([rows_R.flatten(1) for rows_R in self._rows.values()], dim=1)
        norm_G: Tensor = torch.linalg.vector_norm(patients.sums(flat_RF), dim=1)
        return norm_G.square_()

    def leave_out(self, rows_R: Tensor) -> None:
        """Make the gradients of some rows (bool) zero."""
        self._rows = {
            name: gradient_R.masked_fill(rows_R.view(-1, *(1,) * (gradient_R.dim() - 1)), 0.0)
            for name, gradient_R in self._rows.items()
        }

    def sums(self, factor_R: Tensor) -> dict[str, Tensor]:
        """Return the weighted sums over each site's rows: (K, ...)."""
        factor_K1B = factor_R.view(self._num_sites, 1, -1)
        num_sites, _, num_rows = factor_K1B.shape
        return {
            name: torch.bmm(factor_K1B, gradient_R.reshape(num_sites, num_rows, -1)).view(
                num_sites, *gradient_R.shape[1:]
            )
            for name, gradient_R in self._rows.items()
        }


def _gram(v_GMv: Tensor) -> Tensor:
    """Return (G, M, M), the products of each patient's vectors with each other."""
    return torch.bmm(v_GMv, v_GMv.mT)


def _weight_sum(x_ri: Tensor, d_Kro: Tensor, num_sites: int | None) -> Tensor:
    """Return (K, o, i), laid out as the weights are: stacked ones column by column."""
    if num_sites is None:
        return torch.mm(d_Kro[0].T, x_ri).unsqueeze(0)
    x_Kri = x_ri.view(num_sites, -1, x_ri.shape[-1])
    return torch.bmm(x_Kri.mT, d_Kro).mT


def _layer_norm(layer: Any, x: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, F) of scale and shift for x, d of (R, ..., F)."""
    normal = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    shape = (len(x), -1, x.shape[-1])
    return {"weight": (d * normal).reshape(shape).sum(1), "bias": d.reshape(shape).sum(1)}


def _group_norm(layer: Any, x_RF: Tensor, d_RF: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, F) of scale and shift."""
    normal_RF = functional.group_norm(x_RF, layer.num_groups, eps=layer.eps)
    return {"weight": d_RF * normal_RF, "bias": d_RF}


def _tokenizer(layer: Any, x_RF: Tensor, d: Tensor) -> dict[str, Tensor]:
    """Return the gradients (R, N, w, d), (R, N, d), (R, d); the class token is the first of `d`."""
    columns_RNw = functional.pad(x_RF, (0, 1))[..., layer.column_Nw]
    tokens_RNd = d[:, 1:]
    return {
        "weight": columns_RNw.unsqueeze(-1) * tokens_RNd.unsqueeze(-2),
        "bias": tokens_RNd,
        "class_token": d[:, 0],
    }


_ROWS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], dict[str, Tensor]]] = {
    nn.LayerNorm: _layer_norm,
    layers.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    ft_transformer.FieldTokenizer: _tokenizer,
}
