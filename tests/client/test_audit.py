"""The log of a site: append-only, and honest about what was done to its file."""

import json
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from fedward.client.audit import AuditTrail, read_anchors
from fedward.common.chain import Anchor, Finding, anchor_text
from fedward.common.errors import StorageError, TrustError
from fedward.common.keys import load_key, make_key, public_text, sign


@pytest.fixture
def database(tmp_path: Path) -> Path:
    trail = AuditTrail(tmp_path / "site.sqlite")
    for number in range(1, 6):
        trail.append("let out", round=number)
    trail.close()
    return tmp_path / "site.sqlite"


def tamper(database: Path, *statements: str) -> None:
    """Change the file as somebody would who owns it: without the triggers."""
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def only(findings: list[Finding]) -> tuple[str, int]:
    (finding,) = findings
    return finding.kind, finding.seq


def test_entries_come_back_in_order_with_time_and_number(database: Path) -> None:
    entries = AuditTrail(database).entries()
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5]
    assert all(entry["time"].endswith("+00:00") for entry in entries)
    assert [entry["round"] for entry in AuditTrail(database).entries(last=2)] == [4, 5]


def test_a_whole_log_has_no_findings(database: Path) -> None:
    trail = AuditTrail(database)
    assert trail.verify() == []
    assert trail.head.seq == 5


@pytest.mark.parametrize("statement", ["UPDATE audit SET content = '{}'", "DELETE FROM audit"])
def test_the_database_itself_refuses_to_change_an_entry(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["UPDATE audit SET content = replace(content, 'let out', 'refused') WHERE seq = 3"],
         ("edited", 3)),
        (["DELETE FROM audit WHERE seq = 2"], ("missing", 2)),
        (["DELETE FROM audit WHERE seq = 2", "UPDATE audit SET seq = seq - 1 WHERE seq > 2"],
         ("missing", 2)),
        (["UPDATE audit SET seq = -seq WHERE seq IN (2, 4)",
          "UPDATE audit SET seq = 6 + seq WHERE seq < 0"], ("moved", 2)),
    ],
)  # fmt: skip
def test_whatever_was_changed_is_found_at_its_entry(
    database: Path, statements: list[str], expected: tuple[str, int]
) -> None:
    tamper(database, *statements)
    assert only(AuditTrail(database).verify()) == expected


def test_a_cut_end_is_found_with_what_the_coordinator_saw(database: Path) -> None:
    head = AuditTrail(database).head
    tamper(database, "DELETE FROM audit WHERE seq > 3")
    trail = AuditTrail(database)
    assert trail.verify() == []
    assert only(trail.verify([Anchor("bern", head.seq, head.hash)])) == ("cut", 4)


def test_a_cut_end_is_found_after_new_entries_too(database: Path) -> None:
    head = AuditTrail(database).head
    tamper(database, "DELETE FROM audit WHERE seq > 3")
    trail = AuditTrail(database)
    for _ in range(4):
        trail.append("let out", round=99)
    assert only(trail.verify([Anchor("bern", head.seq, head.hash)])) == ("replaced", 5)


def test_an_anchor_with_the_coordinators_signature_is_kept_and_compared(
    database: Path, tmp_path: Path
) -> None:
    model_key = make_key(tmp_path / "model.key")
    key = load_key(tmp_path / "model.key")
    trail = AuditTrail(database)
    head = trail.head
    text = anchor_text(Anchor("bern", head.seq, head.hash), round_number=5, run_key="run")
    trail.keep_anchor(text, sign(key, text.encode()), model_key=model_key, site="bern")
    assert trail.anchors() == [Anchor("bern", 5, head.hash)]
    assert trail.verify(model_key=model_key) == []
    trail.close()
    tamper(database, "DELETE FROM audit WHERE seq > 3")
    assert only(AuditTrail(database).verify()) == ("cut", 4)


def test_an_anchor_that_somebody_else_signed_is_not_kept(database: Path, tmp_path: Path) -> None:
    model_key = make_key(tmp_path / "model.key")
    make_key(tmp_path / "thief.key")
    trail = AuditTrail(database)
    text = anchor_text(Anchor("bern", 5, trail.head.hash), round_number=5, run_key="run")
    signature = sign(load_key(tmp_path / "thief.key"), text.encode())
    with pytest.raises(TrustError):
        trail.keep_anchor(text, signature, model_key=model_key, site="bern")
    assert trail.anchors() == []


@pytest.mark.parametrize(
    ("anchor", "why"),
    [
        (Anchor("lausanne", 5, "0" * 64), "something else"),
        (Anchor("bern", 5, "0" * 64), "another log"),
        (Anchor("bern", 9, "0" * 64), "another log"),
    ],
)
def test_an_anchor_about_another_log_is_not_kept(
    database: Path, tmp_path: Path, anchor: Anchor, why: str
) -> None:
    make_key(tmp_path / "model.key")
    key = load_key(tmp_path / "model.key")
    text = anchor_text(anchor, round_number=5, run_key="run")
    with pytest.raises(TrustError, match=why):
        AuditTrail(database).keep_anchor(
            text, sign(key, text.encode()), model_key=public_text(key), site="bern"
        )


def test_a_kept_anchor_that_was_edited_no_longer_fits_its_signature(
    database: Path, tmp_path: Path
) -> None:
    model_key = make_key(tmp_path / "model.key")
    trail = AuditTrail(database)
    text = anchor_text(Anchor("bern", 5, trail.head.hash), round_number=5, run_key="run")
    signature = sign(load_key(tmp_path / "model.key"), text.encode())
    trail.keep_anchor(text, signature, model_key=model_key, site="bern")
    trail.close()
    tamper(database, "UPDATE anchors SET text = replace(text, '\"round\": 5', '\"round\": 6')")
    assert [finding.kind for finding in AuditTrail(database).verify(model_key=model_key)] == [
        "edited"
    ]


def test_anchors_of_a_site_are_found_between_the_coordinators_other_lines(tmp_path: Path) -> None:
    lines = [
        {"event": "start", "versions": {}},
        {"event": "round", "site": "bern", "seq": 4, "hash": "ab"},
        {"event": "round", "site": "lausanne", "seq": 9, "hash": "cd"},
    ]
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut of')
    assert read_anchors(path, "bern") == [Anchor("bern", 4, "ab")]


def append_many(path: Path) -> None:
    trail = AuditTrail(path)
    for _ in range(20):
        trail.append("let out")


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(path,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
        assert writer.exitcode == 0
    trail = AuditTrail(path)
    assert trail.head.seq == 60
    assert trail.verify() == []


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="site database"):
        AuditTrail(tmp_path / "no" / "site.sqlite").append("let out")


def test_every_entry_is_synchronous(database: Path) -> None:
    trail = AuditTrail(database)
    with trail._table.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
