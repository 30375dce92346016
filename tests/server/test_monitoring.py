"""What the coordinator writes down of updates and of standing still, by hand on the toy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fedward.common.config.monitor import MonitorConfig
from fedward.common.flower import view
from fedward.common.monitoring.saturation import saturated, thresholds_for
from fedward.common.records import PARAMETERS, arrays_of, read_binding
from fedward.common.vectors import Vector
from fedward.server.monitoring import CHUNK, step_figures
from fedward.server.rounds import RoundLoop
from fedward.server.validation import Accepted
from tests.server.telling import (
    FIRST,
    MOVING,
    QUIET,
    TARGETS,
    WATCHED,
    add_to_report,
    moving,
    quiet,
    telling,
    trained,
)
from tests.server.test_rounds import fail
from tests.server.toy import run_toy


def updates(loop: RoundLoop, site: str | None) -> list[Mapping[str, float]]:
    return [entry.update for entry in trained(loop.history.entries, site)]


def marks(loop: RoundLoop, site: str | None) -> list[bool | None]:
    return [entry.saturated for entry in trained(loop.history.entries, site)]


def test_influence_is_the_share_of_each_site_in_the_update() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=1)
    # From 0, site k moves by t_k / 2 and all alike by 1.5: (t_k / 2 / 4) * 1.5 / 1.5 ** 2.
    expected = {"aachen": 1 / 12, "bern": 2 / 12, "cork": 3 / 12, "delft": 6 / 12}
    found = {site: updates(loop, site)[0] for site in TARGETS}
    assert {site: one["influence"] for site, one in found.items()} == pytest.approx(expected)
    assert [one["cosine"] for one in found.values()] == pytest.approx([1.0] * 4)
    assert all("norm_ratio" not in one for one in found.values()), "the model was 0"


def test_a_site_that_pulls_the_other_way_has_negative_influence_and_cosine() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=2)
    # The model is 1.5 and goes to 2.25; aachen (1) wants to go to 1.25.
    found = updates(loop, "aachen")[1]
    assert found["cosine"] == pytest.approx(-1.0)
    assert found["influence"] == pytest.approx(-0.25 / 4 / 0.75)
    assert found["norm_ratio"] == pytest.approx(0.25 / 1.5)


def test_the_federations_own_step_is_compared_with_the_model_and_the_step_before() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=3)
    first, second, third = updates(loop, None)
    assert first == {}, "the model was 0, and there was no step before"
    assert second == pytest.approx({"norm_ratio": 0.75 / 1.5, "cosine": 1.0})
    assert third == pytest.approx({"norm_ratio": 0.375 / 2.25, "cosine": 1.0})


def test_a_step_after_a_skipped_round_is_compared_with_none() -> None:
    def fail_in_round_two(message: Message, reply: Message) -> Message:
        return fail(message, reply) if read_binding(message).round_number == 2 else reply

    everyone = dict.fromkeys(TARGETS, fail_in_round_two)
    _, loop = run_toy(targets=TARGETS, tampering=everyone, rounds=4)
    assert [sorted(found) for found in updates(loop, None)] == [
        [],
        [],
        ["norm_ratio"],
        ["cosine", "norm_ratio"],
    ]


# Flower's median, trimmed mean and q-FedAvg take the models out of the replies.
@pytest.mark.parametrize("name", ["fedmedian", "fedtrimmedavg", "qfedavg", "scaffold", "krum"])
def test_under_every_strategy_the_sites_are_seen_as_they_answered(name: str) -> None:
    own = {"client_learning_rate": 0.5} if name == "qfedavg" else {}
    _, loop = run_toy(targets=TARGETS, strategy=name, own=own, rounds=1)
    found = [updates(loop, site)[0]["influence"] for site in TARGETS]
    assert found == pytest.approx([1 / 12, 2 / 12, 3 / 12, 6 / 12])


def test_without_influence_nothing_is_said_of_updates() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=2, monitor=MonitorConfig(influence=False))
    assert all(entry.update == {} for entry in loop.history.entries)


def test_of_masked_replies_only_the_whole_is_looked_at() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=2, is_masked=True)
    assert all(entry.update == {} for entry in loop.history.entries if entry.site)
    assert updates(loop, None)[1]["norm_ratio"] == pytest.approx(0.5)


def test_a_reply_that_is_refused_has_no_influence() -> None:
    _, loop = run_toy(targets=TARGETS, tampering={"delft": fail}, rounds=1)
    assert updates(loop, "delft") == [{}]
    assert sum(updates(loop, site)[0]["influence"] for site in list(TARGETS)[:3]) == pytest.approx(
        1.0
    )


def test_steps_of_more_than_one_chunk_equal_numpy() -> None:
    generator = np.random.default_rng(3)
    previous, received, vector = generator.normal(size=(3, 2 * CHUNK + 5)).astype(np.float32)
    found = step_figures(previous, received, vector)
    before, model, after = (v.astype(np.float64) for v in (previous, received, vector))
    step, last = after - model, model - before
    norm = np.linalg.norm
    assert found["norm_ratio"] == pytest.approx(norm(step) / norm(model), rel=1e-12)
    assert found["cosine"] == pytest.approx(step @ last / norm(step) / norm(last), rel=1e-12)
    assert step_figures(received, received, vector) == pytest.approx(
        {"norm_ratio": found["norm_ratio"]}
    )


class Spy:
    """A round observer that copies what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, list[float], float]] = []
        self.messages: list[Message] = []

    def __call__(
        self, number: int, received: Vector, replies: Sequence[Accepted], vector: Vector
    ) -> None:
        models = [view(arrays_of(reply.message.content)[PARAMETERS]) for reply in replies]
        self.seen.append(
            (number, float(received[0]), [float(m[0]) for m in models], float(vector[0]))
        )
        self.messages += [reply.message for reply in replies]


