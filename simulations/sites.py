"""Says whose rows are whose in a simulation: files per site, one table cut up, or generated sites.

At a hospital the same task reads a `FileSource` of its own; nothing else differs.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedward.client.data.array_source import ARRAY_SUFFIX, read_arrays, table_from_arrays
from fedward.client.data.catalogue import resolve_root
from fedward.client.data.read import read_frame, table_from_frame
from fedward.common.config.image import ImageConfig
from fedward.common.config.run import DataConfig, PartitionConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.randomness import numpy_generator
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.table import Column, Table, TableSource
from fedward.common.task import PatientDataset
from fedward.simulations.builtin import BUILTIN, builtin_frame, generated_source
from fedward.simulations.image_sites import open_source, phantom_sources
from fedward.simulations.partition import partition, site_names

GENERATED = "gaussian-sites"
COPIES = "copies"
CutKey = tuple[Path | None, int, str, str, int]
MakeTable = Callable[[pd.DataFrame, str], Table]
"""Makes a site's table of some rows; the text says where they come from."""
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, repr=False)
class TableShare:
    """A site's share of a table that was read once for all.

    Args:
        site_id: the site, which its split is drawn for. Copies of one cohort have one split and
            therefore one name: nobody is tested at one site and trains another.
        table: its rows.
    """

    site_id: str
    table: Table

    def read(self) -> Table:
        """Return the site's rows."""
        return self.table


@dataclass(frozen=True, repr=False)
class ShuffledLabels:
    """A control: a site whose training labels are permuted, while it is tested on the true ones."""

    site_id: str
    source: TableSource
    seed: int

    def read(self) -> Table:
        """Return the rows with `train_label` permuted."""
        table = self.source.read()
        rng = numpy_generator(self.seed, purpose="shuffled-labels", site=self.site_id)
        return dataclasses.replace(table, train_label=rng.permutation(table.label))


