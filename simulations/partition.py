"""Cuts one table into sites that differ as hospitals do. Every row goes to exactly one site.

`copies` is the exception: every site has all rows.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fedward.common.config.run import PartitionConfig
from fedward.common.errors import ConfigError

Ints = npt.NDArray[np.int64]
Deal = Callable[[np.random.Generator], Ints]
MAX_DRAWS = 100
MIXING = 0.1


def partition(
    label: Ints,
    config: PartitionConfig,
    rng: np.random.Generator,
    *,
    column: npt.NDArray[np.float64] | None = None,
) -> dict[str, Ints]:
    """Return the rows of each site, sorted; site names are those of `site_names`.

    Args:
        label: (N,) class of each row; a row is a patient.
        config: `by` is one of `iid`, `label-skew`, `size-skew`, `feature-shift`, `copies`.
        rng: the only source of randomness.
        column: (N,) what `feature-shift` sorts by; missing values come last.

    Raises:
        ConfigError: there are fewer than `num_patients` rows, or no draw gave every site
            `min_patients`.
    """
    if config.num_patients is None:
        return _dealt_by(label, config, rng, column)
    if config.num_patients > len(label):
        raise ConfigError(
            f"data.partition.num_patients: the table has {len(label)} patients, fewer than "
            f"{config.num_patients}; leave it out to take all"
        )
    drawn = np.sort(rng.permutation(len(label))[: config.num_patients])
    some = None if column is None else column[drawn]
    return {site: drawn[own] for site, own in _dealt_by(label[drawn], config, rng, some).items()}


def site_names(num_sites: int) -> list[str]:
    """Return `site-1`, `site-2` ..., with as many digits as sort them by number."""
    digits = len(str(num_sites))
    return [f"site-{number:0{digits}d}" for number in range(1, num_sites + 1)]


def _dealt_by(
    label: Ints,
    config: PartitionConfig,
    rng: np.random.Generator,
    column: npt.NDArray[np.float64] | None,
) -> dict[str, Ints]:
    num_sites = config.num_sites or 1
    names = site_names(num_sites)
    if config.by == "copies":
        return {name: np.arange(len(label)) for name in names}
    if len(label) < num_sites * config.min_patients:
        raise ConfigError(
            f"data.partition: {len(label)} rows cannot give {num_sites} sites "
            f"{config.min_patients} each; lower num_sites or min_patients"
        )
    deal: dict[str, Deal] = {
        "iid": lambda rng: rng.permutation(np.arange(len(label)) % num_sites),
        "label-skew": lambda rng: _label_skew(label, num_sites, config.alpha or 1.0, rng),
        "size-skew": lambda rng: _size_skew(len(label), num_sites, config.alpha or 1.0, rng),
        "feature-shift": lambda rng: _feature_shift(column, num_sites, rng),
    }
    for _ in range(MAX_DRAWS):
        owner = deal[config.by](rng)
        if np.bincount(owner, minlength=num_sites).min() >= config.min_patients:
            return {name: np.flatnonzero(owner == site) for site, name in enumerate(names)}
    raise ConfigError(
        f"data.partition: {MAX_DRAWS} draws by {config.by} left a site with fewer than "
        f"{config.min_patients} rows; raise alpha, or lower num_sites or min_patients"
    )


def _label_skew(label: Ints, num_sites: int, alpha: float, rng: np.random.Generator) -> Ints:
    """Give each class to the sites in shares drawn from Dirichlet(alpha).

    Source: Hsu et al. 2019, arXiv:1909.06335, section 3 (shares per class instead of per site).
    """
    owner = np.empty(len(label), dtype=np.int64)
    for klass in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == klass))
        owner[rows] = _dealt(len(rows), rng.dirichlet(np.full(num_sites, alpha)))
    return owner


def _size_skew(num_rows: int, num_sites: int, alpha: float, rng: np.random.Generator) -> Ints:
    """Give the shuffled rows to the sites in shares drawn from Dirichlet(alpha)."""
    owner = np.empty(num_rows, dtype=np.int64)
    owner[rng.permutation(num_rows)] = _dealt(num_rows, rng.dirichlet(np.full(num_sites, alpha)))
    return owner


def _feature_shift(
    column: npt.NDArray[np.float64] | None, num_sites: int, rng: np.random.Generator
) -> Ints:
    """Sort by a feature and cut into equal slices; a tenth of the rows goes anywhere."""
    assert column is not None
    # Equal values in random order, or the file's order would decide.
    order = np.lexsort((rng.permutation(len(column)), column))
    owner = np.empty(len(column), dtype=np.int64)
    owner[order] = _dealt(len(column), np.full(num_sites, 1 / num_sites))
    anywhere = rng.random(len(column)) < MIXING
    owner[anywhere] = rng.integers(0, num_sites, int(anywhere.sum()))
    return owner


def _dealt(num_rows: int, shares: npt.NDArray[np.float64]) -> Ints:
    """Return (num_rows,) owners in runs whose lengths follow `shares`."""
    ends = np.round(np.cumsum(shares) * num_rows).astype(np.int64)
    return np.searchsorted(ends, np.arange(num_rows), side="right").clip(max=len(shares) - 1)
