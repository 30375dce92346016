"""Widths of kernels against scikit-learn's, and where cells are missing."""

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KernelDensity

from fedward.common.errors import ConfigError
from fedward.synth.tables.bandwidth import (
    CV_GRID,
    check_bandwidth,
    choose_bandwidth,
    cross_validated,
    scott,
    silverman,
)


def complete(values: np.ndarray) -> np.ndarray:
    return np.zeros(values.shape, dtype=bool)


@pytest.mark.parametrize(("rule", "found"), [("scott", scott), ("silverman", silverman)])
def test_a_rule_gives_what_scikit_learn_gives(rule: str, found: object) -> None:
    values = np.random.default_rng(0).normal(size=(130, 7))
    expected = KernelDensity(bandwidth=rule).fit(values).bandwidth_
    assert callable(found)
    assert found(130, 7) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_cross_validated_width_is_the_best_of_its_grid_by_leaving_each_row_out(
    seed: int,
) -> None:
    values = np.random.default_rng(seed).normal(size=(25, 3))
    found = cross_validated(values, complete(values), np.random.default_rng(0))
    place = int(np.argmin(np.abs(CV_GRID - found)))
    assert found == pytest.approx(CV_GRID[place])
    likelihood = [
        cross_val_score(KernelDensity(bandwidth=h), values, cv=LeaveOneOut()).sum()
        for h in CV_GRID[[place // 2, place - 1, place, place + 1]]
    ]
    assert np.argmax(likelihood) == 2


def test_missing_cells_do_not_make_the_kernels_collapse() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(300, 12))
    absent = rng.random(values.shape) < 0.6
    whole = cross_validated(values, complete(values), np.random.default_rng(0))
    holed = np.where(absent, 0.0, values)
    found = cross_validated(holed, absent, np.random.default_rng(0))
    assert found > 0.8 * whole
    # Rows that lack the same columns look alike where missing counts as no difference.
    assert cross_validated(holed, complete(holed), np.random.default_rng(0)) < 0.7 * whole


def test_many_rows_are_answered_for_by_some_of_them() -> None:
    values = np.random.default_rng(2).normal(size=(4000, 4))
    whole = cross_validated(values, complete(values), np.random.default_rng(0))
    # Scott's rule is optimal for normal rows up to a factor that does not depend on n.
    few = cross_validated(values[:400], complete(values[:400]), np.random.default_rng(0))
    assert whole / few == pytest.approx(scott(4000, 4) / scott(400, 4), rel=0.2)
    assert whole < few


def test_a_number_is_the_width_itself() -> None:
    values = np.zeros((5, 2))
    rng = np.random.default_rng(0)
    assert choose_bandwidth(0.7, values, complete(values), rng=rng) == 0.7


@pytest.mark.parametrize("bandwidth", ["wide", 0, -1.0, None])
def test_what_is_no_width_is_refused(bandwidth: object) -> None:
    with pytest.raises(ConfigError, match=r"bandwidth: given .* expected scott, silverman, cv"):
        check_bandwidth(bandwidth)  # type: ignore[arg-type]


def test_rows_that_are_all_given_twice_pull_the_width_to_the_lower_end() -> None:
    values = np.random.default_rng(3).normal(size=(100, 3))
    twice = np.concatenate([values, values])
    assert cross_validated(twice, complete(twice), np.random.default_rng(0)) == CV_GRID[0]
    assert cross_validated(values, complete(values), np.random.default_rng(0)) > 4 * CV_GRID[0]
