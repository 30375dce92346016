"""A run's history as event files of TensorBoard: one folder per site, and one for the federation.

`OUT/federation` and `OUT/sites/<site>`; of a run with repetitions `OUT/<repetition>/...`, so that
TensorBoard shows the same figure of all of them in one chart. Steps are rounds.

Shapes: P output neurons; C colour channels, as bytes.
"""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap

from fedward.common.errors import ConfigError, FedwardError, StorageError
from fedward.server.history import read_history
from fedward.server.report.map_scale import COLOUR_STOPS, MapScale, common_scale, read_shown
from fedward.server.report.monitoring import Monitoring, read_monitoring
from fedward.server.report.series import thin

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FEDERATION = "federation"
EXTRA = "fedward[tracking]"
MAX_PICTURES = 2_000
PICTURE_PX = 128
LOSSES = {"train_loss", "eval_loss"}
"""Told apart by the phase: `train/loss` and `evaluate/loss`."""
NOT_FIGURES = {"round", "site", "phase", "status", "reason"}

Line = Mapping[str, Any]
Picture = npt.NDArray[np.uint8]
OnSite = Callable[[int, int], None]
"""Told how many sites are written, and of how many."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    num_sites: int
    num_scalars: int
    num_pictures: int
    are_pictures_all: bool
    """Whether every map that the run kept is among them; at most MAX_PICTURES are."""


def export_tensorboard(run_dir: Path, out: Path, *, on_site: OnSite | None = None) -> Exported:
    """Write the run in `run_dir` into the new folder `out`, and return what was written.

    Times of events are the run's own: TensorBoard's "relative" axis shows seconds of rounds. The
    run may still be going on; what it has written so far is exported. The names of the files hold
    that of this machine, as TensorBoard's do.

    Raises:
        ConfigError: TensorBoard is not installed, `out` holds files, or there is no history.
        StorageError: `out` cannot be written.
        FedwardError: a line of the history other than the last is not JSON.
    """
    _check_tensorboard()
    parts = _parts(run_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: holds files already; name a new folder, or remove it")
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    exports = {
        label: _Export(_read(part, text), most_pictures=MAX_PICTURES // len(parts))
        for label, part in parts.items()
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            _write(exports, partial, on_site)
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror or error})") from error
    return Exported(
        out,
        num_sites=len({site for export in exports.values() for site in export.source.sites}),
        num_scalars=sum(export.num_scalars for export in exports.values()),
        num_pictures=sum(export.num_pictures for export in exports.values()),
        are_pictures_all=all(export.shows_every_map for export in exports.values()),
    )


def figures_of(line: Line) -> Iterator[tuple[str, float]]:
    """Yield the tag and value of each figure in a line of the history.

    `evaluate/auroc`, `train/seconds`, `cme/<layer>/rho`, `update/influence`; 0 or 1: `saturated`,
    and `train/ok` of a site, which is 0 where its reply was refused, failed, or not asked for.
    """
    phase = str(line.get("phase", "train"))
    if line.get("site") is not None:
        yield f"{phase}/ok", float(line.get("status", "ok") == "ok")
    for key, value in line.items():
        if key == "metrics":
            named = {"loss" if name in LOSSES else name: found for name, found in value.items()}
            yield from _numbers(phase, named)
        elif key in NOT_FIGURES:
            continue
        elif isinstance(value, Mapping):
            yield from _numbers(key, value)
        else:
            yield from _numbers("", {key if key == "saturated" else f"{phase}/{key}": value})


def _numbers(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield what is finite, under names with the keys above them."""
    for name, value in values.items():
        tag = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping) and "value" not in value:
            yield from _numbers(tag, value)
            continue
        number = value.get("value") if isinstance(value, Mapping) else value
        if isinstance(number, (bool, int, float)) and np.isfinite(number):
            yield tag, float(number)


def _parts(run_dir: Path) -> dict[str, Path]:
    """Return the folders with a history: the repetitions by name, or the run itself, unnamed."""
    repeats = sorted((run_dir / "repeats").glob("*/history.jsonl"))
    if repeats:
        return {path.parent.name: path.parent for path in repeats}
    if not (run_dir / "history.jsonl").exists():
        raise ConfigError(
            f"{run_dir / 'history.jsonl'}: no such file; a run writes it with its first round"
        )
    return {"": run_dir}


def _write(exports: Mapping[str, "_Export"], folder: Path, on_site: OnSite | None) -> None:
    total = sum(len(export.source.sites) for export in exports.values())
    done = 0
    for label, export in exports.items():
        for _ in export.write(folder / label):
            done += 1
            if on_site is not None:
                on_site(done, total)


@dataclass(frozen=True)
class _Source:
    config: str
    lines: Mapping[str | None, list[Line]]
    """By site; None: the federation."""
    times: Mapping[int, float]
    """When each round ended, in seconds since 1970."""
    monitoring: Monitoring | None

    @property
    def sites(self) -> list[str]:
        watched = self.monitoring.sites if self.monitoring else {}
        return sorted({*(site for site in self.lines if site is not None), *watched})


def _read(run_dir: Path, config: str) -> _Source:
    path = run_dir / "history.jsonl"
    monitoring = read_monitoring(run_dir)
    by_site: dict[str | None, list[Line]] = defaultdict(list)
    for line in read_history(path):
        site = line.get("site")
        if site is not None and Path(str(site)).name != site:
            raise FedwardError(f"{path}: a site's name is no name of a folder; was it edited?")
        by_site[site].append(line)
    return _Source(config, by_site, _ends(by_site, path.stat().st_mtime), monitoring)


