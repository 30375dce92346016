"""Conversational memory elements (CME): how far each weight of a layer moved, relative to its size.

Shapes: P output neurons (rows) and Q inputs (columns) of a layer.

Source: Kumar et al. 2025, doi:10.1007/978-3-031-78198-8_9, equation 2, as `paper`. It divides by a
weight that may be near 0, so that single entries decide every figure made of it; `sym` and `rms`
are ours.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Form = Literal["rms", "sym", "paper"]
Matrix = npt.NDArray[np.float64]

CEILING = 1e15
"""Where the elements of `paper` end; its weights may be 0. Squares of it still fit a float32."""
_SAFE = 1e100
"""Magnitudes between 1 / _SAFE and _SAFE can be squared and added up."""


def elements(new_PQ: Matrix, old_PQ: Matrix, form: Form) -> Matrix:
    """Return the change of each weight from `old_PQ` to `new_PQ`, relative to what `form` says.

    `rms`: to the root mean square of all weights of the layer, before and after taken together,
    so that a layer which leaves or reaches 0 has finite elements too. `sym`: twice the change to
    the sum of both magnitudes; within [-2, 2]. `paper`: to the new weight; within +-CEILING.
    A weight that was and is 0 has not moved: 0.

    Args:
        new_PQ: (P, Q) weights now.
        old_PQ: (P, Q) weights at the snapshot before.
        form: which of the three.

    Returns:
        (P, Q), new memory. Finite wherever the weights are; where they are not, some are NaN.

    Source: `paper` is equation 2 of Kumar et al. 2025; the others are ours.
    """
    largest = max(_largest(new_PQ), _largest(old_PQ))
    if largest > 0 and not 1 / _SAFE < largest < _SAFE and np.isfinite(largest):
        new_PQ, old_PQ = new_PQ / largest, old_PQ / largest
    with np.errstate(all="ignore"):  # 0 / 0, and weights that are not finite
        change_PQ = new_PQ - old_PQ
        if form == "rms":
            scale = _rms_of_both(new_PQ, old_PQ)
            change_PQ *= 1.0 if scale == 0 else 1 / scale
            return change_PQ
        still_PQ = change_PQ == 0
        if form == "sym":
            change_PQ *= 2
            change_PQ /= np.abs(new_PQ) + np.abs(old_PQ)
        else:
            change_PQ /= new_PQ
            np.clip(change_PQ, -CEILING, CEILING, out=change_PQ)
    change_PQ[still_PQ] = 0
    return change_PQ


def as_matrix(weight: npt.ArrayLike) -> Matrix:
    """Return a weight as one row per output neuron, as a float64 copy.

    Args:
        weight: (out, in) of a linear layer, (out, in, size of the kernel ...) of a convolution,
            or (out,).

    Returns:
        (P, Q): Q is all that one output neuron sees.
    """
    copy = np.array(weight, dtype=np.float64)
    return copy.reshape(len(copy), math.prod(copy.shape[1:]))


def is_finite(weight_PQ: Matrix) -> bool:
    """Return whether no weight is infinite or NaN."""
    return bool(np.isfinite(_largest(weight_PQ)))


def _largest(weight_PQ: Matrix) -> float:
    if weight_PQ.size == 0:
        return 0.0
    return float(np.maximum(weight_PQ.max(), -weight_PQ.min()))  # unlike `max`, passes NaN on


def _rms_of_both(new_PQ: Matrix, old_PQ: Matrix) -> float:
    new, old = new_PQ.ravel(), old_PQ.ravel()
    return float(np.sqrt((new @ new + old @ old) / max(2 * new.size, 1)))
