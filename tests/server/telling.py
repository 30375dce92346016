"""Toy sites that say how their weights move: a script of rounds, on the real wire."""

import json
from collections.abc import Callable, Mapping

from flwr.app import ConfigRecord, Message

from fedward.common.config.monitor import MonitorConfig
from fedward.common.monitoring.thresholds import UNCALIBRATED
from fedward.common.records import read_binding
from fedward.server.history import Entry
from tests.server.toy import Tampering

TARGETS = {"aachen": 1.0, "bern": 2.0, "cork": 3.0, "delft": 6.0}
QUIET = {"fc.weight": {"log_mag": -12.0}}
MOVING = {"fc.weight": {"log_mag": -1.0, "rho": 0.9, "map_cos": 0.1, "top1": 0.2}}
WATCHED = MonitorConfig.model_validate({"cme": True})
FIRST = UNCALIBRATED.num_rounds_needed
"""The first round in which anyone can be saturated: the one before it is compared with."""
Script = Callable[[int], Mapping[str, Mapping[str, float]] | None]


def quiet(round_number: int) -> Mapping[str, Mapping[str, float]]:
    """A site that stands still from the start."""
    return QUIET


def moving(round_number: int) -> Mapping[str, Mapping[str, float]]:
    """A site that never stands still."""
    return MOVING


def telling(scripts: Mapping[str, Script]) -> dict[str, Tampering]:
    """Return tampering by which each site adds what its script says to its training replies."""

    def of(script: Script) -> Tampering:
        def tamper(message: Message, reply: Message) -> Message:
            told = script(read_binding(message).round_number)
            if told is not None and "arrays" in reply.content:
                add_to_report(reply, cme=told)
            return reply

        return tamper

    return {site: of(script) for site, script in scripts.items()}


def add_to_report(reply: Message, **parts: object) -> None:
    """Write further parts into the report of a reply."""
    report = json.loads(str(reply.content.config_records["report"]["json"]))
    reply.content["report"] = ConfigRecord({"json": json.dumps({**report, **parts})})


def trained(entries: list[Entry], site: str | None) -> list[Entry]:
    """Return a site's training lines, or the federation's."""
    return [e for e in entries if e.phase == "train" and e.site == site]
