"""The four scenarios: figures by hand, the shipped file, and a small study that goes on."""

import argparse
import json
import re
from pathlib import Path

import pytest

from fedward.common.errors import ConfigError
from fedward.deploy.commands import scenarios as command
from fedward.simulations.cli import find_config
from fedward.simulations.scenarios import (
    SCENARIOS,
    Client,
    Trained,
    clients_of,
    load_scenarios,
    mean_gain,
    train_scenarios,
    weakest,
)
from fedward.simulations.scenarios_page import PAPER, as_json, as_markdown, findings

QUICKSTART = str(find_config("quickstart"))
FAST = [
    "engine.name=inprocess",
    "repeat=null",
    "rounds=2",
    "evaluate_every=2",
    "data.partition.num_sites=3",
    "data.partition.num_patients=240",
    "model={name: mlp, hidden: [32, 16]}",
    "models.site-2={name: mlp, hidden: [8, 16]}",
    "models.site-3={name: mlp, hidden: [24, 24, 16]}",
    "shared=[head.*]",
]


def trained(scenario: int, seed: int, federated: list[float], alone: list[float]) -> Trained:
    def figures(values: list[float]) -> dict[str, dict[str, float | None]]:
        sites = ("site-1", "site-2", "site-3")
        return {
            site: {"accuracy": value, "auroc": None}
            for site, value in zip(sites, values, strict=True)
        }

    return Trained(
        study="s",
        scenario=scenario,
        seed=seed,
        federated=figures(federated),
        alone=figures(alone),
        num_tested={"site-1": 40, "site-2": 40, "site-3": 39 + seed},
        majority={"site-1": 0.3, "site-2": 0.3, "site-3": 0.25},
    )


def four(seed: int, federated: list[float], alone: list[float]) -> list[Trained]:
    return [trained(one.number, seed, federated, alone) for one in SCENARIOS]


BETTER = [*four(1, [0.7, 0.6, 0.5], [0.7, 0.4, 0.5]), *four(2, [0.8, 0.7, 0.5], [0.7, 0.5, 0.6])]


def clients(runs: list[Trained], *overrides: str) -> list[Client]:
    return clients_of(load_scenarios("cme", overrides)[0], runs)


def test_differences_are_paired_by_seed_and_the_weakest_is_weakest_alone() -> None:
    found = clients(BETTER)
    assert [one.site for one in found] == ["site-1", "site-2", "site-3"] * 4
    own = weakest(found[:3])
    assert (own.site, own.network) == ("site-2", "cme-densenet")
    gain = own.figures["accuracy"].gain
    # Both seeds gain exactly 0.2, so that the interval of pairs is a point; that of means is wide.
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.2, 0.2, 0.2))
    assert own.figures["accuracy"].alone.value == pytest.approx(0.45)
    assert own.figures["accuracy"].alone.low == 0.0
    # Means over sites: 0.6 - 0.5333 and 0.6667 - 0.6.
    assert mean_gain(BETTER, SCENARIOS[0], "accuracy").value == pytest.approx(0.2 / 3)
    assert own.figures["auroc"].gain.value is None
    assert found[2].num_tested == (40, 41)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (BETTER, "sharing head.* is better than training alone at the weakest site, site-2"),
        (
            [
                *four(1, [0.7, 0.3, 0.5], [0.7, 0.4, 0.5]),
                *four(2, [0.8, 0.4, 0.5], [0.7, 0.5, 0.6]),
            ],
            "sharing head.* is worse than training alone",
        ),
        (
            [
                *four(1, [0.7, 0.5, 0.5], [0.7, 0.4, 0.5]),
                *four(2, [0.8, 0.4, 0.5], [0.7, 0.5, 0.6]),
            ],
            "sharing head.* is, in 2 seeds, not seen to be better than training alone",
        ),
        (BETTER[:4], "cannot be told from one seed"),
    ],
)
def test_the_verdict_is_that_of_the_interval_at_the_weakest_site(
    runs: list[Trained], said: str
) -> None:
    configs, _ = load_scenarios("cme")
    first, second, *_ = findings(configs, runs, clients_of(configs, runs))
    assert said in first
    assert "averaging the whole network" in second


