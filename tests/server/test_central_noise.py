"""The server's noise in the privacy mode `central`, on the real loop and grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from scipy.stats import chi2

from fedward.common.config.monitor import MonitorConfig
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.errors import BudgetSpentError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.privacy.noise import SeededNoise
from fedward.common.privacy.updates import UpdateNoise
from fedward.common.records import PARAMETERS, array_record, arrays_of, read_binding
from fedward.common.vectors import Vector
from fedward.server.central_noise import SPENT, CentralNoise
from fedward.server.history import Entry
from fedward.server.rounds import Outcome, RoundLoop
from tests.server.toy import SIZE, run_toy

TARGETS = {"aachen": 1.0, "bern": 2.0, "cork": 3.0, "delft": 6.0}
DELTA = 1e-3
ERROR_RATE = 1e-6


def central(*, rounds: int = 3, norm: float = 1e3, **keys: float) -> CentralNoise:
    given = keys or {"epsilon": 5.0}
    privacy = PrivacyConfig.model_validate(
        {"mode": "central", "unit": "site", "delta": DELTA, "max_update_norm": norm, **given}
    )

    def source(number: int) -> SeededNoise:
        return SeededNoise(torch.Generator().manual_seed(number))

    return CentralNoise(UpdateNoise.of(privacy, rounds), source)


def run(noise: CentralNoise | None, **keys: Any) -> tuple[Outcome, RoundLoop]:
    given: Mapping[str, Any] = {
        "targets": TARGETS,
        "monitor": MonitorConfig(influence=False),
        "central": noise,
        **keys,
    }
    return run_toy(**given)


def lines(loop: RoundLoop) -> list[Entry]:
    return [e for e in loop.history.entries if e.site is None and e.phase == "train"]


def claims_many_patients(message: Message, reply: Message) -> Message:
    reply.content.metric_records["metrics"]["num-examples"] = 20
    return reply


def sends_a_long_update(message: Message, reply: Message) -> Message:
    reply.content["arrays"] = array_record({PARAMETERS: np.full(SIZE, 1e6, np.float32)})
    return reply


def test_every_site_counts_the_same_whatever_number_of_patients_it_claims() -> None:
    tampering = {"delft": claims_many_patients}
    quiet = central(noise_multiplier=0.001, norm=1e-2)
    moved = run(quiet, tampering=tampering, rounds=1)[0].progress.vectors[PARAMETERS]
    # By hand: four updates of the same direction, each cut to 0.01; noise is a thousandth of that.
    np.testing.assert_allclose(np.linalg.norm(moved), 0.01, rtol=0.01)
    loud = run(None, tampering=tampering, rounds=1)[0].progress.vectors[PARAMETERS]
    assert float(loud[0]) == pytest.approx((10 + 20 + 30 + 20 * 6) / 50 / 2)


def test_a_site_that_does_not_clip_moves_the_model_no_further_than_the_others() -> None:
    tampering = {"delft": sends_a_long_update}
    quiet = central(noise_multiplier=0.001, norm=0.4)
    moved = run(quiet, tampering=tampering, rounds=1)[0].progress.vectors[PARAMETERS]
    assert float(np.linalg.norm(moved)) < 0.41
    without = run(None, tampering=tampering, rounds=1)[0].progress.vectors[PARAMETERS]
    assert float(np.linalg.norm(without)) > 1e5


def replies(model_SD: np.ndarray, num_examples: Sequence[int]) -> list[Message]:
    return [
        Message(
            RecordDict(
                {
                    "arrays": array_record({PARAMETERS: model}),
                    "metrics": MetricRecord({"num-examples": count, "train_loss": 0.0}),
                }
            ),
            dst_node_id=node,
            message_type="train",
        )
        for node, (model, count) in enumerate(zip(model_SD, num_examples, strict=True), start=1)
    ]


def flowers(received: Vector, model_SD: np.ndarray, num_examples: Sequence[int]) -> np.ndarray:
    """Return what Flower's own wrapper makes of the replies, without noise."""
    wrapped = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=0.0, clipping_norm=0.5, num_sampled_clients=len(model_SD)
    )
    wrapped.current_arrays = ArrayRecord({PARAMETERS: Array(received)})
    arrays, _ = wrapped.aggregate_train(1, replies(model_SD, num_examples))
    assert arrays is not None
    return arrays[PARAMETERS].numpy()


