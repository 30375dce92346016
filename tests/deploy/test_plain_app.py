"""The bundle's own apps under Flower's simulation engine: what `flwr run` starts."""

import logging

import pytest
from flwr.simulation import run_simulation

from fedward.deploy.plain_app import client_app, server_app


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_flowers_own_launcher_trains_the_quickstart(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("flwr").addHandler(caplog.handler)
    run_simulation(
        server_app(),
        client_app(),
        num_supernodes=5,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    lines = [record.getMessage() for record in caplog.records]
    last = [line for line in lines if line.startswith("round 20/20:")]
    assert last, lines[-5:]
    assert "auroc 0." in last[0]
