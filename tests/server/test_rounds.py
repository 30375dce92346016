from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message

from fedward.common.config.monitor import StopConfig
from fedward.common.config.run import SamplingConfig
from fedward.common.errors import QuorumLostError
from fedward.common.records import PARAMETERS, read_binding
from fedward.server.history import Entry
from fedward.server.strategies import strategies
from tests.server.toy import run_toy

TARGETS = {"aachen": 1.0, "bern": 2.0, "cork": 3.0, "delft": 6.0}


def fail(message: Message, reply: Message) -> Message:
    return Message(Error(1, "disk is gone"), reply_to=message)


def test_fedavg_moves_half_way_to_the_mean_of_the_sites_in_each_round() -> None:
    outcome, _ = run_toy(targets=TARGETS, rounds=2)
    # By hand: the mean target is 3; 0 -> 1.5 -> 2.25.
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 2.25, rtol=1e-6)


@pytest.mark.parametrize("name", list(strategies))
def test_what_is_frozen_stays_whatever_the_sites_answer(name: str) -> None:
    own = {"client_learning_rate": 0.5} if name == "qfedavg" else {}
    frozen = np.array([False, True, False])
    outcome, _ = run_toy(targets=TARGETS, strategy=name, own=own, rounds=2, frozen=frozen)
    model = outcome.progress.vectors[PARAMETERS]
    assert model[1] == 0
    assert (model[~frozen] != 0).all()
    assert model.dtype == np.float32


@pytest.mark.parametrize("name", list(strategies))
def test_every_strategy_brings_the_model_closer_to_what_the_sites_hold(name: str) -> None:
    own = {"client_learning_rate": 0.5} if name == "qfedavg" else {}
    outcome, _ = run_toy(targets=TARGETS, strategy=name, own=own, rounds=5)
    model = outcome.progress.vectors[PARAMETERS]
    assert model.dtype == np.float32
    assert abs(float(model[0]) - 3.0) < 2.99, "it started 3.0 away"


def test_a_site_that_fails_is_recorded_and_the_others_go_on() -> None:
    outcome, loop = run_toy(targets=TARGETS, tampering={"delft": fail}, rounds=1)
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 1.0)  # (1 + 2 + 3) / 3 / 2
    failed = [e for e in loop.history.entries if e.status == "failed" and e.phase == "train"]
    assert [(e.site, e.reason) for e in failed] == [("delft", "disk is gone")]


def test_a_round_without_quorum_is_skipped_and_never_aggregated() -> None:
    failures = {"aachen": fail, "bern": fail, "cork": fail}
    with pytest.raises(QuorumLostError, match="rounds in a row") as caught:
        run_toy(
            targets=TARGETS,
            tampering=failures,
            rounds=10,
            sampling=SamplingConfig(min_replies=2, max_skipped_rounds=2),
        )
    assert caught.value.exit_code == 5


def test_a_run_in_which_every_site_fails_ends_as_a_failure() -> None:
    with pytest.raises(QuorumLostError, match="disk is gone"):
        run_toy(targets=TARGETS, tampering=dict.fromkeys(TARGETS, fail), rounds=1)


def test_a_skipped_round_leaves_the_model_alone_and_the_run_recovers() -> None:
    rounds_seen: list[int] = []

    def fail_in_round_two(message: Message, reply: Message) -> Message:
        round_number = read_binding(message).round_number
        rounds_seen.append(round_number)
        return fail(message, reply) if round_number == 2 else reply

    outcome, loop = run_toy(
        targets=TARGETS, tampering=dict.fromkeys(TARGETS, fail_in_round_two), rounds=3
    )
    np.testing.assert_allclose(outcome.progress.vectors[PARAMETERS], 2.25, rtol=1e-6)
    skipped = [e for e in loop.history.entries if e.status == "skipped"]
    assert [e.round_number for e in skipped] == [2]


def test_sampling_depends_on_site_names_and_seed_only() -> None:
    sampling = SamplingConfig(num_sites=2, min_replies=1)
    runs = [run_toy(targets=TARGETS, rounds=6, sampling=sampling)[1] for _ in range(2)]

    def trained(entries: list[Entry]) -> list[tuple[int, str | None]]:
        return [(e.round_number, e.site) for e in entries if e.phase == "train" and e.site]

    assert trained(runs[0].history.entries) == trained(runs[1].history.entries)
    assert len(trained(runs[0].history.entries)) == 12
    assert {site for _, site in trained(runs[0].history.entries)} == set(TARGETS)


def test_early_stop_ends_the_run_when_the_figure_no_longer_improves() -> None:
    # The toy's "auroc" is the model itself: it rises towards 3 by halves.
    stop = StopConfig(metric="auroc", patience=2, min_delta=0.3)
    outcome, _ = run_toy(targets=TARGETS, rounds=50, stop=stop)
    assert outcome.stopped_by == "plateau"
    # 1.5, 2.25, 2.625, 2.8125, 2.906: rounds 4 and 5 are within 0.3 of round 3.
    assert outcome.progress.round_number == 5


def test_a_run_that_had_stopped_early_does_not_go_on_when_it_is_resumed(tmp_path: Path) -> None:
    stop = StopConfig(metric="auroc", patience=2, min_delta=0.3)
    runs = [run_toy(targets=TARGETS, rounds=50, stop=stop, folder=tmp_path)[0] for _ in range(2)]
    assert [run.progress.round_number for run in runs] == [5, 5]
    assert [run.stopped_by for run in runs] == ["plateau", "plateau"]


def test_evaluation_happens_when_it_is_due_and_always_after_the_last_round() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=5, evaluate_every=2)
    evaluated = {e.round_number for e in loop.history.entries if e.phase == "evaluate"}
    assert evaluated == {2, 4, 5}


def test_bytes_are_counted_both_ways() -> None:
    _, loop = run_toy(targets=TARGETS, rounds=1)
    vector_bytes = 3 * 4
    lines = [entry for entry in loop.history.entries if entry.site is not None]
    assert sum(entry.bytes_received or 0 for entry in lines) == 4 * vector_bytes
    sent = sum(entry.bytes_sent or 0 for entry in lines)
    assert sent == 2 * 4 * vector_bytes, "once to train, once to evaluate"
