"""What simulated sites have spent in the runs that a private run goes on from.

A run that starts from another run's `model.safetensors` goes on spending where that one stopped.
What each site has spent there is in the database beside that file, as at a hospital it is in the
ledger. Without it nobody knows the price, and nothing is trained.
"""

from collections.abc import Sequence
from pathlib import Path

from fedward.client.privacy.account import STORED, Earlier, spent_of
from fedward.client.store import SiteStore
from fedward.common.errors import ConfigError
from fedward.common.privacy.accounting import Segment, epsilon_of
from fedward.common.study import Study

STORE_FILE = "site-store.sqlite"
"""Of a run's folder: what its simulated sites keep."""
LAST = 2**31


def spent_before(study: Study, sites: Sequence[str]) -> Earlier:
    """Return what says how much a site has spent before the study.

    The pooled site has what the site has that spent most: every patient is of one site.

    Args:
        study: that may start from an earlier run's model.
        sites: those of the study; new ones have spent nothing.

    Raises:
        ConfigError: the earlier run was private, and its sites' database is not beside its model.
    """
    privacy, earlier = study.config.privacy, study.origin.private_runs
    if privacy is not None and privacy.after:
        raise ConfigError(
            "privacy.after: fedward submit fills it in; in a simulation model.init says it"
        )
    if not study.config.is_private or not earlier:
        return lambda site: ()
    assert privacy is not None
    assert privacy.delta is not None
    assert study.config.model.init is not None
    model = study.base_dir / study.config.model.init
    known = _read(model.parent / STORE_FILE, earlier[-1], sites)
    if not known:
        raise ConfigError(
            f"model.init: {model} was trained with differential privacy in run {earlier[-1]}, and "
            f"no {STORE_FILE} of that run is beside it: what its patients have spent is not "
            "known. Name the file in the run's own folder (of a run with repetitions in "
            "repeats/NAME)"
        )
    delta = privacy.delta
    most = max(known.values(), key=lambda spent: epsilon_of(spent, delta))
    return lambda site: known.get(site, () if site in sites else most)


def _read(store: Path, run_key: str, sites: Sequence[str]) -> dict[str, tuple[Segment, ...]]:
    if not store.is_file():
        return {}
    opened = SiteStore(store)
    try:
        kept = {site: opened.get(run_key, site, STORED, before_round=LAST) for site in sites}
    finally:
        opened.close()
    return {site: spent_of(found) for site, found in kept.items() if found is not None}
