"""The benchmark's cases, and how each is run: as the plain loop, in process, or on Ray."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fedward.common.task import Task

PROCESS_STARTED = time.time()


@dataclass(frozen=True)
class Case:
    """One federation of the benchmark."""

    model: str
    num_sites: int
    sites_per_round: int
    rows: tuple[int, int]
    """Fewest and most rows of a site."""
    batch_size: int
    optimizer: str = "sgd"
    learning_rate: float = 0.05

    @cached_property
    def names(self) -> list[str]:
        return [f"site-{number:04d}" for number in range(self.num_sites)]


CASES = {
    "cnn": Case("cnn", 100, 10, (500, 500), 50),
    "mlp": Case("mlp", 1000, 100, (50, 50), 10),
    "mlp-unequal-adam": Case("mlp", 1000, 100, (20, 80), 10, "adam", 0.01),
    # A rate at which training is stable: at 0.05 rounding grows tenfold a round.
    "ft": Case("ft-transformer", 1000, 100, (50, 50), 10, learning_rate=0.01),
    "no-op": Case("no-op", 500, 500, (1, 1), 1),
}
SEED = 1


@cache
def make_rows(case: Case, site: str) -> Mapping[str, Any]:
    """Return the generated rows of one site, made before the clock runs.

    The 100 sites of the CNN share two tables, so that memory is the engine's, not the data's.
    """
    import torch

    from fedward.common.randomness import torch_generator

    if case.model == "cnn" and not site.startswith("table"):
        return make_rows(case, f"table-{int(site.removeprefix('site-')) % 2}")
    rng = torch_generator(SEED, purpose="benchmark-rows", site=site)
    low, high = case.rows
    num_rows = int(torch.randint(low, high + 1, (1,), generator=rng))
    classes = 10 if case.model == "cnn" else 2
    label = torch.randint(0, classes, (num_rows,), generator=rng)
    shape = {"cnn": (3, 32, 32), "mlp": (32,), "ft-transformer": (14,)}.get(case.model, (1,))
    x = torch.randn(num_rows, *shape, generator=rng)
    x = x + (label.float() - classes / 2).view(-1, *[1] * len(shape)) * 0.2
    name = "image" if case.model == "cnn" else "features"
    return {name: x, "label": label, "patient_id": torch.arange(num_rows)}


def build_model(case: Case) -> Any:
    """Return the freshly initialised model, the same for every engine."""
    from fedward.common.models import build
    from fedward.common.randomness import seed_for, seeded_global_torch

    class Layout:
        names = tuple(f"f{i}" for i in range(32 if case.model == "mlp" else 14))
        starts = tuple(range(len(names)))
        stops = tuple(range(1, len(names) + 1))

    own: dict[str, dict[str, Any]] = {
        "cnn": {},
        "mlp": {"hidden": [16]},
        "ft-transformer": {"d_token": 32, "num_layers": 2, "num_heads": 4},
    }
    with seeded_global_torch(seed_for(SEED, purpose="model")):
        if case.model == "no-op":
            import torch

            return torch.nn.Linear(30, 25)  # 775 parameters = 3 KB
        return build(case.model, Layout(), 10 if case.model == "cnn" else 2, own[case.model])


class ClassifyTask:
    """Cross-entropy, and no figures: the benchmark times rounds only."""

    name = "benchmark"
    primary_metric = "accuracy"
    secondary_metric = None

    def loss_per_sample(self, outputs: Any, batch: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs, batch["label"], reduction="none")

    rows_per_pass = 4096
    augment = None

    def training_loss(self, model: Any, validation: Any) -> Any:
        return self.loss_per_sample

    def condense(self, outputs: Any, batch: Any) -> dict[str, Any]:
        return {"logits": outputs}

    def metrics(self, kept: Any) -> dict[str, Any]:
        return {}

    def details(self, kept: Any) -> dict[str, Any]:
        return {}


def chosen_sites(case: Case, round_number: int) -> list[str]:
    """Return who takes part in a round."""
    from fedward.common.config.run import SamplingConfig
    from fedward.server.sampling import sample_sites

    sampling = SamplingConfig(num_sites=case.sites_per_round)
    return sample_sites(case.names, sampling, seed=SEED, round_number=round_number)


def plain(case: Case, rounds: int) -> dict[str, Any]:
    """Run the plain loop."""
    import torch

    from fedward.common.randomness import torch_generator
    from tests.benchmarks.reference_loop import reference_loop

    rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    chosen = [chosen_sites(case, number) for number in range(1, rounds + 1)]
    needed = sorted({site for sites in chosen for site in sites})
    _, losses, seconds = reference_loop(
        build_model(case),
        {site: make_rows(case, site) for site in needed},
        chosen,
        batch_size=case.batch_size,
        make_optimizer=lambda parameters: rules[case.optimizer](parameters, lr=case.learning_rate),
        generator_for=lambda site, number: torch_generator(
            SEED, purpose="batches", site=site, round_number=number
        ),
    )
    return {"losses": losses, "seconds": seconds}


def build_worker(case: Case) -> Any:
    """Return the worker of a case, with fedward's own trainer and client app."""
    from fedward.client.site import Site
    from fedward.client.stacked_trainer import make_trainer
    from fedward.client.store import SiteStore
    from fedward.client.trainer import TrainerSettings
    from fedward.common.config.run import LocalConfig
    from fedward.common.parameters import ParameterSet
    from fedward.common.task import PatientDataset, SiteData
    from fedward.simulations.worker import app_worker

    if case.model == "no-op":
        return no_op_worker(case)
    model = build_model(case)
    local = LocalConfig(
        epochs=1,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        optimizer=case.optimizer,  # type: ignore[arg-type] # one of the three
    )
    settings = TrainerSettings(local, SEED, "benchmark")
    trainer = make_trainer(cast("Task", ClassifyTask()), model, ParameterSet.of(model), settings)

    def read(site: str, statistics: Any) -> SiteData:
        dataset = PatientDataset(make_rows(case, site))
        return SiteData(dataset, dataset)

    store = SiteStore(None)
    sites = [Site(site, partial(read, site), lambda: None, store) for site in case.names]  # type: ignore[arg-type, return-value]
    for site in sites:
        site.data(None)
    return app_worker(trainer, dict(enumerate(sites, start=1)))


