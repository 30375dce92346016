"""Clipping and noise of whole updates; Flower's own functions are computed beside them."""

import math

import numpy as np
import pytest
import torch
from flwr.supercore.differential_privacy import compute_clip_model_update, compute_stdv
from scipy.stats import chi2

from fedward.common.config.privacy import PrivacyConfig
from fedward.common.errors import SiteDataError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.claim import update_claim
from fedward.common.privacy.noise import SeededNoise
from fedward.common.privacy.updates import UpdateNoise, clipped
from fedward.common.vectors import Vector

ERROR_RATE = 1e-6
"""Of each test on random numbers."""
C = 0.7


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def privacy(mode: str = "central", **keys: float) -> PrivacyConfig:
    given = {"noise_multiplier": 1.5, "delta": 1e-4, "max_update_norm": C, **keys}
    return PrivacyConfig.model_validate({"mode": mode, "unit": "site", **given})


def noise(mode: str = "central", **keys: float) -> UpdateNoise:
    return UpdateNoise.of(privacy(mode, **keys), 10)


def source(seed: int = 0) -> SeededNoise:
    return SeededNoise(torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_long_update_is_cut_to_the_norm_and_keeps_its_direction() -> None:
    rng = np.random.default_rng(1)
    received = rng.normal(size=500).astype(np.float32)
    new = rng.normal(size=500).astype(np.float32)
    update, was_clipped = clipped(new, received, C)
    assert was_clipped
    assert C * (1 - 1e-11) < float(np.linalg.norm(update)) <= C
    whole = new.astype(np.float64) - received
    assert float(update @ whole) == pytest.approx(C * float(np.linalg.norm(whole)), rel=1e-11)


def test_a_short_update_and_one_of_zero_stay_as_they_are() -> None:
    received = vector(1, 2, 3)
    for new in (received, vector(1, 2.25, 3)):
        update, was_clipped = clipped(new, received, C)
        assert not was_clipped
        np.testing.assert_array_equal(update, new.astype(np.float64) - received)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_is_refused_where_flowers_clipping_lets_it_through(
    bad: float,
) -> None:
    received, new = vector(0, 0), vector(bad, 1)
    with pytest.raises(SiteDataError, match="NaN or infinite"):
        clipped(new, received, C)
    theirs = [new.copy()]
    with np.errstate(invalid="ignore"):
        compute_clip_model_update(theirs, [received], C)
    assert not np.isfinite(theirs[0]).all()


def test_clipping_is_flowers_and_an_update_of_zero_is_what_flowers_cannot_divide_by() -> None:
    rng = np.random.default_rng(2)
    received, new = rng.normal(size=(2, 50)).astype(np.float32)
    theirs = [new.copy()]
    compute_clip_model_update(theirs, [received], C)
    ours = received + clipped(new, received, C)[0]
    np.testing.assert_allclose(ours, theirs[0], atol=1e-6)
    with pytest.raises(ZeroDivisionError):
        compute_clip_model_update([received.copy()], [received], C)


def test_the_deviation_of_a_mean_is_flowers() -> None:
    assert noise().deviation / 5 == pytest.approx(compute_stdv(1.5, C, 5))


@pytest.mark.parametrize("mode", ["central", "local"])
def test_noise_has_the_variance_that_is_claimed(mode: str) -> None:
    hidden, count = noise(mode), 1_000_000
    drawn = hidden.noised(np.zeros(count), source())
    expected = {"central": 1.5 * C, "local": 1.5 * 2 * C}[mode]
    low, high = chi2.ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2], count)
    assert low < float(drawn @ drawn) / expected**2 < high
    # Half a percent less noise would not pass.
    assert not low < float(drawn @ drawn) * 0.995**2 / expected**2 < high


def test_a_local_update_can_lie_twice_the_norm_from_that_of_another_cohort() -> None:
    one, other = (clipped(vector(x, 0), vector(0, 0), C)[0] for x in (-9, 9))
    assert float(np.linalg.norm(one - other)) == pytest.approx(noise("local").sensitivity)
    nothing = clipped(vector(0, 0), vector(0, 0), C)[0]
    assert float(np.linalg.norm(one - nothing)) == pytest.approx(noise("central").sensitivity)


def test_noise_follows_from_epsilon_delta_and_all_planned_rounds() -> None:
    wanted = PrivacyConfig(mode="local", unit="site", epsilon=4.0, delta=1e-4, max_update_norm=C)
    found = UpdateNoise.of(wanted, 10)
    spent = epsilon_of([Segment(found.noise_multiplier, 1.0, 10)], 1e-4)
    assert 4 * 0.99 < spent <= 4
    assert UpdateNoise.of(wanted, 20).noise_multiplier > found.noise_multiplier


def test_signal_over_noise_is_found_from_what_is_released() -> None:
    hidden = noise("local")
    signal = np.full(20_000, 3 * hidden.deviation)
    assert hidden.signal_to_noise(hidden.noised(signal, source())) == pytest.approx(3, rel=0.05)
    assert hidden.signal_to_noise(hidden.noised(np.zeros(20_000), source())) < 0.2
    assert hidden.signal_to_noise(np.zeros(4)) == 0


def test_few_sites_are_told_that_the_noise_is_many_times_their_update() -> None:
    said = noise().drowning(num_sites=4, num_parameters=10_000)
    assert said is not None
    # By hand: 1.5 C sqrt(10,000) / 4 over C.
    assert "with 4 sites this noise is 38 times as long" in said
    assert noise().drowning(num_sites=1000, num_parameters=10_000) is None
    # Of each site 2 C, and their mean only falls with the root of the sites.
    local = noise("local").drowning(num_sites=4, num_parameters=10_000)
    assert local is not None
    assert "1.5e+02 times" in local


@pytest.mark.parametrize("is_local", [False, True])
def test_the_claim_says_that_a_hospital_is_protected_and_not_a_patient(is_local: bool) -> None:
    claim = update_claim(3.0, 1e-4, is_local=is_local, is_reproducible=True)
    assert claim.unit.startswith("site:")
    assert "not a patient" in claim.unit
    assert claim.noise == "follows from a seed"
    assert ("server is trusted" in claim.unit) is not is_local
