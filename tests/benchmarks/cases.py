"""The benchmark's cases, and how each is run: as the plain loop, in process, or on Ray.

    python -m tests.benchmarks.cases CASE ENGINE ROUNDS

prints one JSON line with the seconds of each round, the losses, start-up and peak memory. Each
run is a process of its own, so that none inherits another's imports.
"""

import gc
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

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
    "ft": Case("ft-transformer", 1000, 100, (50, 50), 10),
    "no-op": Case("no-op", 500, 500, (1, 1), 1),
}
SEED = 1


def make_rows(case: Case, site: str) -> Mapping[str, Any]:
    """Return the generated rows of one site: two (or ten) classes with a shift of its own."""
    import torch

    from fedward.common.randomness import torch_generator

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

    own: dict[str, Any] = {
        "cnn": {},
        "mlp": {"hidden": [16]},
        "ft-transformer": {"d_token": 32, "num_layers": 2, "num_heads": 4},
        "no-op": {},
    }[case.model]
    with seeded_global_torch(seed_for(SEED, purpose="model")):
        if case.model == "no-op":
            import torch

            return torch.nn.Linear(30, 25)  # 775 parameters = 3 KB
        return build(case.model, Layout(), 10 if case.model == "cnn" else 2, own)


class ClassifyTask:
    """Cross-entropy, and no figures: the benchmark times rounds only."""

    name = "benchmark"
    primary_metric = "accuracy"

    def loss_per_sample(self, outputs: Any, batch: Any) -> Any:
        from torch.nn import functional

        return functional.cross_entropy(outputs, batch["label"], reduction="none")

    def metrics(self, outputs: Any, batch: Any) -> dict[str, Any]:
        return {}

    def details(self, outputs: Any, batch: Any) -> dict[str, Any]:
        return {}


def chosen_sites(case: Case, round_number: int) -> list[str]:
    """Return who takes part in a round."""
    from fedward.common.config.run import SamplingConfig
    from fedward.server.sampling import sample_sites

    sampling = SamplingConfig(num_sites=case.sites_per_round)
    return sample_sites(case.names, sampling, seed=SEED, round_number=round_number)
