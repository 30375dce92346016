"""Trains a run's model on synthetic rows, and tests it on each site's real test patients.

In a simulation only: nobody else has the rows and the patients at once. The model, its optimiser
and the passes over the rows are those of the run (`rounds` times `local.epochs`), so that the
figures stand beside those of federated training.
"""

from dataclasses import replace
from typing import Any

from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.errors import SiteDataError
from fedward.common.records import PARAMETERS, Binding, Instruction
from fedward.common.tables.table import Table
from fedward.common.task import SiteData, Statistics
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.summary import global_figures
from fedward.simulations.federation import Federation


def tested_on_patients(table: Table, federation: Federation) -> dict[str, Any]:
    """Return the figures of a model that was trained on `table`: per site, and their mean.

    Args:
        table: synthetic rows, or any others of the run's columns.
        federation: with the real test patients.

    Raises:
        SiteDataError: the rows are of one class, so that there is nothing to learn.
    """
    if len(set(table.label.tolist())) < 2:
        raise SiteDataError("the synthetic rows are of one class; no model can be trained on them")
    task = federation.task
    assert isinstance(task, EhrClassification), "the configuration allows no other"
    statistics = task.statistics_of(table)
    rows = task.dataset(table, statistics, table.label)
    trainer = _trainer(federation)
    asked = Instruction(Binding(federation.run_key, 1, "", "", ""), {}, statistics=statistics)

    def parts(_: Statistics | None) -> SiteData:
        return SiteData(rows, rows)

    everything = Site("synthetic", parts, lambda: statistics, SiteStore(None))
    start = {PARAMETERS: federation.initial[1]}
    trained = trainer.train(everything, replace(asked, vectors=start)).vectors[PARAMETERS]
    sites = {}
    for site in federation.sites.site_ids:
        real = _real(federation, site, statistics)
        report = trainer.evaluate(real, replace(asked, vectors={PARAMETERS: trained})).report
        sites[site] = {"metrics": report["metrics"]}
    return {"sites": sites, "global": global_figures({s: f["metrics"] for s, f in sites.items()})}


def _trainer(federation: Federation) -> LocalTrainer:
    local, rounds = federation.config.local, federation.config.rounds
    passes = {"epochs": local.epochs, "steps": local.steps}
    longer = {key: value * rounds for key, value in passes.items() if value is not None}
    settings = TrainerSettings(local.model_copy(update=longer), federation.seed, federation.run_key)
    model = federation.new_model()
    return LocalTrainer(federation.task, model, federation.shared_of(model), settings)


def _real(federation: Federation, site: str, statistics: Statistics) -> Site:
    task, source = federation.task, federation.sites.source(site)
    return Site(
        site,
        lambda found: task.datasets(source, federation.split, found),
        lambda: statistics,
        SiteStore(None),
    )
