"""What a site has ever spent of its patients' privacy, and whether one more round is within it.

`reserve` is asked before a training starts. It returns only when all planned steps are written
down, on disk, and within the site's budget: a power cut after that costs budget without a result,
and never the other way round. `release` is asked before the result leaves. A message that comes
again before that is the same reservation, as nothing has left; one that comes again afterwards is
another training with other noise, and is counted again.

Nothing is ever taken back. Where the ledger is not whole, nothing is trained (`book_store.py`).
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from fedward.client.audit import AuditTrail
from fedward.client.privacy.book_store import BookStore
from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import RELEASED, RESERVED, Book, Budget, Planned, Reserved
from fedward.common.errors import BudgetSpentError, RefusedError, StorageError
from fedward.common.privacy.accounting import Segment, epsilon_of, merged
from fedward.common.privacy.checks import check_delta

CheckRun = Callable[[tuple[Segment, ...]], None]
log = logging.getLogger("fedward.privacy")


@dataclass(frozen=True)
class Reservation:
    """A round that may be trained."""

    seq: int
    """Its entry."""
    attempt: int
    """The how-manieth of its message."""
    is_new: bool
    """Whether it was written now; otherwise the message came again before anything left."""
    epsilon: float
    """What the patients have spent with it, at `delta`, over all runs and studies."""
    delta: float
    of_run: tuple[Segment, ...]
    """All that its run has spent with it, whoever the patients were."""


class PrivacyLedger:
    """The ledger of one site.

    Args:
        database: the site's; None keeps the ledger in memory, for runs that are never resumed.
        site: its name.
        budget: what the site allows.
        trail: the site's log, where heads of the ledger are named; None: there is none.
        is_shared: whether other sites' ledgers may be in the same file, as in a simulation.
    """

    def __init__(
        self,
        database: Path | None,
        *,
        site: str,
        budget: Budget,
        trail: AuditTrail | None = None,
        is_shared: bool = False,
    ) -> None:
        self.site = site
        self.budget = budget
        self._store = BookStore(database, site=site, trail=trail, is_shared=is_shared)
        self._shares: dict[tuple[str, str], bool] = {}

    def reserve(
        self, planned: Planned, data: DataSet, *, check_run: CheckRun = lambda history: None
    ) -> Reservation:
        """Write down all that is planned, and return that it may be done.

        Args:
            planned: one round, or one statistic.
            data: whose patients.
            check_run: raises where the run may not have spent that much with it.

        Raises:
            BudgetSpentError: it would pass the site's budget; the text may leave.
            ConfigError: delta is not below one over the patients.
            StorageError: the ledger is damaged or missing, or cannot be written.
        """
        delta = self.budget.delta or planned.delta
        check_delta(max(delta, planned.delta), data.num_patients)
        with self._store.opened() as (connection, book):
            spent = self._spent(connection, book, data)
            known = book.newest_of(planned.message_id)
            is_new = known is None or _is_another(known, planned, data, book)
            if is_new:
                spent = merged([*spent, *planned.segments])
            epsilon = epsilon_of(spent, delta)
            of_run = _of_run(book, planned, is_new=is_new)
            attempt = 1 if known is None else known.attempt + int(is_new)
            if known is not None and not is_new:
                seq = known.seq
            else:
                check_run(of_run)
                self._refuse_past_budget(epsilon, planned)
                _keep(connection, data)
                facts = {"attempt": attempt, "data_set": data.name, **planned.facts()}
                seq = self._store.append(connection, book, event=RESERVED, facts=facts)
        self._store.anchor()
        return Reservation(seq, attempt, is_new, epsilon, delta, of_run)

    def release(self, message_id: str) -> None:
        """Write down that the result leaves now; once for each reservation.

        Raises:
            RefusedError: nothing is reserved for the message, or its result has left already.
            StorageError: as `reserve`.
        """
        with self._store.opened() as (connection, book):
            known = book.newest_of(message_id)
            if known is None or known.seq in book.released:
                raise RefusedError(
                    f"site {self.site}: no privacy budget is reserved for this result; it stays"
                )
            facts = {"reservation": known.seq}
            self._store.append(connection, book, event=RELEASED, facts=facts)
        self._store.anchor()

    def spent_on(self, data: DataSet) -> tuple[Segment, ...]:
        """Return everything that was ever reserved with a patient of `data`.

        Raises:
            StorageError: as `reserve`.
        """
        with self._store.opened() as (connection, book):
            return self._spent(connection, book, data)

    def spent_in(self, run_keys: Collection[str]) -> tuple[Segment, ...]:
        """Return everything that was ever reserved in these runs, whoever the patients were.

        Raises:
            StorageError: as `reserve`.
        """
        with self._store.opened() as (_, book):
            planned = [one.planned for one in book.reserved if one.planned.run_key in run_keys]
        return merged(step for one in planned for step in one.segments)

    def read(self) -> tuple[Book, dict[str, DataSet]]:
        """Return the whole ledger, and the data sets whose patients are still known, by name.

        Raises:
            StorageError: as `reserve`.
        """
        with self._store.opened() as (connection, book):
            found = {one.data_set: self._known(connection, one.data_set) for one in book.reserved}
        return book, {name: data for name, data in found.items() if data is not None}

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def _spent(self, connection: Connection, book: Book, data: DataSet) -> tuple[Segment, ...]:
        return merged(
            step
            for one in book.reserved
            if self._may_share(connection, one.data_set, data)
            for step in one.planned.segments
        )

    def _may_share(self, connection: Connection, name: str, data: DataSet) -> bool:
        """Return whether a patient of `data` is in the data set `name`, or might be."""
        if name == data.name:
            return True
        if (name, data.name) not in self._shares:
            known = self._known(connection, name)
            # Not kept in memory: the hashes may be removed, and then nobody can tell any more.
            if known is None:
                return True
            self._shares[name, data.name] = data.may_share_a_patient(known)
        return self._shares[name, data.name]

    def _known(self, connection: Connection, name: str) -> DataSet | None:
        """Return the data set of this name; None where its patients were removed."""
        row = connection.execute(
            "SELECT site, salt_mark, patients FROM privacy_data_sets WHERE name = ?", (name,)
        ).fetchone()
        if row is None:
            return None
        found = DataSet(*row)
        if found.name != name:
            raise StorageError(
                f"privacy ledger of site {self.site}: the patients of data set {name[:8]} are not "
                "those that were written down; see deploy/docs/privacy.md"
            )
        return found

    def _refuse_past_budget(self, epsilon: float, planned: Planned) -> None:
        limit = self.budget.epsilon
        if limit is None or epsilon <= limit:
            return
        log.warning(
            "round %d of %s would bring epsilon to %.4g; the site allows %g",
            planned.round_number, planned.run_key, epsilon, limit,
        )  # fmt: skip
        # How much was spent before is the site's own business, and tells of other studies.
        raise BudgetSpentError(
            f"site {self.site}: its privacy budget is spent: with {planned.purpose} of round "
            f"{planned.round_number} it would pass epsilon {limit:g} at delta "
            f"{self.budget.delta:g} (limits.epsilon); nothing was done"
        )


def _is_another(known: Reserved, planned: Planned, data: DataSet, book: Book) -> bool:
    """Return whether the message asks for something else than before, or its result has left."""
    same = known.planned == planned and known.data_set == data.name
    return not same or known.seq in book.released


def _of_run(book: Book, planned: Planned, *, is_new: bool) -> tuple[Segment, ...]:
    before = [one.planned for one in book.reserved if one.planned.run_key == planned.run_key]
    return merged(step for one in [*before, *[planned] * is_new] for step in one.segments)


def _keep(connection: Connection, data: DataSet) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO privacy_data_sets VALUES (?, ?, ?, ?)",
        (data.name, data.site, data.salt_mark, data.patients),
    )
