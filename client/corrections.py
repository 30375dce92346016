"""What strategies add to a site's gradient. Each names the paper that it is taken from.

The vectors are wire vectors of `shared`; tensors outside it are left alone. They are (D,), the
same for every site, or (S, D), one row for each of S stacked sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedward.common.parameters import ParameterSet
from fedward.common.vectors import Vector


@dataclass(frozen=True)
class Pull:
    """Adds strength * (w - anchor): the gradient of (strength / 2) ||w - anchor||^2."""

    shared: ParameterSet
    strength: float
    anchor: Vector = field(repr=False)

    @property
    def vector(self) -> Vector:
        """What the term is made of."""
        return self.anchor

    def apply(self, gradient: Tensor, parameter: Tensor, anchor: Tensor) -> Tensor:
        """Return the corrected gradient of one tensor."""
        return gradient.add(parameter - anchor, alpha=self.strength)


@dataclass(frozen=True)
class Shift:
    """Adds a constant."""

    shared: ParameterSet
    by: Vector = field(repr=False)

    @property
    def vector(self) -> Vector:
        """What the term is made of."""
        return self.by

    def apply(self, gradient: Tensor, parameter: Tensor, by: Tensor) -> Tensor:
        """Return the corrected gradient of one tensor."""
        return gradient + by


Correction = Pull | Shift


class Corrector:
    """Corrects the gradients of a list of tensors.

    It makes new tensors: autograd may return one tensor as the gradient of two parameters.

    Args:
        correction: what to add.
        terms: the pieces of its vector, one per parameter; None where it leaves one alone.
    """

    def __init__(self, correction: Correction, terms: Sequence[Tensor | None]) -> None:
        self._correction = correction
        self._terms = terms

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        num_first: int | None = None,
    ) -> Sequence[Tensor]:
        """Return the corrected gradients; of stacked sites, of the first `num_first`."""
        with torch.no_grad():
            return [
                gradient if term is None else self._apply(gradient, parameter, term, num_first)
                for parameter, gradient, term in zip(
                    parameters, gradients, self._terms, strict=True
                )
            ]

    def _apply(
        self, gradient: Tensor, parameter: Tensor, term: Tensor, num_first: int | None
    ) -> Tensor:
        part = term if num_first is None else term[:num_first]
        return self._correction.apply(gradient, parameter, part)


def fedprox(shared: ParameterSet, received: Vector, *, mu: float) -> Pull:
    """Return FedProx's proximal term around the model that was received.

    Source: Li et al. 2020, arXiv:1812.06127, eq. 2.
    """
    return Pull(shared, mu, received)


def ditto(shared: ParameterSet, received: Vector, *, penalty: float) -> Pull:
    """Return the pull of a personal model v towards the shared model: lambda (v - w).

    Source: Li et al. 2021, arXiv:2012.04221, Algorithm 1.
    """
    return Pull(shared, penalty, received)


def scaffold(shared: ParameterSet, control: Vector, site_control: Vector) -> Shift:
    """Return SCAFFOLD's drift correction: y <- y - lr (g - c_i + c).

    Args:
        shared: what the vectors stand for.
        control: c, the server's.
        site_control: c_i, the site's own.

    Source: Karimireddy et al. 2020, arXiv:1910.06378, Algorithm 1, line 10.
    """
    return Shift(shared, control - site_control)
