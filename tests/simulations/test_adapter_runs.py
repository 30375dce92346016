"""Whole runs that train low-rank adapters on a network that was trained before."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = [
    "engine.name=inprocess",
    "baselines=[]",
    "repeat=null",
    "rounds=3",
    "model={name: mlp, hidden: [64, 64]}",
]


def run(out: Path, *overrides: str, **keys: Any) -> Run:
    config = load_run_config(QUICKSTART, [*FAST, *overrides]).config
    return simulate(config, base_dir=QUICKSTART.parent, out=out, **{"report": False, **keys})


def weights(finished: Run) -> dict[str, np.ndarray]:
    return load_file(finished.folder / "model.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("base"), "seed=7")


def from_base(trained: Run, **lora: object) -> list[str]:
    keys = ", ".join(f"{key}: {value}" for key, value in {"rank": 2, **lora}.items())
    return [f"model.init={trained.folder}/model.safetensors", f"model.lora={{{keys}}}"]


def sent(finished: Run) -> int:
    return int(finished.summary["bytes"]["sent"])


@pytest.mark.parametrize("aggregation", ["ab", "ffa", "svd"])
def test_a_run_moves_the_network_by_what_adapters_can_and_sends_little(
    base: Run, tmp_path: Path, aggregation: str
) -> None:
    finished = run(tmp_path, *from_base(base, aggregation=aggregation))
    before, after = weights(base), weights(finished)
    assert set(after) == set(before)
    for name, tensor in after.items():
        change = tensor - before[name]
        if tensor.ndim == 2:
            assert np.linalg.matrix_rank(change, tol=1e-5) in (1, 2)
        else:
            assert not change.any(), "biases are frozen"
    assert sent(finished) < sent(base) / 4
    assert finished.model().state_dict().keys() == before.keys()


def test_stacking_and_resuming_do_not_change_what_is_learned(base: Run, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", *from_base(base, aggregation="svd"))
    cut = run(tmp_path / "cut", *from_base(base, aggregation="svd"))
    max((cut.folder / "checkpoints").iterdir()).unlink()
    (cut.folder / "model.safetensors").unlink()
    again = run(tmp_path, *from_base(base, aggregation="svd"), resume=cut.folder)
    for name, tensor in weights(whole).items():
        assert tensor.tobytes() == weights(again)[name].tobytes()


def test_baselines_and_privacy_go_with_adapters(base: Run, tmp_path: Path) -> None:
    private = (
        "privacy={mode: dp-sgd, epsilon: 6, delta: 1e-3, max_grad_norm: 1.0}",
        "data.statistics=schema",
        "baselines=[local, pooled]",
        "rounds=2",
    )
    finished = run(tmp_path, *from_base(base), *private)
    assert set(finished.summary["baselines"]) == {"local", "pooled"}
    assert 5.9 < finished.summary["privacy"]["epsilon"] <= 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("shared=[head.*]", "leave shared out"),
        ("strategy={name: fedbn}", "another strategy than fedbn"),
        ("strategy={name: krum}", "use ffa"),
        ("strategy={name: scaffold}", "use ffa"),
    ],
)
def test_what_does_not_go_with_adapters_is_refused_when_the_file_is_read(
    base: Run, change: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run_config(QUICKSTART, [*FAST, *from_base(base, aggregation="svd"), change])


def test_adapters_of_another_network_are_refused_before_the_first_round(
    base: Run, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="and these are others"):
        run(tmp_path, *from_base(base, base="'" + "0" * 64 + "'"))
