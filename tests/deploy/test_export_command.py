"""`fedward export` of a run that really was."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedward.common.errors import ConfigError
from fedward.deploy.cli import main

SMALL = ("engine.name=inprocess", "repeat=null", "baselines=[]", "rounds=3", "local.epochs=4")
WATCHED = ("monitor.cme.maps=true", "monitor.cme.layers=all")


@pytest.mark.slow
def test_a_watched_run_is_in_tensorboard_round_by_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [part for setting in (*SMALL, *WATCHED) for part in ("--set", setting)]
    runs = str(tmp_path / "runs")
    assert main(["simulate", "quickstart", *settings, "--out", runs]) == 0
    capsys.readouterr()
    out = tmp_path / "curves"
    assert main(["export", "latest", "--runs", runs, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["folder"], answer["sites"], answer["all_pictures"]) == (str(out), 5, True)
    events = EventAccumulator(str(out / "sites" / "site-1"), {"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    layers = {tag.split("/")[1] for tag in tags["scalars"] if tag.startswith("cme/")}
    assert layers == {tag.split("/")[1] for tag in tags["images"]} != set()
    assert answer["pictures"] == 5 * 3 * len(layers)
    history = (tmp_path / "runs" / "latest" / "history.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, history) if line["site"] == "site-1"]
    for tag, phase, name in (
        ("train/loss", "train", "train_loss"),
        ("evaluate/auroc", "evaluate", "auroc"),
    ):
        told = {line["round"]: line["metrics"][name] for line in lines if line["phase"] == phase}
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx(told, rel=1e-6)


def test_a_run_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["export", "nothing", "--runs", str(tmp_path), "--out", str(tmp_path / "out")])
    assert code == ConfigError.exit_code
    said = capsys.readouterr().err
    assert "no run at 'nothing'" in said
    assert "Traceback" not in said