def test_the_page_has_the_papers_figures_beside_ours_only_on_the_papers_images() -> None:
    configs, _ = load_scenarios("cme")
    page = as_markdown(configs, BETTER, clients_of(configs, BETTER))
    row = "| 1: different data, different networks | site-3 | cme-alexnet | 40-41 | 0.500"
    assert row in page
    assert "| 0.250 | 0.856 |" in page
    assert "251 of the 394" in page
    assert "900 of 2,870" in page
    assert "6 rounds of 32 steps" in page
    other, _ = load_scenarios(QUICKSTART, FAST)
    page = as_markdown(other, BETTER, clients_of(other, BETTER))
    assert "0.856" not in page
    assert "251 of the 394" not in page
    found = as_json(other, BETTER, clients_of(other, BETTER))
    assert all(one["paper"] is None for one in found["clients"])


def test_the_shipped_scenarios_are_those_of_the_papers_table_1() -> None:
    configs, _ = load_scenarios("cme")
    three = ["cme-resnet", "cme-densenet", "cme-alexnet"]
    runs = four(1, [0.5] * 3, [0.5] * 3)
    networks = [one.network for one in clients_of(configs, runs)]
    assert networks == [*three, *["cme-resnet"] * 3] * 2
    assert set(PAPER) == set(configs) == {1, 2, 3, 4}
    partitions = [config.data.partition for config in configs.values()]
    assert [one.by for one in partitions if one] == ["iid", "iid", "copies", "copies"]
    assert [config.shared for config in configs.values()] == [("head.*",), ("*",)] * 2
    for config in configs.values():
        assert config.baselines == ("local",)
        assert config.monitor.cme is not None
        assert config.monitor.cme.maps


def test_the_command_in_the_file_brings_the_papers_networks_and_budget() -> None:
    path = Path(load_scenarios("cme")[1]) / "cme.yaml"
    comment = path.read_text().split("version:")[0]
    overrides = re.findall(r"--set (\S+)", comment)
    assert len(overrides) > 6
    config = load_scenarios("cme", overrides)[0][1]
    assert config.models is not None
    for model in (config.model, *config.models.values()):
        assert (model.model_extra or {})["preset"] == "published"
    assert (config.rounds, config.local.epochs, config.local.steps) == (10, 10, None)
    assert config.data.partition is not None
    assert config.data.partition.num_patients is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["models=null", "shared=['*']"], "it needs models"),
        (["data.partition.by=copies"], "it needs models, and data.partition that deals"),
    ],
)
def test_a_file_that_is_not_scenario_1_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_scenarios(QUICKSTART, [*FAST, *overrides])


def test_results_of_another_study_and_no_seed_are_refused(tmp_path: Path) -> None:
    configs, base_dir = load_scenarios(QUICKSTART, FAST)
    with pytest.raises(ConfigError, match="another configuration"):
        list(train_scenarios(configs, base_dir, tmp_path, num_seeds=1, known=BETTER))
    with pytest.raises(ConfigError, match="one or more"):
        list(train_scenarios(configs, base_dir, tmp_path, num_seeds=0))


def study(folder: Path, seeds: int) -> int:
    sets = [part for one in FAST for part in ("--set", one)]
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    args = parser.parse_args(
        ["scenarios", QUICKSTART, *sets, "--seeds", str(seeds), "--out", str(folder)]
    )
    return int(args.command(args))


@pytest.mark.slow
def test_the_command_goes_on_where_it_ended_and_keeps_the_first_seeds_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(tmp_path, 1) == 0
    before = (tmp_path / "results.jsonl").read_text()
    capsys.readouterr()
    assert study(tmp_path, 2) == 0
    after = (tmp_path / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 8
    assert capsys.readouterr().err.count("seed 1,") == 0
    for number in range(1, 5):
        assert (tmp_path / f"scenario-{number}" / "report.html").is_file()
    assert (tmp_path / "scenarios.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "scenarios.svg").read_bytes()
    lines = [json.loads(line) for line in after.splitlines()]
    same = next(one for one in lines if one["scenario"] == 4)
    # One network and one set of test patients: the three sites can but find the same figures.
    assert len({json.dumps(found) for found in same["federated"].values()}) == 1
    assert set(same["num_tested"].values()) == {72}
    different = next(one for one in lines if one["scenario"] == 1)
    assert 70 < sum(different["num_tested"].values()) < 75
