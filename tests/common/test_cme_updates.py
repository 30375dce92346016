"""Influence, cosine and size of updates: by hand, as in one piece, and where they are not defined.

Shapes: S sites, D parameters.
"""

import tracemalloc

import numpy as np
import pytest

from fedward.common.monitoring.updates import update_figures


def test_figures_of_two_sites_by_hand() -> None:
    received = np.array([3.0, 4.0], dtype=np.float32)
    trained = [received + np.array(u, dtype=np.float32) for u in ([1, 0], [0, 2])]
    found = update_figures(received, trained, [300, 100])
    # U = (0.75, 0.5), |U|^2 = 0.8125, |W| = 5
    np.testing.assert_allclose(found.influence_S, [0.5625 / 0.8125, 0.25 / 0.8125])
    np.testing.assert_allclose(found.cosine_S, np.array([0.75, 0.5]) / np.sqrt(0.8125))
    np.testing.assert_allclose(found.norm_ratio_S, [0.2, 0.4])
    assert found.norm_ratio == pytest.approx(np.sqrt(0.8125) / 5)


def test_a_site_that_pulls_the_other_way_has_negative_influence() -> None:
    received = np.zeros(3, dtype=np.float32)
    trained = [np.full(3, value, dtype=np.float32) for value in (1.0, 1.0, -1.0)]
    found = update_figures(received, trained, [1, 1, 1])
    np.testing.assert_allclose(found.influence_S, [1, 1, -1], rtol=1e-12)
    np.testing.assert_allclose(found.cosine_S, [1, 1, -1], rtol=1e-12)


@pytest.mark.parametrize(("num_sites", "size"), [(1, 10), (40, 5000), (3, 200_000)])
def test_in_chunks_it_is_as_in_one_piece_and_adds_up_to_1(num_sites: int, size: int) -> None:
    generator = np.random.default_rng(1)
    received = generator.standard_normal(size).astype(np.float32)
    trained = [
        received + 0.1 * generator.standard_normal(size).astype(np.float32)
        for _ in range(num_sites)
    ]
    weights = generator.uniform(1, 9, num_sites)
    found = update_figures(received, trained, weights)

    updates_SD = np.stack(trained).astype(np.float64) - received
    shares = weights / weights.sum()
    whole_D = shares @ updates_SD
    expected = shares * (updates_SD @ whole_D) / (whole_D @ whole_D)
    np.testing.assert_allclose(found.influence_S, expected, rtol=1e-9)
    assert found.influence_S.sum() == pytest.approx(1, abs=1e-12)
    norms = np.linalg.norm(updates_SD, axis=1)
    cosines = updates_SD @ whole_D / norms / np.linalg.norm(whole_D)
    np.testing.assert_allclose(found.cosine_S, cosines, rtol=1e-9)
    np.testing.assert_allclose(found.norm_ratio_S, norms / np.linalg.norm(received.astype(float)))


def test_what_is_not_defined_is_nan_and_warns_nobody() -> None:
    received = np.ones(4, dtype=np.float32)
    moved = 2 * received
    still = update_figures(received, [received, received], [1, 1])
    assert np.isnan(still.influence_S).all()
    assert np.isnan(still.cosine_S).all()
    assert (still.norm_ratio, *still.norm_ratio_S) == (0, 0, 0)
    one = update_figures(received, [received, moved], [1, 1])
    np.testing.assert_array_equal(one.influence_S, [0, 1])
    np.testing.assert_array_equal(one.cosine_S, [np.nan, 1])
    weightless = update_figures(received, [moved], [0])
    assert np.isnan(weightless.influence_S).all()
    nowhere = update_figures(0 * received, [moved], [1])
    assert np.isnan([nowhere.norm_ratio, *nowhere.norm_ratio_S]).all()
    np.testing.assert_allclose(nowhere.influence_S, [1])
    infinite = update_figures(received, [moved * np.float32("inf"), moved], [1, 1])
    assert np.isnan([infinite.influence_S, infinite.cosine_S]).all()
    assert not np.isinf([infinite.norm_ratio, *infinite.norm_ratio_S]).any()
    nobody = update_figures(received, [], [])
    assert nobody.influence_S.shape == (0,)
    assert np.isnan(nobody.norm_ratio)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="as long as"):
        update_figures(np.ones(4, dtype=np.float32), [np.ones(1, dtype=np.float32)], [1])


def test_a_large_model_is_not_copied_for_every_site() -> None:
    received = np.ones(1_000_000, dtype=np.float32)
    trained = [np.full(1_000_000, value, dtype=np.float32) for value in (1, 2, 3, 4)]
    for vector in trained:
        vector.flags.writeable = False
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        update_figures(received, trained, [1] * 4)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak <= 3 * 2**20  # one of the vectors has 4 MB