def no_op_worker(case: Case) -> Any:
    """Return a worker whose sites send back what they received."""
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from fedward.common.records import Update, read_instruction, reply_records
    from fedward.simulations.worker import SiteWorker

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        instruction = read_instruction(message)
        update = Update(1, 0.0, instruction.vectors)
        records = reply_records(update, instruction.binding, loss_name="train_loss")
        return Message(records, reply_to=message)

    return SiteWorker(app, dict(enumerate(case.names, start=1)))


def federated(case: Case, engine: str, rounds: int) -> dict[str, Any]:
    """Run the case through fedward's round loop on one of its engines."""
    from fedward.common.config.run import EngineConfig
    from fedward.simulations.engine import open_grid
    from fedward.simulations.memory import PeakMemory

    grid = open_grid(
        EngineConfig(
            name=engine,  # type: ignore[arg-type] # one of the two
            num_actors=2 if engine == "ray" else None,
        )
    )
    try:
        with PeakMemory() as memory:
            found, _ = run_rounds(case, grid, rounds)
            memory.sample()
    finally:
        grid.close()
    return {**found, "peak_bytes": memory.peak_bytes}


def run_rounds(case: Case, grid: Any, rounds: int) -> tuple[dict[str, Any], Any]:
    """Return what was measured (losses, seconds, when the grid was ready), and the final model."""
    from fedward.client.stacked import can_stack
    from fedward.common.config.run import SamplingConfig
    from fedward.common.parameters import ParameterSet
    from fedward.common.records import PARAMETERS
    from fedward.server.checkpoint import Progress
    from fedward.server.plan import Plan
    from fedward.server.rounds import RoundLoop
    from fedward.server.strategies import build_strategy

    model = build_model(case)
    shared = ParameterSet.of(model)
    nodes = {site: node for node, site in enumerate(case.names, start=1)}
    grid.prepare(partial(build_worker, case), list(nodes.values()), stacked=can_stack(model))
    ready = time.time() - PROCESS_STARTED
    reports: list[Any] = []
    plan = Plan(
        run_key="benchmark",
        seed=SEED,
        num_rounds=rounds,
        nodes=nodes,
        cohort_bounds=dict.fromkeys(nodes, case.rows[1]),
        manifest_hash=shared.manifest_hash,
        sampling=SamplingConfig(num_sites=case.sites_per_round),
        evaluate_every=0,
        evaluation_sites=case.names[:2],
    )
    strategy = build_strategy("fedavg", {}, num_sites=len(nodes))
    loop = RoundLoop(grid, strategy, plan, on_round=reports.append)
    outcome = loop.run(Progress(0, {PARAMETERS: shared.flatten(model.state_dict())}))
    assert all(not report.refused for report in reports)
    measured = {
        "losses": [report.train_loss or 0.0 for report in reports],
        "seconds": [report.seconds for report in reports],
        "ready_s": ready,
    }
    return measured, outcome.progress.vectors[PARAMETERS]
