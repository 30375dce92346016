"""How much each site moves the model, from the updates of a round.

Shapes: S sites, D parameters.

High influence is not quality: a site with wrong labels may have the most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedward.common.vectors import Vector

_CHUNK = 1 << 16
"""Numbers at once: 512 KiB, which stay in the cache ..."""
_FEWEST_COLUMNS = 1 << 11
"""... or so many columns: of a thousand sites 16 MiB."""


@dataclass(frozen=True)
class UpdateFigures:
    """Of the updates of one round. NaN: not defined.

    Args:
        influence_S: (S,) share of each site in the aggregated update; they add up to 1, and may
            be negative or more than 1.
        cosine_S: (S,) between a site's update and the aggregated one.
        norm_ratio_S: (S,) norm of a site's update over that of the model it received.
        norm_ratio: the same of the aggregated update.
    """

    influence_S: npt.NDArray[np.float64]
    cosine_S: npt.NDArray[np.float64]
    norm_ratio_S: npt.NDArray[np.float64]
    norm_ratio: float


def update_figures(
    received_D: Vector, trained: Sequence[Vector], weights_S: npt.ArrayLike
) -> UpdateFigures:
    """Return influence, cosine and size of each site's update.

    With updates U_j, weights w_j that add up to 1 and U = sum of w_j U_j, the influence of site
    j is w_j <U_j, U> / |U|^2.

    Args:
        received_D: (D,) the model that the sites started from.
        trained: (D,) per site, what it sent back.
        weights_S: (S,) >= 0, as in the mean; scaled to add up to 1.

    Returns:
        Finite figures, or NaN: influence if nothing moved on the whole, a cosine if one of its
        two updates is 0, a ratio of norms if the received model is all 0, all of them if there is
        no weight above 0 or no site; whatever a vector that is not finite has a part in.

    Raises:
        ValueError: vectors or weights of different lengths.

    Source: ours.
    """
    weights = np.asarray(weights_S, dtype=np.float64)
    if len(weights) != len(trained) or any(len(vector) != len(received_D) for vector in trained):
        raise ValueError("one weight per trained vector, and vectors as long as the received one")
    squares_S, products_S = np.zeros(len(trained)), np.zeros(len(trained))
    square, received_square = 0.0, 0.0
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        weights = weights / weights.sum()
        for columns in _chunks(len(received_D), len(trained)):
            received_C = received_D[columns].astype(np.float64)
            updates_SC = np.empty((len(trained), len(received_C)))
            for update_C, vector in zip(updates_SC, trained, strict=True):
                np.subtract(vector[columns], received_C, out=update_C)
            update_C = weights @ updates_SC
            squares_S += np.einsum("sc,sc->s", updates_SC, updates_SC)
            products_S += updates_SC @ update_C
            square += float(update_C @ update_C)
            received_square += float(received_C @ received_C)
        norm, norms_S = np.sqrt(square), np.sqrt(squares_S)
        scale = 1 / np.sqrt(received_square) if trained and received_square else np.nan
        return UpdateFigures(
            influence_S=_finite(weights * products_S / square),
            cosine_S=_finite(np.clip(products_S / (norms_S * norm), -1, 1)),
            norm_ratio_S=_finite(norms_S * scale),
            norm_ratio=float(_finite(norm * scale)),
        )


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the values, with NaN for those that are infinite."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _chunks(num_columns: int, num_sites: int) -> Iterator[slice]:
    """Return slices of the columns: the updates of many sites are never all held at once."""
    width = max(_CHUNK // max(num_sites, 1), _FEWEST_COLUMNS)
    for start in range(0, num_columns, width):
        yield slice(start, start + width)
