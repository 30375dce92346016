"""Recording a real federation, and the command that compares stop rules on it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fedward.common.config.loader import load_run_config
from fedward.common.errors import ConfigError, StorageError
from fedward.deploy.cli import main
from fedward.simulations.cli import find_config
from fedward.simulations.engine import open_grid
from fedward.simulations.stopping.observer import left_out_gains, validation_loss
from fedward.simulations.stopping.record import (
    check_seeds,
    federation_of,
    record,
    recorded_config,
)
from fedward.simulations.stopping.recording import Recording

QUICKSTART = find_config("quickstart")
OVERRIDES = ["engine.name=inprocess", "rounds=4", "repeat=null"]


@pytest.fixture(scope="module")
def recorded() -> Recording:
    config = recorded_config(load_run_config(QUICKSTART, OVERRIDES).config)
    grid = open_grid(config.engine)
    return record(config, 23, QUICKSTART.parent, grid=grid, on_round=lambda report: None)


def test_a_recording_holds_what_every_rule_looks_at(recorded: Recording) -> None:
    assert [this.number for this in recorded.rounds] == [1, 2, 3, 4]
    for this in recorded.rounds:
        assert this.num_trained == 5
        assert {"validation_loss", "eval_loss", "auroc"} <= this.figures.keys()
        assert len(this.cme) == 5
        assert this.norm_ratio is not None
        assert this.norm_ratio > 0
        assert this.cosine_of_sites is not None
        assert abs(this.cosine_of_sites) <= 1
        assert len(this.left_out) == 5
        assert (this.pflug is None) == (this.cosine_to_last is None) == (this.number == 1)
    assert recorded.client_epochs(3) == 3 * 5
    assert recorded.rounds[-1].figures["auroc"] > 0.7, "0.5 is chance"


def test_pflug_and_the_cosine_of_rounds_agree_in_sign(recorded: Recording) -> None:
    second = recorded.rounds[1]
    assert second.pflug is not None
    assert second.cosine_to_last is not None
    assert math.copysign(1, second.pflug) == math.copysign(1, second.cosine_to_last)


def test_figures_are_recorded_as_coarse_as_they_leave_a_site(recorded: Recording) -> None:
    told = [
        figures["log_mag"]
        for this in recorded.rounds
        for layers in this.cme.values()
        for figures in layers.values()
    ]
    steps = np.array(told) / 0.05
    assert np.allclose(steps, np.round(steps))


def test_a_recording_survives_its_file(recorded: Recording, tmp_path: Path) -> None:
    path = tmp_path / "seed-23.json"
    recorded.write(path)
    assert Recording.read(path) == recorded
    path.write_text('{"seed": 1}')
    with pytest.raises(StorageError, match="not a recording"):
        Recording.read(path)


def test_leaving_a_site_out_costs_what_its_update_was_worth() -> None:
    # Of models 0, 2 and 7 with weights 1, 1 and 2 the mean is 4; the loss is its square.
    models = [np.array([value], dtype=np.float32) for value in (0.0, 2.0, 7.0)]
    gains = left_out_gains(models, [1, 1, 2], lambda vector: float(vector[0]) ** 2)
    without = [16 / 3, 14 / 3, 1.0]  # means of the other two
    assert gains == pytest.approx([mean**2 - 16 for mean in without], rel=1e-5)


def test_the_loss_on_validation_patients_is_that_of_the_evaluation() -> None:
    config = recorded_config(load_run_config(QUICKSTART, [*OVERRIDES, "rounds=1"]).config)
    grid = open_grid(config.engine)
    seen = record(config, 23, QUICKSTART.parent, grid=grid, on_round=lambda report: None)
    federation = federation_of(config, 23, QUICKSTART.parent, Path())
    loss = validation_loss(federation)
    assert loss is not None
    untrained = loss(federation.initial[1])
    assert untrained > seen.rounds[0].figures["validation_loss"]
    assert untrained == pytest.approx(math.log(2), abs=0.2), "two classes, no knowledge"


def test_nobody_is_left_out_where_a_part_of_the_model_stays_at_the_sites() -> None:
    overrides = [*OVERRIDES, "shared=[head.*]"]
    config = recorded_config(load_run_config(QUICKSTART, overrides).config)
    assert validation_loss(federation_of(config, 23, QUICKSTART.parent, Path())) is None


def test_a_recorded_run_is_never_stopped_and_has_validation_patients() -> None:
    overrides = [*OVERRIDES, "monitor.stop=plateau", "evaluate_every=3"]
    config = recorded_config(load_run_config(QUICKSTART, overrides).config)
    assert config.monitor.stop is None
    assert config.monitor.cme is not None
    assert config.data.validation_fraction == 0.2
    assert config.evaluate_every == 1


def test_two_seeds_are_too_few() -> None:
    config = load_run_config(QUICKSTART, OVERRIDES).config
    assert check_seeds(config, 3) == [23, 24, 25]
    with pytest.raises(ConfigError, match="at least 3"):
        check_seeds(config, 2)


@pytest.mark.slow
def test_the_command_leaves_a_table_and_trains_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [part for each in OVERRIDES for part in ("--set", each)]
    command = ["stopping", "quickstart", *sets, "--seeds", "3", "--out", str(tmp_path), "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    names = [row["rule"] for row in first["rules"]]
    assert names[:2] == ["full", "plateau"]
    assert {"oracle", "saturation-rests"} <= set(names)
    assert "over the tuned validation plateau" in first["sentences"][0].lower()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").iterdir()}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "recordings").iterdir()}
    written = json.loads((tmp_path / "stopping.json").read_text())
    assert written["rules"] == first["rules"]
    assert len(written["recordings"]) == 3
    other = [*command, "--set", "local.learning_rate=0.2"]
    assert main(other) == 7
    assert "another configuration" in capsys.readouterr().err