def _ends(lines: Mapping[str | None, list[Line]], last: float) -> dict[int, float]:
    """Return when each round ended: the last when the file was written, the others before it."""
    numbers = {int(line["round"]) for some in lines.values() for line in some}
    seconds = dict.fromkeys(sorted(numbers), 0.0)
    for line in lines.get(None, []):
        seconds[int(line["round"])] += float(line.get("seconds", 0.0))
    ends = np.cumsum(list(seconds.values()))
    return {number: last - float(ends[-1] - end) for number, end in zip(seconds, ends, strict=True)}


class _Export:
    """Counts while it writes."""

    def __init__(self, source: _Source, *, most_pictures: int) -> None:
        self.source = source
        self.num_scalars = self.num_pictures = 0
        self.maps = _shown_maps(source.monitoring, most_pictures)
        self.scales = self._scales()

    @property
    def shows_every_map(self) -> bool:
        """Whether all maps that were kept are shown."""
        kept = self.source.monitoring.maps if self.source.monitoring else {}
        return sum(map(len, kept.values())) == sum(map(len, self.maps.values()))

    def write(self, folder: Path) -> Iterator[str]:
        """Write everything; yield each site when it is written."""
        with _open(folder / FEDERATION) as writer:
            if self.source.config:
                text = f"```yaml\n{self.source.config.rstrip()}\n```"
                writer.add_text("config", text, 0, walltime=self._time(0))
            self._add_scalars(writer, None)
        for site in self.source.sites:
            with _open(folder / "sites" / site) as writer:
                self._add_scalars(writer, site)
                self._add_monitoring(writer, site)
            yield site

    def _add_scalars(self, writer: "SummaryWriter", site: str | None) -> None:
        for line in self.source.lines.get(site, []):
            number = int(line["round"])
            for tag, value in figures_of(line):
                self._add_scalar(writer, tag, value, number)

    def _add_monitoring(self, writer: "SummaryWriter", site: str) -> None:
        """Add what lies beside the history: the raw ACF of each layer, and its maps."""
        watched = self.source.monitoring
        if watched is None or site not in watched.sites:
            return
        for layer in watched.sites[site].layers:
            acf = watched.layer_figure(site, layer, "acf")
            for number, value in zip(watched.numbers, acf, strict=True):
                if np.isfinite(value):
                    self._add_scalar(writer, f"cme/{layer}/acf", float(value), number)
        for number, path in self.maps.get(site, {}).items():
            for layer, shown in read_shown(path, PICTURE_PX).items():
                picture_PPC = _coloured(self.scales[layer].place(shown.map_GG))
                writer.add_image(
                    f"cme_map/{layer}",
                    picture_PPC,
                    number,
                    walltime=self._time(number),
                    dataformats="HWC",
                )
                self.num_pictures += 1

    def _add_scalar(
        self, writer: "SummaryWriter", tag: str, value: float, round_number: int
    ) -> None:
        writer.add_scalar(tag, value, round_number, walltime=self._time(round_number))
        self.num_scalars += 1

    def _time(self, number: int) -> float:
        times = self.source.times
        return times[number] if number in times else min(times.values(), default=0.0)

    def _scales(self) -> dict[str, MapScale]:
        """Return one scale per layer, for all sites and rounds that are shown."""
        found: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
        for files in self.maps.values():
            for path in files.values():
                for layer, shown in read_shown(path, PICTURE_PX).items():
                    found[layer].append(shown.map_GG)
        return {layer: common_scale(some) for layer, some in found.items()}


def _shown_maps(watched: Monitoring | None, most: int) -> dict[str, dict[int, Path]]:
    """Return the files of maps by site and round, of about `most` maps: evenly spread rounds."""
    if watched is None:
        return {}
    layers = max(1, len(watched.layers))
    sites = sorted(watched.maps)[: max(1, most // (2 * layers))]
    rounds = sorted({number for site in sites for number in watched.maps[site]})
    num_rounds = max(2, most // (layers * max(1, len(sites))))
    shown = {rounds[index] for index in thin(len(rounds), num_rounds)}
    return {
        site: {number: path for number, path in watched.maps[site].items() if number in shown}
        for site in sites
    }


def _coloured(places_PP: npt.NDArray[np.float64]) -> Picture:
    """Return places from -1 to 1 as colours; small maps with several pixels for each neuron."""
    colours = LinearSegmentedColormap.from_list("maps", list(COLOUR_STOPS))
    picture_PPC = colours((places_PP + 1) / 2, bytes=True)[:, :, :3]
    times = max(1, PICTURE_PX // len(places_PP))
    return np.asarray(picture_PPC.repeat(times, axis=0).repeat(times, axis=1), np.uint8)


def _check_tensorboard() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401 - whether it can be imported
    except ImportError as error:
        raise ConfigError(
            f"--to tensorboard: {error.name or 'tensorboard'} cannot be imported; "
            f"it comes with: pip install '{EXTRA}'"
        ) from error


def _open(folder: Path) -> "SummaryWriter":
    """Return a writer; leaving its `with` block closes it."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(os.fspath(folder))
