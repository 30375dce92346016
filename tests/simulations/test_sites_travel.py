"""What describes the sites goes to worker processes; patients do not."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fedward.common.config.run import DataConfig
from fedward.simulations.sites import resolve_sites


def data(**partition: object) -> DataConfig:
    keys = {"table": "breast-cancer", "by": "iid", "num_sites": 3} | partition
    return DataConfig.model_validate(
        {"root": "builtin", "schema": str(keys["table"]), "partition": keys}
    )


@pytest.mark.parametrize(
    "config",
    [
        data(),
        data(table="gaussian-sites", by="column", column="site", options={"rows_per_site": 500}),
    ],
    ids=["a table that is cut", "generated sites"],
)
def test_sites_that_were_read_travel_without_a_row_and_read_the_same_again(
    config: DataConfig,
) -> None:
    sites = resolve_sites(config, seed=1, base_dir=Path())
    before = len(pickle.dumps(sites))
    first = {site: sites.source(site).read() for site in sites.site_ids}
    packed = pickle.dumps(sites)
    assert len(packed) == before
    values = next(iter(first["site-1" if "site-1" in first else "site-01"].columns.values()))
    assert np.ascontiguousarray(values).tobytes()[:16] not in packed
    again = pickle.loads(packed)
    for site, table in first.items():
        for name, column in table.columns.items():
            np.testing.assert_array_equal(again.source(site).read().columns[name], column)
