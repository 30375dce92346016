"""Stop rules replayed on recordings, and against a run that really stops."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from fedward.common.config.loader import load_run_config
from fedward.common.config.monitor import StopConfig
from fedward.server.history import History
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import run_federation
from fedward.simulations.stopping import rules
from fedward.simulations.stopping.record import federation_of, record, recorded_config
from fedward.simulations.stopping.recording import RecordedRound, Recording
from fedward.simulations.stopping.rules import RULES, Knobs, Rule

QUICKSTART = find_config("quickstart")
ROUNDS = 11  # the shipped thresholds of sgd average, and cannot fire before the tenth


def recording(*rounds: RecordedRound) -> Recording:
    return Recording(1, "auroc", [], "sgd", "rms", 1, "hash", rounds)


def lively(num_rounds: int = 30) -> Recording:
    """Return a run that learns, then overfits; every figure goes its way."""
    rounds = []
    for number in range(1, num_rounds + 1):
        gone = math.exp(-number / 4)
        told = {"log_mag": round(-1 - number / 10, 2), "rho": round(2 * gone - 0.45, 2)}
        rounds.append(
            RecordedRound(
                number,
                num_trained=2,
                figures={"validation_loss": gone + number / 400, "auroc": 0.9 - gone / 3},
                cme={site: {"layer": told} for site in ("east", "west")},
                norm_ratio=gone,
                cosine_of_sites=0.1 + gone,
                cosine_to_last=None if number == 1 else gone - 0.4,
                pflug=None if number == 1 else 1 - (number - 8) ** 2 / 100,
                left_out={"east": gone / 9, "west": gone / 20 - 0.001},
            )
        )
    return recording(*rounds)


def settings() -> list[tuple[Rule, Knobs]]:
    return [(rule, knobs) for rule in RULES for knobs in rule.settings]


def test_every_rule_with_settings_fires_with_some_of_them() -> None:
    run = lively()
    for rule in RULES:
        fired = {rule.stops(run, knobs) for knobs in rule.settings}
        assert (fired == {None}) == (rule.name == "full"), rule.name


def test_no_rule_looks_at_what_comes_later() -> None:
    run = lively()
    for rule, knobs in settings():
        fired = rule.stops(run, knobs)
        for length in (1, 2, 3, 5, 8, 13, 21):
            cut = replace(run, rounds=run.rounds[:length])
            expected = fired if fired is not None and fired <= length else None
            assert rule.stops(cut, knobs) == expected, (rule.name, knobs, length)


def test_a_plateau_waits_for_its_patience_and_ignores_small_gains() -> None:
    losses = [1.0, 0.9, 0.895, 0.92, 0.91, 0.93]
    run = recording(
        *(RecordedRound(i, 1, {"validation_loss": loss}) for i, loss in enumerate(losses, start=1))
    )
    assert rules.plateau(run, {"patience": 3, "min_delta": 0.0}) == 6
    assert rules.plateau(run, {"patience": 3, "min_delta": 0.01}) == 5
    assert rules.plateau(run, {"patience": 4, "min_delta": 0.0}) is None


def test_pflug_adds_up_from_the_end_of_the_burn_in() -> None:
    sums = [None, 1.0, 1.5, 1.2, 0.9, -0.1]
    run = recording(*(RecordedRound(i, 1, {}, pflug=s) for i, s in enumerate(sums, start=1)))
    assert rules.pflug(run, {"burn_in": 1}) == 5
    assert rules.pflug(run, {"burn_in": 2}) == 5
    assert rules.pflug(run, {"burn_in": 3}) == 4


def test_an_undefined_figure_breaks_the_row() -> None:
    ratios = [0.1, None, 0.1, 0.1]
    run = recording(*(RecordedRound(i, 1, {}, norm_ratio=r) for i, r in enumerate(ratios, start=1)))
    assert rules.norm_ratio(run, {"threshold": 0.2, "num_rounds": 2}) == 4


@pytest.mark.parametrize("learning_rate", ["1e-5", "0.1"])
def test_the_replayed_rule_stops_where_a_run_with_it_does(
    learning_rate: str, tmp_path: Path
) -> None:
    own = ["engine.name=inprocess", "repeat=null", f"rounds={ROUNDS}"]
    overrides = [*own, f"local.learning_rate={learning_rate}"]
    config = recorded_config(load_run_config(QUICKSTART, overrides).config)
    base_dir, grid = QUICKSTART.parent, open_grid(config.engine)
    recorded = record(config, 23, base_dir, grid=grid, on_round=lambda report: None)
    fired = rules.shipped_saturation(recorded, {})
    monitor = config.monitor.model_copy(update={"stop": StopConfig(rule="saturation")})
    stopping = config.model_copy(update={"monitor": monitor})
    federation = federation_of(stopping, 23, base_dir, tmp_path)
    outcome = run_federation(federation, grid, history=History())
    assert outcome.progress.round_number == (fired or ROUNDS)
    assert (outcome.stopped_by == "saturation") == (fired is not None)
    assert (fired is not None) == (learning_rate == "1e-5"), "only where nothing moves"
