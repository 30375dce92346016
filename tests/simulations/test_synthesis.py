"""A federated synthesis on one machine: every method to its end, and what goes wrong on the way."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedward.client.data.read import read_frame, table_from_frame
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError, QuorumLostError
from fedward.common.flower import LazyArray
from fedward.common.records import SYNTHESIS_QUERY, record_of
from fedward.common.tables.synthetic_rows import LABEL, VALUES
from fedward.deploy.commands import synth_federated
from fedward.server.given_files import read_given
from fedward.server.history import History
from fedward.simulations.cli import guarded
from fedward.simulations.engine import open_grid
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.simulate import simulate
from fedward.simulations.synthesis import hold, prepared, synthesise
from fedward.simulations.synthetic_tables import copula_of, study_of_run, tables_of
from fedward.synth.tables.dp_copula import DPGaussianCopula

SITES = ("site-1", "site-2", "site-3")
RUN = """\
version: 1
name: masses
seed: 5
task: ehr-classification
data:
  root: builtin
  schema: breast-cancer
  features: [mean_texture, mean_smoothness, worst_texture, worst_symmetry]
  partition: {table: breast-cancer, by: iid, num_sites: 3}
model: {name: logistic-regression}
strategy: {name: fedavg}
rounds: 2
local: {epochs: 4, batch_size: 16, learning_rate: 0.1}
engine: {name: inprocess}
sampling: {min_replies: 2}
synthesis:
  method: rows
  rows_per_site: 60
