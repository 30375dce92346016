"""Tables that need no download: scikit-learn's clinical data, and sites of random numbers."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from fedward.common.errors import ConfigError
from fedward.common.randomness import numpy_generator
from fedward.common.registry import did_you_mean
from fedward.common.tables.table import Table

BUILTIN = "builtin"
NUM_FEATURES = 32
SITE_SHIFT = 0.5
CLASS_SHIFT = 0.35


def builtin_frame(name: str) -> pd.DataFrame:
    """Return a table that a dependency carries.

    Raises:
        ConfigError: there is none of that name.
    """
    if name != "breast-cancer":
        known = ["breast-cancer", "gaussian-sites"]
        raise ConfigError(
            f"data.partition.table: no builtin table {name!r}{did_you_mean(name, known)}; "
            f"known: {', '.join(known)}"
        )
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    frame: pd.DataFrame = found.data.rename(columns=lambda column: column.replace(" ", "_"))
    # scikit-learn's target 1 is benign; what a clinician looks for is the malignant mass.
    return frame.assign(malignant=1 - found.target)


@dataclass(frozen=True, repr=False)
class GaussianSite:
    """Two overlapping Gaussian classes, shifted by a vector of the site's own.

    Args:
        site_id: the site.
        seed: of the run.
        rows_min: fewest rows.
        rows_max: most rows.
    """

    site_id: str
    seed: int
    rows_min: int
    rows_max: int

    def read(self) -> Table:
        """Return the generated rows, the same in every process."""
        return self._table

    @cached_property
    def _table(self) -> Table:
        rng = numpy_generator(self.seed, purpose="gaussian-site", site=self.site_id)
        num_rows = int(rng.integers(self.rows_min, self.rows_max + 1))
        label = rng.integers(0, 2, num_rows)
        direction = np.where(np.arange(NUM_FEATURES) % 2 == 0, 1.0, -1.0)
        x_NF = rng.normal(size=(num_rows, NUM_FEATURES))
        x_NF += SITE_SHIFT * rng.normal(size=NUM_FEATURES)
        x_NF += CLASS_SHIFT * np.outer(2.0 * label - 1.0, direction)
        columns = {f"f{index}": x_NF[:, index] for index in range(NUM_FEATURES)}
        return Table(columns, label, np.arange(num_rows, dtype=np.int64))


def generated_source(
    site_id: str,
    seed: int,
    *,
    rows_per_site: int = 50,
    rows_min: int | None = None,
    rows_max: int | None = None,
) -> GaussianSite:
    """Return one generated site with `rows_per_site` rows, or between two numbers of rows."""
    low = rows_per_site if rows_min is None else rows_min
    high = rows_per_site if rows_max is None else rows_max
    return GaussianSite(site_id, seed, low, high)
