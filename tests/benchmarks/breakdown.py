"""Where a round of case (b) goes: `OMP_NUM_THREADS=1 python -m tests.benchmarks.breakdown`.

Times a few functions from outside while the case runs; parts that contain others are marked.
"""

import time
from collections import Counter
from typing import Any

import torch
from flwr.serverapp.strategy import FedAvg

from fedward.client import stacked_trainer
from fedward.common.quiet import quiet_third_parties
from fedward.server import exchange, rounds
from fedward.simulations import worker
from tests.benchmarks import cases

ROUNDS = 40
PARTS: list[tuple[Any, str, str]] = [
    (rounds.RoundLoop, "_one_round", "the whole round"),
    (stacked_trainer, "train_stacked", "training 100 sites, stacked"),
    (worker.SiteWorker, "_answer", "client app and egress"),
    (exchange, "check_replies", "checking replies"),
    (FedAvg, "aggregate_train", "Flower's FedAvg"),
    (exchange, "bind", "binding instructions"),
    (worker, "read_instruction", "reading instructions"),
    (FedAvg, "configure_train", "Flower's messages out"),
    (stacked_trainer.StackedTrainer, "_hand_out", "handing out results"),
    (exchange.Exchange, "entries", "history lines"),
]


def main() -> None:
    """Print milliseconds per round of each part."""
    quiet_third_parties()
    torch.set_num_threads(1)
    seconds: Counter[str] = Counter()
    for owner, name, label in PARTS:
        _timed(owner, name, label, seconds)
    cases.federated(cases.CASES["mlp"], "inprocess", ROUNDS)
    for label, total in seconds.most_common():
        print(f"{label:30} {total / ROUNDS * 1000:6.2f} ms")


def _timed(owner: Any, name: str, label: str, seconds: "Counter[str]") -> None:
    original = getattr(owner, name)

    def timed(*arguments: Any, **keys: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*arguments, **keys)
        finally:
            seconds[label] += time.perf_counter() - started  # type: ignore[assignment]

    setattr(owner, name, timed)


if __name__ == "__main__":
    main()