class SimulatedSites:
    """The sites of a simulation, read when they are first asked for.

    Args:
        sources: how to open each site.
        cohort_bounds: most patients that a site may claim; None counts its rows.
    """

    def __init__(
        self,
        sources: Mapping[str, Callable[[], TableSource]],
        cohort_bounds: dict[str, int] | None = None,
    ) -> None:
        self._open = sources
        self.bounds = cohort_bounds
        self._sources: dict[str, TableSource] = {}

    @property
    def site_ids(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(sorted(self._open))

    def source(self, site_id: str) -> TableSource:
        """Return where a site's rows come from."""
        if site_id not in self._sources:
            self._sources[site_id] = self._open[site_id]()
        return self._sources[site_id]

    def __getstate__(self) -> dict[str, object]:
        """Leave out what was read: patients do not travel to worker processes, which read anew."""
        return {**self.__dict__, "_sources": {}}

    def registered_cohort(self, site_id: str) -> int:
        """Return how many patients the site is registered with: no reply may claim more."""
        if self.bounds is not None:
            return self.bounds[site_id]
        return len(np.unique(self.source(site_id).read().patient_id))


def resolve_sites(data: DataConfig, *, seed: int, base_dir: Path) -> SimulatedSites:
    """Return the sites that a configuration names.

    Args:
        data: the configuration's `data`.
        seed: of the partition and of a shuffled control.
        base_dir: folder of the configuration file.

    Raises:
        ConfigError: root, table or column do not exist.
        SiteDataError: a table does not hold what the schema promises.
    """
    if not data.is_simulated:
        raise ConfigError(
            "data.root: this run names no data to simulate with; give `root` and `sites` or "
            "`partition`, or run it at hospitals: fedward submit"
        )
    schema = load_schema(data.schema_name, base_dir)
    sites = _sites(data, schema, seed, base_dir)
    if data.shuffle_labels_except is None:
        return sites
    kept = set(data.shuffle_labels_except)
    if unknown := kept - set(sites.site_ids):
        raise ConfigError(f"data.shuffle_labels_except: no site {', '.join(sorted(unknown))}")

    def opened(site: str) -> TableSource:
        source = sites.source(site)
        return source if site in kept else ShuffledLabels(site, source, seed)

    return SimulatedSites({site: partial(opened, site) for site in sites.site_ids}, sites.bounds)


def pool(datasets: Iterable[PatientDataset]) -> PatientDataset:
    """Return all patients of several sites as one data set; no patient is at two sites.

    Sites number their patients alike: they get new numbers, which no two sites share.
    """
    parts = list(datasets)
    rows = {key: torch.cat([part.rows[key] for part in parts]) for key in parts[0].rows}
    counts = [int(part.rows["patient_id"].max()) + 1 if len(part) else 0 for part in parts]
    first = np.cumsum([0, *counts[:-1]])
    rows["patient_id"] = torch.cat(
        [part.rows["patient_id"] + int(start) for part, start in zip(parts, first, strict=True)]
    )
    if all(part.starts is None for part in parts):
        return PatientDataset(rows)
    starts, offset = [torch.zeros(1, dtype=torch.int64)], 0
    for part in parts:
        own = part.starts
        if own is None:
            own = torch.arange(len(part.rows["patient_id"]) + 1)
        starts.append(own[1:] + offset)
        offset += int(own[-1])
    return PatientDataset(rows, torch.cat(starts))


def _sites(data: DataConfig, schema: TableSchema, seed: int, base_dir: Path) -> SimulatedSites:
    assert data.root is not None
    if data.to_make is not None:
        return SimulatedSites(phantom_sources(data, schema))
    if data.sites is not None:
        root = resolve_root(data.root, base_dir)
        return SimulatedSites(
            {
                site: partial(open_source, site, root / own.file, schema, data.image)
                for site, own in data.sites.items()
            }
        )
    config = data.partition
    assert config is not None
    path, written_ns = None, 0
    if data.root != BUILTIN:
        path = resolve_root(data.root, base_dir) / config.table
        # Part of the key of `_cut`: an edited file is read again.
        written_ns = path.stat().st_mtime_ns if path.is_file() else 0
    elif config.table == GENERATED:
        return _generated(config, schema, seed)
    wanted = _Wanted(config, data.image, schema)
    key: CutKey = (path, written_ns, wanted.as_json(), config.model_dump_json(), seed)
    return SimulatedSites({site: partial(_share, site, key) for site in _cut(*key)})


@dataclass(frozen=True)
class _Wanted:
    """What is made of one table; as text it is part of a key."""

    config: PartitionConfig
    image: ImageConfig | None
    schema: TableSchema

    def as_json(self) -> str:
        image = None if self.image is None else self.image.model_dump_json()
        return json.dumps([image, self.schema.model_dump_json(by_alias=True)])

    @classmethod
    def of(cls, wanted_json: str, config_json: str) -> "_Wanted":
        image_json, schema_json = json.loads(wanted_json)
        image = None if image_json is None else ImageConfig.model_validate_json(image_json)
        config = PartitionConfig.model_validate_json(config_json)
        return cls(config, image, TableSchema.model_validate_json(schema_json))


def _share(site: str, key: CutKey) -> TableShare:
    """Return a site's share by what it was cut from, so that only that travels to workers."""
    is_copy = PartitionConfig.model_validate_json(key[3]).by == COPIES
    return TableShare(COPIES if is_copy else site, _cut(*key)[site])


@lru_cache(maxsize=4)
def _cut(
    path: Path | None, written_ns: int, wanted_json: str, config_json: str, seed: int
) -> dict[str, Table]:
    """Return each site's table. Read once per process: workers and server ask for the same."""
    del written_ns
    wanted = _Wanted.of(wanted_json, config_json)
    config = wanted.config
    frame, make, place = _readable(path, wanted)
    if config.by == "column":
        return _by_column(frame, config.column or "", make, place=place)
    table = make(frame, place)
    # Patients are dealt, not rows: nobody is at two sites, copies aside.
    _, first, owner = np.unique(table.patient_id, return_index=True, return_inverse=True)
    label = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(label, owner, table.label)
    column = _sorting_column(table, config, place)
    rng = numpy_generator(seed, purpose="partition")
    patients = partition(label, config, rng, column=None if column is None else column[first])
    return {site: table.take(np.isin(owner, own)) for site, own in patients.items()}


def _readable(path: Path | None, wanted: _Wanted) -> tuple[pd.DataFrame, MakeTable, str]:
    """Return the columns of a table or of an array file, and what makes rows of some of them."""
    schema = wanted.schema

    def from_columns(frame: pd.DataFrame, place: str) -> Table:
        return table_from_frame(frame, schema, place=place)

    if path is None:
        return builtin_frame(wanted.config.table), from_columns, f"builtin {wanted.config.table}"
    if path.suffix != ARRAY_SUFFIX:
        return read_frame(path), from_columns, str(path)
    frame, arrays = read_arrays(path, schema)

    def from_arrays(frame: pd.DataFrame, place: str) -> Table:
        return table_from_arrays(frame, arrays, schema, image=wanted.image, place=place)

    return frame, from_arrays, str(path)


def _sorting_column(table: Table, config: PartitionConfig, place: str) -> Column | None:
    if config.by != "feature-shift":
        return None
    name = config.column or ""
    if name not in table.columns:
        raise ConfigError(
            f"data.partition.column: {place} has no feature {name!r}"
            f"{did_you_mean(name, table.columns)}"
        )
    return table.columns[name]


def _by_column(
    frame: pd.DataFrame, column: str, make: MakeTable, *, place: str
) -> dict[str, Table]:
    if column not in frame.columns:
        hint = did_you_mean(column, map(str, frame.columns))
        raise ConfigError(f"data.partition.column: {place} has no column {column!r}{hint}")
    names = frame[column].astype("string")
    nameless = int((~names.str.fullmatch(SITE_NAME.pattern).fillna(value=False)).sum())
    if nameless:
        raise SiteDataError(
            f"{place}: column {column!r}: {nameless} rows do not name a site "
            "(letters, digits, - and _, at most 63)"
        )
    return {
        site: make(frame[names == site], f"{place}, site {site}") for site in sorted(names.unique())
    }


def _generated(config: PartitionConfig, schema: TableSchema, seed: int) -> SimulatedSites:
    """Return sites whose rows are drawn when they are first asked for."""
    if config.by not in ("column", "iid"):
        raise ConfigError(
            f"data.partition.by: {GENERATED} makes its own sites; {config.by} does not apply"
        )
    if config.num_patients is not None:
        raise ConfigError(
            f"data.partition.num_patients: {GENERATED} makes as many as options.rows_per_site says"
        )
    options = _generator_options(config)
    names = site_names(options.get("num_sites", config.num_sites or 10))
    opened = {
        site: partial(
            generated_source,
            site,
            seed,
            rows_per_site=options.get("rows_per_site", 50),
            rows_min=options.get("rows_min"),
            rows_max=options.get("rows_max"),
        )
        for site in names
    }
    example = opened[names[0]]()
    if example.rows_min > example.rows_max:
        raise ConfigError("data.partition.options.rows_min: larger than rows_max")
    if unknown := {field.name for field in schema.fields} - set(example.read().columns):
        raise ConfigError(
            f"data.schema: {GENERATED} has no column {min(unknown)!r}; use schema {GENERATED}"
        )
    return SimulatedSites(opened, dict.fromkeys(names, example.rows_max))


def _generator_options(config: PartitionConfig) -> dict[str, int]:
    allowed = ("num_sites", "rows_per_site", "rows_min", "rows_max")
    for key, value in config.options.items():
        if key not in allowed:
            raise ConfigError(
                f"data.partition.options.{key}: unknown{did_you_mean(key, allowed)}; "
                f"known: {', '.join(allowed)}"
            )
        if value != int(value) or value < 1:
            raise ConfigError(f"data.partition.options.{key}: expected a whole number, at least 1")
    return {key: int(value) for key, value in config.options.items()}