@pytest.mark.parametrize("name", ["fedavg", "fedmedian"])
def test_an_observer_sees_the_models_and_afterwards_they_are_gone(name: str) -> None:
    spy = Spy()
    run_toy(
        targets=TARGETS,
        strategy=name,
        rounds=1,
        observers=[spy],
        monitor=MonitorConfig(influence=False),
    )
    middle = {"fedavg": 1.5, "fedmedian": 1.25}[name]
    assert spy.seen == [(1, 0.0, [0.5, 1.0, 1.5, 3.0], middle)]
    assert [message.content for message in spy.messages] == [RecordDict()] * 4


def test_a_site_is_marked_as_soon_as_it_may_be_and_loses_the_mark_when_it_moves() -> None:
    def stalls(number: int) -> Mapping[str, Mapping[str, float]]:
        return MOVING if number == FIRST + 2 else QUIET

    tampering = telling({"aachen": stalls, "bern": moving})
    _, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 3, monitor=WATCHED)
    waits = [False] * (FIRST - 1)
    assert marks(loop, "aachen") == [*waits, True, True, False, False]
    assert marks(loop, "bern") == [False] * (FIRST + 3)
    assert marks(loop, "cork") == [None] * (FIRST + 3), "nobody can tell"


@pytest.mark.parametrize("cut", [None, 3, 11, 15])
def test_thresholds_that_average_many_rounds_judge_as_on_the_whole_run_also_after_a_resume(
    tmp_path: Path, cut: int | None
) -> None:
    thresholds = thresholds_for("sgd", "rms")
    assert thresholds.window > 1
    last = thresholds.num_rounds_kept + 10
    rhos = np.random.default_rng(2).normal(thresholds.rho, 0.06, last).round(2)
    series = [{"log_mag": -2.0, "rho": float(rho)} for rho in rhos]
    expected = saturated(series, thresholds)
    assert len(set(expected[thresholds.num_rounds_needed :])) == 2

    path = tmp_path / "history.jsonl"
    for rounds in (last,) if cut is None else (cut, last):
        _, loop = run_toy(
            targets=TARGETS,
            tampering=telling({"aachen": lambda number: {"fc.weight": series[number - 1]}}),
            rounds=rounds,
            monitor=WATCHED,
            optimizer="sgd",
            folder=tmp_path / "checkpoints",
            history_path=path,
        )
    assert marks(loop, "aachen") == expected


def test_a_federation_is_saturated_where_half_of_all_its_sites_are() -> None:
    one = telling({"aachen": quiet, "bern": moving})
    two = telling({"aachen": quiet, "bern": quiet})
    for tampering, last in ((one, False), (two, True)):
        _, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST, monitor=WATCHED)
        assert marks(loop, None) == [False] * (FIRST - 1) + [last]


def test_without_telemetry_nothing_is_said_of_saturation() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=FIRST + 1, monitor=WATCHED)
    assert all(entry.saturated is None for entry in loop.history.entries)


def test_figures_that_nobody_asked_for_are_not_judged() -> None:
    _, loop = run_toy(targets=TARGETS, tampering=telling({"aachen": quiet}), rounds=FIRST)
    assert all(entry.saturated is None for entry in loop.history.entries)


def test_a_site_that_falls_silent_is_no_longer_saturated() -> None:
    def falls_silent(number: int) -> Mapping[str, Mapping[str, float]] | None:
        return QUIET if number <= FIRST else None

    tampering = telling({"aachen": falls_silent, "bern": quiet})
    _, loop = run_toy(targets=TARGETS, tampering=tampering, rounds=FIRST + 1, monitor=WATCHED)
    assert marks(loop, "aachen")[-2:] == [True, None]
    assert marks(loop, None)[-2:] == [True, False]


def test_a_failed_reply_is_no_judgement() -> None:
    def fails_once(message: Message, reply: Message) -> Message:
        number = read_binding(message).round_number
        return fail(message, reply) if number == 2 else telling({"": quiet})[""](message, reply)

    _, loop = run_toy(
        targets=TARGETS, tampering={"aachen": fails_once}, rounds=FIRST + 1, monitor=WATCHED
    )
    assert marks(loop, "aachen") == [False, None, *[False] * (FIRST - 2), True]


def test_the_lines_are_on_file_as_json_and_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    _, loop = run_toy(
        targets=TARGETS,
        tampering=telling({"aachen": moving}),
        rounds=2,
        monitor=WATCHED,
        history_path=path,
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [json.loads(entry.to_json()) for entry in loop.history.entries] == lines
    line = next(one for one in lines if one["site"] == "aachen" and one["round"] == 2)
    assert line["cme"] == MOVING
    assert line["saturated"] is False
    assert set(line["update"]) == {"influence", "cosine", "norm_ratio"}


def test_a_malformed_validation_loss_makes_a_bad_reply() -> None:
    bad: list[Any] = [
        {"loss": 0.5},
        {"loss": 0.5, "num_examples": 0},
        {"loss": 0.5, "num_examples": 21},
        {"loss": "low", "num_examples": 4},
        [0.5, 4],
    ]
    for validation in bad:

        def tamper(message: Message, reply: Message, told: Any = validation) -> Message:
            add_to_report(reply, validation=told)
            return reply

        _, loop = run_toy(targets=TARGETS, tampering={"delft": tamper}, rounds=1)
        refused = [e for e in loop.history.entries if e.status == "rejected"]
        assert [e.site for e in refused] == ["delft", "delft"], validation
