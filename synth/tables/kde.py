"""Plain kernel density: one per class, sampled as it is.

**It is not private.** A kernel density is the training rows and noise: a fitted object contains
the patients, and the more rows are drawn, the more of the noise averages out. No epsilon is ever
given for it, since none would mean anything: one patient can move the density without bound, and
even with rows cut to 8 standard deviations, one draw of an isolated patient at h = 1 costs about
120 nats. What it leaks is measured (`fedward.synth.evaluation`), not promised.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.bandwidth import Rule, choose_bandwidth
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.encoder import Form, Missing
from fedward.synth.tables.kde_settings import KERNELS, Covariance, KernelSettings, Preset, resolved
from fedward.synth.tables.kernel import (
    ClassKernel,
    Noise,
    class_kernel,
    full_root,
    isotropic_root,
    matched_redraw,
    z_bounds,
)
from fedward.synth.tables.knn import Embedding, Points
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.sampling import Shortfall
from fedward.synth.tables.scale import Transform

NEAR_COPIES = 0.9
"""Share of rows nearest to their own parent from which on a warning is given: what h of about 0.5
standard deviations does in 27 columns."""
NUM_TRIED = 512


class NearCopyWarning(UserWarning):
    """Nearly all synthetic rows lie nearest to the very patient that they were made from."""


class KDE(Synthesiser):
    """A Gaussian kernel density per class; see the module for what it does not protect.

    Args:
        columns: what the table holds; None: read off the rows.
        preset: what parameters that are None are set to. `guarded`: Scott's rule, logarithms of
            skewed columns, missing cells generated, rows kept possible. `paper`: as in
            Macias-Fassio et al. 2025: h = 1, medians in place of missing values, nothing bounded
            or rounded, no constraints. (It has no categories; they get the same kernel in both.)
        bandwidth: standard deviation h of the noise, in standard deviations of the columns (with
            `full`, of the class); or the rule that finds it for each class.
        covariance: of the noise. `isotropic`: h**2 in each column; `full`: h**2 times the shrunk
            covariance of the class.
        transform: of numbers before they are standardised.
        missing: `keep`: cells are missing together as they are in the rows; `median`: filled.
        bounded: whether rows are kept possible: reflected at the bounds, rounded to the decimals,
            constraints kept.
        redraw: probability that a category is drawn anew; `matched`: see `kernel.py`.
        min_mask_size: a pattern of missing cells that fewer rows of the class share is replaced by
            the nearest that so many share; 1: patterns stay as they are.
        min_class_size: fewest training rows of each class.
        max_candidates: most candidates per class and request; None: as `Synthesiser` says.
        on_shortfall: `raise`, `warn` or `fill`.
        seed: of what is random in `fit`.

    Attributes:
        settings_: the parameters above with the preset's values in place.
        bandwidths_: h of each class.
        near_copies_: share of each class's rows that lie nearest to their own parent.
    """

    settings_: KernelSettings
    bandwidths_: tuple[float, ...]
    near_copies_: tuple[float, ...]
    _kernels: tuple[ClassKernel, ...]

    def __init__(  # noqa: PLR0913 - scikit-learn's manner: every parameter by name
        self,
        columns: Columns | TableSchema | None = None,
        *,
        preset: Preset = "guarded",
        bandwidth: Rule | float | None = None,
        covariance: Covariance | None = None,
        transform: Transform | None = None,
        missing: Missing | None = None,
        bounded: bool | None = None,
        redraw: float | Literal["matched"] | None = None,
        min_mask_size: int | None = None,
        min_class_size: int = 20,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.preset = preset
        self.bandwidth = bandwidth
        self.covariance = covariance
        self.transform = transform
        self.missing = missing
        self.bounded = bounded
        self.redraw = redraw
        self.min_mask_size = min_mask_size
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        """How tables are encoded."""
        settings = resolved(KERNELS, self)
        return Form(settings.transform, settings.missing, settings.bounded)

    def bandwidth_in_units(self) -> pd.DataFrame:
        """Return the standard deviation of the noise in the units of each number, per class.

        Where a column is transformed, it is that at the column's median.
        """
        names = self.columns_.classes or ("rows",)
        table: dict[Any, list[float]] = {}
        for name, kernel in zip(names, self._kernels, strict=True):
            deviation_F = np.sqrt((kernel.noise.root_FF**2).sum(axis=0))
            table[name] = []
            for scale, deviation in zip(self.encoder_.scales, deviation_F, strict=True):
                middle = scale.forward(np.array([scale.median]))
                low, high = scale.backward(middle + deviation * np.array([-1.0, 1.0]))
                table[name].append(float(high - low) / 2)
        return pd.DataFrame(table, index=[column.name for column in self.columns_.continuous])

    def _check_parameters(self) -> None:
        super()._check_parameters()
        resolved(KERNELS, self)

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        self.settings_ = resolved(KERNELS, self)
        if not self.settings_.bounded:
            self.columns_ = replace(self.columns_, constraints=())
        varies_F = _varies(rows)
        kernels = []
        for code in range(len(self.class_sizes_)):
            members = rows.take(code_N == code)
            kernels.append(
                class_kernel(
                    members,
                    self._noise(members, varies_F, rng),
                    num_categories=self._num_categories,
                    min_mask_size=self.settings_.min_mask_size,
                )
            )
        self._kernels = tuple(kernels)
        self.bandwidths_ = tuple(kernel.noise.bandwidth for kernel in kernels)
        self.near_copies_ = _near_copies(kernels, Embedding.of(rows, self._num_categories), rng)
        self._warn_of_near_copies()

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        return self._kernels[code].draw(size, rng)

    @property
    def _num_categories(self) -> tuple[int, ...]:
        return tuple(len(column.categories) for column in self.columns_.categorical)

    def _noise(self, rows: Rows, varies_F: Bools, rng: np.random.Generator) -> Noise:
        """Return the noise for the rows of a class."""
        settings, values_NF = self.settings_, rows.values_NF
        absent_NF = rows.absent_NM[:, : values_NF.shape[1]]
        is_full = settings.covariance == "full"
        if settings.bandwidth == "cv":
            if not varies_F.any():
                raise ConfigError("bandwidth: 'cv' needs a column of numbers; choose 'scott'")
            if is_full and absent_NF.any():
                raise ConfigError(
                    "bandwidth: 'cv' with covariance 'full' needs rows without missing numbers; "
                    "choose missing='median', or bandwidth='scott'"
                )
            if is_full:
                values_NF = values_NF @ np.linalg.pinv(full_root(1.0, values_NF, absent_NF))
        h = choose_bandwidth(
            settings.bandwidth, values_NF[:, varies_F], absent_NF[:, varies_F], rng=rng
        )
        root_FF = (
            full_root(h, rows.values_NF, absent_NF) if is_full else isotropic_root(h, varies_F)
        )
        redraw = matched_redraw(h) if settings.redraw == "matched" else float(settings.redraw)
        return Noise(h, root_FF, redraw, z_bounds(self.encoder_))

    def _warn_of_near_copies(self) -> None:
        names = self.columns_.class_names or ("rows",)
        for name, h, share in zip(names, self.bandwidths_, self.near_copies_, strict=True):
            if share >= NEAR_COPIES:
                warnings.warn(
                    f"class {name}: with noise of {h:.2g} standard deviations, {share:.0%} of the "
                    "synthetic rows lie nearest to the very row that they were made from; they "
                    "are near copies. Choose a larger bandwidth or min_mask_size, or fewer columns",
                    NearCopyWarning,
                    stacklevel=4,
                )


def _varies(rows: Rows) -> Bools:
    """Return (F,) which numbers are not the same in all rows."""
    values_NF = rows.values_NF
    absent_NF = rows.absent_NM[:, : values_NF.shape[1]]
    highest_F = np.where(absent_NF, -np.inf, values_NF).max(axis=0)
    lowest_F = np.where(absent_NF, np.inf, values_NF).min(axis=0)
    varies_F: Bools = highest_F > lowest_F
    return varies_F


def _near_copies(
    kernels: Sequence[ClassKernel], embedding: Embedding, rng: np.random.Generator
) -> tuple[float, ...]:
    """Return per class the share of trial rows that lie nearest to their own parent alone."""
    points = [embedding.points(kernel.rows) for kernel in kernels]
    everyone: Points = np.concatenate(points)
    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(everyone)
    shares, first = [], 0
    for kernel, own in zip(kernels, points, strict=True):
        drawn = kernel.draw(NUM_TRIED, rng)
        assert drawn.parent_N is not None
        distance_N2, nearest_N2 = search.kneighbors(embedding.points(drawn.rows))
        is_copy = nearest_N2[:, 0] == first + drawn.parent_N
        # Where others are as near, such as rows of few categories, it is nobody's copy.
        is_copy &= distance_N2[:, 1] > distance_N2[:, 0] + 1e-6
        shares.append(float(is_copy.mean()))
        first += len(own)
    return tuple(shares)
