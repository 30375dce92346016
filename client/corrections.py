"""What strategies add to a site's gradient. Each names the paper that it is taken from.

The vectors are wire vectors of `shared`; tensors outside it are left alone. They are (D,), the
same for every site, or (S, D), one row for each of S stacked sites.
"""

from dataclasses import dataclass, field

from fedward.common.parameters import ParameterSet
from fedward.common.vectors import Vector


@dataclass(frozen=True)
class Pull:
    """Adds strength * (w - anchor): the gradient of (strength / 2) ||w - anchor||^2."""

    shared: ParameterSet
    strength: float
    anchor: Vector = field(repr=False)


@dataclass(frozen=True)
class Shift:
    """Adds a constant."""

    shared: ParameterSet
    by: Vector = field(repr=False)


Correction = Pull | Shift


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