"""
METHODS: dict[str, tuple[str, ...]] = {
    "rows": (),
    "rows by kde-knn": ("synthesis.synthesiser={name: kde-knn}",),
    "filtered-rows": ("synthesis.method=filtered-rows",),
    "copula": ("synthesis.method=copula",),
    "dp-copula": ("synthesis.method=dp-copula", "synthesis.epsilon=8", "synthesis.delta=1e-4"),
}


def configured(folder: Path, *overrides: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    return load_run_config(path, overrides).config


def held(folder: Path, *overrides: str) -> tuple[Path, dict[str, Any], list[str]]:
    lines: list[str] = []
    config = configured(folder, *overrides)
    run = synthesise(config, base_dir=folder, out=folder / "runs", say=lines.append)
    return run, json.loads((run / "summary.json").read_text()), lines


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_rows_that_a_model_learns_real_patients_from(
    tmp_path: Path, name: str
) -> None:
    run, summary, lines = held(tmp_path, *METHODS[name])
    synthesis = summary["synthesis"]
    assert synthesis["rows"] == 180
    assert set(synthesis["sites"]) == set(SITES)
    utility = synthesis["trained_on_rows_tested_on_patients"]["global"]["metrics"]["auroc"]
    # Chance is .5, with a standard error of .03 at 170 test patients.
    assert utility["value"] > 0.75
    by_rows = "rows" in name
    assert len(summary["files"]) == {True: 4, False: 1}[by_rows] + (name == "dp-copula")
    assert all((run / file).is_file() for file in summary["files"])
    assert (synthesis.get("epsilon"), synthesis.get("delta")) == (
        (8.0, 1e-4) if name == "dp-copula" else (None, None)
    )
    for site in SITES if by_rows else ():
        told = synthesis["sites"][site]
        assert told["rows_left"] == 100_000 - 60
        assert sum(one["returned"] for one in told["classes"].values()) == 60
    trained = [line for line in lines if line.startswith("round")]
    assert len(trained) == (2 if name == "filtered-rows" else 0)


def test_the_table_reads_like_patients_of_the_run_s_schema(tmp_path: Path) -> None:
    run, _, _ = held(tmp_path)
    study = study_of_run(run)
    schema = study.task.schema  # type: ignore[attr-defined]
    pooled = read_frame(run / "synthetic" / "pooled.csv")
    parts = [read_frame(run / "synthetic" / f"site-{site}.csv") for site in SITES]
    assert len(pooled) == sum(map(len, parts)) == 180
    narrow = schema.model_copy(update={"fields": schema.select(study.config.data.features)})
    table = table_from_frame(pooled, narrow, place="pooled.csv")
    assert np.bincount(table.label).tolist() == [90, 90]


def test_the_same_run_again_gives_the_same_rows(tmp_path: Path) -> None:
    runs = [held(tmp_path)[0] for _ in range(2)]
    first, again = (pd.read_csv(run / "synthetic" / "pooled.csv") for run in runs)
    pd.testing.assert_frame_equal(first, again)


# Ray leaves processes running that it ends later.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_ray_gives_the_same_rows(tmp_path: Path) -> None:
    one = held(tmp_path)[0]
    other = held(tmp_path, "engine.name=ray", "engine.num_actors=2")[0]
    pd.testing.assert_frame_equal(
        pd.read_csv(one / "synthetic" / "pooled.csv"),
        pd.read_csv(other / "synthetic" / "pooled.csv"),
    )


def test_a_copula_gives_any_number_of_rows_afterwards_and_its_class_shares(tmp_path: Path) -> None:
    run, _, _ = held(tmp_path, "synthesis.method=copula", "synthesis.class_shares=original")
    study, given = study_of_run(run), read_given(run)
    assert given is not None
    many = tables_of(given, study, num_rows=5000, seed=9)
    other = tables_of(given, study, num_rows=5000, seed=10)
    assert len(many.pooled) == 5000
    assert (many.pooled.columns["mean_texture"] != other.pooled.columns["mean_texture"]).any()
    _, sizes = copula_of(given, study)
    benign = many.pooled.label.mean()
    assert abs(benign - sizes[1] / sum(sizes.values())) < 1e-3
    rows = held(tmp_path)[0]
    given, study = read_given(rows), study_of_run(rows)
    assert given is not None
    with pytest.raises(ConfigError, match="only a copula"):
        tables_of(given, study, num_rows=5)


def test_a_private_copula_says_what_it_promises_and_can_be_kept(tmp_path: Path) -> None:
    run, summary, _ = held(tmp_path, *METHODS["dp-copula"])
    model = DPGaussianCopula.load(run / "synthetic" / "copula.synth")
    claim = model.privacy_claim()
    assert (claim.epsilon, claim.delta, claim.is_reproducible) == (8.0, 1e-4, True)
    assert summary["synthesis"]["claim"]["is_reproducible"], "a simulation's noise is no secret"
    assert len(model.sample(50, seed=1)) == 50


def test_simulate_does_not_hold_a_synthesis_and_says_what_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedward synth federated"):
        simulate(configured(tmp_path), base_dir=tmp_path, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_without_rows_to_make_and_unknown_classes_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section `synthesis`"):
        prepared(configured(tmp_path, "synthesis=null"), tmp_path)
    with pytest.raises(ConfigError, match="the schema has no class 'maligned'"):
        prepared(configured(tmp_path, "synthesis.class_counts={maligned: 60}"), tmp_path)


class TamperingGrid(SimulationGrid):
    """Passes messages on, but changes what one site sends."""

    def __init__(self, inner: SimulationGrid, name: str, values: Any) -> None:
        self.inner, self.name, self.values = inner, name, values
        super().__init__()

    def prepare(self, *args: Any, **keys: Any) -> None:
        self.inner.prepare(*args, **keys)

    def close(self) -> None:
        self.inner.close()

    def exchange(self, messages: Any, timeout: float | None) -> Any:
        replies = self.inner.exchange(messages, timeout)
        for reply in replies:
            if reply.metadata.message_type == SYNTHESIS_QUERY and reply.metadata.src_node_id == 1:
                arrays = dict(reply.content.array_records["arrays"].items())
                old = arrays[self.name].numpy()
                arrays[self.name] = LazyArray(self.values(old))
                reply.content["arrays"] = record_of(arrays)
        return replies


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (VALUES, lambda old: old + 1e6, "values that the schema does not allow"),
        (VALUES, lambda old: old[:-1], "expected float64"),
        (VALUES, lambda old: old * np.nan, "NaN or infinite"),
        (LABEL, lambda old: 1 - old, "not of the classes that were asked for"),
    ],
)
def test_one_bad_reply_costs_its_site_and_not_the_synthesis(
    tmp_path: Path, name: str, change: Any, told: str
) -> None:
    config = configured(tmp_path)
    federation = prepared(config, tmp_path)
    grid = TamperingGrid(open_grid(config.engine), name, change)
    given = hold(federation, grid, history=History(), say=lambda line: None)
    assert set(given.by_site) == set(SITES[1:])
    (refused,) = given.refused
    assert (refused.site, refused.status) == (SITES[0], "rejected")
    assert told in refused.reason
    strict = configured(tmp_path, "sampling.min_replies=3")
    with pytest.raises(QuorumLostError, match="2 sites gave rows"):
        hold(prepared(strict, tmp_path), grid, history=History(), say=lambda line: None)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    synth_federated.add(parser.add_subparsers())
    args = parser.parse_args(["federated", *arguments])
    return guarded(lambda: int(args.command(args)))


def test_the_command_shows_rows_figures_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    config, out = str(tmp_path / "run.yaml"), str(tmp_path / "runs")
    parquet = ["--format", "parquet", "--out", out]
    assert command(config, "--set", "synthesis.method=copula", *parquet) == 0
    shown = capsys.readouterr().out
    assert "copula: 180 rows" in shown
    assert shown.count("tested on patients of site-") == 3
    assert len(pd.read_parquet(shown.splitlines()[-1])) == 180
    again = ["--from", "latest", "--rows", "25", "--json"]
    assert command(*again, "--out", out) == 0
    assert json.loads(capsys.readouterr().out)["synthesis"]["rows"] == 25
    assert len(pd.read_csv(tmp_path / "runs" / "latest" / "synthetic" / "pooled.csv")) == 25


def test_the_command_names_file_line_and_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(tmp_path)
    config = str(tmp_path / "run.yaml")
    smote = ["--set", "synthesis.synthesiser={name: smote}"]
    assert command(config, *smote) == 2
    assert "synthesis.synthesiser.name: smote" in capsys.readouterr().err
    assert command(config, "--rows", "5") == 2
    assert command() == 2
