"""Runs a signed request over TLS: the round loop on Flower's grid, and the folder it leaves.

What a simulation does on one machine, with real sites: the same study, the same loop. On top of
it: sites may be away for a while, heads of their audit logs are anchored, and the trained model
goes back to them.
"""

import datetime
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fedward.common.config.loader import config_hash, resolved_yaml
from fedward.common.config.yaml_lines import dump_yaml
from fedward.common.deployment import schema_of, study_of
from fedward.common.errors import ConfigError
from fedward.common.keys import load_key, sign
from fedward.common.kit import Kit
from fedward.common.origin import Origin
from fedward.common.records import PARAMETERS
from fedward.common.release import Release, release_parts, sign_release
from fedward.common.request import RunRequest
from fedward.common.study import Study
from fedward.common.weights import save_weights
from fedward.common.wording import duration, number, standing_still
from fedward.server.anchors import Anchors
from fedward.server.audit import AuditLog
from fedward.server.checkpoint import CheckpointFolder, Progress, write_atomically
from fedward.server.consent import wait_for_consent
from fedward.server.exchange import refused_entry
from fedward.server.given_files import (
    keep_passes,
    passes_so_far,
    read_given,
    summary_of,
    write_given,
)
from fedward.server.history import History
from fedward.server.instructions import SelectedSites
from fedward.server.plan import Plan, make_plan
from fedward.server.release import OK, send_release
from fedward.server.rounds import Outcome, RoundLoop, RoundReport
from fedward.server.strategies import build_strategy
from fedward.server.summary import summarise
from fedward.server.synthesis import Given, collect, describe_given

SITES_WAIT_S = 300.0
"""How long a round waits for enough sites to be connected before it is held without them."""
RELEASE_WAIT_S = 120.0
RELEASE_BYTES_PER_S = 1e6
"""Slowest line on which a site still gets the model: a large one is waited for longer."""
RELEASE_EVERY_S = 20.0
RELEASE_PATIENCE_S = 180.0
SAY_EVERY_S = 15.0
COMEBACK_S = 90.0
"""After an interruption, sites have this long to be there again before a round is held without."""
Line = Callable[[str], None]


@dataclass(frozen=True)
class Coordinator:
    """What a run needs of the machine that it runs on.

    Args:
        kit: the server's.
        grid: reaches the sites.
        nodes: node id of each site of the roster.
        on_line: shows a line to whoever follows the run.
    """

    kit: Kit
    grid: Grid
    nodes: Mapping[str, int]
    on_line: Line


def run_request(
    request: RunRequest, here: Coordinator, folder: Path, *, report: bool = True
) -> None:
    """Run `request` in `folder`, going on from its newest checkpoint, and hand out the model.

    Args:
        request: signed and read.
        here: who holds the run.
        folder: of the run.
        report: whether to write report, plots and model card; `fedward report` does it later.

    Raises:
        FedwardError: as its subclasses say; the folder holds what there is until then.
    """
    schema = schema_of(request)
    study = study_of(request, "federated", schema=schema, base_dir=folder.parent, own_models=True)
    if study.origin != Origin.of_pairs(study.config.model.trained_in):
        raise ConfigError(
            f"model.init: {study.config.model.init} here says that it was trained in other runs "
            "than the file from which the run was submitted; put that one in its place"
        )
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    audit = AuditLog(folder / "audit.jsonl")
    audit.write("start", request=request.hash, operator=request.operator, seed=study.seed)
    _write_config(study, request, folder)
    history = History(folder / "history.jsonl")
    synthesis = study.config.synthesis
    outcome = None
    if synthesis is None or synthesis.trains:
        outcome, summary = _trained(study, request, here, folder, history=history, audit=audit)
        _write_model(study, outcome, folder)
    else:
        here.on_line(f"{synthesis.method}: no model is trained for it")
        summary = {"name": study.config.name, "task": study.config.task, "seed": study.seed}
    if synthesis is not None:
        given = _given(study, here, folder, outcome=outcome, history=history, audit=audit)
        summary["synthesis"] = summary_of(given, synthesis)
    summary |= {"engine": "deployed", "operator": request.operator, "request": request.hash}
    summary["created"] = created
    summary["versions"] = {name: version(name) for name in ("fedward", "torch", "flwr")}
    seconds = round(time.perf_counter() - started, 3)
    summary["seconds"] = {**summary.get("seconds", {}), "total": seconds}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1).encode())
    if outcome is not None:
        if report:
            _write_report(folder)
        _hand_out(_release(study, request, outcome), here, folder, audit)
    if synthesis is not None:
        here.on_line(f"write the rows as tables: fedward synth federated --from {folder}")


