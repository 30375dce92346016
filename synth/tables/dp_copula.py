"""A Gaussian copula with differential privacy: noisy counts, noisy moments, everything else free.

The one synthesiser here that promises a patient something in numbers. What it promises, and what it
does not, comes with the fitted object: `privacy_claim()`.

Four queries share the budget (`dp_release.SHARES`), each a sum over patients with Gaussian noise:
where values lie, margins, class means, correlation (`dp_margins.py`, `dp_moments.py`). All classes
are learned together: they have one correlation, and each differs from the others by its own counts
as far as those are not noise, else by its mean scores. A copula for each class by itself, as in
`copula.py`, would split the patients: of 1,083 the 251 septic ones come out as noise at epsilon 3.

Legend: M columns, D latent values, C classes, G gaps.
"""

import warnings
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.common.privacy.checks import check_delta, check_epsilon
from fedward.common.privacy.claim import PrivacyClaim
from fedward.common.tables.schema import TableSchema
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.checks import check_bounds, class_codes, columns_for
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.dp_bounds import bounds_of, bounds_query
from fedward.synth.tables.dp_budget import claim_of, gaussian_mu
from fedward.synth.tables.dp_margins import class_shares, margin_of
from fedward.synth.tables.dp_moments import (
    class_shifts,
    clip_factor,
    latent_correlation,
    shifted_shares,
)
from fedward.synth.tables.dp_noise import source_of
from fedward.synth.tables.dp_queries import Answer, Patients
from fedward.synth.tables.dp_release import Account, Learned, release
from fedward.synth.tables.encoder import Form, public_encoder
from fedward.synth.tables.latent import NEVER, ClassLatent
from fedward.synth.tables.margins import category_margin
from fedward.synth.tables.rows import Candidates, Floats, Ints, Rows
from fedward.synth.tables.sampling import Shortfall


class DeltaWarning(UserWarning):
    """Delta is so large that it allows a patient's row to be published outright."""


