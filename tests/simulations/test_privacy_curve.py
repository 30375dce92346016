"""What privacy costs: figures by hand, and a small curve that is interrupted and goes on."""

import argparse
import json
import math
from pathlib import Path

import pytest

from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError
from fedward.deploy.commands import privacy_curve as command
from fedward.simulations.cli import find_config
from fedward.simulations.over_seeds import append_result, read_results
from fedward.simulations.privacy_curve import Trained, points_of, train_curve
from fedward.simulations.privacy_curve_page import as_markdown

QUICKSTART = find_config("quickstart")
FAST = [
    "engine.name=inprocess",
    "repeat=null",
    "rounds=2",
    "data.statistics=schema",
    "privacy.mode=dp-sgd",
    "privacy.epsilon=6",
    "privacy.delta=0.001",
    "privacy.max_grad_norm=1.0",
]


def trained(epsilon: float | None, seed: int, federated: float, alone: float) -> Trained:
    return Trained(
        study="s",
        epsilon=epsilon,
        seed=seed,
        metric="auroc",
        federated={"a": federated + 0.1, "b": federated - 0.1},
        alone={"a": alone, "b": alone},
        spent=epsilon,
    )


RUNS = [
    trained(None, 1, 0.8, 0.7),
    trained(2.0, 1, 0.7, 0.72),
    trained(None, 2, 0.9, 0.7),
    trained(2.0, 2, 0.8, 0.62),
]


def test_the_cost_is_paired_by_seed_and_sites_count_once() -> None:
    plain, private = points_of(RUNS)
    assert plain.epsilon is None
    assert plain.federated.value == pytest.approx(0.85)
    assert private.cost.value == pytest.approx(-0.1)
    # Both seeds lose exactly 0.1: the interval of pairs is a point, that of means is wide.
    assert private.cost.low == pytest.approx(-0.1)
    assert private.federated.low is not None
    assert private.federated.low < 0.2
    assert private.federated.high == 1.0, "a t interval ends where the figure does"
    assert private.gain.value == pytest.approx((-0.02 + 0.18) / 2)
    assert private.federated_at["a"].value == pytest.approx(0.85)
    assert private.spent == 2.0


def test_a_site_without_the_figure_counts_in_no_mean() -> None:
    one = trained(2.0, 1, 0.7, 0.7)
    gap = Trained(**{**vars(one), "federated": {"a": 0.8, "b": None}})
    assert points_of([gap])[0].federated.value == pytest.approx(0.8)


def test_the_table_says_unit_and_mode_and_has_a_row_for_each_epsilon() -> None:
    config = load_run_config(QUICKSTART, FAST).config
    page = as_markdown(config, RUNS, points_of(RUNS))
    assert "privacy.mode dp-sgd, unit patient, delta 0.001" in page
    assert "| 2 | 0.750" in page
    assert "| inf | 0.850" in page
    assert "-0.100 (-0.100 to -0.100)" in page


def test_runs_are_read_back_and_one_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for one in RUNS[:2]:
        append_result(path, one)
    with path.open("a") as file:
        file.write('{"study": "s", "epsil')
    assert read_results(path, Trained) == RUNS[:2]
    append_result(path, RUNS[2])
    assert read_results(path, Trained) == RUNS[:3]
    assert read_results(tmp_path / "none", Trained) == []


@pytest.mark.parametrize(
    ("overrides", "epsilons", "said"),
    [
        (["privacy=null"], [1.0], "needs a private run"),
        ([], [0.0], "epsilon"),
        ([], [1.0, 1.0], "each epsilon once"),
        ([], [], "each epsilon once"),
    ],
)
def test_a_curve_that_means_nothing_is_refused(
    overrides: list[str], epsilons: list[float | None], said: str
) -> None:
    kept = [one for one in FAST if not overrides or not one.startswith("privacy")]
    config = load_run_config(QUICKSTART, [*kept, *overrides]).config
    with pytest.raises(ConfigError, match=said):
        list(train_curve(config, QUICKSTART.parent, epsilons, num_seeds=1))


def test_results_of_another_study_are_not_mixed_in() -> None:
    config = load_run_config(QUICKSTART, FAST).config
    with pytest.raises(ConfigError, match="another configuration"):
        list(train_curve(config, QUICKSTART.parent, [1.0], num_seeds=1, known=RUNS))


def curve(folder: Path, *epsilons: float) -> int:
    sets = [part for one in FAST for part in ("--set", one)]
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    told = [f"{one:g}" for one in epsilons]
    argv = ["curve", "quickstart", *sets, "--seeds", "1", "--out", str(folder), "--epsilon", *told]
    args = parser.parse_args(argv)
    return int(args.command(args))


def test_the_command_goes_on_where_it_ended_and_leaves_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert curve(tmp_path, math.inf) == 0
    before = (tmp_path / "results.jsonl").read_text()
    assert curve(tmp_path, math.inf, 6) == 0
    after = (tmp_path / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 2
    said = capsys.readouterr()
    assert said.err.count("epsilon inf") == 1
    found = json.loads((tmp_path / "curve.json").read_text())
    assert [one["epsilon"] for one in found["points"]] == [None, 6.0]
    assert 5.9 < found["runs"][1]["spent"] <= 6
    assert found["runs"][0]["spent"] is None
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "curve.svg").read_bytes()
