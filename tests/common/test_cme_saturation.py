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
from tests.common.cme_trajectories import NUM_ROUNDS, TRAJECTORIES, rounds_of

RULE = Thresholds(log_mag=-3.0, rho=-0.35, steady=0.05)
MOVING, STILL = {"log_mag": -1.0, "rho": 0.9}, {"log_mag": -4.0, "rho": 0.9}
NOISE = {"log_mag": -2.0, "rho": -0.45}

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
