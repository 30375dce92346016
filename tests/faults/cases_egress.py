"""What leaves a hospital: every byte of it, read on the wire behind the encryption.

One site runs in a network of its own in which only the server can be reached; a proxy that holds
the server's key writes down what is said. The same judgement is then passed on a site whose gate
is off, and has to catch it.
"""

import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.cases_replies import hostile
from tests.faults.federation import Federation, Site
from tests.faults.figures import Figure, at_most, case, is_true, none_of
from tests.faults.hospitals import planted_strings
from tests.faults.netns import Cell
from tests.faults.run_folder import RunFolder, broken_rules
from tests.faults.tcp_proxy import Connection
from tests.faults.wiretap import (
    ALLOWED_PATHS,
    Reply,
    Spoken,
    all_requests,
    leaks,
    objects_of,
    replies_of,
)

WATCHED = "bern"
ROUNDS = 3
ARRAYS = {"train": {"parameters": "float32"}, "query.statistics": {"sums": "float64"}}
"""What may be in the ArrayRecord of a reply, by the kind of message."""
RECORDS = {"arrays", "metrics", "receipt", "report", "kept"}
VALUES = {
    "metrics": {"num-examples", "train_loss", "eval_loss", "loss"},
    "receipt": {"binding"},
    "report": {"json"},
    "kept": {"release"},  # the receipt for a model
}
SLACK_BYTES = 64_000


@dataclass
class Seen:
    """All that could be observed of one run."""

    cell: Cell
    port: int
    connections: list[Connection]
    run: RunFolder
    files: list[Path]
    secrets: list[str | bytes]

    @property
    def requests(self) -> list[Spoken]:
        """What the watched site asked the server."""
        return all_requests(one for one in self.connections if one.peer == self.cell.there)


@case("egress")
def egress() -> list[Figure]:
    """Only allowed records leave, to the server alone; a site without its gate is caught."""
    with Cell() as cell:
        federation = Federation(records=True, host=cell.here, adjust=in_cell(cell))
        with federation:
            seen = watch_run(federation, cell)
            figures = judge(seen)
            figures += replayed(federation, seen)
            site = federation.site(WATCHED)
            site.stop()
            cell.packets.clear()
            with hostile(site, "--leak", str(site.folder / "rows.csv")):
                caught = [one.what for one in judge(watch_run(federation, cell)) if not one.holds]
        for wanted in ("other connections", "names that are not", "secrets on the wire"):
            found = any(wanted in what for what in caught)
            figures.append(is_true(f"without the gate caught by: {wanted}", found))
    return figures


def in_cell(cell: Cell) -> Callable[[Site], None]:
    """Return what puts the watched site into the cell, without a proxy of its own."""

    def adjust(site: Site) -> None:
        if site.name == WATCHED:
            site.prefix = cell.inside([])
            del site.settings["proxy"]

    return adjust


def watch_run(federation: Federation, cell: Cell) -> Seen:
    """Run some rounds and return what was seen."""
    assert federation.tap is not None
    known = len(federation.tap.connections)
    federation.tap.drop()  # a connection from before would be recorded where it began
    run = federation.submit(rounds=ROUNDS)
    run.wait_end(within_s=300)
    return Seen(
        cell,
        federation.port,
        federation.tap.connections[known:],
        run,
        list(files_to_read(federation)),
        secrets_of(federation),
    )


def judge(seen: Seen) -> list[Figure]:
    """Return the figures of one run; the same for every site, with a gate or without."""
    requests = seen.requests
    replies = replies_of(requests, objects_of(seen.connections))
    unread = [one.message_type for one in replies if one.error]
    model_bytes = seen.run.model().nbytes
    sizes = [len(one.body) for one in requests if one.path.endswith("/push-object")]
    limit = max(len(replies), 1) * (1.05 * model_bytes + SLACK_BYTES)
    wire = b"".join(bytes(one.up) for one in seen.connections)
    told = [leak for body in bodies(requests) for leak in leaks(body, seen.secrets)]
    on_disk = [f"{file.name}" for file in seen.files if leaks(file.read_bytes(), seen.secrets)]
    return [
        is_true("replies were read on the wire", len(replies) > ROUNDS, str(len(replies))),
        none_of("replies that could not be read", unread),
        none_of("other connections", sorted({str(one) for one in seen.cell.others(seen.port)})),
        none_of("requests that are not allowed", {x.path for x in requests} - ALLOWED_PATHS),
        none_of("names that are not on the list", surprises(replies)),
        at_most("kB pushed", sum(sizes) / 1e3, limit / 1e3),
        none_of("secrets on the wire", [*told, *leaks(wire, seen.secrets)]),
        none_of("files that hold a secret", on_disk),
        is_true("files read", bool(seen.files), str(len(seen.files))),
    ]


def bodies(requests: list[Spoken]) -> Iterator[bytes]:
    """Yield what was pushed, one object each."""
    yield from (one.body for one in requests if one.path.endswith("/push-object"))


def surprises(replies: list[Reply]) -> list[str]:
    """Return every record, array and value that is not on the list."""
    found: list[str] = []
    for reply in replies:
        if reply.content is None:
            continue
        found += [f"record {name}" for name in set(reply.content) - RECORDS]
        for name, arrays in reply.shapes.items():
            allowed = ARRAYS.get(reply.message_type, {})
            found += [
                f"{reply.message_type}: {name}/{key} {dtype} {shape}"
                for key, dtype, shape in arrays
                if allowed.get(key) != dtype or len(shape) != 1
            ]
        for name, keys in reply.keys.items():
            found += [f"value {name}/{key}" for key in keys - VALUES.get(name, set())]
    return sorted(set(found))


def secrets_of(federation: Federation) -> list[str | bytes]:
    """Return planted strings and raw rows of all sites: as text and as numbers."""
    found: list[str | bytes] = []
    for name, site in federation.sites.items():
        found += planted_strings(name)
        lines = (site.folder / "rows.csv").read_text(encoding="utf-8").splitlines()[1:12]
        for line in lines:
            row = line.split(",", 1)[1]
            numbers = [float(value) for value in row.split(",")]
            found += [row, row.rsplit(",", 1)[0]]
            found += [np.array(numbers[:-1], dtype).tobytes() for dtype in ("<f4", "<f8")]
            found.append(struct.pack(">13d", *numbers[:-1]))
        for secret in ("site.key", "id-salt"):
            found.append((site.folder / secret).read_bytes().strip())
    return found


def files_to_read(federation: Federation) -> Iterator[Path]:
    """Yield what lies at the coordinator, and all logs: no patient may stand in any of it."""
    for path in sorted(federation.state.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path
    yield from sorted(federation.folder.rglob("*.log"))


def replayed(federation: Federation, seen: Seen) -> list[Figure]:
    """Send every recorded reply of the run's last minutes again, word by word."""
    again = [one for one in seen.requests if one.path.endswith(("/push-messages", "/push-object"))]
    context = ssl.create_default_context(cafile=str(federation.kits / "server/ca.crt"))
    before = len(seen.run.history())
    import httpx

    with httpx.Client(verify=context, trust_env=False) as client:
        for one in again:
            headers = {k: v for k, v in one.headers.items() if k not in {"host", "content-length"}}
            url = f"https://{federation.address}{one.path}"
            client.post(url, headers=headers, content=one.body)
    run = federation.submit(rounds=2)
    run.wait_end(within_s=240)
    return [
        is_true("replayed requests", bool(again), str(len(again))),
        at_most("lines that a replay added", float(len(seen.run.history()) - before), 0),
        none_of("broken rules after replays", broken_rules(seen.run) + broken_rules(run)),
    ]
