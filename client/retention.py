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

from fedward.client.data.read import spelled
from fedward.client.data.source import read_excluded, site_salt
from fedward.client.database import maps_folder, open_database
from fedward.client.privacy.anchor_file import AnchorFile
from fedward.client.privacy.book_store import forget_patients
from fedward.client.resident.commands import logs_folder, state_folder
from fedward.client.resident.door import connect
from fedward.common.config.site import LoadedSite
from fedward.common.errors import StorageError

CONNECT_S = 2.0
# What a person decided, what was logged, and what was released do not age.
KEPT = frozenset({"audit", "anchors", "approvals", "pins", "releases"})


@dataclass(frozen=True)
class Removed:
    """One thing that was, or would be, removed."""

    path: Path
    what: str
    files: tuple[Path, ...] | None = None
    """Of a folder that may hold somebody else's too: what goes; the folder itself once empty."""


@dataclass(frozen=True)
class KeptScans:
    """What the cache of scans holds of a patient."""

    num_scans: int
    num_quarantined: int
    """Files on the quarantine list that lie in a folder, or bear a name, that is the patient's."""


def purge_old(database: Path, days: int) -> list[str]:
    """Remove what runs without a message in the last `days` days left, and return their names.

    Model parts, models, covariance maps, hashed patient ids and the messages themselves go, and of
    the privacy ledger the hashed patients of data sets that were not used since; the freed pages
    are overwritten. Runs whose messages are not known are left alone: their age is unknown.

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
            with connection:
                forgotten = forget_patients(connection, before=limit)
            tables = _tables_of_runs(connection)
            if "messages" not in tables:
                return []
            rows = connection.execute(
                "SELECT run_key FROM messages GROUP BY run_key HAVING max(started) < ?"
                " ORDER BY run_key",
                (limit,),
            ).fetchall()
            # Before the rows: without them nobody would know any more how old the maps are.
            for (run_key,) in rows:
                _remove_maps(maps_folder(database) / str(run_key))
            with connection:
                for table in tables:
                    # The names come from the database's own catalogue.
                    connection.executemany(f'DELETE FROM "{table}" WHERE run_key = ?', rows)  # noqa: S608
            if rows or forgotten:
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
            hashed patient ids elsewhere can no longer be matched. And the sign that there was a
            privacy ledger: a new one would not know what was spent.
    """
    database = site.file(site.config.database)
    found = [Removed(database, "database: log, approvals, models, local model parts")]
    found += [
        Removed(database.with_name(database.name + suffix), "database: journal")
        for suffix in ("-wal", "-shm", "-journal")
    ]
    found += _scans(site)
    maps = maps_folder(database)
    if files := _map_files(maps):
        found.append(Removed(maps, "how watched layers moved: covariance maps", files))
    found.append(Removed(state_folder(site), "state folder: socket, process secrets"))
    found.append(Removed(logs_folder(site), "what the site's processes said"))
    if with_keys:
        found.append(Removed(site.file(site.config.key_file), "private key of the site"))
        found.append(Removed(site.file(site.config.id_salt_file), "salt of the patient ids"))
        anchor = AnchorFile(database, site.config.site)
        found.append(Removed(anchor.path, "how far the privacy ledger had come"))
    return [entry for entry in found if entry.path.exists()]


def purge(entries: list[Removed]) -> Iterator[Removed]:
    """Remove the entries one by one, and yield each once it is gone.

    Raises:
        StorageError: this user may not remove one of them, and then nothing is removed; or one
            cannot be removed for another reason, and those before it are gone.
    """
    for entry in entries:
        folder = entry.path.parent if entry.files is None else entry.path
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(
                f"{entry.path}: this user may not remove it; nothing was removed. Ask again as a "
                "user who may, such as root"
            )
    for entry in entries:
        try:
            if entry.files is not None:
                _remove_files(entry.path, entry.files)
            elif entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{entry.path}: cannot be removed ({error.strerror})") from error
        yield entry


def tidy_scans(site: LoadedSite) -> None:
    """Remove scans from the cache that the site may no longer keep there.

    Those are the scans of patients on the exclusion list, and all that was read longer ago than
    `retention_days`; runs read the latter again.

    Raises:
        ConfigError: exclusion list or salt cannot be read.
        StorageError: the cache cannot be used.
    """
    cache = site.file(site.config.data.cache)
    if site.config.data.format != "ct" or not cache.is_dir():
        return
    # SciPy and more; tables need none.
    from fedward.client.data.ct_cache import CtCache

    excluded = {spelled(one) for one in read_excluded(site)}
    CtCache(cache, salt=site_salt(site)).tidy(excluded, days=site.config.retention_days)


def kept_of(site: LoadedSite, patient: str) -> KeptScans:
    """Return what the cache of scans holds of a patient; nothing is changed.

    Args:
        site: whose.
        patient: as the hospital spells the identifier.

    Raises:
        StorageError: the quarantine list cannot be read.
    """
    cache = site.file(site.config.data.cache)
    if not cache.is_dir():
        return KeptScans(0, 0)
    from fedward.client.data.ct_cache import CtCache
    from fedward.client.data.quarantine import FILE_NAME, read_quarantine

    listed = read_quarantine(cache / FILE_NAME) if (cache / FILE_NAME).exists() else []
    parts = [Path(file).parts for file, _ in listed]
    names = [one[0] if len(one) > 1 else one[0].partition(".")[0] for one in parts]
    return KeptScans(
        CtCache(cache).num_scans_of(patient),
        sum(spelled(name) == spelled(patient) for name in names),
    )


def _scans(site: LoadedSite) -> Iterator[Removed]:
    """Yield the cache of scans, whatever the site reads now; never what else lies beside it."""
    cache = site.file(site.config.data.cache)
    if not cache.is_dir():
        return
    from fedward.client.data.ct_cache import own_files

    what = "scans as they were read, and the quarantine list"
    if files := own_files(cache):
        yield Removed(cache, what, tuple(files))


def _map_files(folder: Path) -> tuple[Path, ...]:
    """Return the covariance maps in a folder and below it."""
    return tuple(sorted(folder.rglob("round-*.safetensors"))) if folder.is_dir() else ()


def _remove_maps(folder: Path) -> None:
    """Remove the covariance maps of one run.

    Raises:
        StorageError: this user may not.
    """
    if not folder.is_dir():
        return
    try:
        _remove_files(folder, _map_files(folder))
    except OSError as error:
        raise StorageError(f"{folder}: cannot be removed ({error.strerror})") from error


def _remove_files(folder: Path, files: tuple[Path, ...]) -> None:
    """Remove files of a folder, and of it and the folders in it those that are empty then."""
    for path in files:
        path.unlink(missing_ok=True)
    for place in (*_folders(files, within=folder), folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _folders(files: tuple[Path, ...], *, within: Path) -> list[Path]:
    """Return the folders below `within` that hold the files, the deepest first."""
    found = {place for path in files for place in path.parents if within in place.parents}
    return sorted(found, key=lambda place: -len(place.parts))


def _tables_of_runs(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT m.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND c.name = 'run_key'"
    ).fetchall()
    return [name for (name,) in rows if name not in KEPT]