def _trained(  # noqa: PLR0913 - what is trained, by whom, and where it is written down
    study: Study,
    request: RunRequest,
    here: Coordinator,
    folder: Path,
    *,
    history: History,
    audit: AuditLog,
) -> tuple[Outcome, dict[str, Any]]:
    """Train, with the baselines that hospitals can hold, and return the outcome and its summary."""
    outcome = _train(study, here, folder, history=history, audit=audit)
    baselines = {}
    # A run that makes synthetic rows trains for them alone: sites hold no baseline for it.
    wanted = () if study.config.synthesis is not None else study.config.baselines
    if "pooled" in wanted:
        here.on_line("baseline pooled: left out, because hospitals' rows are never in one place")
    if "local" in wanted:
        here.on_line("baseline local: each site alone")
        alone = study_of(request, "local", schema=schema_of(request))
        baselines["local"] = _train(alone, here, folder, rounds=outcome.progress.round_number)
    audit.write("end", stopped_by=outcome.stopped_by, rounds=outcome.progress.round_number)
    summary = summarise(study, outcome, baselines, site_ids=here.nodes, history=history.entries)
    return outcome, summary


def _given(  # noqa: PLR0913 - as `_trained`, and what was trained
    study: Study,
    here: Coordinator,
    folder: Path,
    *,
    outcome: Outcome | None,
    history: History,
    audit: AuditLog,
) -> Given:
    """Return what the sites give for synthetic patients; an interrupted run has it already."""
    known = read_given(folder)
    if known is not None:
        return known
    plan = _plan(study, here, audit=audit)
    if outcome is None:
        wait_s = study.config.sampling.wait_for_sites_s
        wait_for_consent(here.grid, plan, wait_s=wait_s, on_line=here.on_line)
    given = collect(
        WaitingGrid(here.grid, plan.sampling.min_replies, on_line=here.on_line),
        plan,
        study,
        trained=None if outcome is None else outcome.progress.vectors,
        kept=passes_so_far(folder),
        keep=lambda summed: keep_passes(folder, summed),
    )
    write_given(folder, given)
    history.add([refused_entry(0, "train", one) for one in given.refused])
    audit.write("synthesis", sites=sorted(given.reports), refused=len(given.refused))
    for site, report in sorted(given.reports.items()):
        here.on_line(describe_given(site, report))
    for one in given.refused:
        here.on_line(f"  {one.site} {one.status}: {one.reason}")
    return given


def _hand_out(release: Release, here: Coordinator, folder: Path, audit: AuditLog) -> None:
    """Send the model to every site, and again to those that were away; leave it as a file too."""
    key = load_key(here.kit.model_key_file)
    signed = release_parts(release, sign_release(release, key))
    write_atomically(folder / "release.safetensors", *signed)
    told: dict[str, str] = {}
    wait_s = RELEASE_WAIT_S + release.parameters.nbytes / RELEASE_BYTES_PER_S
    until = time.monotonic() + RELEASE_PATIENCE_S
    left = dict(here.nodes)
    while left:
        told |= send_release(here.grid, left, release, key, timeout_s=wait_s)
        left = {site: node for site, node in left.items() if told[site] != OK}
        if not left or time.monotonic() > until:
            break
        here.on_line(f"the model is tried again in {RELEASE_EVERY_S:g} s: {', '.join(left)} away")
        time.sleep(RELEASE_EVERY_S)
    audit.write("model-released", release=release.fingerprint, sites=told)
    for site, what in sorted(told.items()):
        here.on_line(f"model to {site}: {what}")
    if left:
        here.on_line("give them the run's release.safetensors: fedward model receive")


def _train(  # noqa: PLR0913 - the run itself writes down what a baseline does not
    study: Study,
    here: Coordinator,
    folder: Path,
    *,
    history: History | None = None,
    audit: AuditLog | None = None,
    rounds: int | None = None,
) -> Outcome:
    _, vector = study.initial
    strategy = build_strategy(study.strategy.name, study.strategy.own, num_sites=len(here.nodes))
    checkpoints = None
    if study.kind == "federated":
        checkpoints = CheckpointFolder(folder / "checkpoints", config_hash(study.config))
    plan = _plan(study, here, audit=audit, rounds=rounds)
    grid = WaitingGrid(here.grid, plan.sampling.min_replies, on_line=here.on_line)
    history = history or History()
    loop = RoundLoop(
        grid,
        strategy,
        plan,
        history=history,
        checkpoints=checkpoints,
        on_round=lambda report: here.on_line(describe(report)),
    )
    found = checkpoints.load_newest(strategy, vector) if checkpoints is not None else None
    wait_s = study.config.sampling.wait_for_sites_s
    if found is not None:
        here.on_line(f"going on after round {found.round_number}")
        wait_s = min(wait_s, COMEBACK_S)
    if study.kind == "federated":
        agreed = wait_for_consent(here.grid, plan, wait_s=wait_s, on_line=here.on_line)
        if found is None:  # later, those who have it may only be away for a moment
            study.check_modalities(agreed.lacking.values())
    start = found or Progress(0, {PARAMETERS: vector})
    history.forget_after(start.round_number)
    return loop.run(start)


