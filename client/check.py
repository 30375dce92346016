"""Can this site join? Data, key, kit, way out, clock, disk, memory, GPU, database: one look at all.

Nothing is changed, and nothing is sent but one empty HTTPS request. `fedward check` shows the
findings; `fedward client` asks before it starts.
"""

import datetime
import os
import shutil
import sqlite3
from collections.abc import Iterator

import psutil

from fedward.client.approvals import RosterPins
from fedward.client.check_data import check_data
from fedward.client.check_link import check_key, check_roster, check_server
from fedward.client.check_privacy import check_privacy
from fedward.client.cohort import read_salt
from fedward.client.data.source import site_source
from fedward.client.database import open_database
from fedward.client.findings import Finding, Status
from fedward.client.policy import check_request
from fedward.client.releases import ReleaseLedger
from fedward.common.config.site import LoadedSite
from fedward.common.deployment import study_of
from fedward.common.errors import (
    ConfigError,
    FedwardError,
    RefusedError,
    SiteDataError,
    StorageError,
)
from fedward.common.kit import Kit
from fedward.common.request import RunRequest
from fedward.common.tables.schema import load_schema

GIB = 1 << 30
LEAST_DISK = GIB // 4
LITTLE_DISK = 2 * GIB
LITTLE_MEMORY = 2 * GIB
BYTES_PER_PARAMETER = 4


def check_site(
    site: LoadedSite,
    kit: Kit | None = None,
    run: RunRequest | None = None,
    *,
    online: bool = True,
    reads_key: bool = True,
) -> list[Finding]:
    """Return what was found, in the order in which it is best put right.

    Args:
        site: the site.
        kit: the site's kit; None leaves out roster, server and clock.
        run: what an operator would ask for (`make_request`), to compare with the site's limits.
        online: whether to ask the server; a site that starts waits for its server instead.
        reads_key: whether this user may read the private key; the worker's may not.
    """
    now = datetime.datetime.now(datetime.UTC)
    found = list(check_data(site))
    if reads_key:
        found += check_key(site, kit)
    found.append(_salt(site))
    found.append(_database(site))
    found.append(_synthetic(site))
    found.append(check_privacy(site))
    found += _machine(site)
    if kit is not None:
        found += check_roster(kit, now)
        found.append(_pin(site, kit))
        if online:
            found += check_server(site, kit)
    if run is not None:
        data_are_good = all(one.status != "fail" for one in found if one.name.startswith("data."))
        found.append(_run(site, run, count_patients=data_are_good))
        if data_are_good and site.config.data.format == "ct":
            found += _quarantine(site)
    return found


def _salt(site: LoadedSite) -> Finding:
    try:
        read_salt(site.file(site.config.id_salt_file))
    except ConfigError as error:
        return Finding("config.id-salt", "fail", str(error), "run: fedward enroll")
    return Finding("config.id-salt", "ok", "there, and private")


def _database(site: LoadedSite) -> Finding:
    path = site.file(site.config.database)
    advice = "does the folder belong to the user that runs fedward, and is there space?"
    if not path.exists():  # it is made by the first run, after `fedward enroll` has made the salt
        if os.access(path.parent, os.W_OK):
            return Finding("storage.database", "ok", f"{path.name} will be made by the first run")
        return Finding("storage.database", "fail", f"{path.parent} cannot be written", advice)
    try:
        connection = open_database(path)
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except (StorageError, sqlite3.Error) as error:
        return Finding("storage.database", "fail", f"{path}: {error}", advice)
    if verdict != "ok":
        text = f"{path}: damaged ({verdict})"
        return Finding("storage.database", "fail", text, "restore it from a backup")
    return Finding("storage.database", "ok", f"{path.name} can be written")


def _synthetic(site: LoadedSite) -> Finding:
    """Return what may leave for synthetic patients, and what left already."""
    limits, database = site.config.limits, site.file(site.config.database)
    ledger = ReleaseLedger(database if database.exists() else None)
    try:
        rows = ledger.num_rows(site.config.site)
    except StorageError as error:
        return Finding("storage.database", "fail", str(error))
    finally:
        ledger.close()
    allowed = limits.synthetic_rows
    left = max(allowed - rows, 0)
    parts = ["no synthetic rows leave"]
    if allowed or rows:
        parts = [f"{rows} synthetic rows left this site, {left} of {allowed} may leave yet"]
    parts.append(f"histograms for a copula {'may leave' if limits.synthetic_sums else 'stay'}")
    spent = allowed > 0 and left == 0
    advice = "limits.synthetic_rows is spent; each further row tells more of patients"
    return Finding(
        "config.synthetic", "warn" if spent else "ok", "; ".join(parts), advice if spent else ""
    )


