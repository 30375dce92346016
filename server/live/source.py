"""What the live page shows, read from the folder of a run or from a hospital's own maps.

Both change while they are looked at. A snapshot is taken again only once something changed, and is
shared by every browser.
"""

import itertools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from fedward.common.config.yaml_lines import parse_yaml
from fedward.common.errors import ConfigError, FedwardError
from fedward.common.monitoring.map_files import list_maps
from fedward.server.live.follow import HistoryFile
from fedward.server.live.state import State, read_object, state_of_maps, state_of_run
from fedward.server.report.monitoring import MAPS_DIR, Monitoring, assemble
from fedward.server.report.series import Rounds, tabulate

REPEATS_DIR = "repeats"
MAX_KEPT = 8
"""Snapshots: a browser asks several times for one, while the run goes on."""
MAX_CONFIG_CHARS = 100_000
Maps = Mapping[str, Mapping[int, Path]]


@dataclass(frozen=True)
class Snapshot:
    """What there is to draw of one part: a repetition of a run, or a run at a hospital."""

    version: str
    """Changes whenever anything else here does."""
    rounds: Rounds
    monitoring: Monitoring | None
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Of the history, as they came."""
    num_unreadable: int = 0


class Source(Protocol):
    """Something that the page can follow."""

    kind: Literal["run", "site"]
    title: str
    config_text: str

    def parts(self) -> list[str]:
        """Return the names of what can be looked at one at a time, the newest last."""

    def snapshot(self, part: str, version: str | None = None) -> Snapshot:
        """Return what there is of a part now, or a recent version while it is kept."""

    def state(self, part: str, snapshot: Snapshot) -> State:
        """Return how the part gets on."""


class RunSource:
    """A run in its folder: of a simulation, or of a deployment at the coordinator."""

    kind: Literal["run", "site"] = "run"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_text = _config_text(folder / "config.yaml")
        found = _parsed(self.config_text)
        self.title = str(found.get("name") or folder.name)
        rounds = found.get("rounds")
        self.num_rounds = rounds if type(rounds) is int else None
        self._parts: dict[str, _Part] = {}
        self._lock = threading.Lock()

    def parts(self) -> list[str]:
        """Return the repetitions, the one written last at the end; without any, one unnamed."""
        begun = (self.folder / REPEATS_DIR).glob("*/history.jsonl")
        return [path.parent.name for path in sorted(begun, key=_written)] or [""]

    def snapshot(self, part: str, version: str | None = None) -> Snapshot:
        """Return what there is of a repetition now, or a recent version while it is kept."""
        folder = self._folder(part)
        with self._lock:
            if part not in self._parts:
                self._parts[part] = _Part(folder)
            return self._parts[part].snapshot(version)

    def state(self, part: str, snapshot: Snapshot) -> State:
        """Return how the repetition gets on."""
        with self._lock:
            changed_at_s = self._parts[part].history.changed_at_s if part in self._parts else None
        return state_of_run(
            self.folder,
            self._folder(part),
            snapshot.rounds,
            num_rounds=self.num_rounds,
            changed_at_s=changed_at_s,
        )

    def _folder(self, part: str) -> Path:
        # Names come from a browser: only those that are there lead anywhere.
        if part and part not in self.parts():
            raise ConfigError(f"no repetition {part!r} in {self.folder}")
        return self.folder / REPEATS_DIR / part if part else self.folder


class SiteSource:
    """The covariance maps that runs left at a hospital, beside its database."""

    kind: Literal["run", "site"] = "site"
    config_text = ""

    def __init__(self, folder: Path, site: str) -> None:
        self.folder = folder
        self.title = site
        self._parts: dict[str, _Part] = {}
        self._lock = threading.Lock()

    def parts(self) -> list[str]:
        """Return the keys of the runs that left maps, the newest last; one empty without any."""
        if not self.folder.is_dir():
            return [""]
        runs = [path for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink()]
        return [run.name for run in sorted(runs, key=_newest)] or [""]

    def snapshot(self, part: str, version: str | None = None) -> Snapshot:
        """Return the maps of a run now, or a recent version while it is kept."""
        if part and part not in self.parts():
            raise ConfigError(f"no maps of a run {part!r} in {self.folder}")
        with self._lock:
            if part not in self._parts:
                self._parts[part] = _Part(self.folder / part, maps=self.folder / part)
            return self._parts[part].snapshot(version)

    def state(self, part: str, snapshot: Snapshot) -> State:
        """Return how many maps there are."""
        return state_of_maps(self.folder, snapshot.monitoring)


class _Part:
    """The files of one part, and the snapshot of them that was taken last."""

    _versions = itertools.count(1)

    def __init__(self, folder: Path, *, maps: Path | None = None) -> None:
        self.history = HistoryFile(folder / "history.jsonl")
        self._summary = folder / "summary.json"
        self._map_folder = maps or folder / MAPS_DIR
        self._seen: object = None
        self._kept: dict[str, Snapshot] = {}

    def snapshot(self, version: str | None) -> Snapshot:
        if version in self._kept:
            return self._kept[version]
        self.history.refresh()
        seen = (
            self.history.num_changes,
            self.history.num_unreadable,
            _written(self._summary),
            _stamps(self._map_folder),
        )
        if not self._kept or seen != self._seen:
            self._seen = seen
            taken = self._take()
            self._kept[taken.version] = taken
            for old in list(self._kept)[:-MAX_KEPT]:
                del self._kept[old]
        return list(self._kept.values())[-1]

    def _take(self) -> Snapshot:
        lines = list(self.history.lines)
        totals = read_object(self._summary).get("monitor")
        return Snapshot(
            version=str(next(self._versions)),
            rounds=tabulate(lines),
            monitoring=_assembled(lines, _own_maps(self._map_folder), totals),
            lines=lines,
            num_unreadable=self.history.num_unreadable,
        )


def _assembled(lines: list[dict[str, Any]], maps: Maps, totals: Any) -> Monitoring | None:
    try:
        return assemble(lines, maps, totals if isinstance(totals, dict) else {})
    except OSError:  # a map went while it was read, such as by `site purge`
        return assemble(lines)


def _stamps(folder: Path) -> dict[str, int]:
    """Return when the folder of each site last got or lost a file; links are left out."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.stat().st_mtime_ns
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
            }
    except OSError:
        return {}


def _own_maps(folder: Path) -> Maps:
    """Return the files by site and round; of links, which may lead elsewhere, none."""
    own = _stamps(folder)
    try:
        return {site: files for site, files in list_maps(folder).items() if site in own and files}
    except (FedwardError, OSError):  # removed in between
        return {}


def _config_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_CONFIG_CHARS)
    except (OSError, UnicodeDecodeError):
        return ""


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        value = parse_yaml(text, "config.yaml").value
    except ConfigError:  # one that was edited is shown, and tells nothing
        return {}
    return value if isinstance(value, Mapping) else {}


def _written(path: Path) -> tuple[float, Path]:
    """Return what sorts files and folders by the time of the last change."""
    try:
        return path.stat().st_mtime, path
    except OSError:  # removed in between
        return 0.0, path


def _newest(run: Path) -> tuple[float, Path]:
    """Return what sorts runs at a hospital by the time of their last map."""
    return max(_written(path)[0] for path in (run, *run.glob("*"))), run
