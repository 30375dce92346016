"""The figures of one layer in one round, from snapshots of its weights as training goes on.

Of the weights only the last snapshot is kept, of the elements the last and their products: what is
needed does not grow with the number of snapshots. 0.4 MiB for a layer of 128 x 128.

Shapes: P output neurons (rows), Q inputs (columns), K <= 128 rows of a sketch.

Source: Kumar et al. 2025, doi:10.1007/978-3-031-78198-8_9, equations 1 to 4. Ours, where the paper
leaves it open: the map is over output neurons; the elements of a round are pooled, each less the
mean of its row (not where there is a single input); a round starts from the model as received, so
that the step from the site's own weights to the aggregate is not in it; and what is made of the
elements beside map and raw ACF.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from fedward.common.monitoring.elements import Form, Matrix, as_matrix, elements, is_finite
from fedward.common.randomness import numpy_generator

LOG_FLOOR = -12.0
"""`log_mag` of a layer that did not move."""
SKETCH_ABOVE = 1024
SKETCH_ROWS = 128

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerFigures:
    """What is told of one layer in one round. None: not defined.

    Args:
        log_mag: log10 of the root mean square, over the output neurons, of the standard deviation
            of the elements; LOG_FLOOR at least.
        rho: cosine of successive elements, in [-1, 1]: towards 1 when the weights go somewhere, 0
            for a random walk, -1/2 for noise about a point.
        map_cos: cosine of the maps of this round and the one before, off their diagonals.
        top1: share of the sum of squares that the largest element has, at its largest over the
            snapshots; in (0, 1].
    """

    log_mag: float | None = None
    rho: float | None = None
    map_cos: float | None = None
    top1: float | None = None

    def to_json(self) -> dict[str, float]:
        """Return the figures that are defined, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


@dataclass(frozen=True)
class LayerRound:
    """One layer in one round.

    Args:
        figures: what may be told.
        map_PP: (P, P) covariance of the elements over output neurons; of a sketch (K, K). All 0
            if a weight was not finite.
        acf: mean product of successive elements, as in the paper: lag 1, not normalised.
        num_snapshots: beside the weights as received.
        is_sketched: whether `map_PP` is of random signed sums of the rows.
    """

    figures: LayerFigures
    map_PP: Map
    acf: float | None
    num_snapshots: int
    is_sketched: bool


class CmeStream:
    """Takes snapshots of one layer in one round.

    Args:
        start_PQ: (P, Q) weights as received.
        form: what a change is relative to.
        name: of the layer; the signs of a sketch are drawn from it.
    """

    def __init__(self, start_PQ: npt.ArrayLike, form: Form = "rms", *, name: str) -> None:
        self._form: Form = form
        self._weight_PQ = as_matrix(start_PQ)
        self._signs_KP = _signs(name, len(self._weight_PQ))
        num_kept = len(self._weight_PQ) if self._signs_KP is None else SKETCH_ROWS
        self._products_PP = np.zeros((num_kept, num_kept))
        self._squares_P = np.zeros(len(self._weight_PQ))
        self._last_PQ: Matrix | None = None
        self._last_square, self._top1 = 0.0, 0.0
        self._lagged, self._square_before, self._square_after = 0.0, 0.0, 0.0
        self._num_snapshots = 0
        self._is_defined = self._weight_PQ.size > 0 and is_finite(self._weight_PQ)

    def add(self, weight_PQ: npt.ArrayLike) -> None:
        """Take a snapshot of the weights; a copy is kept."""
        self._num_snapshots += 1
        now_PQ = as_matrix(weight_PQ)
        self._is_defined = self._is_defined and is_finite(now_PQ)
        if not self._is_defined:
            return
        cme_PQ = elements(now_PQ, self._weight_PQ, self._form)
        self._weight_PQ = now_PQ
        self._add_lag(cme_PQ)
        # Of a single column nothing would be left.
        mean_P1 = cme_PQ.mean(axis=1, keepdims=True) if cme_PQ.shape[1] > 1 else 0.0
        centred_PQ = cme_PQ - mean_P1
        if self._signs_KP is not None:
            self._squares_P += np.einsum("pq,pq->p", centred_PQ, centred_PQ)
            centred_PQ = self._signs_KP @ centred_PQ
        self._products_PP += centred_PQ @ centred_PQ.T

    def finish(self, previous_map_PP: npt.NDArray[np.floating] | None = None) -> LayerRound:
        """Return what the round came to.

        Args:
            previous_map_PP: `LayerRound.map_PP` of the round before; None: there was none, or
                it is not to be compared with.
        """
        map_PP = np.zeros(self._products_PP.shape, dtype=np.float32)
        if not self._is_defined or self._num_snapshots == 0:
            return self._round(LayerFigures(), map_PP, acf=None)
        variance = self._trace() / self._num_products() / len(self._weight_PQ)
        map_PP[:] = self.covariance()
        map_cos = None if previous_map_PP is None else _off_diagonal_cosine(map_PP, previous_map_PP)
        figures = LayerFigures(
            log_mag=max(LOG_FLOOR, 0.5 * math.log10(variance)) if variance > 0 else LOG_FLOOR,
            rho=_ratio(self._lagged, math.sqrt(self._square_before * self._square_after)),
            map_cos=map_cos,
            top1=self._top1 or None,
        )
        num_lagged = self._weight_PQ.size * (self._num_snapshots - 1)
        return self._round(figures, map_PP, acf=_quotient(self._lagged, num_lagged))

    def covariance(self) -> Matrix:
        """Return the (P, P) covariance of the elements so far, over output neurons; 0 of none.

        Of a sketch (K, K), and off its diagonal without what each neuron has with itself: that
        lies all over a sketched map, and would make maps of unrelated rounds look alike. The
        cosine of two maps is then off from that of the full ones by 0.01 (standard deviation;
        0.04 at most of 60 that were measured, with 1,500 neurons).
        """
        products_PP = self._products_PP / self._num_products()
        if self._signs_KP is not None:
            own_KK = (self._signs_KP * self._squares_P) @ self._signs_KP.T / self._num_products()
            np.fill_diagonal(own_KK, 0)
            products_PP -= own_KK
        return products_PP

    def _add_lag(self, cme_PQ: Matrix) -> None:
        values = cme_PQ.ravel()
        square = float(values @ values)
        if self._last_PQ is not None:
            self._lagged += float(self._last_PQ.ravel() @ values)
            self._square_before += self._last_square
            self._square_after += square
        if square > 0:
            largest = max(float(values.max()), -float(values.min()))
            self._top1 = max(self._top1, min(largest * largest / square, 1.0))
        self._last_PQ, self._last_square = cme_PQ, square

    def _trace(self) -> float:
        """Return the sum of squares of the centred elements: exact, sketched or not."""
        if self._signs_KP is None:
            return float(np.trace(self._products_PP))
        return float(self._squares_P.sum())

    def _num_products(self) -> int:
        """Return by what sums of centred products are divided; 1 of no snapshot."""
        num_columns: int = self._weight_PQ.shape[1]
        return max(self._num_snapshots, 1) * max(num_columns - 1, 1)

    def _round(self, figures: LayerFigures, map_PP: Map, *, acf: float | None) -> LayerRound:
        is_sketched = self._signs_KP is not None
        return LayerRound(figures, map_PP, acf, self._num_snapshots, is_sketched)


def _signs(name: str, num_rows: int) -> Matrix | None:
    """Return the (K, P) matrix of a sketch, the same at every site and in every round."""
    if num_rows <= SKETCH_ABOVE:
        return None
    generator = numpy_generator(0, purpose=f"cme sketch of {name}")
    return generator.choice((-1.0, 1.0), (SKETCH_ROWS, num_rows)) / math.sqrt(SKETCH_ROWS)


def _off_diagonal_cosine(map_PP: Map, previous_PP: npt.NDArray[np.floating]) -> float | None:
    if map_PP.shape != previous_PP.shape or not np.isfinite(previous_PP).all():
        return None
    one_PP, other_PP = map_PP.astype(np.float64), previous_PP.astype(np.float64)
    np.fill_diagonal(one_PP, 0)
    np.fill_diagonal(other_PP, 0)
    norms = float(np.linalg.norm(one_PP)) * float(np.linalg.norm(other_PP))
    return _ratio(float(np.vdot(one_PP, other_PP)), norms)


def _ratio(product: float, norms: float) -> float | None:
    """Return a cosine; None where one of the two is 0."""
    cosine = _quotient(product, norms)
    return None if cosine is None else max(-1.0, min(1.0, cosine))


def _quotient(value: float, divisor: float) -> float | None:
    return value / divisor if divisor > 0 else None
