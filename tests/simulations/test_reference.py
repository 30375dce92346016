"""Simulation equals forty lines of plain torch: same model, same patients, same order."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedward.common.randomness import torch_generator
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.grids.inprocess import InProcessGrid
from fedward.simulations.grids.ray import RayGrid
from fedward.simulations.grids.start_ray import RayOptions
from tests.benchmarks.cases import (
    CASES,
    SEED,
    Case,
    build_model,
    chosen_sites,
    make_rows,
    run_rounds,
)
from tests.benchmarks.reference_loop import flat, reference_loop

ROUNDS = 3
SMALL = {
    "cnn": replace(CASES["cnn"], num_sites=4, sites_per_round=3, rows=(60, 60), batch_size=20),
    "mlp": replace(CASES["mlp"], num_sites=12, sites_per_round=6, rows=(10, 50)),
    "ft": replace(CASES["ft"], num_sites=6, sites_per_round=4, rows=(10, 30)),
}


@pytest.fixture(scope="module", params=["inprocess", "ray"])
def grid(request: pytest.FixtureRequest) -> Iterator[SimulationGrid]:
    built = InProcessGrid() if request.param == "inprocess" else RayGrid(RayOptions(num_actors=2))
    yield built
    built.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SMALL)
def test_fedavg_equals_a_plain_loop_to_1e_6(grid: SimulationGrid, name: str) -> None:
    case = SMALL[name]
    measured, ours = run_rounds(case, grid, ROUNDS)
    expected, expected_losses = plain(case)
    np.testing.assert_allclose(ours, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(measured["losses"], expected_losses, atol=1e-6, rtol=0)
    moved = np.abs(ours - flat(build_model(case).state_dict())).max()
    assert moved > 1e-3, "a model that was never trained would be equal too"


def plain(case: Case) -> tuple[np.ndarray, list[float]]:
    state, losses, _ = reference_loop(
        build_model(case),
        {site: make_rows(case, site) for site in case.names},
        [chosen_sites(case, number) for number in range(1, ROUNDS + 1)],
        batch_size=case.batch_size,
        make_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=case.learning_rate),
        generator_for=lambda site, number: torch_generator(
            SEED, purpose="batches", site=site, round_number=number
        ),
    )
    return flat(state), losses
