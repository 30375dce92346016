"""A consortium of the four heart-disease hospitals in a folder: keys, kits, tables, site.yaml."""

import datetime
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedward.client.approvals import RosterPins
from fedward.client.data.catalogue import resolve_root
from fedward.client.hospital import Hospital, open_hospital
from fedward.client.resident.failures import failure, refusal
from fedward.common.config.consortium import load_consortium
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.deployment import make_request
from fedward.common.errors import RefusedError
from fedward.common.flower import assume_server_identity, stamp
from fedward.common.keys import load_key, make_key, write_private
from fedward.common.kit import Kit, load_kit
from fedward.common.request import RunRequest, read_request, sign_request
from fedward.deploy.provision import provision
from fedward.simulations.cli import find_config

SITES = ("cleveland", "hungarian", "switzerland", "va")
BOUND = 400
LOG = logging.getLogger("tests")
SITE_YAML = """\
version: 1
site: {name}
data:
  path: {name}.csv
  schema: heart-disease
approve: any
min_cohort: 5
limits:
  epochs: 5
  min_replies: 2
"""


@dataclass(frozen=True)
class Consortium:
    """Where everything lies."""

    folder: Path
    kits: Path

    @property
    def server(self) -> Kit:
        return load_kit(self.kits / "server", "server")

    def site_yaml(self, site: str) -> Path:
        return self.folder / site / "site.yaml"

    def kit(self, site: str) -> Path:
        return self.kits / f"site-{site}"

    def signed(self, config: RunConfig) -> str:
        """Return the request for `config` as an operator submits it."""
        folder = find_config("heart_disease").parent
        request = make_request(config, "anna", base_dir=folder, consortium="heart")
        return sign_request(request, load_key(self.folder / "anna.key"))

    def read(self, text: str) -> RunRequest:
        return read_request(text, self.server.roster)

    def open(self, site: str) -> Hospital:
        return open_hospital(self.site_yaml(site), self.kit(site))


def heart_disease(*overrides: str) -> RunConfig:
    """Return the shipped configuration, small."""
    small = ["rounds=3", "baselines=[]", "engine.name=inprocess", *overrides]
    return load_run_config(find_config("heart_disease"), small).config


def make_consortium(
    folder: Path, data_dir: Path, address: str = "127.0.0.1:9", site_yaml: str = SITE_YAML
) -> Consortium:
    """Make the hospitals' folders from the real table, and provision them."""
    table = pd.read_csv(resolve_root("heart-disease", data_dir) / "heart_disease_4sites.csv")
    lines = []
    for site in SITES:
        home = folder / site
        home.mkdir(parents=True)
        table[table["site"] == site].to_csv(home / f"{site}.csv", index=False)
        (home / "site.yaml").write_text(site_yaml.format(name=site), encoding="utf-8")
        key = make_key(home / "site.key")
        write_private(home / "id-salt", bytes(range(32)))
        lines.append(f"  - {{name: {site}, public_key: '{key}', cohort_bound: {BOUND}}}")
    anna = make_key(folder / "anna.key")
    text = (
        f"version: 1\nname: heart\nserver:\n  address: '{address}'\n  names: [localhost]\n"
        f"operators:\n  - {{name: anna, public_key: '{anna}'}}\nsites:\n" + "\n".join(lines) + "\n"
    )
    (folder / "consortium.yaml").write_text(text, encoding="utf-8")
    kits = folder / "kits"
    now = datetime.datetime.now(datetime.UTC)
    provision(load_consortium(folder / "consortium.yaml"), kits, now=now)
    made = Consortium(folder, kits)
    for site in SITES:
        pin(made, site)
    return made


def pin(made: Consortium, site: str) -> None:
    """Confirm the roster, as a person at the site does."""
    pins = RosterPins(made.folder / site / "site.sqlite")
    pins.pin_roster(load_kit(made.kit(site), "site").roster)
    pins.close()


class HospitalGrid(Grid):
    """Hands messages to real hospitals in this process, as their workers would get them."""

    def __init__(self, hospitals: dict[str, Hospital], request: str) -> None:
        self.hospitals = {number: hospitals[site] for number, site in enumerate(hospitals, 1)}
        self.nodes = {site: number for number, site in enumerate(hospitals, 1)}
        self.config = {"request": request}
        assume_server_identity(run_id=1)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [self._answer(stamp(message)) for message in messages]

    def _answer(self, message: Message) -> Message:
        hospital = self.hospitals[message.metadata.dst_node_id]
        try:
            content = hospital.answer(message, self.config)
        except RefusedError as error:
            return Message(Error(1, refusal(error)), reply_to=message)
        except Exception as error:  # noqa: BLE001 - as the worker does
            return Message(Error(1, failure(error, LOG)), reply_to=message)
        return Message(content, reply_to=message)

    def get_node_ids(self) -> list[int]:
        return list(self.hospitals)

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.hospitals]

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **keys: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError
