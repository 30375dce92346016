"""A federation small enough to check by hand, on the real grid, loop and ClientApp.

Site k holds one number t_k and answers a model w with w + (t_k - w) / 2. `Tampering` lets a
site misbehave on the wire, where a faulty or hostile site would.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedward.common.config.monitor import MonitorConfig, StopConfig
from fedward.common.config.run import SamplingConfig
from fedward.common.records import (
    CONTROL,
    PARAMETERS,
    Update,
    read_instruction,
    reply_records,
)
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.history import History
from fedward.server.plan import Plan
from fedward.server.rounds import Outcome, RoundLoop, RoundObserver
from fedward.server.strategies import build_strategy
from fedward.simulations.grids.inprocess import InProcessGrid
from fedward.simulations.worker import SiteWorker

SIZE = 3
Tampering = Callable[[Message, Message], Message]


def toy_worker(targets: Mapping[str, float], tampering: Mapping[str, Tampering]) -> SiteWorker:
    app = ClientApp()

    def answer(message: Message, context: Context, loss_name: str) -> Message:
        site = str(context.node_config["site"])
        instruction = read_instruction(message)
        model = instruction.vectors[PARAMETERS]
        vectors = {}
        if loss_name == "train_loss":
            vectors = {PARAMETERS: model + np.float32(0.5) * (np.float32(targets[site]) - model)}
            if CONTROL in instruction.vectors:
                vectors[CONTROL] = np.zeros_like(model)
        figure = {"value": float(model[0]), "low": None, "high": None, "n": 10, "reason": None}
        update = Update(
            10, float(abs(model[0] - targets[site])), vectors, {"metrics": {"auroc": figure}}
        )
        reply = Message(
            reply_records(update, instruction.binding, loss_name=loss_name), reply_to=message
        )
        return tampering[site](message, reply) if site in tampering else reply

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, "train_loss")

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, "eval_loss")

    nodes = dict(enumerate(sorted(targets), start=1))
    return SiteWorker(app, nodes)


def run_toy(
    *,
    targets: Mapping[str, float],
    strategy: str = "fedavg",
    own: Mapping[str, Any] | None = None,
    tampering: Mapping[str, Tampering] | None = None,
    rounds: int = 3,
    folder: Path | None = None,
    history_path: Path | None = None,
    grid: InProcessGrid | None = None,
    sampling: SamplingConfig | None = None,
    factory: Callable[[], SiteWorker] | None = None,
    observers: Sequence[RoundObserver] = (),
    stop: StopConfig | None = None,
    **plan_keys: Any,
) -> tuple[Outcome, RoundLoop]:
    """Run the toy federation, resuming from `folder` if a checkpoint lies there."""
    nodes = {site: number for number, site in enumerate(sorted(targets), start=1)}
    grid = grid or InProcessGrid()
    factory = factory or partial(toy_worker, targets, tampering or {})
    grid.prepare(factory, list(nodes.values()), stacked=False)
    built = build_strategy(strategy, own or {}, num_sites=len(targets))
    plan = Plan(
        run_key="toy",
        seed=1,
        num_rounds=rounds,
        nodes=nodes,
        cohort_bounds=dict.fromkeys(targets, 20),
        manifest_hash="m",
        sampling=sampling or SamplingConfig(),
        # No optimiser: the thresholds of saturation are then those of no calibration.
        **{"monitor": MonitorConfig(stop=stop), "optimizer": "", **plan_keys},
    )
    checkpoints = CheckpointFolder(folder, "hash") if folder is not None else None
    history = History(history_path)
    loop = RoundLoop(
        grid, built, plan, history=history, checkpoints=checkpoints, observers=observers
    )
    zeros = np.zeros(SIZE, np.float32)
    found = checkpoints.load_newest(built, zeros) if checkpoints is not None else None
    start = found or Progress(0, {PARAMETERS: zeros})
    history.forget_after(start.round_number)
    return loop.run(start), loop