class DPGaussianCopula(Synthesiser):
    """Learns a table with (epsilon, delta)-differential privacy for each of its rows.

    Adding or removing one patient's row changes the probability of any fitted object by a factor of
    e^epsilon at most, but for a probability of delta. Any number of rows may be sampled.

    Bounds and categories must be known without the patients, from a schema; or part of the budget
    buys the bounds of numbers (`bounds_share`). Numbers are written in the decimals that the
    columns name, and are not rounded where they name none.

    What to expect: PhysioNet 2019 with 1,083 patients and 27 columns is learned nearly as well as
    without noise at epsilon 8, poorly at 1; with 18,000 patients at 1 nearly as well as without.

    Limits: numbers are uniform within bins; rare categories, gaps and correlations drown in the
    noise and are then left out; small classes look like the others. Classes do not differ in how
    columns go together.

    Args:
        columns: see `Synthesiser`, as for all that is not named here; not None.
        epsilon: of this fit, above 0; 1 to 8 is usual.
        delta: of this fit, well below one over the number of patients.
        bounds_share: of the budget, that buys the bounds of numbers that have none, or whose bounds
            were read off rows; 0: such columns are refused.
        noise_seed: None: noise from the operating system's cryptographic source. A number: the
            noise can be repeated, and taken off again by whoever knows it; for trials only.
        min_class_size: fewest patients of a class by its noisy count; 0: none is refused, since a
            small class is protected by the noise.
        seed: not used; nothing in `fit` is random but the noise.
    """

    holds_patients: ClassVar[bool] = False
    least_class_size: ClassVar[int] = 0

    def __init__(  # noqa: PLR0913 - parameters, as scikit-learn wants them
        self,
        columns: Columns | TableSchema | None = None,
        *,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        bounds_share: float = 0.0,
        noise_seed: int | None = None,
        min_class_size: int = 0,
        max_candidates: int | None = None,
        on_shortfall: Shortfall = "raise",
        seed: int = 0,
    ) -> None:
        self.columns = columns
        self.epsilon = epsilon
        self.delta = delta
        self.bounds_share = bounds_share
        self.noise_seed = noise_seed
        self.min_class_size = min_class_size
        self.max_candidates = max_candidates
        self.on_shortfall = on_shortfall
        self.seed = seed

    @property
    def form(self) -> Form:
        """How tables are encoded: by public bounds alone."""
        return Form(transform="none")

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn the rows of `X` with differential privacy and return self.

        Each call spends epsilon and delta once more.

        Args:
            X: (N) rows, one per patient; the label is one of its columns, or `y`.
            y: (N,) classes, where they are not in `X`.

        Raises:
            SiteDataError: a cell does not fit its column, a value is out of range, or the budget is
                too small for what it should buy.
            ConfigError: a parameter cannot be used, or a column's bounds are not public.
        """
        self._check_parameters()
        if self.columns is None:
            raise ConfigError(
                "columns: a description read off the rows tells of single patients, and no "
                "differential privacy can rest on it; give a schema"
            )
        columns, table = columns_for(self.columns, X, y)
        if len(table) == 0:
            raise NoPatientsError("the table has no rows; nothing can be learned from it")
        open_columns = self._without_bounds(columns)
        for column in columns.continuous:
            if column not in open_columns:
                check_bounds(column, table)
        code_N = class_codes(columns, table)
        account = Account(gaussian_mu(self.epsilon, self.delta), source_of(self.noise_seed))
        share = 1.0
        if open_columns:
            columns = self._with_bounds(columns, open_columns, table, account)
            share -= self.bounds_share
        self.columns_ = columns
        self.encoder_ = public_encoder(columns, self.form)
        rows = self.encoder_.encode(table)
        learned = release(columns, Patients(rows, code_N), account, share=share)
        self.answers_: tuple[Answer, ...] = tuple(answer for _, answer in account.asked)
        self._check_sizes(learned.size_C)
        if self.delta * learned.size_C.sum() >= 1:
            warnings.warn(
                f"delta {self.delta:g} is not below one over the number of patients: it would "
                "allow one of them to be published outright",
                DeltaWarning,
                stacklevel=2,
            )
        self.class_sizes_ = tuple(int(size) for size in np.rint(learned.size_C))
        self.classes_: tuple[ClassLatent, ...] = class_latents(learned, self.answers_)
        return self

    def privacy_claim(self) -> PrivacyClaim:
        """Return what this fit promises each patient, and what it does not."""
        return claim_of(
            self.epsilon,
            self.delta,
            {answer.name: answer.mu for answer in self.answers_},
            is_seeded=self.noise_seed is not None,
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_epsilon(self.epsilon)
        check_delta(self.delta)
        if not 0 <= self.bounds_share < 1:
            raise ConfigError(f"bounds_share: given {self.bounds_share:g}, expected 0 up to 1")
        if self.noise_seed is not None and self.noise_seed < 0:
            raise ConfigError(f"noise_seed: given {self.noise_seed}, expected None, or 0 or more")

    def _without_bounds(self, columns: Columns) -> tuple[Column, ...]:
        """Return the numbers whose bounds must be bought.

        Raises:
            ConfigError: no share of the budget is set aside for that, or categories are not public.
        """
        found = [
            column
            for column in columns.continuous
            if column.bounds != "public" or column.low is None or column.high is None
        ]
        if found and self.bounds_share == 0:
            names = ", ".join(repr(column.name) for column in found)
            raise ConfigError(
                f"columns {names}: their bounds are not public, so they would tell of single "
                "patients; give them in a schema, or set bounds_share to buy them with part of the "
                "budget (0.1, say)"
            )
        for column in columns.categorical:
            if column.bounds != "public":
                raise ConfigError(
                    f"column {column.name!r}: its categories were read off the rows, so they would "
                    "tell of single patients; name them in a schema"
                )
        return tuple(found)

    def _with_bounds(
        self,
        columns: Columns,
        bought: tuple[Column, ...],
        table: pd.DataFrame,
        account: Account,
    ) -> Columns:
        """Return the columns with bounds from the budget."""
        names = tuple(column.name for column in bought)
        raw_NF = table[list(names)].to_numpy(dtype=np.float64)
        none = np.zeros((len(table), 0), dtype=np.int64)
        rows = Rows(np.nan_to_num(raw_NF), none, np.isnan(raw_NF))
        patients = Patients(rows, np.zeros(len(table), dtype=np.int64))
        answer = account.ask(bounds_query(len(names)), patients, self.bounds_share)
        for column, (low, high) in zip(bought, bounds_of(answer, names), strict=True):
            # What was released with noise is as public as a schema from here on.
            columns = columns.with_column(replace(column, low=low, high=high, bounds="public"))
        return columns

    def _check_sizes(self, size_C: Floats) -> None:
        for place, size in enumerate(size_C):
            if size < self.min_class_size:
                name = self.columns_.class_names[place] if self.columns_.label else "all rows"
                raise SiteDataError(
                    f"class {name!r}: its noisy count is below min_class_size "
                    f"({self.min_class_size}); the budget of this fit is spent all the same"
                )

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        raise AssertionError("fit asks queries and never sees rows")

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        return Candidates(self.classes_[code].draw(size, rng))


def class_latents(learned: Learned, given: tuple[Answer, ...]) -> tuple[ClassLatent, ...]:
    """Return one latent description per class, from the answers alone."""
    answers = {answer.name: answer for answer in given}
    scores, size_C = learned.scores, learned.size_C
    total = float(size_C.sum())
    shift_CD = np.zeros((len(size_C), len(scores)))
    factor_DD: Floats = np.eye(len(scores))
    clip = 1.0
    if "correlation" in answers:
        clip = clip_factor(answers["correlation"], scores, total)
    if "means" in answers:
        shift_CD = class_shifts(answers["means"], scores, size_C, clip)
    if "correlation" in answers:
        correlation_DD = latent_correlation(
            answers["correlation"], scores, total, shift_CD, size_C / total
        )
        factor_DD = np.linalg.cholesky(correlation_DD).astype(np.float64)
    deviation = answers["margins"].deviation
    return tuple(
        _class_latent(learned, code, shift_CD[code], deviation, factor_DD)
        for code in range(len(size_C))
    )


def _class_latent(
    learned: Learned, code: int, shift_D: Floats, deviation: float, factor_DD: Floats
) -> ClassLatent:
    shares = []
    for place, counts in enumerate(learned.counts):
        known = max(learned.size_C[code] * (1 - learned.missing_MC[place, code]), 1.0)
        expected_K = shifted_shares(learned.pooled[place], shift_D[place])
        shares.append(
            class_shares(counts.counts_CK[code], expected_K, num_known=known, deviation=deviation)
        )
    num_values = len(learned.bins)
    gap_M = np.full(len(shares), NEVER, dtype=np.int64)
    gap_M[learned.scores.gap_column_G] = np.arange(len(learned.scores.gaps))
    missing = learned.missing_MC[learned.scores.gap_column_G, code]
    return ClassLatent(
        tuple(map(margin_of, learned.bins, shares[:num_values])),
        tuple(category_margin(share_K) for share_K in shares[num_values:]),
        tuple(category_margin(np.array([1 - share, share])) for share in missing),
        gap_M,
        factor_DD,
    )
