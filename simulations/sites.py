"""Says whose rows are whose in a simulation: files per site, one table cut up, or generated sites.

At a hospital the same task reads a `FileSource` of its own; nothing else differs.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedward.client.data.catalogue import resolve_root
from fedward.client.data.read import read_frame, table_from_frame
from fedward.client.data.source import FileSource
from fedward.common.config.run import DataConfig, PartitionConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.randomness import numpy_generator
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.table import Table, TableSource
from fedward.common.task import PatientDataset
from fedward.simulations.builtin import BUILTIN, builtin_frame, generated_source
from fedward.simulations.partition import partition

GENERATED = "gaussian-sites"


@dataclass(frozen=True, repr=False)
class TableShare:
    """A site's share of a table that was read once for all."""

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
        sources: dict[str, Callable[[], TableSource]],
        cohort_bounds: dict[str, int] | None = None,
    ) -> None:
        self._open = sources
        self._bounds = cohort_bounds
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

    def registered_cohort(self, site_id: str) -> int:
        """Return how many patients the site is registered with: no reply may claim more."""
        if self._bounds is not None:
            return self._bounds[site_id]
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

    return SimulatedSites({site: lambda site=site: opened(site) for site in sites.site_ids})  # type: ignore[misc]


def pool(datasets: Iterable[PatientDataset]) -> PatientDataset:
    """Return all patients of several sites as one data set; no patient is at two sites."""
    parts = list(datasets)
    rows = {key: torch.cat([part.rows[key] for part in parts]) for key in parts[0].rows}
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
    if data.sites is not None:
        root = resolve_root(data.root, base_dir)
        return SimulatedSites(
            {
                site: lambda site=site, file=own.file: FileSource(site, root / file, schema)  # type: ignore[misc]
                for site, own in data.sites.items()
            }
        )
    config = data.partition
    assert config is not None
    if data.root == BUILTIN and config.table == GENERATED:
        return _generated(config, seed)
    key = config.model_dump_json()
    tables = _cut(key, data.root, data.schema_name, seed, base_dir)
    return SimulatedSites(
        {
            site: lambda site=site, table=table: TableShare(site, table)
            for site, table in tables.items()
        }  # type: ignore[misc]
    )


@lru_cache(maxsize=4)
def _cut(
    config_json: str, root: str, schema_name: str, seed: int, base_dir: Path
) -> dict[str, Table]:
    """Return each site's table. Read once per process: workers and server ask for the same."""
    config = PartitionConfig.model_validate_json(config_json)
    schema = load_schema(schema_name, base_dir)
    if root == BUILTIN:
        frame, place = builtin_frame(config.table), f"builtin {config.table}"
    else:
        path = resolve_root(root, base_dir) / config.table
        frame, place = read_frame(path), str(path)
    if config.by == "column":
        return _by_column(frame, config, schema, place)
    table = table_from_frame(frame, schema, place=place)
    column = None
    if config.by == "feature-shift":
        if config.column not in table.columns:
            raise ConfigError(f"data.partition.column: {place} has no feature {config.column!r}")
        column = table.columns[config.column]
    rng = numpy_generator(seed, purpose="partition")
    rows = partition(table.label, config, rng, column=column)
    return {site: table.take(own) for site, own in rows.items()}


def _by_column(
    frame: "pd.DataFrame", config: PartitionConfig, schema: TableSchema, place: str
) -> dict[str, Table]:
    if config.column not in frame.columns:
        raise ConfigError(f"data.partition.column: {place} has no column {config.column!r}")
    nameless = int(frame[config.column].isna().sum())
    if nameless:
        raise SiteDataError(f"{place}: column {config.column!r}: {nameless} rows name no site")
    tables = {}
    for site, own in frame.groupby(config.column, sort=True):
        rows = own.reset_index(drop=True)
        tables[str(site)] = table_from_frame(rows, schema, place=f"{place}, site {site}")
    return tables


def _generated(config: PartitionConfig, seed: int) -> SimulatedSites:
    options = {key: int(value) for key, value in config.options.items()}
    num_sites = options.pop("num_sites", config.num_sites or 10)
    most = options.get("rows_max", options.get("rows_per_site", 50))
    names = [f"site-{number:0{len(str(num_sites))}d}" for number in range(1, num_sites + 1)]
    return SimulatedSites(
        {site: lambda site=site: generated_source(site, seed, **options) for site in names},  # type: ignore[misc]
        dict.fromkeys(names, most),
    )
