"""The same data at several sites: one cohort, one split, and what is refused with it."""

from pathlib import Path

import pytest

from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.tables.table import TableSource
from fedward.common.task import Split
from fedward.common.tasks import build_task
from fedward.simulations.cli import find_config
from fedward.simulations.scenarios import load_scenarios
from fedward.simulations.sites import TableShare, resolve_sites

QUICKSTART = find_config("quickstart")
COPIES = ["data.partition.by=copies", "baselines=[]", "repeat=null"]


def sides(
    config: RunConfig, sources: dict[str, TableSource], base_dir: Path
) -> dict[str, set[bytes]]:
    """Return the rows, as bytes, that train at some site and that test at some site."""
    task = build_task(config, base_dir)
    found: dict[str, set[bytes]] = {"train": set(), "test": set()}
    for source in sources.values():
        # Scaled alike: each site's own means would make the same patient look different.
        statistics = task.local_statistics(next(iter(sources.values())), Split(config.seed))
        data = task.datasets(source, Split(config.seed), statistics)
        for side, part in (("train", data.train), ("test", data.test)):
            rows = part.all_rows()
            values = rows["image"] if "image" in rows else rows["features"]
            found[side] |= {row.numpy().tobytes() for row in values}
    return found


def sources_of(config: RunConfig, base_dir: Path) -> dict[str, TableSource]:
    sites = resolve_sites(config.data, seed=config.seed, base_dir=base_dir)
    return {site: sites.source(site) for site in sites.site_ids}


def test_nobody_who_is_tested_at_one_copy_trains_another() -> None:
    config = load_run_config(QUICKSTART, COPIES).config
    sources = sources_of(config, QUICKSTART.parent)
    assert len(sources) > 1
    found = sides(config, sources, QUICKSTART.parent)
    assert found["train"]
    assert found["test"]
    assert not found["train"] & found["test"]


def test_without_the_common_name_each_copy_has_its_own_split_and_patients_leak() -> None:
    config = load_run_config(QUICKSTART, COPIES).config
    sources: dict[str, TableSource] = {
        site: TableShare(site, source.read())
        for site, source in sources_of(config, QUICKSTART.parent).items()
    }
    found = sides(config, sources, QUICKSTART.parent)
    # A test patient of one of 5 sites is tested at all others with a probability of 0.3 ^ 4.
    assert len(found["train"] & found["test"]) > len(found["test"]) / 2


@pytest.mark.parametrize(
    "change",
    [
        "baselines=[pooled]",
        "data.shuffle_labels_except=[site-1]",
        "privacy={mode: local, epsilon: 3, delta: 0.001, max_update_norm: 1.0, unit: site}",
        "synthesis={method: copula, rows_per_site: 50}",
    ],
)
def test_what_counts_each_patient_once_is_refused_with_copies(change: str) -> None:
    with pytest.raises(ConfigError, match="with copies a patient is at every site"):
        load_run_config(QUICKSTART, [*COPIES, "data.statistics=schema", change])


def test_generated_sites_are_no_table_to_draw_patients_from() -> None:
    cut = "{table: gaussian-sites, by: iid, num_sites: 3, num_patients: 20}"
    data = f"data={{root: builtin, schema: gaussian-sites, partition: {cut}}}"
    config = load_run_config(QUICKSTART, [data, "repeat=null"]).config
    with pytest.raises(ConfigError, match="num_patients: gaussian-sites makes as many"):
        resolve_sites(config.data, seed=1, base_dir=QUICKSTART.parent)


@pytest.mark.slow
@pytest.mark.usefixtures("data_dir")
def test_equal_pictures_of_brains_are_on_one_side_at_all_hospitals_of_the_same_data() -> None:
    configs, base_dir = load_scenarios("cme", ["data.partition.num_patients=300"])
    sources = sources_of(configs[3], base_dir)
    found = sides(configs[3], sources, base_dir)
    assert len(found["test"]) > 50
    assert not found["train"] & found["test"]