def _plan(
    study: Study, here: Coordinator, *, audit: AuditLog | None, rounds: int | None = None
) -> Plan:
    return make_plan(
        study,
        study.initial[0],
        nodes=here.nodes,
        cohort_bounds={site.name: site.cohort_bound for site in here.kit.roster.sites},
        num_rounds=rounds or study.config.rounds,
        anchors=None if audit is None else _anchors(here.kit, audit, study),
    )


class WaitingGrid(SelectedSites):
    """A grid that gives sites time to come back before it sends.

    A cut connection or a restart takes a site away for a minute; without this, rounds would be
    skipped within seconds until the run gave up.

    Args:
        grid: reaches the sites.
        min_online: of the sites that are asked, so many should be connected.
        on_line: is told that the run waits.
    """

    def __init__(self, grid: Grid, min_online: int, *, on_line: Line) -> None:
        super().__init__(grid, list(grid.get_node_ids()))
        self._min_online = min_online
        self._on_line = on_line

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send when enough sites are there, at the latest after `SITES_WAIT_S`."""
        asked = list(messages)
        self._wait_for({message.metadata.dst_node_id for message in asked})
        return self.grid.send_and_receive(asked, timeout=timeout)

    def _wait_for(self, nodes: set[int]) -> None:
        wanted = min(self._min_online, len(nodes))
        started, said = time.monotonic(), 0.0
        while True:
            online = len(nodes & set(self.grid.get_node_ids()))
            waited = time.monotonic() - started
            if online >= wanted or waited > SITES_WAIT_S:
                return
            if waited >= said:
                self._on_line(f"waiting for sites: {online} connected, {wanted} needed")
                said += SAY_EVERY_S
            time.sleep(1.0)


def describe(report: RoundReport) -> str:
    """Return the line that those who follow a run see after each round."""
    who = f"{report.num_accepted} of {report.num_sampled} sites"
    parts = [f"round {report.number}/{report.num_rounds}: {who}"]
    if report.is_skipped:
        parts.append("skipped")
    elif report.train_loss is not None:
        parts.append(f"training loss {number(report.train_loss)}")
    if report.epsilon is not None:
        parts.append(f"epsilon {number(report.epsilon)}")
    parts += [f"{name} {number(value)}" for name, value in sorted(report.metrics.items())[:3]]
    parts += standing_still(report.saturated, report.resting)
    parts.append(duration(report.seconds))
    lines = [", ".join(parts)]
    lines += [f"  {one.site} {one.status}: {one.reason}" for one in report.refused]
    return "\n".join(lines)


def _anchors(kit: Kit, audit: AuditLog, study: Study) -> Anchors:
    key = load_key(kit.model_key_file)
    return Anchors(audit, lambda content: sign(key, content), study.run_key)


def _write_config(study: Study, request: RunRequest, folder: Path) -> None:
    """Write what was asked for; the schema lies beside it, so that the folder stands alone."""
    data = study.config.data.model_copy(update={"schema_name": "schema.yaml"})
    config = study.config.model_copy(update={"data": data})
    write_atomically(folder / "config.yaml", resolved_yaml(config).encode())
    write_atomically(folder / "schema.yaml", dump_yaml(request.schema).encode())
    write_atomically(folder / "base_dir.txt", os.fsencode(folder.resolve()))


def _write_model(study: Study, outcome: Outcome, folder: Path) -> None:
    model = study.finished(outcome.progress.vectors[PARAMETERS])
    save_weights(model, folder / "model.safetensors", study.made)


def _write_report(folder: Path) -> None:
    from fedward.server.report import build_report, write_model_card, write_plots

    build_report(folder)
    write_plots(folder)
    write_model_card(folder)


def _release(study: Study, request: RunRequest, outcome: Outcome) -> Release:
    values: dict[str, Any] = dict(outcome.progress.vectors)
    return Release(
        run_key=study.run_key,
        request_hash=request.hash,
        name=study.config.name,
        round=outcome.progress.round_number,
        config=request.config,
        schema=request.schema,
        parameters=values[PARAMETERS],
        statistics=values.get("statistics"),
        manifest_hash=study.initial[0].manifest_hash,
    )
