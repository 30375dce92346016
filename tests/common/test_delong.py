"""DeLong's test against a comparison of every pair, and against its own promise."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedward.common.delong import areas_and_covariance, delong_test


def every_pair(positive: np.ndarray, scores_KN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return areas and covariance as DeLong 1988 writes them, without ranks."""
    x, y = scores_KN[:, positive], scores_KN[:, ~positive]
    psi = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    v10, v01 = psi.mean(axis=2), psi.mean(axis=1)
    area = psi.mean(axis=(1, 2))
    m, n = x.shape[1], y.shape[1]
    s10 = (v10 - area[:, None]) @ (v10 - area[:, None]).T / (m - 1)
    s01 = (v01 - area[:, None]) @ (v01 - area[:, None]).T / (n - 1)
    return area, s10 / m + s01 / n


def patients(
    n: int, seed: int, *, gain: float = 0.0, decimals: int = 9
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and correlated scores (2, n) of two models; the first is better by `gain`."""
    generator = np.random.default_rng(seed)
    positive = generator.random(n) < 0.4
    common = generator.normal(size=n) + 1.2 * positive
    own = generator.normal(size=(2, n)) * 0.7
    scores = common + own + np.array([[gain], [0.0]]) * positive
    return positive, scores.round(decimals)


@pytest.mark.parametrize("decimals", [0, 9])  # 0: many ties
@pytest.mark.parametrize("seed", range(4))
def test_ranks_give_what_comparing_every_pair_gives(seed: int, decimals: int) -> None:
    positive, scores = patients(150, seed, decimals=decimals)
    area, covariance = areas_and_covariance(scores[:, positive], scores[:, ~positive])
    want_area, want_covariance = every_pair(positive, scores)
    np.testing.assert_allclose(area, want_area, atol=1e-12)
    np.testing.assert_allclose(covariance, want_covariance, atol=1e-12)
    assert area[0] == pytest.approx(roc_auc_score(positive, scores[0]))


def test_a_case_by_hand() -> None:
    # Model A orders 3 of the 4 pairs rightly, model B all of them. V10 of A is (1, 1/2), V01
    # (1/2, 1): each has variance 1/8, over 2 patients 1/16, together 1/8. B has none.
    found = delong_test(np.array([1, 1, 0, 0]), np.array([4, 2, 3, 1.0]), np.array([4, 3, 2, 1.0]))
    assert (found.first.value, found.second.value) == (0.75, 1.0)
    assert found.difference.value == -0.25
    assert found.z == pytest.approx(-0.25 / (1 / 8) ** 0.5)
    assert found.p_value == pytest.approx(0.4795, abs=1e-4)


def test_equal_models_differ_in_five_of_a_hundred_cohorts_and_intervals_hold() -> None:
    draws = 600
    rejected = covered = 0
    for seed in range(draws):
        found = delong_test(*((p := patients(120, 1000 + seed))[0], p[1][0], p[1][1]))
        assert found.p_value is not None
        assert found.difference.low is not None
        assert found.difference.high is not None
        rejected += found.p_value < 0.05
        covered += found.difference.low <= 0 <= found.difference.high
    # 30 expected; 12 and 51 are each passed with probability 2e-4. The two agree exactly.
    assert 12 < rejected < 51
    assert covered == draws - rejected


def test_a_better_model_is_seen_although_single_intervals_overlap() -> None:
    positive, scores = patients(400, 3, gain=0.5)
    found = delong_test(positive, scores[0], scores[1])
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert found.second.high is not None
    assert found.first.low is not None
    assert found.second.high > found.first.low


def test_swapping_the_models_turns_the_sign_only() -> None:
    positive, scores = patients(90, 5)
    one, other = (delong_test(positive, scores[a], scores[1 - a]) for a in (0, 1))
    assert one.difference.value == pytest.approx(-(other.difference.value or 0))
    assert one.p_value == pytest.approx(other.p_value)


def test_a_monotone_change_of_scores_is_no_difference() -> None:
    positive, scores = patients(90, 5)
    found = delong_test(positive, scores[0], np.exp(scores[0]))
    assert found.difference.value == 0
    assert found.p_value is None


def test_what_is_undefined_says_so() -> None:
    same = delong_test(np.ones(5), np.arange(5.0), np.arange(5.0))
    assert (same.difference.value, same.difference.reason) == (None, "one class")
    single = delong_test(np.array([1, 0, 0]), np.array([0.9, 0.1, 0.2]), np.array([0.1, 0.5, 0.0]))
    assert single.difference.value == 0.5
    assert single.difference.low is None
    with pytest.raises(ValueError, match="finite"):
        delong_test(np.array([1, 0]), np.array([np.nan, 1.0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="both be"):
        delong_test(np.array([1, 0, 1]), np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def lesions(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, scores (2, n) and patients: both models are alike, patients are not."""
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(60), generator.integers(1, 8, 60))
    positive = (generator.random(60) < 0.5)[who]
    of_patient = generator.normal(size=(2, 60))[:, who]
    return positive, 0.8 * positive + of_patient + 0.3 * generator.normal(size=(2, len(who))), who


def test_rows_of_one_patient_are_no_independent_draws() -> None:
    rejected = {"patients": 0, "rows": 0}
    for seed in range(300):
        positive, scores, who = lesions(seed)
        for unit, ids in (("patients", who), ("rows", None)):
            found = delong_test(positive, scores[0], scores[1], patient_id=ids)
            assert found.p_value is not None
            rejected[unit] += found.p_value < 0.05
    # 15 expected; more than 32 with probability 3e-5. Rows taken for patients see what is not.
    assert rejected["patients"] <= 32
    assert rejected["rows"] > 60


def test_patients_of_one_row_each_are_the_plain_test() -> None:
    positive, scores = patients(400, 8)
    ids = np.array([f"p{number}" for number in range(400)])
    plain = delong_test(positive, scores[0], scores[1])
    assert delong_test(positive, scores[0], scores[1], patient_id=ids) == plain
    paired = np.concatenate([positive, positive]), np.concatenate([scores, scores], axis=1)
    twice = delong_test(paired[0], *paired[1], patient_id=np.concatenate([ids, ids]))
    assert twice.difference.n == 400
    assert twice.p_value == pytest.approx(plain.p_value, rel=0.02)


def test_a_hundred_thousand_patients_take_no_time() -> None:
    positive, scores = patients(100_000, 1)
    start = time.process_time()
    delong_test(positive, scores[0], scores[1])
    assert time.process_time() - start < 2.0  # every pair would be 2.4e9 comparisons
