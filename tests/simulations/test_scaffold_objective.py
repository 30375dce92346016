"""What SCAFFOLD converges to, through the real loop and client, on unlike sites."""

import numpy as np
import pytest
import torch

from fedward.common.config.loader import load_run_config
from fedward.common.records import PARAMETERS
from fedward.common.task import Split
from fedward.server.history import History
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import Federation, run_federation

DECAY = 0.1


def settled(strategy: str) -> tuple[float, float]:
    """Return the length of the mean gradient of the sites, weighted by patients, and unweighted."""
    path = find_config("quickstart")
    overrides = [
        "engine.name=inprocess", "evaluate_every=1000", "model={name: logistic-regression}",
        "rounds=80", "local.epochs=5", "local.batch_size=1000", "local.learning_rate=0.2",
        f"local.weight_decay={DECAY}", f"strategy.name={strategy}",
    ]  # fmt: skip
    config = load_run_config(path, overrides).config
    federation = Federation(config, "federated", Split(config.seed, 0.3), path.parent)
    outcome = run_federation(federation, open_grid(config.engine), history=History())
    task, sites, model = federation.task, federation.sites, federation.new_model()
    federation.initial[0].load(model, outcome.progress.vectors[PARAMETERS])
    sources = [sites.source(site) for site in sites.site_ids]
    sums = np.sum([task.local_statistics(source, federation.split) for source in sources], axis=0)
    gradients, sizes = [], []
    for source in sources:
        rows = task.datasets(source, federation.split, sums).train.all_rows()
        loss = task.loss_per_sample(model(rows), rows).mean()
        parameters = list(model.parameters())
        found = torch.autograd.grad(loss, parameters)
        pairs = zip(found, parameters, strict=True)
        gradients.append(torch.cat([(g + DECAY * p).flatten() for g, p in pairs]).detach().numpy())
        sizes.append(len(rows["label"]))
    weighted = np.average(gradients, axis=0, weights=sizes)
    return float(np.linalg.norm(weighted)), float(np.linalg.norm(np.mean(gradients, axis=0)))


def test_scaffold_settles_where_the_unweighted_mean_gradient_of_the_sites_is_zero() -> None:
    weighted, unweighted = settled("scaffold")
    assert unweighted < 1e-3
    assert weighted > 10 * unweighted, "the sites differ in size, or both would be zero"


@pytest.mark.slow
def test_fedavg_settles_nearer_to_where_the_weighted_mean_gradient_is_zero() -> None:
    weighted, unweighted = settled("fedavg")
    assert weighted < unweighted
    assert weighted > 1e-3, "without drift there would be nothing for scaffold to correct"
