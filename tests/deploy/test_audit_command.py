"""`fedward audit`, `fedward approve` and `fedward site purge` as a person types them."""

import argparse
import io
import json
import socket
import sqlite3
from pathlib import Path

import pytest

from fedward.client.approvals import Approvals, RosterPins
from fedward.client.audit import AuditTrail
from fedward.common.errors import ConfigError, RefusedError, TrustError
from fedward.common.request import RunRequest
from fedward.deploy.commands import approve, audit
from fedward.deploy.commands.parsing import add_group
from fedward.deploy.provision import provision
from tests.deploy.consortium import NOW, found

REQUEST = RunRequest("anna", {"name": "stroke"}, {"version": 1}, "2026-11-21T12:00:00+00:00")


def fedward(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    audit.add(commands)
    approve.add(commands)
    audit.add_purge(add_group(commands, "site", about="a site", examples=""))
    args = parser.parse_args([str(part) for part in argv])
    return int(args.command(args))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return site.yaml of a site with three log entries; its kit lies in kits/site-a."""
    provision(found(tmp_path, "a", "b"), tmp_path / "kits", now=NOW)
    path = tmp_path / "a" / "site.yaml"
    trail = AuditTrail(path.parent / "site.sqlite")
    for number in (1, 2, 3):
        trail.append("let out", round=number, arrays=[{"name": "parameters", "bytes": 12}])
    trail.close()
    return path


def kit_of(site: Path) -> Path:
    return site.parents[1] / "kits" / "site-a"


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_whole_log_verifies_and_says_what_that_is_worth(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedward("audit", "verify", "--site", site) == 0
    out = capsys.readouterr().out
    assert "3 entries" in out
    assert "without anchors a cut end cannot be seen" in out


def test_a_cut_log_fails_against_the_coordinators_notes(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = site.parent / "site.sqlite"
    head = AuditTrail(database).head
    notes = tmp_path / "audit.jsonl"
    notes.write_text(json.dumps({"event": "x", "site": "a", "seq": head.seq, "hash": head.hash}))
    assert fedward("audit", "verify", "--site", site, "--anchors", notes) == 0
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute("DELETE FROM audit WHERE seq = 3")
    connection.close()
    capsys.readouterr()
    assert fedward("audit", "verify", "--site", site, "--anchors", notes, "--json") == 4
    told = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in told["findings"]] == ["cut"]
    assert told["entries"] == 2


def test_notes_that_hold_nothing_about_the_site_are_not_taken_for_proof(
    site: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "audit.jsonl"
    notes.write_text('{"event": "start"}\n')
    with pytest.raises(ConfigError, match="holds no anchor of a"):
        fedward("audit", "verify", "--site", site, "--anchors", notes)
    with pytest.raises(ConfigError, match="cannot be read"):
        fedward("audit", "verify", "--site", site, "--anchors", tmp_path / "no.jsonl")


def test_looking_at_a_log_makes_none(site: Path) -> None:
    (site.parent / "site.sqlite").unlink()
    for verb in ("verify", "show"):
        with pytest.raises(ConfigError, match=r"site\.yaml.*no such file yet"):
            fedward("audit", verb, "--site", site)
    assert not (site.parent / "site.sqlite").exists()


def test_show_prints_the_newest_entries(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fedward("audit", "show", "--site", site, "--last", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "let out: arrays parameters (12 bytes), round 3" in lines[-1]
    fedward("audit", "show", "--site", site, "--json")
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]


def test_a_roster_is_pinned_by_the_fingerprint_that_was_read_out(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("approve", "roster", "--site", site, "--kit", kit_of(site))
    with pytest.raises(TrustError, match="another fingerprint"):
        fedward(*command, "--fingerprint", "SHA256:wrong")
    pins = RosterPins(site.parent / "site.sqlite")
    assert pins.pinned() is None
    told = capsys.readouterr().out
    read_out = told.split("fingerprint: ")[1].split()[0]
    assert fedward(*command, "--fingerprint", read_out) == 0
    pinned = pins.pinned()
    assert pinned is not None
    assert pinned.fingerprint == read_out
    assert AuditTrail(site.parent / "site.sqlite").entries()[-1]["event"] == "roster pinned"
    assert fedward(*command) == 0
    assert "is the one that this site trusts" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "is_pinned"), [("yes\n", True), ("no\n", False), ("", False)])
def test_without_a_fingerprint_a_person_is_asked(
    site: Path, monkeypatch: pytest.MonkeyPatch, typed: str, *, is_pinned: bool
) -> None:
    answer(monkeypatch, typed)
    fedward("approve", "roster", "--site", site, "--kit", kit_of(site))
    assert (RosterPins(site.parent / "site.sqlite").pinned() is not None) is is_pinned


def test_a_changed_roster_is_shown_as_differences(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("approve", "roster", "--site", site, "--kit", kit_of(site), "--yes")
    fedward(*command)
    provision(found(tmp_path, "a"), tmp_path / "kits", now=NOW)
    capsys.readouterr()
    fedward(*command)
    out = capsys.readouterr().out
    assert "roster 1 -> 2" in out
    assert "site left: b" in out


def test_the_kit_of_another_site_is_refused(site: Path) -> None:
    other = kit_of(site).with_name("site-b")
    with pytest.raises(ConfigError, match="the kit of b"):
        fedward("approve", "roster", "--site", site, "--kit", other, "--yes")


def test_a_run_is_listed_shown_approved_and_withdrawn(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = Approvals(site.parent / "site.sqlite", "ask")
    with pytest.raises(RefusedError):
        approvals.decide(REQUEST)
    fedward("approve", "list", "--site", site)
    assert f"waiting    {REQUEST.hash}  stroke by anna" in capsys.readouterr().out
    answer(monkeypatch, "yes\n")
    assert fedward("approve", "run", REQUEST.hash[:10], "--site", site) == 0
    assert '"name": "stroke"' in capsys.readouterr().out
    approvals.decide(REQUEST)
    fedward("approve", "withdraw", REQUEST.hash, "--site", site)
    with pytest.raises(RefusedError, match="withdrawn"):
        approvals.decide(REQUEST)
    events = [entry["event"] for entry in AuditTrail(site.parent / "site.sqlite").entries()]
    assert events[-2:] == ["run approved", "run withdrawn"]


def test_a_run_is_not_approved_where_nobody_says_yes(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "")
    fedward("approve", "run", REQUEST.hash, "--site", site)
    with pytest.raises(RefusedError, match="waits"):
        Approvals(site.parent / "site.sqlite").decide(REQUEST)


def test_purge_removes_all_but_the_key_and_says_so(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = site.parent / "state"
    state.mkdir()
    (state / "superexec.secret").write_text("x")
    assert fedward("site", "purge", "--site", site, "--yes") == 0
    out = capsys.readouterr().out
    assert str(site.parent / "site.sqlite") in out
    assert not state.exists()
    assert not list(site.parent.glob("site.sqlite*"))
    assert (site.parent / "site.key").exists()
    assert fedward("site", "purge", "--site", site, "--yes", "--all", "--json") == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert {Path(path).name for path in removed} == {"site.key", "id-salt"}


def test_purge_asks_and_a_no_removes_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, "no\n")
    fedward("site", "purge", "--site", site)
    assert (site.parent / "site.sqlite").exists()


def test_purge_waits_until_the_worker_has_stopped(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site.parent / "state" / "socket"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)  # the name of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("worker.sock")
        door.listen()
        with pytest.raises(ConfigError, match="stop `fedward client` first"):
            fedward("site", "purge", "--site", site, "--yes")
    assert (site.parent / "site.sqlite").exists()
