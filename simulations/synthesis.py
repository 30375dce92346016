"""Holds a federated synthesis on this machine: the same messages, sites and gate as at hospitals.

Leaves a run folder: `given/` (what the sites gave), `synthetic/` (tables, per site and pooled) and
`summary.json`, where the pooled rows have been tried out: the run's model is trained on them and
tested on each site's real test patients, which no synthesiser has seen.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedward.client.synthetic_rows import check_method
from fedward.common.config.loader import config_hash
from fedward.common.config.run import RunConfig
from fedward.common.errors import FedwardError
from fedward.common.quiet import quiet_third_parties
from fedward.common.tables.synthetic_rows import counts_of
from fedward.common.task import Split
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.audit import AuditLog
from fedward.server.exchange import refused_entry
from fedward.server.given_files import check_is_synthesis, summary_of, write_given
from fedward.server.history import History
from fedward.server.rounds import RoundReport
from fedward.server.synthesis import Given, collect, describe_given
from fedward.simulations.engine import open_grid
from fedward.simulations.federation import Federation, build_worker, plan_of, run_federation
from fedward.simulations.grids.base import SimulationGrid
from fedward.simulations.repetition import versions
from fedward.simulations.simulate import new_folder, point_latest, write_config, write_json
from fedward.simulations.synthetic_tables import SyntheticTables, claim_of, tables_of, write_tables
from fedward.simulations.synthetic_training import tested_on_patients

Say = Callable[[str], None]


def synthesise(
    config: RunConfig, *, base_dir: Path, out: Path, say: Say, ending: str = ".csv"
) -> Path:
    """Hold the synthesis that `config` describes and return the run's folder.

    Args:
        config: with a section `synthesis`.
        base_dir: folder that relative paths in the configuration start from.
        out: where the run folder is made.
        say: shows a line.
        ending: of the tables, `.csv` or `.parquet`.

    Raises:
        FedwardError: as its subclasses say.
    """
    quiet_third_parties()
    federation = prepared(config, base_dir)
    started = time.perf_counter()
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    folder = new_folder(out, config.name)
    write_config(folder, config, base_dir)
    point_latest(out, folder)
    audit = AuditLog(folder / "audit.jsonl")
    audit.write("start", config_hash=config_hash(config), seed=config.seed, versions=versions())
    history = History(folder / "history.jsonl")
    stored = dataclasses.replace(federation, store=folder / "site-store.sqlite")
    grid = open_grid(config.engine)
    try:
        given = hold(stored, grid, history=history, say=say)
    finally:
        grid.close()
    write_given(folder, given)
    audit.write("end", sites=sorted(given.reports), refused=len(given.refused))
    summary, tables = summarised(given, stored, say=say)
    files = write_tables(tables, stored, folder, ending=ending)
    summary |= {
        "files": [str(path.relative_to(folder)) for path in files],
        "engine": config.engine.name,
        "created": created,
        "versions": versions(),
        "seconds": {"total": round(time.perf_counter() - started, 3)},
    }
    write_json(folder / "summary.json", summary)
    return folder


def prepared(config: RunConfig, base_dir: Path) -> Federation:
    """Return the federation of a synthesis, once its keys are in order; no patient is read.

    Raises:
        ConfigError: the run makes no synthetic rows, or a key of it cannot be used.
    """
    synthesis = check_is_synthesis(config.synthesis, base_dir)
    check_method(synthesis)
    split = Split(config.seed, config.data.test_fraction)
    federation = Federation(config, "federated", split, base_dir)
    assert isinstance(federation.task, EhrClassification), "the configuration allows no other"
    counts_of(synthesis, federation.task.schema.class_names)
    return federation


def hold(federation: Federation, grid: SimulationGrid, *, history: History, say: Say) -> Given:
    """Return what all sites gave; the model is trained first where it filters.

    Raises:
        QuorumLostError: too few sites gave anything.
    """
    config = federation.config
    assert config.synthesis is not None
    trained = None
    if config.synthesis.trains:
        outcome = run_federation(
            federation, grid, history=history, on_round=lambda report: say(_round(report))
        )
        trained = outcome.progress.vectors
    else:
        grid.prepare(
            partial(build_worker, federation), list(federation.nodes.values()), stacked=False
        )
    plan = plan_of(federation, federation.initial[0], config.rounds)
    given = collect(grid, plan, federation, trained=trained)
    history.add([refused_entry(0, "train", one) for one in given.refused])
    for site, report in sorted(given.reports.items()):
        say(describe_given(site, report))
    for one in given.refused:
        say(f"{one.site} {one.status}: {one.reason}")
    return given


def summarised(
    given: Given, federation: Federation, *, say: Say
) -> tuple[dict[str, Any], SyntheticTables]:
    """Return the summary of a synthesis and its tables."""
    config = federation.config
    assert config.synthesis is not None
    tables = tables_of(given, federation)
    say(f"{len(tables.pooled)} rows together; training the run's model on them")
    try:
        utility: dict[str, Any] = tested_on_patients(tables.pooled, federation)
    except FedwardError as error:  # one class: the rows are there, and no model is
        utility = {"reason": str(error)}
    return {
        "name": config.name,
        "task": config.task,
        "model": config.model.name,
        "seed": config.seed,
        "synthesis": {
            **summary_of(given, config.synthesis),
            "rows": len(tables.pooled),
            **claim_of(tables),
            "trained_on_rows_tested_on_patients": utility,
        },
    }, tables


def _round(report: RoundReport) -> str:
    refused = "".join(f"; {one.site} {one.status}: {one.reason}" for one in report.refused)
    return f"round {report.number}/{report.num_rounds}{refused}"
