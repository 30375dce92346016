"""What a person at the site agreed to: the roster that it trusts, and the runs that may start."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedward.client.durable import Durable, now
from fedward.common.errors import ConfigError, RefusedError, TrustError
from fedward.common.records import WAITS_FOR_APPROVAL
from fedward.common.request import RunRequest
from fedward.common.roster import Roster, RosterOperator, RosterSite, differences

Mode = Literal["ask", "listed", "any"]
MIN_PREFIX = 8
HASH_LENGTH = 64
MAX_NAME = 80
_SCHEMA = """
CREATE TABLE IF NOT EXISTS approvals (
    hash TEXT PRIMARY KEY, operator TEXT NOT NULL, name TEXT NOT NULL, request TEXT NOT NULL,
    asked TEXT NOT NULL, state TEXT NOT NULL, decided TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (
    number INTEGER PRIMARY KEY AUTOINCREMENT, serial INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    roster TEXT NOT NULL, pinned TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Approval:
    """One run that was asked for, or that was approved before anyone asked."""

    hash: str
    operator: str
    name: str
    asked: str
    """When it was first asked for, in UTC; empty: not yet."""
    state: str
    """`waiting`, `approved` or `withdrawn`."""
    decided: str
    """When a person decided, in UTC; empty: not yet."""


class Approvals:
    """The runs that a site was asked for, and what a person said.

    Args:
        database: the site's; None keeps the table in memory.
        mode: `approve` in site.yaml.
    """

    def __init__(self, database: Path | None, mode: Mode = "ask") -> None:
        self._mode = mode
        self._table = Durable(database, _SCHEMA)

    def decide(self, request: RunRequest) -> None:
        """Return if the run may start; either way, write down who asked for what and when.

        Raises:
            RefusedError: it waits for a person, is not on the site's list, or was withdrawn.
        """
        with self._table.transaction() as connection:
            connection.execute(
                "INSERT INTO approvals VALUES (?, ?, ?, ?, ?, 'waiting', '') ON CONFLICT (hash) DO"
                " UPDATE SET operator = excluded.operator, name = excluded.name,"
                " request = excluded.request, asked = excluded.asked WHERE asked = ''",
                (
                    request.hash,
                    request.operator,
                    _printable(request.config.get("name")),
                    request.canonical().decode(),
                    now(),
                ),
            )
            (state,) = connection.execute(
                "SELECT state FROM approvals WHERE hash = ?", (request.hash,)
            ).fetchone()
        if state == "withdrawn":
            raise RefusedError(f"the site has withdrawn its approval of run {request.hash}")
        if state == "approved" or self._mode == "any":
            return
        if self._mode == "listed":
            raise RefusedError(
                f"run {request.hash} is not on the list of runs that the site has approved"
            )
        raise RefusedError(f"{WAITS_FOR_APPROVAL}: fedward approve run {request.hash}")

    def approve(self, run_hash: str) -> Approval:
        """Let a run start from now on, and return it.

        Args:
            run_hash: of the request: 64 hexadecimal digits, or the first 8 or more of one that
                was asked for.

        Raises:
            ConfigError: no such run was asked for, or the digits fit several.
        """
        return self._set(run_hash, "approved")

    def withdraw(self, run_hash: str) -> Approval:
        """Let a run not start, nor go on, and return it.

        Raises:
            ConfigError: as `approve`.
        """
        return self._set(run_hash, "withdrawn")

    def listing(self) -> list[Approval]:
        """Return all of them, those that were asked for first at the top."""
        with self._table.transaction() as connection:
            rows = connection.execute(f"{_COLUMNS} ORDER BY asked, hash").fetchall()
        return [Approval(*row) for row in rows]

    def request_text(self, run_hash: str) -> str | None:
        """Return what exactly was asked for, as indented JSON; None before anyone asked."""
        with self._table.transaction() as connection:
            found = _find(connection, run_hash)
            (text,) = connection.execute(
                "SELECT request FROM approvals WHERE hash = ?", (found,)
            ).fetchone() or ("",)
        return json.dumps(json.loads(text), indent=1) if text else None

    def close(self) -> None:
        """Close the database."""
        self._table.close()

    def _set(self, run_hash: str, state: str) -> Approval:
        with self._table.transaction() as connection:
            full = _find(connection, run_hash)
            connection.execute(
                "INSERT INTO approvals VALUES (?, '', '', '', '', ?, ?) ON CONFLICT (hash) DO"
                " UPDATE SET state = excluded.state, decided = excluded.decided",
                (full, state, now()),
            )
            row = connection.execute(f"{_COLUMNS} WHERE hash = ?", (full,)).fetchone()
        return Approval(*row)


class RosterPins:
    """The roster that a person at the site has confirmed; older ones are kept for the record.

    Args:
        database: the site's; None keeps the table in memory.
    """

    def __init__(self, database: Path | None) -> None:
        self._table = Durable(database, _SCHEMA)

    def pinned(self) -> Roster | None:
        """Return the roster that is trusted; None before the first."""
        with self._table.transaction() as connection:
            row = connection.execute(
                "SELECT roster FROM pins ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return None if row is None else _roster(row[0])

    def pin_roster(self, roster: Roster) -> None:
        """Trust `roster` from now on. The caller has shown its fingerprint to a person.

        Raises:
            TrustError: it is older than the one that is pinned.
        """
        known = self.pinned()
        if known is not None and known.fingerprint == roster.fingerprint:
            return
        if known is not None:
            _refuse_older(known, roster)
        with self._table.transaction() as connection:
            connection.execute(
                "INSERT INTO pins (serial, fingerprint, roster, pinned) VALUES (?, ?, ?, ?)",
                (roster.serial, roster.fingerprint, roster.canonical().decode(), now()),
            )

    def check_roster(self, roster: Roster) -> None:
        """Return if `roster` is the one that was pinned.

        Raises:
            RefusedError: none is pinned, or it changed and a person has to look at it.
            TrustError: it is older than the pinned one, or another one of the same serial.
        """
        known = self.pinned()
        if known is None:
            raise RefusedError(
                "the site has not confirmed the consortium's roster yet: fedward approve roster"
            )
        if known.fingerprint == roster.fingerprint:
            return
        _refuse_older(known, roster)
        raise RefusedError(
            f"the roster changed from serial {known.serial} to {roster.serial} "
            f"({len(differences(known, roster))} differences) and waits for the site: "
            "fedward approve roster"
        )

    def close(self) -> None:
        """Close the database."""
        self._table.close()


_COLUMNS = "SELECT hash, operator, name, asked, state, decided FROM approvals"


def _find(connection: sqlite3.Connection, digits: str) -> str:
    """Return the full hash that begins with `digits`."""
    wanted = digits.strip().lower()
    if len(wanted) < MIN_PREFIX or set(wanted) - set("0123456789abcdef"):
        raise ConfigError(
            f"given {digits!r}, expected the hash of a run request or at least its first "
            f"{MIN_PREFIX} digits, as `fedward approve list` shows it"
        )
    if len(wanted) == HASH_LENGTH:
        return wanted
    rows = connection.execute(
        "SELECT hash FROM approvals WHERE substr(hash, 1, ?) = ?", (len(wanted), wanted)
    ).fetchall()
    if len(rows) != 1:
        fits = "no run that was asked for begins" if not rows else f"{len(rows)} runs begin"
        raise ConfigError(f"{fits} with {wanted}; `fedward approve list` shows them")
    return str(rows[0][0])


def _printable(name: object) -> str:
    """Return the name of a run as a terminal may show it; nothing was checked about it yet."""
    return "".join(letter for letter in str(name or "") if letter.isprintable())[:MAX_NAME]


def _refuse_older(known: Roster, roster: Roster) -> None:
    if roster.consortium != known.consortium:
        raise TrustError(
            f"the roster is of another consortium ({roster.consortium}) than the one that the "
            f"site confirmed ({known.consortium}); use another database for it"
        )
    if roster.serial <= known.serial:
        raise TrustError(
            f"the site confirmed roster {known.serial} ({known.fingerprint}), this is roster "
            f"{roster.serial} ({roster.fingerprint}): older, or another one under the same "
            "number; ask the coordinator for the current kit"
        )


def _roster(text: str) -> Roster:
    fields = json.loads(text)
    del fields["kind"]
    fields["sites"] = tuple(RosterSite(**site) for site in fields["sites"])
    fields["operators"] = tuple(RosterOperator(**operator) for operator in fields["operators"])
    fields["revoked"] = tuple(fields["revoked"])
    return Roster(**fields)
