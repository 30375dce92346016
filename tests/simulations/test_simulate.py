"""Whole runs, as a data scientist starts them, on scikit-learn's clinical table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.server.history import read_history
from fedward.simulations.cli import find_config, main
from fedward.simulations.simulate import Run, simulate

QUICKSTART = find_config("quickstart")
FAST = ["engine.name=inprocess", "baselines=[]", "repeat=null"]
STATEFUL = {
    "fedavg": [],
    "scaffold": ["strategy.name=scaffold"],
    "ditto": ["strategy.name=ditto"],
    "fedbn": ["strategy.name=fedbn", "model.norm=batch"],
    "fedadam": ["strategy.name=fedadam"],
    "a shared head": ["shared=[head.*]"],
    "dropout": ["model.dropout=0.3"],
}


def config(*overrides: str) -> RunConfig:
    return load_run_config(QUICKSTART, [*FAST, *overrides]).config


def run(out: Path, *overrides: str, **keys: Any) -> Run:
    return simulate(
        config(*overrides), base_dir=QUICKSTART.parent, out=out, **{"report": False, **keys}
    )


def weights(finished: Run) -> dict[str, Any]:
    return load_file(finished.folder / "model.safetensors")


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("runs"), "rounds=6", "baselines=[local,pooled]", report=True)


def test_a_run_leaves_everything_that_the_contract_names(finished: Run) -> None:
    left = {path.name for path in finished.folder.iterdir()}
    assert left >= {
        "config.yaml", "history.jsonl", "summary.json", "report.html", "plots",
        "checkpoints", "model.safetensors", "model_card.md", "audit.jsonl",
    }  # fmt: skip
    assert (finished.folder.parent / "latest").resolve() == finished.folder


def test_hospitals_learn_more_than_the_majority_class(finished: Run) -> None:
    auroc = finished.summary["global"]["metrics"]["auroc"]
    assert auroc["low"] > 0.7, "0.5 is chance"


def test_the_summary_has_the_shape_of_the_contract(finished: Run) -> None:
    summary = finished.summary
    assert summary["stopped_by"] == "rounds"
    assert summary["rounds_run"] == 6
    assert set(summary["baselines"]) == {"local", "pooled"}
    assert len(summary["sites"]) == 5
    for site in summary["sites"].values():
        assert site["num_examples"].keys() == {"train", "test"}
        for figure in site["metrics"].values():
            assert figure["value"] is None or figure["low"] <= figure["value"] <= figure["high"]
            assert figure["n"] > 0 or figure["value"] is None
            assert (figure["value"] is None) == bool(figure["reason"])
    assert len(summary["seconds"]["rounds"]) == 6
    assert summary["bytes"]["sent"] > summary["bytes"]["received"] > 0


def test_pooled_is_the_same_model_on_all_rows_and_local_is_not_shared(finished: Run) -> None:
    baselines = finished.summary["baselines"]
    pooled = baselines["pooled"]["sites"]
    assert set(pooled) == set(finished.summary["sites"])
    values = [
        [baselines[kind]["sites"][site]["metrics"]["brier"]["value"] for site in sorted(pooled)]
        for kind in ("local", "pooled")
    ]
    assert values[0] != values[1]


def test_history_has_a_line_per_round_and_site(finished: Run) -> None:
    lines = read_history(finished.folder / "history.jsonl")
    trained = [(line["round"], line["site"]) for line in lines if line["phase"] == "train"]
    assert len(trained) == len(set(trained)) == 6 * (5 + 1)
    assert all("reason" not in line for line in lines), "absent keys are absent, not null"
    table = finished.history
    assert len(table) == len(lines)
    assert "metrics.auroc" in table.columns


def test_the_saved_model_is_the_one_that_was_trained(finished: Run) -> None:
    model = finished.model()
    saved = weights(finished)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.from_numpy(saved[name]))


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(kind: str, tmp_path: Path) -> None:
    own = STATEFUL[kind]
    whole = run(tmp_path / "whole", "rounds=4", *own)
    half = run(tmp_path / "half", "rounds=2", *own)
    resumed = run(tmp_path / "half", "rounds=4", *own, resume=half.folder)
    assert_same(weights(whole), weights(resumed))
    for key in ("sites", "global", "rounds_run", "bytes"):
        assert without_seconds(whole.summary[key]) == without_seconds(resumed.summary[key]), key
    assert len(resumed.summary["seconds"]["rounds"]) == 4


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return value


def test_resuming_a_run_that_was_through_changes_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "rounds=2")
    lines = (done.folder / "history.jsonl").read_text()
    again = run(tmp_path, "rounds=2", resume=done.folder)
    assert (again.folder / "history.jsonl").read_text() == lines
    for key in ("sites", "global", "bytes", "rounds_run"):
        assert without_seconds(done.summary[key]) == without_seconds(again.summary[key]), key


def test_site_state_matters_or_the_resume_test_would_prove_nothing(tmp_path: Path) -> None:
    own = STATEFUL["scaffold"]
    whole = run(tmp_path / "whole", "rounds=4", *own)
    half = run(tmp_path / "half", "rounds=2", *own)
    for file in half.folder.glob("site-store.sqlite*"):
        file.unlink()
    resumed = run(tmp_path / "half", "rounds=4", *own, resume=half.folder)
    assert weights(whole)["head.weight"].tobytes() != weights(resumed)["head.weight"].tobytes()


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "rounds=40", "strategy.name=scaffold")
    overrides = [*FAST, "rounds=40", "strategy.name=scaffold"]
    command = [sys.executable, "-m", "fedward.simulations.run", "--out", str(tmp_path)]
    command += [part for override in overrides for part in ("--set", override)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("quickstart-*/checkpoints/round-000*3.safetensors")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = tmp_path.glob("quickstart-*")
    assert not (folder / "summary.json").exists(), "killed before its end"
    assert main(["--resume", folder.name, "--out", str(tmp_path), "--json"]) == 0
    assert_same(weights(whole), weights(Run(folder)))


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_model(tmp_path: Path) -> None:
    one, two = (weights(run(tmp_path, "rounds=2")) for _ in range(2))
    assert_same(one, two)
    other = weights(run(tmp_path, "rounds=2", "seed=2"))
    assert one["head.weight"].tobytes() != other["head.weight"].tobytes()


@pytest.mark.parametrize(
    "own",
    [
        [],
        ["strategy.name=scaffold"],
        pytest.param(["strategy.name=fedprox", "strategy.proximal_mu=0.5"], marks=pytest.mark.slow),
        pytest.param(["strategy.name=fedbn", "model.norm=layer"], marks=pytest.mark.slow),
        ["shared=[head.*]"],
        ["model.name=ft-transformer", "model.hidden=null", "model.d_token=8"],
    ],
    ids=lambda own: own[0] if own else "fedavg",
)
def test_stacked_and_one_by_one_agree(own: list[str], tmp_path: Path) -> None:
    stacked = weights(run(tmp_path, "rounds=3", "engine.vectorised=auto", *own))
    alone = weights(run(tmp_path, "rounds=3", "engine.vectorised=off", *own))
    for name, tensor in stacked.items():
        np.testing.assert_allclose(tensor, alone[name], atol=1e-5)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_both_engines_give_the_same_model_and_figures(tmp_path: Path) -> None:
    alone = run(tmp_path, "rounds=3", "engine.vectorised=off", "strategy.name=ditto")
    actors = run(
        tmp_path,
        "rounds=3",
        "engine.vectorised=off",
        "strategy.name=ditto",
        "engine.name=ray",
        "engine.num_actors=2",
    )
    assert_same(weights(alone), weights(actors))
    assert without_seconds(alone.summary["sites"]) == without_seconds(actors.summary["sites"])


@pytest.mark.parametrize(
    "strategy", ["fedprox", "fedavgm", "fedmedian", "krum", "qfedavg", "fedyogi"]
)
def test_strategies_learn_on_a_real_table(strategy: str, tmp_path: Path) -> None:
    own = {
        "fedprox": ["strategy.proximal_mu=0.1"],
        "fedavgm": ["strategy.server_momentum=0.5"],
        "qfedavg": ["strategy.client_learning_rate=0.05"],
        "fedyogi": ["strategy.eta=0.05"],
    }.get(strategy, [])
    done = run(tmp_path, "rounds=8", f"strategy.name={strategy}", *own)
    assert done.summary["global"]["metrics"]["auroc"]["value"] > 0.7, "0.5 is chance"


def test_repeats_give_means_with_intervals_over_the_repetitions(tmp_path: Path) -> None:
    done = run(tmp_path, "rounds=2", "repeat.seeds=[1,2,3]")
    repeats = done.summary["repeats"]
    assert [repeat["seed"] for repeat in repeats] == [1, 2, 3]
    values = [repeat["global"]["metrics"]["brier"]["value"] for repeat in repeats]
    mean = done.summary["global"]["metrics"]["brier"]
    assert mean["value"] == pytest.approx(np.mean(values))
    assert mean["n"] == 3
    assert mean["low"] < mean["value"] < mean["high"]
    assert (done.folder / "repeats" / "seed2" / "history.jsonl").exists()


def test_folds_test_every_patient_once(tmp_path: Path) -> None:
    done = run(tmp_path, "rounds=1", "repeat.folds=3")
    tested = [
        sum(site["num_examples"]["test"] for site in repeat["sites"].values())
        for repeat in done.summary["repeats"]
    ]
    assert sum(tested) == 569, "all patients of the table"


def test_a_resumed_repeat_does_not_run_finished_repetitions_again(tmp_path: Path) -> None:
    done = run(tmp_path, "rounds=1", "repeat.seeds=[1,2]")
    marked = done.folder / "repeats" / "seed1" / "summary.json"
    summary = json.loads(marked.read_text())
    summary["marked"] = True
    marked.write_text(json.dumps(summary))
    again = run(tmp_path, "rounds=1", "repeat.seeds=[1,2]", resume=done.folder)
    assert again.summary["repeats"][0].get("marked") is True


def test_a_run_is_not_resumed_with_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(tmp_path, "rounds=1")
    arguments = ["quickstart", "--resume", str(done.folder), "--set", "local.learning_rate=0.5"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_a_run_that_never_began_leaves_nothing_and_latest_stays(
    finished: Run, tmp_path: Path
) -> None:
    nowhere = "model.init=nowhere.safetensors"
    with pytest.raises(ConfigError, match="there is no file"):
        run(tmp_path, nowhere)
    assert list(tmp_path.iterdir()) == []
    done = run(tmp_path, "rounds=1")
    with pytest.raises(ConfigError, match="there is no file"):
        run(tmp_path, nowhere)
    assert (tmp_path / "latest").resolve() == done.folder
    assert {path.name for path in tmp_path.iterdir()} == {"latest", done.folder.name}


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedward.simulations.run", "--out", str(tmp_path)]
    command += ["--engine", "inprocess", "--set", "rounds=5000", "--set", "repeat=null"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("round"):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume latest" in err
    assert "Traceback" not in err
    newest = max((tmp_path / "latest" / "checkpoints").iterdir()).stem
    more = f"rounds={int(newest.removeprefix('round-')) + 1}"
    assert main(["--resume", "latest", "--out", str(tmp_path), "--set", more, "--json"]) == 0
