"""Draws of a kernel density: their noise, their bounds, their categories, their missing cells."""

import numpy as np
import pytest
from scipy.stats import binomtest, chi2, norm

from fedward.common.errors import ConfigError
from fedward.synth.tables.kernel import (
    ClassKernel,
    Noise,
    class_kernel,
    full_root,
    isotropic_root,
    matched_redraw,
)
from fedward.synth.tables.masks import common_masks
from fedward.synth.tables.rows import Rows

ERROR_RATE = 1e-6
DRAWS = 20_000


def rows_of(
    values: np.ndarray, codes: np.ndarray | None = None, absent: np.ndarray | None = None
) -> Rows:
    size = len(values)
    codes = np.zeros((size, 0), dtype=np.int64) if codes is None else codes
    width = values.shape[1] + codes.shape[1]
    absent = np.zeros((size, width), dtype=bool) if absent is None else absent
    return Rows(values, codes, absent)


def kernel_of(
    rows: Rows,
    root: np.ndarray,
    *,
    redraw: float = 0.0,
    bounds: tuple[tuple[float | None, float | None], ...] | None = None,
    num_categories: tuple[int, ...] = (),
    min_mask_size: int = 1,
) -> ClassKernel:
    bounds = bounds or tuple((None, None) for _ in range(rows.values_NF.shape[1]))
    noise = Noise(1.0, root, redraw, bounds)
    return class_kernel(rows, noise, num_categories=num_categories, min_mask_size=min_mask_size)


def related(n: int = 80, seed: int = 0) -> np.ndarray:
    mixed = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 0.9]])
    values: np.ndarray = np.random.default_rng(seed).normal(size=(n, 3)) @ mixed
    return values


def is_chi_square(noise: np.ndarray, root: np.ndarray) -> bool:
    """Return whether normal noise has the covariance root @ root; rightly, but for ERROR_RATE."""
    total = float((np.linalg.solve(root, noise.T) ** 2).sum())
    low, high = chi2.ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2], df=noise.size)
    return bool(low < total < high)


def test_the_noise_has_the_covariance_that_was_asked_for() -> None:
    values = related()
    own = full_root(0.5, values, np.zeros(values.shape, dtype=bool))
    even = isotropic_root(0.5, np.ones(3, dtype=bool))
    for root, other in ((own, even), (even, own)):
        drawn = kernel_of(rows_of(values), root).draw(DRAWS, np.random.default_rng(1))
        noise = drawn.rows.values_NF - values[drawn.parent_N]
        assert is_chi_square(noise, root)
        assert not is_chi_square(noise, other)


def test_draws_have_the_covariance_of_the_class_and_of_the_noise_together() -> None:
    values = related()
    root = isotropic_root(0.7, np.ones(3, dtype=bool))
    drawn = kernel_of(rows_of(values), root).draw(DRAWS, np.random.default_rng(2)).rows.values_NF
    centred = drawn - values.mean(axis=0)
    expected = np.cov(values.T, ddof=0) + 0.49 * np.eye(3)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(DRAWS)
    # 6 different entries: 5.3 standard errors are passed with probability 7e-7.
    assert np.all(np.abs(products.mean(axis=0) - expected) < 5.3 * error)


def test_the_full_covariance_is_that_of_the_class_but_for_the_shrinkage() -> None:
    values = related(5000)
    root = full_root(2.0, values, np.zeros(values.shape, dtype=bool))
    np.testing.assert_allclose(root @ root, 4 * np.cov(values.T, ddof=0), atol=0.1)
    few = full_root(1.0, related(6), np.zeros((6, 3), dtype=bool))
    shrunk, plain = few @ few, np.cov(related(6).T, ddof=0)
    np.testing.assert_allclose(np.diag(shrunk), np.diag(plain))
    assert abs(shrunk[0, 1]) < abs(plain[0, 1])


def test_variances_are_those_of_the_known_values_where_most_are_missing() -> None:
    values = related(4000)
    absent = np.random.default_rng(3).random(values.shape) < 0.8
    root = full_root(1.0, np.where(absent, 0.0, values), absent)
    known = [values[~absent[:, place], place].var() for place in range(3)]
    np.testing.assert_allclose(np.diag(root @ root), known)
    never = np.column_stack([absent[:, :2], np.ones(len(values), dtype=bool)])
    root = full_root(1.0, np.where(never, 0.0, values), never)
    assert not root[2].any()


def test_a_bound_reflects_draws_and_no_mass_piles_up_at_it() -> None:
    values = np.random.default_rng(4).exponential(0.5, size=(50, 1))
    root, near = isotropic_root(1.0, np.ones(1, dtype=bool)), 0.02
    free = kernel_of(rows_of(values), root).draw(DRAWS, np.random.default_rng(5)).rows.values_NF
    bounded = kernel_of(rows_of(values), root, bounds=((0.0, None),))
    drawn = bounded.draw(DRAWS, np.random.default_rng(5)).rows.values_NF
    assert (free < 0).mean() > 0.2
    assert drawn.min() >= 0
    # The density of a reflected kernel: what lies on either side of the bound.
    share = float((norm.cdf(near, values) - norm.cdf(-near, values)).mean())

    def p_value(x: np.ndarray) -> float:
        return float(binomtest(int((x < near).sum()), DRAWS, share).pvalue)

    assert p_value(drawn) > ERROR_RATE
    assert p_value(np.clip(free, 0, None)) < ERROR_RATE


