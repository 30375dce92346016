"""What ends a run early and who rests, on toy sites that say when they stand still."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedward.common.config.loader import load_run_config
from fedward.common.config.monitor import MonitorConfig, StopConfig
from fedward.common.config.run import RunConfig, SamplingConfig
from fedward.common.errors import ConfigError
from fedward.common.records import PARAMETERS, read_binding
from fedward.common.study import Study
from fedward.common.task import Split
from fedward.server.checkpoint import Progress
from fedward.server.deployed import describe
from fedward.server.history import Entry
from fedward.server.monitoring import RESTS
from fedward.server.plan import Plan, make_plan
from fedward.server.rounds import RoundLoop, RoundReport
from fedward.server.stopping import choose_resting, stopped_by
from fedward.server.summary import combine, monitor_summary
from tests.server.telling import (
    FIRST,
    MOVING,
    QUIET,
    TARGETS,
    Script,
    add_to_report,
    moving,
    quiet,
    telling,
    trained,
)
from tests.server.test_rounds import fail
from tests.server.toy import run_toy

REST = 2


def watched(**stop: Any) -> MonitorConfig:
    return MonitorConfig.model_validate({"cme": True, "stop": {"rule": "saturation", **stop}})


SKIP = watched(action="skip", rest_rounds=REST)


def rests(loop: RoundLoop, site: str) -> list[int]:
    lines = trained(loop.history.entries, site)
    return [e.round_number for e in lines if (e.status, e.reason) == ("skipped", RESTS)]


def test_a_run_ends_when_enough_sites_stand_still() -> None:
    tampering = telling({"aachen": quiet, "bern": quiet, "cork": moving, "delft": moving})
    outcome, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=50, monitor=watched())
    assert outcome.stopped_by == "saturation"
    assert outcome.progress.round_number == FIRST
    assert trained(loop.history.entries, None)[-1].saturated is True


def test_sites_without_telemetry_count_as_not_saturated() -> None:
    tampering = telling({"aachen": quiet, "bern": quiet})
    monitor = watched(share=0.75)
    outcome, _ = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 3, monitor=monitor)
    assert outcome.stopped_by == "rounds"


def test_without_any_telemetry_a_run_goes_to_its_end() -> None:
    outcome, _ = run_toy(targets=TARGETS, rounds=FIRST + 3, monitor=watched(share=0.01))
    assert outcome.stopped_by == "rounds"


def test_a_run_that_moves_again_in_time_goes_on() -> None:
    def wakes(number: int) -> Mapping[str, Mapping[str, float]]:
        return QUIET if number < FIRST else MOVING

    tampering = telling(dict.fromkeys(TARGETS, wakes))
    outcome, _ = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 3, monitor=watched())
    assert outcome.stopped_by == "rounds"


def test_the_model_that_a_run_ends_with_is_the_one_that_is_evaluated() -> None:
    tampering = telling(dict.fromkeys(TARGETS, quiet))
    outcome, loop = run_toy(
        targets=TARGETS, tampering=tampering, rounds=50, monitor=watched(), evaluate_every=2
    )
    model = float(outcome.progress.vectors[PARAMETERS][0])
    evaluated = [e.round_number for e in loop.history.entries if e.phase == "evaluate" and e.site]
    assert set(evaluated) == {*range(2, FIRST, 2), FIRST}
    assert evaluated.count(FIRST) == len(TARGETS), "once"
    # The toy's "auroc" is the model itself.
    assert outcome.evaluations["aachen"]["metrics"]["auroc"]["value"] == model


def test_the_last_model_is_evaluated_where_the_last_round_was_skipped() -> None:
    def fail_in_round_four(message: Message, reply: Message) -> Message:
        is_training = "arrays" in reply.content
        fails = is_training and read_binding(message).round_number == 4
        return fail(message, reply) if fails else reply

    outcome, _ = run_toy(
        targets=TARGETS,
        tampering=dict.fromkeys(TARGETS, fail_in_round_four),
        rounds=4,
        evaluate_every=2,
    )
    model = float(outcome.progress.vectors[PARAMETERS][0])
    assert outcome.evaluations["aachen"]["metrics"]["auroc"]["value"] == model


def test_a_saturated_site_rests_and_is_judged_anew() -> None:
    tampering = telling({"aachen": quiet, "bern": moving, "cork": moving})
    outcome, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=20, monitor=SKIP)
    assert outcome.stopped_by == "rounds"
    period = FIRST + REST
    expected = [n for n in range(1, 21) if (n - 1) % period >= FIRST]
    assert rests(loop, "aachen") == expected
    assert rests(loop, "bern") == rests(loop, "delft") == []
    resting = [e for e in trained(loop.history.entries, "aachen") if e.status == "skipped"]
    assert all(e.bytes_sent is None and not e.metrics for e in resting), "nothing is asked of it"


def test_a_site_that_rests_is_not_in_the_mean() -> None:
    tampering = telling({"delft": quiet})
    outcome, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 1, monitor=SKIP)
    assert rests(loop, "delft") == [FIRST + 1]
    before = 3.0 * (1 - 0.5**FIRST)  # by halves to the mean of all four
    np.testing.assert_allclose(
        outcome.progress.vectors[PARAMETERS], before + (2.0 - before) / 2, rtol=1e-6
    )


def test_never_fewer_than_the_quorum_train() -> None:
    tampering = telling(dict.fromkeys(TARGETS, quiet))
    sampling = SamplingConfig(min_replies=3)
    _, loop = run_toy(
        targets=TARGETS, tampering=tampering, rounds=16, monitor=SKIP, sampling=sampling
    )
    resting = [[s for s in TARGETS if n in rests(loop, s)] for n in range(1, 17)]
    # One at a time, for two rounds each; and each has its turn.
    turns = [site for site in TARGETS for _ in range(REST)]
    assert [found for found in resting if found] == [[s] for s in [*turns, *turns]][: 16 - FIRST]
    assert resting[:FIRST] == [[]] * FIRST


def test_after_a_round_without_quorum_nobody_rests() -> None:
    def fails_in(number: int, script: Script) -> Any:
        told = telling({"": script})[""]

        def tamper(message: Message, reply: Message) -> Message:
            failing = read_binding(message).round_number == number
            return fail(message, reply) if failing else told(message, reply)

        return tamper

    tampering = {
        "aachen": fails_in(0, quiet),
        "bern": fails_in(0, quiet),
        "cork": fails_in(FIRST + 1, moving),
        "delft": fails_in(FIRST + 1, moving),
    }
    _, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 2, monitor=SKIP)
    assert rests(loop, "aachen") == rests(loop, "bern") == [FIRST + 1]
    assert trained(loop.history.entries, None)[FIRST].status == "skipped"


def test_the_sample_of_a_round_does_not_depend_on_who_rests() -> None:
    sampling = SamplingConfig(num_sites=3, min_replies=1)
    tampering = telling(dict.fromkeys(TARGETS, quiet))
    loops = [
        run_toy(
            targets=TARGETS, tampering=tampering, rounds=12, sampling=sampling, monitor=monitor
        )[1]
        for monitor in (SKIP, MonitorConfig())
    ]
    sampled = [
        [(e.round_number, e.site) for e in loop.history.entries if e.phase == "train" and e.site]
        for loop in loops
    ]
    assert sorted(sampled[0], key=str) == sorted(sampled[1], key=str)
    assert any(rests(loops[0], site) for site in TARGETS)


@pytest.mark.parametrize("monitor", [SKIP, watched(share=1.0)], ids=["skip", "end"])
@pytest.mark.parametrize("cut", [1, FIRST, FIRST + 1])
def test_a_resumed_run_decides_and_writes_what_an_uninterrupted_one_does(
    tmp_path: Path, monitor: MonitorConfig, cut: int
) -> None:
    def stalls_late(number: int) -> Mapping[str, Mapping[str, float]]:
        return MOVING if number < 3 else QUIET

    scripts: dict[str, Script] = {"aachen": quiet, "bern": stalls_late, "cork": quiet}
    if monitor is not SKIP:
        scripts["delft"] = quiet
    tampering = telling(scripts)

    def lines(name: str, *rounds: int) -> tuple[str, list[dict[str, Any]]]:
        path = tmp_path / f"{name}.jsonl"
        for num_rounds in rounds:
            outcome, _ = run_toy(
                targets=TARGETS,
                tampering=tampering,
                rounds=num_rounds,
                monitor=monitor,
                folder=tmp_path / name,
                history_path=path,
            )
        read = [json.loads(line) for line in path.read_text().splitlines()]
        return outcome.stopped_by, [{k: v for k, v in o.items() if k != "seconds"} for o in read]

    last = FIRST + REST + 3
    assert lines("resumed", cut, last) == lines("whole", last)


def test_a_run_that_had_ended_by_saturation_does_not_go_on_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    tampering = telling(dict.fromkeys(TARGETS, quiet))
    for _ in range(2):
        outcome, _ = run_toy(
            targets=TARGETS,
            tampering=tampering,
            rounds=50,
            monitor=watched(),
            folder=tmp_path / "checkpoints",
            history_path=tmp_path / "history.jsonl",
        )
        assert (outcome.stopped_by, outcome.progress.round_number) == ("saturation", FIRST)


def test_a_plateau_of_the_validation_loss_ends_a_run() -> None:
    # The figure of each site is its own; cork has three times the patients of bern.
    patients = {"bern": 2, "cork": 6}
    losses = {"bern": [1.0, 0.5, 0.5, 0.5, 0.5], "cork": [1.0, 0.9, 0.9, 0.9, 0.9]}

    def of(site: str) -> Any:
        def tamper(message: Message, reply: Message) -> Message:
            if "arrays" not in reply.content:
                loss = losses[site][read_binding(message).round_number - 1]
                add_to_report(reply, validation={"loss": loss, "num_examples": patients[site]})
            return reply

        return tamper

    outcome, loop = run_toy(
        targets=TARGETS,
        tampering={site: of(site) for site in patients},
        rounds=5,
        stop=StopConfig(metric="validation_loss", patience=2),
    )
    assert (outcome.stopped_by, outcome.progress.round_number) == ("plateau", 4)
    lines = [e for e in loop.history.entries if e.phase == "evaluate" and e.round_number == 2]
    found = {e.site: e.metrics.get("validation_loss") for e in lines}
    assert found.pop(None) == pytest.approx((2 * 0.5 + 6 * 0.9) / 8)
    assert found == {"aachen": None, "bern": 0.5, "cork": 0.9, "delft": None}


def test_under_the_rule_of_saturation_no_plateau_ends_a_run() -> None:
    progress = Progress(9, {}, evaluations_without_gain=9)
    stop = StopConfig(rule="saturation", patience=1)
    assert stopped_by(stop, progress, is_saturated=False) is None
    assert stopped_by(stop, progress, is_saturated=None) is None
    assert stopped_by(stop, progress, is_saturated=True) == "saturation"
    skip = StopConfig(rule="saturation", action="skip")
    assert stopped_by(skip, progress, is_saturated=True) is None
    assert stopped_by(StopConfig(patience=9), progress, is_saturated=True) == "plateau"
    assert stopped_by(None, progress, is_saturated=True) is None


def test_those_in_the_middle_of_a_rest_go_on_resting_where_not_all_may() -> None:
    entitled = {"a": (6, 3), "b": (5, 9), "c": (6, 2), "e": (4, 0)}
    sampled = ["a", "b", "c", "d"]
    assert choose_resting(entitled, sampled, min_replies=2) == ["b", "c"]
    assert choose_resting(entitled, sampled, min_replies=1) == ["a", "b", "c"]
    assert choose_resting(entitled, sampled, min_replies=4) == []
    assert choose_resting(entitled, ["a"], min_replies=2) == []


def test_whoever_follows_a_deployed_run_is_told_who_rests() -> None:
    report = RoundReport(
        number=4,
        num_rounds=9,
        num_sampled=2,
        num_accepted=2,
        refused=[],
        train_loss=0.5,
        eval_loss=None,
        metrics={},
        seconds=1.0,
        num_bytes=8,
        saturated=["a", "b"],
        resting=["b"],
    )
    assert describe(report) == (
        "round 4/9: 2 of 2 sites, training loss 0.500, 2 saturated, 1 resting, 1.0 s"
    )


def quickstart(*overrides: str) -> RunConfig:
    path = Path("simulations/configs/quickstart.yaml")
    return load_run_config(path, overrides).config


def plan_of(config: RunConfig, kind: Any = "federated") -> Plan:
    study = Study(config, kind, Split(seed=1, test_fraction=0.3))
    shared, _ = study.initial
    return make_plan(study, shared, nodes={"a": 1}, cohort_bounds={"a": 9}, num_rounds=3)


def test_the_plan_of_a_run_knows_its_optimiser_form_and_rule() -> None:
    config = quickstart(
        "local.optimizer=sgd",
        "local.momentum=0.9",
        "monitor={cme: {form: sym}, stop: saturation}",
    )
    plan = plan_of(config)
    assert (plan.optimizer, plan.form) == ("sgd+momentum", "sym")
    assert plan.stop is not None
    assert plan.stop.rule == "saturation"
    baseline = plan_of(config, "local")
    assert (baseline.form, baseline.stop, baseline.monitor.influence) == (None, None, False)


def test_a_plateau_of_a_figure_that_no_site_has_is_refused() -> None:
    stop = "monitor={stop: {metric: validation_loss}}"
    with pytest.raises(ConfigError, match=r"data\.validation_fraction"):
        plan_of(quickstart(stop))
    plan_of(quickstart(stop, "data.validation_fraction=0.2"))


def entry(number: int, site: str | None, **more: Any) -> Entry:
    return Entry(number, "train", site=site, **more)


HISTORY = [
    entry(1, "a", num_examples=10, cme=QUIET, saturated=False),
    entry(1, "b", num_examples=20),
    entry(1, None, saturated=False),
    entry(2, "a", num_examples=10, cme=QUIET, saturated=True),
    entry(2, "b", status="failed"),
    entry(2, None, saturated=True),
    entry(3, "a", status="skipped", reason=RESTS),
    entry(3, "b", num_examples=20),
    entry(3, None, saturated=True),
]


def test_epochs_that_were_run_and_saved_are_counted() -> None:
    config = quickstart("rounds=10", "local={epochs: 3, batch_size: 5, learning_rate: 0.1}")
    found = monitor_summary(config, 2, HISTORY)
    assert found == {
        "client_epochs": 4 * 3,
        # One rest, and seven rounds of two sites.
        "client_epochs_saved": 3 + 7 * 2 * 3,
        "telemetry": "quantised",
        "saturated_from": {"a": 2, "b": None},
        "federation_saturated_from": 2,
    }
    # Of 6 steps of 5 patients, a site of 10 makes 3 passes and one of 20 makes 1.5.
    steps = quickstart("rounds=3", "local={steps: 6, batch_size: 5, learning_rate: 0.1}")
    counted = monitor_summary(steps, 2, HISTORY)
    assert (counted["client_epochs"], counted["client_epochs_saved"]) == (9, 3)


def test_a_mark_that_was_taken_back_is_no_saturation_at_the_end() -> None:
    config = quickstart("rounds=4")
    moved = [entry(4, "a", cme=MOVING, saturated=False), entry(4, None, saturated=False)]
    found = monitor_summary(config, 2, [*HISTORY, *moved])
    assert found["saturated_from"] == {"a": None, "b": None}
    assert found["federation_saturated_from"] is None


def test_over_repetitions_epochs_add_up() -> None:
    config = quickstart("rounds=10", "local={epochs: 3, batch_size: 5, learning_rate: 0.1}")
    one: dict[str, Any] = {
        "sites": {},
        "global": {"metrics": {}},
        "baselines": {},
        "rejected": [],
        "bytes": {"sent": 0, "received": 0},
        "monitor": monitor_summary(config, 2, HISTORY),
    }
    assert combine([one, one])["monitor"] == {
        "client_epochs": 24,
        "client_epochs_saved": 90,
        "telemetry": "quantised",
    }
