"""The made-up clinic as a site of a consortium, in a folder: table, site.yaml, keys, kits."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedward.common.config.consortium import load_consortium
from fedward.common.config.loader import plain_values, run_config_from_dict
from fedward.common.config.run import RunConfig
from fedward.common.config.site import LoadedSite, load_site_config
from fedward.common.config.yaml_lines import dump_yaml
from fedward.common.keys import make_key, write_private
from fedward.common.kit import Kit, load_kit
from fedward.common.release import Release
from fedward.common.study import Study
from fedward.common.task import Split
from fedward.deploy.provision import provision
from tests.client.clinic import CLINIC, clinic_frame

SITE = "west"
SALT = bytes(range(32))
RUN: dict[str, Any] = {
    "version": 1,
    "name": "mortality",
    "seed": 3,
    "task": "ehr-classification",
    "data": {"schema": "clinic.yaml"},
    "model": {"name": "mlp", "hidden": [6]},
    "strategy": {"name": "fedavg"},
    "rounds": 2,
    "local": {"epochs": 1, "batch_size": 8, "learning_rate": 0.1},
}
SITE_YAML = """\
version: 1
site: west
data:
  path: clinic.csv
  schema: clinic.yaml
approve: any
min_cohort: 4
limits:
  epochs: 5
"""


@dataclass(frozen=True)
class ClinicSite:
    """Where everything lies."""

    folder: Path

    @property
    def site(self) -> LoadedSite:
        return load_site_config(self.folder / "site.yaml")

    @property
    def kit(self) -> Kit:
        return load_kit(self.folder / "kits" / f"site-{SITE}", "site")

    @property
    def server(self) -> Kit:
        return load_kit(self.folder / "kits" / "server", "server")

    @property
    def database(self) -> Path:
        return self.folder / "site.sqlite"

    def rewrite(self, frame: pd.DataFrame) -> None:
        frame.to_csv(self.folder / "clinic.csv", index=False)

    def configure(self, extra: str) -> None:
        (self.folder / "site.yaml").write_text(SITE_YAML + extra, encoding="utf-8")


def make_site(folder: Path) -> ClinicSite:
    """Write what `fedward enroll` needs and makes: table, schema, site.yaml, key, salt."""
    clinic_frame(40).to_csv(folder / "clinic.csv", index=False)
    schema = CLINIC.model_dump(mode="json", exclude_none=True)
    (folder / "clinic.yaml").write_text(dump_yaml(schema), encoding="utf-8")
    (folder / "site.yaml").write_text(SITE_YAML, encoding="utf-8")
    write_private(folder / "id-salt", SALT)
    make_key(folder / "site.key")
    return ClinicSite(folder)


def provide_kit(made: ClinicSite, address: str = "localhost:1") -> None:
    """Make the consortium's kits below the site's folder."""
    from fedward.common.keys import load_key, public_text

    west = public_text(load_key(made.folder / "site.key"))
    anna = make_key(made.folder / "anna.key")
    text = (
        f"version: 1\nname: clinics\nserver:\n  address: '{address}'\n  names: [localhost]\n"
        f"operators:\n  - {{name: anna, public_key: '{anna}'}}\n"
        f"sites:\n  - {{name: west, public_key: '{west}', cohort_bound: 100}}\n"
    )
    file = made.folder / "consortium.yaml"
    file.write_text(text, encoding="utf-8")
    now = datetime.datetime.now(datetime.UTC)
    provision(load_consortium(file), made.folder / "kits", now=now)


def run_config(**changes: Any) -> RunConfig:
    """Return the run; a change of a section is merged into it."""
    values = {**RUN}
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return run_config_from_dict(values)


def study(**changes: Any) -> Study:
    config = run_config(**changes)
    return Study(config, "federated", Split(config.seed), schema=CLINIC)


def release(trained: Study, *, round_number: int = 2, name: str = "mortality") -> Release:
    """Return a release of other weights than the initial ones."""
    shared, vector = trained.initial
    rng = np.random.default_rng(round_number)
    shares = trained.config.data.statistics == "federated"
    sums = np.abs(rng.normal(50.0, 1.0, trained.task.statistics_size))
    return Release(
        run_key=trained.run_key,
        request_hash="ab" * 32,
        name=name,
        round=round_number,
        config=plain_values(trained.config),
        schema=plain_values(CLINIC),
        parameters=vector + rng.normal(0, 0.3, len(vector)).astype(np.float32),
        statistics=sums if shares else None,
        manifest_hash=shared.manifest_hash,
    )
