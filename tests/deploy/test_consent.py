"""Hospitals where a person decides on each run: the run waits for them, and starts without more."""

import re
from pathlib import Path

import pytest

from fedward.client.approvals import Approvals
from fedward.common.errors import QuorumLostError
from fedward.server import consent
from fedward.server.deployed import Coordinator, run_request
from fedward.server.history import read_history
from tests.deploy.heart import (
    SITE_YAML,
    SITES,
    Consortium,
    HospitalGrid,
    heart_disease,
    make_consortium,
)

ASK = SITE_YAML.replace("approve: any", "approve: ask")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "ASK_EVERY_S", 0.05)
    monkeypatch.setattr(consent, "TROUBLE_S", 0.2)


class Person:
    """Reads what the run says, and approves it at some of the sites that it waits for."""

    def __init__(self, made: Consortium, sites: tuple[str, ...]) -> None:
        self.made, self.sites, self.lines = made, sites, list[str]()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        for site, digits in re.findall(r"(\w+) refused: waits .*?approve run (\w{64})", line):
            if site in self.sites:
                approvals = Approvals(self.made.folder / site / "site.sqlite")
                approvals.approve(digits)
                approvals.close()


def run(made: Consortium, person: Person, folder: Path, *overrides: str) -> None:
    text = made.signed(heart_disease("rounds=1", *overrides))
    grid = HospitalGrid({site: made.open(site) for site in SITES}, text)
    run_request(
        made.read(text), Coordinator(made.server, grid, grid.nodes, person), folder, report=False
    )


def trained(folder: Path) -> set[str]:
    lines = read_history(folder / "history.jsonl")
    return {line["site"] for line in lines if line["phase"] == "train" and line["status"] == "ok"}


def test_a_run_begins_when_a_person_at_each_hospital_has_agreed(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir, site_yaml=ASK)
    person = Person(made, SITES)
    run(made, person, tmp_path / "run")
    assert "0 of 4 sites take part" in person.lines[0]
    assert trained(tmp_path / "run") - {None} == set(SITES)


def test_it_does_not_wait_for_ever_for_those_beyond_the_quorum(
    tmp_path: Path, data_dir: Path
) -> None:
    made = make_consortium(tmp_path / "c", data_dir, site_yaml=ASK)
    person = Person(made, ("cleveland", "hungarian", "va"))
    run(made, person, tmp_path / "run", "sampling.wait_for_sites_s=0.3")
    assert trained(tmp_path / "run") - {None} == {"cleveland", "hungarian", "va"}


def test_where_too_many_refuse_for_good_the_run_ends_and_says_why(
    tmp_path: Path, data_dir: Path
) -> None:
    strict = SITE_YAML.replace("epochs: 5", "epochs: 1")
    made = make_consortium(tmp_path / "c", data_dir, site_yaml=strict)
    with pytest.raises(QuorumLostError, match=r"limits\.epochs"):
        run(made, Person(made, ()), tmp_path / "run", "local.epochs=2")