def test_draws_between_two_bounds_stay_there_however_wide_the_noise() -> None:
    values = np.random.default_rng(6).uniform(-1, 1, size=(50, 1))
    kernel = kernel_of(rows_of(values), np.array([[9.0]]), bounds=((-1.0, 1.0),))
    drawn = kernel.draw(DRAWS, np.random.default_rng(7)).rows.values_NF
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    counts = np.histogram(drawn, bins=20, range=(-1, 1))[0]
    # Noise of nine half-widths is uniform after reflection; 20 bins, error rate 1e-6 in all.
    assert ((counts - DRAWS / 20) ** 2).sum() / (DRAWS / 20) < chi2.ppf(1 - ERROR_RATE, 19)


def test_a_category_stays_or_is_drawn_from_the_smoothed_shares_of_the_class() -> None:
    codes = np.array([[0]] * 6 + [[1]] * 3)
    rows = rows_of(np.zeros((9, 0)), codes)
    root = np.zeros((0, 0))
    for redraw in (0.0, 0.4, 1.0):
        kernel = kernel_of(rows, root, redraw=redraw, num_categories=(3,))
        drawn = kernel.draw(DRAWS, np.random.default_rng(8))
        found = drawn.rows.codes_NC[:, 0]
        stays = codes[drawn.parent_N, 0] == found
        smoothed = np.array([6.5, 3.5, 0.5]) / 10.5
        share = 1 - redraw + redraw * float(smoothed[0] * 6 / 9 + smoothed[1] * 3 / 9)
        assert binomtest(int(stays.sum()), DRAWS, share).pvalue > ERROR_RATE
        unseen = int((found == 2).sum())
        assert binomtest(unseen, DRAWS, redraw * smoothed[2]).pvalue > ERROR_RATE


@pytest.mark.parametrize("h", [0.3, 1.0, 2.0])
def test_a_category_says_as_much_of_its_parent_as_a_number_does(h: float) -> None:
    rng = np.random.default_rng(9)
    values, codes = rng.normal(size=(4000, 1)), rng.integers(0, 2, (4000, 1))
    values = (values - values.mean()) / values.std()
    kernel = kernel_of(
        rows_of(values, codes), np.array([[h]]), redraw=matched_redraw(h), num_categories=(2,)
    )
    drawn = kernel.draw(DRAWS, np.random.default_rng(10))
    of_number = np.corrcoef(values[drawn.parent_N, 0], drawn.rows.values_NF[:, 0])[0, 1]
    of_category = np.corrcoef(codes[drawn.parent_N, 0], drawn.rows.codes_NC[:, 0])[0, 1]
    # Each has a standard error below 1 / sqrt(DRAWS); 5 of their difference.
    assert abs(of_number - of_category) < 5 * np.sqrt(2 / DRAWS)
    assert of_number == pytest.approx(1 / np.sqrt(1 + h**2), abs=5 / np.sqrt(DRAWS))


PATTERNS = np.array(
    [[False, False, False]] * 5 + [[True, True, False]] * 4 + [[True, True, True]] + [[False] * 3],
)


def test_a_rare_pattern_of_missing_cells_becomes_the_nearest_common_one() -> None:
    shown = common_masks(PATTERNS, 4)
    np.testing.assert_array_equal(shown[9], [True, True, False])
    np.testing.assert_array_equal(np.delete(shown, 9, axis=0), np.delete(PATTERNS, 9, axis=0))
    np.testing.assert_array_equal(common_masks(PATTERNS, 1), PATTERNS)
    # With 5 only complete rows are common enough.
    assert not common_masks(PATTERNS, 5).any()


def test_patterns_that_no_rows_share_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"class of 11 rows .* shared by 7.*min_mask_size=1"):
        common_masks(PATTERNS, 7)


def test_draws_never_show_a_pattern_that_few_rows_share() -> None:
    values = np.random.default_rng(11).normal(size=(11, 2))
    codes = np.random.default_rng(12).integers(0, 2, (11, 1))
    values[PATTERNS[:, :2]] = 0.0
    codes[PATTERNS[:, 2:]] = 0
    rows = rows_of(values, codes, PATTERNS)
    root = isotropic_root(0.1, np.ones(2, dtype=bool))

    def patterns_of(min_mask_size: int) -> set[tuple[bool, ...]]:
        kernel = kernel_of(rows, root, num_categories=(2,), min_mask_size=min_mask_size)
        drawn = kernel.draw(500, np.random.default_rng(13)).rows
        assert not drawn.values_NF[drawn.absent_NM[:, :2]].any()
        assert not drawn.codes_NC[drawn.absent_NM[:, 2:]].any()
        return {tuple(map(bool, mask)) for mask in drawn.absent_NM}

    assert (True, True, True) in patterns_of(1)
    assert patterns_of(4) == {(False, False, False), (True, True, False)}
    assert patterns_of(5) == {(False, False, False)}


def test_a_cell_that_the_parent_lacks_is_lent_by_a_row_that_has_it() -> None:
    absent = np.array([[False]] * 5 + [[True]] * 2)
    values = np.array([[4.0], [4.0], [4.0], [4.0], [4.0], [0.0], [0.0]])
    kernel = kernel_of(rows_of(values, absent=absent), np.zeros((1, 1)), min_mask_size=3)
    drawn = kernel.draw(200, np.random.default_rng(14))
    assert drawn.parent_N is not None
    assert (drawn.parent_N >= 5).any()
    np.testing.assert_array_equal(drawn.rows.values_NF, np.full((200, 1), 4.0))
