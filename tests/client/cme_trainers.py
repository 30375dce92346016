"""A trainer on the five hospitals of the quickstart, without a server around it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fedward.client.site import Site
from fedward.client.stacked_trainer import StackedTrainer
from fedward.client.store import SiteStore
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.parameters import ParameterSet
from fedward.common.records import PARAMETERS, Binding, Instruction, Update
from fedward.common.task import Split
from fedward.common.vectors import Vector
from fedward.simulations.cli import find_config
from fedward.simulations.federation import Federation

QUICKSTART = find_config("quickstart")
SMALL = ("baselines=[]", "repeat=null", "engine.name=inprocess", "model.hidden=[8,6]")
LAYER = "body.2.weight"
"""Between the antepenultimate and penultimate layer of that network."""


def config(*overrides: str) -> RunConfig:
    return load_run_config(QUICKSTART, [*SMALL, *overrides]).config


@dataclass
class Clinic:
    """One trainer, its sites and its received weights."""

    trainer: LocalTrainer
    federation: Federation
    sites: dict[str, Site]
    received: Vector

    def asked(self, round_number: int = 1, *, is_evaluation: bool = False) -> Instruction:
        binding = Binding(self.federation.run_key, round_number, "nonce", "model", "manifest")
        return Instruction(binding, {PARAMETERS: self.received}, is_evaluation=is_evaluation)

    def train(self, site: str, round_number: int = 1) -> Update:
        return self.trainer.train(self.sites[site], self.asked(round_number))

    @property
    def shared(self) -> ParameterSet:
        return self.trainer.shared


def clinic(
    *overrides: str, is_stacked: bool = False, maps: Path | None = None, store: Path | None = None
) -> Clinic:
    """Return the trainer of the quickstart, small, with `overrides`."""
    run = config(*overrides)
    federation = Federation(run, "federated", Split(run.seed), QUICKSTART.parent, maps=maps)
    shared, vector = federation.initial
    model = federation.new_model()
    kind = StackedTrainer if is_stacked else LocalTrainer
    settings = TrainerSettings.of(federation, maps=maps)
    trainer = kind(federation.task, model, shared, settings)
    kept = SiteStore(store)
    sites = {name: site_of(federation, name, kept) for name in federation.sites.site_ids}
    return Clinic(trainer, federation, sites, vector)


def site_of(federation: Federation, name: str, store: SiteStore) -> Site:
    data = federation.task.datasets(federation.sites.source(name), federation.split)
    return Site(name, lambda _: data, lambda: torch.zeros(0).double().numpy(), store)


def spoilt(made: Clinic, site: str) -> None:
    """Make the features of a site's training patients infinite."""
    data = made.sites[site].data(None)
    rows = dict(data.train.rows)
    rows["features"] = rows["features"] * float("inf")
    train = replace(data.train, rows=rows)
    made.sites[site] = Site(
        site,
        lambda _: replace(data, train=train),
        made.sites[site].sums,
        made.sites[site].store,
    )
