"""A plain torch loop over sites, and the small data it is held against `train_locally` with.

`plain_round` is what a newcomer would write; the tests take its results as the truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.optimizers import OptimizerSettings
from fedward.client.sampling import ShuffleSampler
from fedward.common.parameters import ParameterSet
from fedward.common.task import Batch, PatientDataset
from fedward.common.vectors import Vector


@dataclass(frozen=True)
class Layout:
    """Fields of a generated table."""

    names: tuple[str, ...]
    starts: tuple[int, ...]
    stops: tuple[int, ...]


def dense_layout(num_fields: int, width: int = 1) -> Layout:
    """Return a layout of fields of equal width."""
    starts = range(0, num_fields * width, width)
    return Layout(
        tuple(f"f{i}" for i in range(num_fields)),
        tuple(starts),
        tuple(start + width for start in starts),
    )


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(outputs, batch["label"], reduction="none")


def generated_table(num_rows: int, num_columns: int, *, seed: int) -> PatientDataset:
    """Return rows whose label is a noisy linear rule of their first columns."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_rows, num_columns, generator=generator)
    noise = torch.randn(num_rows, generator=generator)
    label = (features[:, :4].sum(dim=1) + noise > 0).long()
    return PatientDataset(_with_keys({"features": features, "label": label}, "table"))


def generated_images(num_rows: int, *, seed: int) -> PatientDataset:
    """Return 3x32x32 images of noise in 10 classes, each with its own mean."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 10, (num_rows,), generator=generator)
    image = torch.randn(num_rows, 3, 32, 32, generator=generator)
    image += (label / 10).view(-1, 1, 1, 1)
    return PatientDataset(_with_keys({"image": image, "label": label}, "image"))


def plain_round(
    model: nn.Module,
    datasets: Sequence[PatientDataset],
    start: Vector,
    settings: OptimizerSettings,
    sampler: ShuffleSampler,
) -> tuple[list[float], list[Vector]]:
    """Train every site with a plain torch loop; return mean losses and wire vectors.

    Site i shuffles with a generator of seed i, as `site_rngs` has it.
    """
    full = ParameterSet.of(model)
    losses, vectors = [], []
    input_key = "image" if "image" in datasets[0].rows else "features"
    for data, rng in zip(datasets, site_rngs(len(datasets)), strict=True):
        full.load(model, start)
        optimizer = torch_optimizer(settings, model)
        x, y = data.rows[input_key], data.rows["label"]
        total = 0.0
        for _ in range(sampler.epochs or 1):
            for index in torch.split(torch.randperm(len(x), generator=rng), sampler.batch_size):
                optimizer.zero_grad()
                loss = functional.cross_entropy(model({input_key: x[index]}), y[index])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(index)
        losses.append(total / len(x) / (sampler.epochs or 1))
        vectors.append(full.flatten(model.state_dict()))
    return losses, vectors


def site_rngs(num_sites: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(site) for site in range(num_sites)]


def torch_optimizer(settings: OptimizerSettings, model: nn.Module) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.name == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=rate, momentum=settings.momentum, weight_decay=decay
        )
    rule = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return rule(model.parameters(), lr=rate, weight_decay=decay, betas=settings.betas)


def _with_keys(rows: Batch, modality: str) -> Batch:
    num_rows = len(rows["label"])
    return {
        **rows,
        "patient_id": torch.arange(num_rows),
        f"mask.{modality}": torch.ones(num_rows, dtype=torch.bool),
    }
