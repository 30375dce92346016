"""Federations in which hospitals train networks of their own and have only a head in common."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedward.client.store import SiteStore
from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.common.study import Study
from fedward.common.task import Split
from fedward.simulations.cli import find_config
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = [
    "engine.name=inprocess",
    "repeat=null",
    "baselines=[]",
    "rounds=3",
    "model={name: mlp, hidden: [32, 16]}",
    "shared=[head.*]",
]
OWN = [
    "models.site-1={name: mlp, hidden: [8, 16]}",
    "models.site-2={name: mlp, hidden: [24, 24, 16]}",
    "models.site-3={name: mlp, hidden: [8, 16]}",
]


def run(out: Path, *overrides: str, **keys: Any) -> Run:
    config = load_run_config(QUICKSTART, [*FAST, *OWN, *overrides]).config
    return simulate(config, base_dir=QUICKSTART.parent, out=out, **{"report": False, **keys})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("mixed"), "baselines=[local]")


def kept(finished: Run, site: str) -> dict[str, np.ndarray]:
    """Return what a site has kept of its own network."""
    store = SiteStore(finished.folder / "site-store.sqlite")
    try:
        found = store.get("quickstart-federated-seed23", site, "local", before_round=99)
    finally:
        store.close()
    assert found is not None
    return found


def test_each_hospital_trains_its_own_body_and_only_the_head_is_averaged(mixed: Run) -> None:
    widths = {site: kept(mixed, site)["body.0.weight"].shape[0] for site in mixed.summary["sites"]}
    assert widths == {
        "site-1": 8, "site-2": 24, "site-3": 8, "site-4": 32, "site-5": 32
    }  # fmt: skip
    assert "head.weight" not in kept(mixed, "site-2")
    assert not np.array_equal(
        kept(mixed, "site-1")["body.0.weight"], kept(mixed, "site-3")["body.0.weight"]
    )


def test_hospitals_learn_with_the_head_that_they_share(mixed: Run) -> None:
    assert mixed.summary["global"]["metrics"]["auroc"]["low"] > 0.7, "0.5 is chance"
    assert set(mixed.summary["baselines"]) == {"local"}


def test_an_interrupted_run_goes_on_with_the_bodies_that_the_sites_have(
    mixed: Run, tmp_path: Path
) -> None:
    cut = run(tmp_path, "baselines=[local]")
    max((cut.folder / "checkpoints").iterdir()).unlink()
    (cut.folder / "model.safetensors").unlink()
    again = run(tmp_path, "baselines=[local]", resume=cut.folder)
    one, two = (load_file(r.folder / "model.safetensors") for r in (mixed, again))
    np.testing.assert_array_equal(one["head.weight"], two["head.weight"])
    for site in mixed.summary["sites"]:
        for name, tensor in kept(mixed, site).items():
            np.testing.assert_array_equal(tensor, kept(again, site)[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("models.site-2={name: mlp, hidden: [8, 12]}", r"head\.weight has the shape \(2, 12\)"),
        ("models.site-2={name: logistic-regression}", r"models\.site-2: shared"),
        ("models.nowhere={name: mlp, hidden: [8, 16]}", r"models\.nowhere: there is no such site"),
        ("shared=[tail.*]", "matches no tensor"),
    ],
)
def test_parts_that_do_not_fit_are_named_before_the_first_round(
    tmp_path: Path, change: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("shared=['*']", "name in shared what they have in common"),
        ("baselines=[pooled]", "no one network"),
        ("models.site-2.init=x.safetensors", "leave out init and lora"),
        ("model.lora={rank: 2}", "leave out init and lora"),
    ],
)
def test_what_does_not_go_with_own_networks_is_refused_when_the_file_is_read(
    change: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_run_config(QUICKSTART, [*FAST, *OWN, change])


def test_a_site_builds_the_network_that_the_run_gives_to_it() -> None:
    config = load_run_config(QUICKSTART, [*FAST, *OWN]).config
    study = Study(config, "federated", Split(1), QUICKSTART.parent)
    assert study.at("site-2").new_model().body[2].out_features == 24  # type: ignore[index, union-attr]
    assert study.at("site-5").new_model().body[0].out_features == 32  # type: ignore[index, union-attr]
    first, again = study.at("site-2").new_model(), study.at("site-2").new_model()
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
