"""The seven trajectories whose answers are known, and what the rule does round by round."""

import itertools
from typing import get_args

import numpy as np
import pytest

from fedward.common.monitoring.elements import Form
from fedward.common.monitoring.saturation import (
    Thresholds,
    federation_saturated,
    saturated,
    site_saturated,
    thresholds_for,
)
from fedward.common.monitoring.stream import LayerRound
from fedward.common.monitoring.telemetry import ALL, let_through
from fedward.common.monitoring.thresholds import THRESHOLDS, UNCALIBRATED
from tests.common.cme_trajectories import NUM_ROUNDS, TRAJECTORIES, rounds_of

RULE = Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05)
MOVING, STILL = {"log_mag": -1.0, "rho": 0.9}, {"log_mag": -4.0, "rho": 0.9}
NOISE = {"log_mag": -2.0, "rho": -0.45}

NEVER = {"random walk", "drift"}
LONG = 24
"""Rounds: enough for any window to pass what came before the layer stood still."""
RMS_FIRES = {
    "exponential": 7,
    "converging": 6,
    "stationary": 3,
    "random walk": None,
    "drift": None,
    "frozen": 3,
    "stall and go": 5,
}
NAIVE_FIRES = {**dict.fromkeys(RMS_FIRES), "drift": 3, "frozen": 3, "stall and go": 11}
PAPER_FIRES = {**dict.fromkeys(RMS_FIRES), "frozen": 3}


def rule_in(rounds: list[LayerRound]) -> list[bool]:
    return saturated([found.figures.to_json() for found in rounds], RULE)


def naive_rule_in(rounds: list[LayerRound]) -> list[bool]:
    """Return where the map changed by less than 10 % in this round and in the one before."""
    maps = [found.map_PP.astype(np.float64) for found in rounds]
    changes = [1.0]
    for before, now in itertools.pairwise(maps):
        norm = np.linalg.norm(before)
        changes.append(float(np.linalg.norm(now - before) / norm) if norm else 0.0)
    hits = [change < 0.1 for change in changes]
    return [now and before for before, now in itertools.pairwise([False, *hits])]


def first(fires: list[bool]) -> int | None:
    """Return the first round, counted from 1."""
    return fires.index(True) + 1 if any(fires) else None


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_rule_on_rms_fires_when_the_layer_is_done_and_the_two_others_do_not(name: str) -> None:
    rms = list(rounds_of(TRAJECTORIES[name](), "rms"))
    assert len(rms) == NUM_ROUNDS
    assert first(rule_in(rms)) == RMS_FIRES[name]
    assert first(naive_rule_in(rms)) == NAIVE_FIRES[name]
    paper = list(rounds_of(TRAJECTORIES[name](), "paper"))
    assert first(rule_in(paper)) == PAPER_FIRES[name]


def test_the_rule_takes_its_word_back_when_the_layer_moves_again() -> None:
    fires = rule_in(list(rounds_of(TRAJECTORIES["stall and go"](), "rms")))
    assert [number for number, fired in enumerate(fires, 1) if fired] == [5, 6, 7, 8]


@pytest.mark.parametrize("name", sorted(set(TRAJECTORIES) - {"stall and go"}))
def test_the_shipped_thresholds_fire_on_what_settles_and_never_on_a_walk_or_a_drift(
    name: str,
) -> None:
    rounds = rounds_of(TRAJECTORIES[name](), "rms", LONG)
    sent = [let_through({"a": found.figures.to_json()}, [ALL])["a"] for found in rounds]
    shipped = {"none": UNCALIBRATED} | THRESHOLDS["rms"]
    fires = {key: any(saturated(sent, chosen)) for key, chosen in shipped.items()}
    assert fires == dict.fromkeys(shipped, name not in NEVER)


def test_the_shipped_thresholds_take_their_word_back_when_the_layer_moves_again() -> None:
    rounds = rounds_of(TRAJECTORIES["stall and go"](), "rms")
    sent = [let_through({"a": found.figures.to_json()}, [ALL])["a"] for found in rounds]
    for chosen in THRESHOLDS["rms"].values():
        assert not any(saturated([*sent, *sent[-2:] * 5], chosen)[-5:])


def test_single_entries_carry_the_figures_of_the_paper() -> None:
    trajectory = TRAJECTORIES["stationary"]()
    shares: dict[Form, float] = {}
    for form in get_args(Form):
        found = next(iter(rounds_of(trajectory, form))).figures.top1
        assert found is not None
        shares[form] = found
    assert shares["paper"] > 0.5
    assert shares["sym"] < 0.02
    assert shares["rms"] < 0.01


def test_the_third_round_is_the_earliest() -> None:
    assert saturated([STILL] * 4, RULE) == [False, False, True, True]
    assert saturated([NOISE] * 4, RULE) == [False, False, True, True]


def test_noise_counts_only_at_a_steady_size() -> None:
    sizes = [-1.0, -1.2, -1.4, -1.44, -1.48]
    series = [{"log_mag": size, "rho": -0.45} for size in sizes]
    assert saturated(series, RULE) == [False, False, False, False, True]


def test_sizes_sent_in_steps_of_005_may_lie_one_step_apart() -> None:
    series = [{"log_mag": size, "rho": -0.45} for size in (-1.0, -1.05, -1.1, -1.2)]
    assert saturated(series, RULE) == [False, False, True, False]


