"""A copula from sums: what adds up over sites, and what is found again in drawn rows."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm, spearmanr

from fedward.common.tables.bins import Cells, bin_edges
from fedward.common.tables.copula_sums import (
    SMALLEST_EIGENVALUE,
    Margins,
    correlations,
    pair_sums,
    positive_definite,
)
from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.synthetic_sums import MARGINS, PAIRS, SumsForm
from fedward.common.tables.table import Table

FIELDS = (
    FieldSchema(name="lactate", kind="continuous", range=(0, 50)),
    FieldSchema(name="pH", kind="continuous", range=(6.2, 8.2)),
    FieldSchema(name="base", kind="continuous", range=(-60, 100)),
    FieldSchema(name="sex", kind="categorical", categories=(0, 1)),
)
CELLS = Cells(FIELDS, 128)
FORM = SumsForm(CELLS, 2)


def patients(num_rows: int, seed: int = 0, rho: float = 0.6) -> Table:
    """Return rows with a skewed column, correlations, and two columns missing together."""
    rng = np.random.default_rng(seed)
    mixed = np.full((4, 4), rho) + (1 - rho) * np.eye(4)
    z_N4 = rng.multivariate_normal(np.zeros(4), mixed, size=num_rows)
    missing_N = rng.random(num_rows) < norm.cdf(z_N4[:, 3] - 1)
    columns = {
        "lactate": np.where(missing_N, np.nan, np.exp(0.7 * z_N4[:, 0] + 0.5).clip(0, 50)),
        "pH": np.where(missing_N, np.nan, (7.35 + 0.08 * z_N4[:, 1]).clip(6.2, 8.2)),
        "base": (5 * z_N4[:, 2]).clip(-60, 100),
        "sex": (z_N4[:, 3] > 0).astype(np.float64),
    }
    return Table(columns, rng.integers(0, 2, num_rows), np.arange(num_rows))


def held(sites: list[Table]) -> dict[str, np.ndarray]:
    """Return both passes over sites that hold nothing back."""
    first = []
    for table in sites:
        sizes = np.bincount(table.label, minlength=2).astype(float)
        counts = CELLS.counts(table, 2)
        first.append({"margins.sizes": sizes, "margins.counts": counts})
    summed = FORM.added(MARGINS, first)
    margins = FORM.margins(summed)
    second = []
    for table in sites:
        arrays = FORM.empty(PAIRS)
        for code, one in margins.items():
            rows = table.take(table.label == code)
            arrays["pairs.sums"][code] = pair_sums(one.scores(rows))
            arrays["pairs.patients"][code] = len(rows)
        second.append(arrays)
    return {**summed, **FORM.added(PAIRS, second)}


def test_sums_over_sites_are_the_sums_over_all_their_patients() -> None:
    table = patients(900)
    parts = [table.take(np.arange(start, 900, 3)) for start in range(3)]
    together, apart = held([table]), held(parts)
    for name in ("margins.sizes", "margins.counts", "pairs.sums", "pairs.patients"):
        np.testing.assert_allclose(apart[name], together[name], atol=1e-9)


@pytest.fixture(scope="module")
def drawn() -> tuple[Table, dict[str, np.ndarray]]:
    table = patients(6000)
    copula = FORM.copulas(held([table]), fewest=1)[1]
    return table.take(table.label == 1), copula.draw(6000, np.random.default_rng(1))


def test_margins_are_found_again(drawn: tuple[Table, dict[str, np.ndarray]]) -> None:
    table, rows = drawn
    for name in ("lactate", "pH", "base"):
        real, made = table.columns[name], rows[name]
        # Two samples of one distribution: below the 0.1 % point of the statistic, plus what
        # spreading a bin of 3 % of the patients evenly may move.
        real, made = real[~np.isnan(real)], made[~np.isnan(made)]
        limit = 1.95 * np.sqrt(1 / len(real) + 1 / len(made)) + 0.01
        assert ks_2samp(real, made).statistic < limit
    assert set(np.unique(rows["sex"])) == {0.0, 1.0}


def test_correlations_are_found_again_and_are_gone_without_the_second_pass(
    drawn: tuple[Table, dict[str, np.ndarray]],
) -> None:
    table, rows = drawn

    def rank(columns: dict[str, np.ndarray], one: str, other: str) -> float:
        known = ~np.isnan(columns[one]) & ~np.isnan(columns[other])
        return float(spearmanr(columns[one][known], columns[other][known]).statistic)

    real = dict(table.columns)
    for pair in (("lactate", "pH"), ("pH", "base"), ("base", "sex")):
        # Standard error of a rank correlation of 2,000 rows: 0.02.
        assert abs(rank(rows, *pair) - rank(real, *pair)) < 0.08, pair
        assert rank(real, *pair) > 0.3
    without = held([patients(6000)])
    without["pairs.sums"][:] = 0
    blind = FORM.copulas(without, fewest=1)[1].draw(6000, np.random.default_rng(1))
    assert abs(rank(blind, "pH", "base")) < 0.06


def test_what_is_missing_together_stays_so(drawn: tuple[Table, dict[str, np.ndarray]]) -> None:
    table, rows = drawn
    for columns in (dict(table.columns), rows):
        gone = np.isnan(columns["lactate"]), np.isnan(columns["pH"])
        both = (gone[0] & gone[1]).mean()
        assert both > 0.9 * gone[0].mean() > 0.15
    assert not np.isnan(rows["base"]).any()


def test_bins_are_narrow_where_a_wide_range_holds_its_values() -> None:
    edges = bin_edges(FieldSchema(name="AST", kind="continuous", range=(0, 30000)), 128)
    assert (edges[0], edges[-1]) == (0, 30000)
    assert np.searchsorted(edges, 60) - np.searchsorted(edges, 15) >= 8  # 1 of 128, spread evenly
    assert (np.diff(edges) > 0).all()


def test_a_matrix_that_is_none_of_correlations_becomes_one() -> None:
    bad = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    assert np.linalg.eigvalsh(bad)[0] < 0
    good = positive_definite(bad)
    np.testing.assert_allclose(np.diag(good), 1)
    assert np.linalg.eigvalsh(good)[0] > SMALLEST_EIGENVALUE / 2
    fine = np.array([[1, 0.3], [0.3, 1]])
    np.testing.assert_array_equal(positive_definite(fine), fine)


def test_a_pair_that_no_site_told_is_uncorrelated() -> None:
    table = patients(500)
    margins = Margins(CELLS, CELLS.counts(table, 2).sum(axis=0))
    sums_P = pair_sums(margins.scores(table))
    known_P = np.full_like(sums_P, 500.0)
    assert abs(correlations(sums_P, known_P, margins)[1, 2]) > 0.3
    known_P[:] = 0
    np.testing.assert_array_equal(correlations(sums_P, known_P, margins), np.eye(8))