def _machine(site: LoadedSite) -> Iterator[Finding]:
    folder = site.file(site.config.database).parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("storage.disk", "fail", f"{folder}: {error.strerror}", "make the folder")
    else:
        status: Status = "fail" if free < LEAST_DISK else "warn" if free < LITTLE_DISK else "ok"
        advice = "" if status == "ok" else f"free some space in {folder}"
        yield Finding("storage.disk", status, f"{free / GIB:.1f} GiB free", advice)
    memory = psutil.virtual_memory().available
    enough = memory >= LITTLE_MEMORY
    yield Finding(
        "config.memory",
        "ok" if enough else "warn",
        f"{memory / GIB:.1f} GiB available",
        "" if enough else "training may be ended for want of memory",
    )
    yield _device(site.config.device)


def _device(device: str) -> Finding:
    import torch  # seconds; all else here is quick

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        used = "not used (device: cpu)" if device == "cpu" else "used"
        return Finding("config.device", "ok", f"GPU {name}, {used}")
    if device == "cuda":
        text = "site.yaml asks for a GPU, and torch finds none"
        return Finding("config.device", "fail", text, "check the driver, or set device: auto")
    return Finding("config.device", "ok", "no GPU; training runs on the CPU")


def _pin(site: LoadedSite, kit: Kit) -> Finding:
    database = site.file(site.config.database)
    pins = RosterPins(database if database.exists() else None)
    advice = "read the fingerprint out to the coordinator by phone, then: fedward approve roster"
    try:
        pins.check_roster(kit.roster)
    except StorageError as error:
        return Finding("storage.database", "fail", str(error))
    except FedwardError as error:  # not pinned yet, another one, or an older one
        return Finding("network.pin", "fail", str(error), advice)
    finally:
        pins.close()
    return Finding("network.pin", "ok", f"confirmed: {kit.roster.fingerprint}")


def _quarantine(site: LoadedSite) -> Iterator[Finding]:
    """Yield what was not used when the scans were read for a run."""
    from fedward.client.data.quarantine import FILE_NAME, in_short, read_quarantine

    path = site.file(site.config.data.cache) / FILE_NAME
    try:
        listed = read_quarantine(path) if path.exists() else []
    except StorageError as error:
        yield Finding("storage.cache", "warn", str(error))
        return
    if listed:
        text = f"read for this run, and not used: {in_short(reason for _, reason in listed)}"
        yield Finding("data.left-out", "warn", text, f"the files are named in {path}")


def _run(site: LoadedSite, request: RunRequest, *, count_patients: bool) -> Finding:
    """Return whether the site's own rules would let the run start."""
    try:
        schema = load_schema(site.config.data.schema_name, site.path.parent)
        # A network of somebody's own is not imported to find out: the policy names it.
        is_own = ":" in str(request.config.get("model", {}).get("name"))
        study = study_of(request, "federated", schema=schema)
        payload = 0 if is_own else study.initial[0].size * BYTES_PER_PARAMETER
        num_patients = 1
        if count_patients and not is_own:
            source = site_source(site, schema, study.config.data.image)
            num_patients = len(study.task.datasets(source, study.split).train)
        check_request(
            request,
            site.config,
            num_patients=num_patients,
            payload_bytes=payload,
            schema=schema,
            rows_released=_rows_released(site, study.run_key),
        )
    except SiteDataError as error:
        return Finding("data.run", "fail", str(error), "this run leaves too few patients here")
    except RefusedError as error:
        advice = "the operator asks for less, or site.yaml allows more"
        return Finding("config.run", "fail", str(error), advice)
    except FedwardError as error:
        return Finding("config.run", "fail", str(error), "correct run.yaml or site.yaml")
    text = f"{study.config.name}: within the limits, {payload} bytes a round"
    return Finding("config.run", "ok", text)


def _rows_released(site: LoadedSite, run_key: str) -> int:
    """Return how many synthetic rows left the site in other runs."""
    database = site.file(site.config.database)
    ledger = ReleaseLedger(database if database.exists() else None)
    try:
        return ledger.num_rows(site.config.site, except_run=run_key)
    finally:
        ledger.close()
