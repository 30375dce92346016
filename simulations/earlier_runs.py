"""What simulated sites have spent in the runs that a private run goes on from.

A run that starts from another run's `model.safetensors` goes on spending where that one stopped.
What each site has spent there is in the database beside that file, as at a hospital it is in the
ledger. Without it nobody knows the price, and nothing is trained.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedward.client.privacy.account import SPENT, STORED, Earlier, spent_of
from fedward.client.store import SiteStore
from fedward.common.errors import ConfigError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.study import Study

STORE_FILE = "site-store.sqlite"
"""Of a run's folder: what its simulated sites keep."""
LAST = 2**31
Spent = dict[str, tuple[Segment, ...]]


def spent_before(study: Study, sites: Sequence[str]) -> Earlier:
    """Return what says how much a site has spent before the study.

    The pooled site has what the site has that spent most, as every patient is of one site. So has
    every site where another seed has dealt the patients to sites anew.

    Args:
        study: that may start from an earlier run's model.
        sites: those of the study; new ones have spent nothing.

    Raises:
        ConfigError: the earlier run was private, and its sites' database is not beside its model.
    """
    known = _known(study)
    if not known:
        return lambda site: ()
    privacy = study.config.privacy
    assert privacy is not None
    assert privacy.delta is not None
    delta = privacy.delta
    most = max(known.values(), key=lambda spent: epsilon_of(spent, delta))
    if _were_dealt_anew(study):
        return lambda site: most
    return lambda site: known.get(site, () if site in sites else most)


def carry_over(study: Study, sites: Sequence[str], store: Path | None) -> None:
    """Write what all sites spent before into the study's own database, where it is not there yet.

    A site that takes part in no round has it there too, for a run that goes on from this one.

    Args:
        study: that may start from an earlier run's model.
        sites: those of the study.
        store: the database; None: it is in memory, and nothing goes on from it.

    Raises:
        ConfigError: as `spent_before`.
    """
    earlier, known = spent_before(study, sites), _known(study)
    if store is None or not known:
        return
    opened = SiteStore(store)
    try:
        for site in sorted({*known, *sites}):
            spent = earlier(site) if site in sites else known[site]
            if opened.get(study.run_key, site, STORED, before_round=LAST) is None:
                rows = np.array([[s.noise_multiplier, s.sample_rate, s.num_steps] for s in spent])
                arrays = {SPENT: rows.reshape(-1, 3)}
                opened.put(study.run_key, site, STORED, round_number=0, arrays=arrays)
    finally:
        opened.close()


def _known(study: Study) -> Spent:
    """Return what each site spent until the end of the earlier run; empty: nothing is to pay."""
    earlier = study.origin.private_runs
    if not study.config.is_private or not earlier:
        return {}
    last = study.origin.runs[-1].run_key
    if last != earlier[-1]:
        raise ConfigError(
            f"model.init: run {last}, without differential privacy, has trained it further after "
            f"run {earlier[-1]}; from there nobody counts on. Start from the private run's model"
        )
    assert study.config.model.init is not None
    store = (study.base_dir / study.config.model.init).parent / STORE_FILE
    known = _read(store, last) if store.is_file() else {}
    if not known:
        raise ConfigError(
            f"model.init: it was trained with differential privacy in run {last}, and {store} "
            f"{'holds nothing of that run' if store.is_file() else 'is not there'}: what its "
            "patients have spent is not known. Name the model in that run's own folder (of a run "
            "with repetitions in repeats/NAME)"
        )
    return known


def _read(store: Path, run_key: str) -> Spent:
    opened = SiteStore(store)
    try:
        kept = {
            site: opened.get(run_key, site, STORED, before_round=LAST)
            for site in opened.sites_with(run_key, STORED)
        }
    finally:
        opened.close()
    return {site: spent_of(found) for site, found in kept.items() if found is not None}


def _were_dealt_anew(study: Study) -> bool:
    """Return whether the patients of a site may have been at another one in the earlier run."""
    partition = study.config.data.partition
    if partition is None or partition.by == "column":
        return False
    seed = re.search(r"-seed(\d+)(-fold\d+)?$", study.origin.runs[-1].run_key)
    return seed is None or int(seed[1]) != study.seed
