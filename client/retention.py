"""Removes what runs left at a site: after the agreed days, or all of it.

The audit trail is not part of what ages: it holds no patient's data, and cut off it would be worth
nothing. It goes only when everything goes.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedward.client.database import open_database
from fedward.client.resident.commands import logs_folder, state_folder
from fedward.client.resident.door import connect
from fedward.common.config.site import LoadedSite
from fedward.common.errors import StorageError

CONNECT_S = 2.0
# What a person decided and what was logged does not age.
KEPT = frozenset({"audit", "anchors", "approvals", "pins"})


@dataclass(frozen=True)
class Removed:
    """One thing that was, or would be, removed."""

    path: Path
    what: str


def purge_old(database: Path, days: int) -> list[str]:
    """Remove what runs without a message in the last `days` days left, and return their names.

    Model parts, models, hashed patient ids and the messages themselves go; the freed pages are
    overwritten. Runs whose messages are not known are left alone: their age is unknown.

    Args:
        database: the site's.
        days: `retention_days` of site.yaml.

    Raises:
        StorageError: the database cannot be read or written.
    """
    limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
    try:
        with closing(open_database(database)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            tables = _tables_of_runs(connection)
            if "messages" not in tables:
                return []
            rows = connection.execute(
                "SELECT run_key FROM messages GROUP BY run_key HAVING max(started) < ?"
                " ORDER BY run_key",
                (limit,),
            ).fetchall()
            with connection:
                for table in tables:
                    # The names come from the database's own catalogue.
                    connection.executemany(f'DELETE FROM "{table}" WHERE run_key = ?', rows)  # noqa: S608
            if rows:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StorageError(f"site database {database}: {error}") from error
    return [str(run_key) for (run_key,) in rows]


def is_running(site: LoadedSite) -> bool:
    """Return whether the site's worker answers: its files are in use then."""
    try:
        connect(state_folder(site) / "socket" / "worker.sock", timeout_s=CONNECT_S).close()
    except OSError:
        return False
    return True


def everything(site: LoadedSite, *, with_keys: bool = False) -> list[Removed]:
    """Return what `purge` would remove of what is there.

    Args:
        site: whose.
        with_keys: also the site's private key and its salt: the site must enrol anew then, and
            hashed patient ids elsewhere can no longer be matched.
    """
    database = site.file(site.config.database)
    found = [Removed(database, "database: log, approvals, models, local model parts")]
    found += [
        Removed(database.with_name(database.name + suffix), "database: journal")
        for suffix in ("-wal", "-shm", "-journal")
    ]
    found.append(Removed(state_folder(site), "state folder: socket, process secrets"))
    found.append(Removed(logs_folder(site), "what the site's processes said"))
    if with_keys:
        found.append(Removed(site.file(site.config.key_file), "private key of the site"))
        found.append(Removed(site.file(site.config.id_salt_file), "salt of the patient ids"))
    return [entry for entry in found if entry.path.exists()]


def purge(entries: list[Removed]) -> Iterator[Removed]:
    """Remove the entries one by one, and yield each once it is gone.

    Raises:
        StorageError: this user may not remove one of them, and then nothing is removed; or one
            cannot be removed for another reason, and those before it are gone.
    """
    for entry in entries:
        if not os.access(entry.path.parent, os.W_OK | os.X_OK):
            raise StorageError(
                f"{entry.path}: this user may not remove it; nothing was removed. Ask again as a "
                "user who may, such as root"
            )
    for entry in entries:
        try:
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{entry.path}: cannot be removed ({error.strerror})") from error
        yield entry


def _tables_of_runs(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT m.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND c.name = 'run_key'"
    ).fetchall()
    return [name for (name,) in rows if name not in KEPT]
