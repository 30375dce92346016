"""One hospital as its trainer sees it: who it is, its patients, and what it remembers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fedward.client.store import SiteStore
from fedward.common.errors import NoPatientsError
from fedward.common.tables.table import Table
from fedward.common.task import SiteData, Statistics


@dataclass
class Site:
    """A site and its lazily read, cached data. It has no repr of its patients.

    Args:
        site_id: the name in the roster.
        read: returns the prepared data for given federation statistics (None: its own).
        sums: returns the additive preprocessing statistics of its training rows.
        store: what it remembers between rounds.
        training: returns the rows that it learns from, for synthetic ones; None: it makes none.
    """

    site_id: str
    read: Callable[[Statistics | None], SiteData] = field(repr=False)
    sums: Callable[[], Statistics] = field(repr=False)
    store: SiteStore = field(repr=False)
    training: Callable[[], Table] | None = field(default=None, repr=False)
    _prepared: tuple[bytes, SiteData] | None = field(default=None, repr=False)

    def data(self, statistics: Statistics | None) -> SiteData:
        """Return the site's patients, prepared with `statistics`.

        Raises:
            NoPatientsError: no training patient is left.
        """
        key = b"" if statistics is None else statistics.tobytes()
        if self._prepared is None or self._prepared[0] != key:
            data = self.read(statistics)
            if len(data.train) == 0:
                raise NoPatientsError(f"site {self.site_id} has no patient to train on")
            self._prepared = key, data
        return self._prepared[1]