def test_the_mean_below_the_noise_is_flowers_where_patients_are_as_many_everywhere() -> None:
    rng = np.random.default_rng(0)
    received = rng.normal(size=300).astype(np.float32)
    model_SD = received + rng.normal(size=(4, 300)).astype(np.float32) * [[1], [0.001], [5], [0.1]]
    model_SD = model_SD.astype(np.float32)
    quiet = central(noise_multiplier=0.001, norm=0.5)
    released = quiet.release(1, received, replies(model_SD, [10, 10, 10, 10]))
    ours = arrays_of(released.content)[PARAMETERS].numpy()
    # Noise of deviation 0.001 C / 4: six of them are exceeded in none of 1e8 draws.
    bound = 6 * 0.001 * 0.5 / 4
    assert np.abs(ours - flowers(received, model_SD, [10, 10, 10, 10])).max() < bound
    assert np.abs(ours - flowers(received, model_SD, [10, 10, 10, 10**9])).max() > bound


def test_noise_of_the_mean_has_the_deviation_that_is_claimed() -> None:
    noise = central(noise_multiplier=2.0, norm=0.5)
    count, received = 200_000, np.zeros(200_000, np.float32)

    messages = replies(np.tile(received, (4, 1)), [10] * 4)
    released = noise.release(1, received, messages).content
    moved = arrays_of(released)[PARAMETERS].numpy()
    low, high = chi2.ppf([ERROR_RATE / 2, 1 - ERROR_RATE / 2], count)
    squares = float(np.square(moved, dtype=np.float64).sum())
    assert low < squares / (2.0 * 0.5 / 4) ** 2 < high
    assert not low < squares / (2.0 * 0.5 / 3) ** 2 < high


def test_what_is_spent_is_that_of_all_rounds_since_the_first() -> None:
    noise = central()
    outcome, loop = run(noise)
    told = [entry.epsilon for entry in lines(loop)]
    sigma = noise.noise.noise_multiplier
    assert told == [epsilon_of([Segment(sigma, 1.0, n)], DELTA) for n in (1, 2, 3)]
    assert told[-1] is not None
    assert 5 * 0.99 < told[-1] <= 5
    assert outcome.progress.vectors[SPENT].tolist() == [[sigma, 1.0, 3.0]]
    assert all(entry.epsilon is None for entry in lines(run(None)[1]))


def test_a_resumed_run_has_the_account_and_the_model_of_one_that_was_not_interrupted(
    tmp_path: Path,
) -> None:
    whole = run(central())[0].progress
    history = tmp_path / "history.jsonl"
    run(central(), rounds=2, folder=tmp_path, history_path=history)
    outcome, loop = run(central(), rounds=3, folder=tmp_path, history_path=history)
    for name in (PARAMETERS, SPENT):
        np.testing.assert_array_equal(outcome.progress.vectors[name], whole.vectors[name])
    assert [e.epsilon for e in lines(loop)] == [e.epsilon for e in lines(run(central())[1])]


def test_a_run_that_goes_on_past_its_planned_rounds_is_refused(tmp_path: Path) -> None:
    run(central(rounds=2), rounds=2, folder=tmp_path)
    # Replanned for three rounds, noise is larger; what is left does not even allow that.
    with pytest.raises(BudgetSpentError, match=r"above privacy\.epsilon 5") as caught:
        run(central(rounds=3), rounds=3, folder=tmp_path)
    assert caught.value.exit_code == 6


def fails_in_round_2(message: Message, reply: Message) -> Message:
    is_2 = read_binding(message).round_number == 2
    return Message(Error(1, "away"), reply_to=message) if is_2 else reply


def test_a_skipped_round_releases_nothing_and_costs_nothing() -> None:
    tampering = dict.fromkeys(["aachen", "bern", "cork"], fails_in_round_2)
    noise = central()
    _, loop = run(noise, tampering=tampering)
    one, two = (
        epsilon_of([Segment(noise.noise.noise_multiplier, 1.0, count)], DELTA) for count in (1, 2)
    )
    assert [entry.epsilon for entry in lines(loop)] == [one, one, two]


def test_what_is_spent_is_on_disk_before_the_sites_see_the_model(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(message: Message, reply: Message) -> Message:
        if "eval_loss" in reply.content["metrics"]:
            seen.append(sorted(path.name for path in tmp_path.glob("round-*")))
        return reply

    run(central(), rounds=1, folder=tmp_path, tampering={"delft": look})
    assert seen == [["round-00001.safetensors"]]
    seen.clear()
    run(None, rounds=1, folder=tmp_path / "plain", tampering={"delft": look})
    assert seen == [["round-00001.safetensors"]], "of the run before: this one has none yet"
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["round-00001.safetensors"]


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedprox"])
def test_optimisers_of_the_server_work_on_the_noised_mean(strategy: str) -> None:
    outcome, _ = run(central(noise_multiplier=0.001), strategy=strategy, rounds=2)
    plain, _ = run(None, strategy=strategy, rounds=2)
    a, b = (found.progress.vectors[PARAMETERS] for found in (outcome, plain))
    assert np.abs(a - b).max() < 5.0  # noise of 1 over four sites
    assert not np.array_equal(a, b)