def test_a_window_averages_and_compares_with_as_many_rounds_before() -> None:
    rule = Thresholds(log_mag=-3.0, rho=-0.3, steady=0.05, num_rounds=1, window=3)
    rhos = [0.0, -0.9, -0.5, -0.1, -0.5, -0.4, -0.1, -0.2]
    series = [{"log_mag": -1.0, "rho": rho} for rho in rhos]
    # Means from the sixth on: -0.33, -0.33, -0.23.
    assert saturated(series, rule) == [False] * 5 + [True, True, False]
    sizes = [-1.0, -1.0, -1.0, -1.1, -1.1, -1.1, -1.1, -1.1]
    series = [{"log_mag": size, "rho": -0.5} for size in sizes]
    # Changes: 0.1, 0.067, 0.033.
    assert saturated(series, rule) == [False] * 7 + [True]


def test_a_mean_that_equals_the_threshold_is_not_below_it() -> None:
    for window in (3, 5):
        rule = Thresholds(log_mag=-3.0, rho=-0.02, steady=0.05, num_rounds=1, window=window)
        assert not any(saturated([{"log_mag": -2.0, "rho": -0.02}] * 20, rule))


def test_a_window_with_a_round_that_lacks_figures_is_not_quiet_and_a_missing_round_is_no_part() -> (
    None
):
    rule = Thresholds(log_mag=-3.0, rho=-0.3, steady=0.05, num_rounds=1, window=2)
    assert saturated([STILL] * 4 + [{}, STILL, STILL], rule) == [
        False, False, False, True, False, False, True,
    ]  # fmt: skip
    assert saturated([NOISE] * 4 + [{}] + [NOISE] * 4, rule) == [
        False, False, False, True, False, False, False, False, True,
    ]  # fmt: skip
    with_gaps = [NOISE, None, NOISE, NOISE, None, NOISE, None]
    assert saturated(with_gaps, rule) == [False] * 5 + [True, True]


def test_one_frozen_round_does_not_make_a_window_quiet() -> None:
    frozen = {"log_mag": -12.0}
    rule = Thresholds(log_mag=-3.0, rho=-0.3, steady=0.05, num_rounds=1, window=3)
    assert not any(saturated([MOVING] * 5 + [frozen] + [MOVING] * 4, rule))
    assert saturated([frozen] * 6 + [MOVING] * 2, rule)[-1] is False


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rounds", [1, 2, 5])
def test_the_rounds_that_are_kept_decide_as_all_rounds_do(window: int, num_rounds: int) -> None:
    rule = Thresholds(-3.0, 0.0, 0.4, num_rounds, window)
    rng = np.random.default_rng(4)
    series = [
        {"log_mag": round(rng.normal(-2.8, 0.3), 2), "rho": round(rng.normal(-0.1, 0.2), 2)}
        for _ in range(80)
    ]
    full = saturated(series, rule)
    kept = rule.num_rounds_kept
    cut = [saturated(series[max(0, end - kept) : end], rule)[-1] for end in range(1, 81)]
    assert cut == full
    assert any(full)
    assert not all(full[kept:])
    still = saturated([STILL] * 40, rule)
    assert first(still) == rule.num_rounds_needed


def test_a_missing_round_changes_nothing() -> None:
    assert saturated([STILL, STILL, None, STILL, None, MOVING, None], RULE) == [
        False, False, False, True, True, False, False,
    ]  # fmt: skip


def test_figures_that_lack_are_not_quiet() -> None:
    assert saturated([STILL, STILL, STILL, {}, STILL], RULE) == [False, False, True, False, False]
    assert saturated([{"rho": -0.5}] * 4, RULE) == [False] * 4
    assert saturated([{"log_mag": -4.0}] * 3, RULE)[-1]
    assert not saturated([{"log_mag": -1.0}] * 3, RULE)[-1]


def test_a_site_is_saturated_when_all_its_layers_are() -> None:
    assert site_saturated([{"a": STILL, "b": NOISE}] * 3, RULE)
    assert not site_saturated([{"a": STILL, "b": MOVING}] * 3, RULE)
    assert not site_saturated([], RULE)
    assert not site_saturated([{}] * 5, RULE)
    assert not site_saturated([{"a": {}}] * 5, RULE)


def test_a_layer_that_a_site_never_has_does_not_hold_it_back() -> None:
    assert site_saturated([{"a": STILL, "b": {}}] * 3, RULE)


def test_a_layer_whose_figures_are_gone_holds_the_site_back() -> None:
    rounds = [{"a": STILL, "b": STILL}] * 3
    assert site_saturated([*rounds, {}], RULE)
    assert not site_saturated([*rounds, {"a": STILL}], RULE)


def test_a_federation_is_saturated_from_its_share_of_sites_on() -> None:
    sites = {"a": True, "b": True, "c": False, "d": False, "e": False}
    assert federation_saturated(sites, 0.4)
    assert not federation_saturated(sites, 0.41)
    assert not federation_saturated({}, 0.4)
    tenths = {str(number): number < 7 for number in range(10)}
    assert federation_saturated(tenths, 0.1 * 7)  # 0.7000000000000001


def test_there_are_thresholds_for_every_optimiser_and_form() -> None:
    for form in get_args(Form):
        for optimizer in ("sgd", "sgd+momentum", "adam", "adamw", "of a plug-in"):
            found = thresholds_for(optimizer, form)
            assert found.log_mag < 0
            assert -1 <= found.rho < 1
            assert found.num_rounds >= 1
