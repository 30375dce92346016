"""The one way out of a site: an update becomes the records of a reply, or is refused.

What leaves is exactly: the arrays that were asked for, in the form in which they came and finite;
the number of patients and one loss; the receipt; and a report of figures under allow-listed keys,
to which the gate adds the head of the site's audit trail (`common/chain.py`).
All of it together is no larger than the received model and a small margin. Figures of too few
patients stay at the site (`client/suppression.py`). Those of how weights move (CME) leave where
the site lists them, rounded, and never beside a masked vector. Synthetic rows are counted against
a budget for good (`client/releases.py`). What was let out or refused is written to the site's
audit trail first.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from flwr.app import RecordDict

from fedward.client.releases import Release, ReleaseLedger
from fedward.client.report_form import CLIPPED, CME, COUNTS, PRIVACY, check_report
from fedward.client.suppression import Family, suppress, suppress_sums
from fedward.client.synthesis_report import SYNTHESIS
from fedward.common.chain import Head
from fedward.common.errors import FedwardError, RefusedError, SiteDataError
from fedward.common.monitoring import telemetry
from fedward.common.records import (
    PARAMETERS,
    Binding,
    Instruction,
    Update,
    Vectors,
    reply_records,
)
from fedward.common.vectors import vector_hash

Mask = Callable[[Vectors], Vectors]
Pay = Callable[[Release, Binding], None]
Clear = Callable[[Binding], None]

MARGIN_BYTES = 64 * 1024
MARGIN_SHARE = 1.05
MAX_REPORT_BYTES = 64 * 1024
NORM_CHUNK = 1 << 20
AUDIT = "audit"
"""Where the gate itself puts the head of the site's log, for the coordinator to sign."""


@dataclass(frozen=True)
class EgressRules:
    """What a site lets out. The defaults hold nothing back: they are those of a simulation."""

    min_cohort: int = 1
    """Fewest patients of an update, a loss, or a cell of the report."""
    payload_bytes: int | None = None
    """Most bytes of one reply."""
    update_norm: float | None = None
    """Largest L2 norm of new minus received parameters."""
    show_metrics: bool = True
    """Whether figures leave; otherwise only the loss and the counts."""
    telemetry: tuple[str, ...] = (telemetry.ALL,)
    """Which figures of `report.cme` leave, as in site.yaml; always rounded."""
    families: tuple[Family, ...] = ()
    """How the subgroups of the schema overlap; see `suppression.families_of`."""
    synthetic_rows: int = 0
    """Most synthetic rows that ever leave; this one is off by default, in simulations too."""


class Log(Protocol):
    """Where the gate writes what it decided: `AuditTrail`."""

    def append(self, event: str, **facts: Any) -> Head:
        """Write one entry and return the log's new head; it is on disk then."""


class Gate:
    """Decides what leaves. The same object stands in simulations and in hospitals.

    Args:
        rules: the site's own.
        log: gets names, forms, sizes and hashes, never values; None in simulations.
        releases: where synthetic rows are counted; None: in memory.
        pay: takes the cost of a noised sum out of the patients' privacy budget.
        clear: of a private run, raises where a result was not paid for; None: it need not be.
    """

    def __init__(
        self,
        rules: EgressRules | None = None,
        log: Log | None = None,
        releases: ReleaseLedger | None = None,
        pay: Pay = lambda release, binding: None,
        clear: Clear | None = None,
    ) -> None:
        self.rules = rules or EgressRules()
        self._log = log
        self._releases = releases or ReleaseLedger(None)
        self._pay = pay
        self._clear = clear

    def let_out(
        self,
        update: Update,
        instruction: Instruction,
        *,
        loss_name: str,
        mask: Mask | None = None,
        book: Callable[[], int] | None = None,
    ) -> RecordDict:
        """Return the records that leave the site.

        Args:
            update: what was trained or measured.
            instruction: what was asked; the reply may hold exactly the arrays that came with it.
            loss_name: the metric that is sent beside the number of examples.
            mask: the last step, for secure aggregation; after it values mean nothing alone.
            book: writes synthetic rows down once all else is in order, and returns what is left.

        Raises:
            RefusedError: a rule of the site forbids it; the text says which, and may leave.
            SiteDataError: an array was not asked for, has another form, or is not finite; or the
                report holds what no report may hold.
            StorageError: the audit trail cannot be written; then nothing leaves.
        """
        try:
            passed, withheld = self._checked(update, instruction, loss_name)
            if mask is not None:
                passed = replace(passed, vectors=mask(passed.vectors), report=_without_cme(passed))
            self._check_size(passed, instruction)
            if book is not None:
                synthesis = passed.report.get(SYNTHESIS, {})
                told = {**synthesis, "rows_left": book()}
                passed = replace(passed, report={**passed.report, SYNTHESIS: told})
            self._check_paid(passed, instruction)
        except FedwardError as error:
            self._note("refused", instruction, asked=loss_name, why=str(error))
            raise
        head = self._note_let_out(passed, instruction, loss_name, withheld)
        if head is not None:
            report = {**passed.report, AUDIT: {"seq": head.seq, "hash": head.hash}}
            passed = replace(passed, report=report)
        return reply_records(passed, instruction.binding, loss_name=loss_name)

    def let_out_sums(self, sums: npt.NDArray[np.float64], binding: Binding) -> RecordDict:
        """Return a site's preprocessing sums as the records that leave it.

        Args:
            sums: as `tables.encode.local_statistics` returns them.
            binding: of the query.

        Raises:
            RefusedError, SiteDataError, StorageError: as `let_out`.
        """
        cleared = sums
        if self.rules.min_cohort > 1:
            cleared, withheld = suppress_sums(sums, self.rules.min_cohort)
            if withheld and self._log is not None:
                self._log.append("withheld", run_key=binding.run_key, fields=withheld)
        asked = Instruction(binding, {"sums": np.empty_like(sums)})
        update = Update(max(int(sums[0]), 1), 0.0, {"sums": cleared})
        return self.let_out(update, asked, loss_name="loss")

    def let_out_release(self, release: Release, binding: Binding, form: Vectors) -> RecordDict:
        """Return synthetic rows, or sums to draw them from, as the records that leave the site.

        How many patients there are is not said: beside the sizes of the classes that are given it
        would tell that of a class that is withheld.

        Args:
            release: what was made.
            binding: of the query.
            form: the arrays that the signed request asks for; nothing else leaves.

        Raises:
            RefusedError, SiteDataError, StorageError: as `let_out`; also where the budget of rows
                is spent.
        """
        fewest = max(self.rules.min_cohort, 1)
        self._check_cohort(release.num_patients)
        return self.let_out(
            Update(fewest, 0.0, release.vectors, {SYNTHESIS: release.report}),
            Instruction(binding, form),
            loss_name="loss",
            book=lambda: self._releases.book(
                release,
                run_key=binding.run_key,
                limit=self.rules.synthetic_rows,
                pay=lambda new: self._pay(new, binding),
            ),
        )

    def _check_paid(self, update: Update, instruction: Instruction) -> None:
        """Refuse what a private run has not paid for, and exact figures of its training."""
        spent = update.report.get(PRIVACY, {})
        if self._clear is None or (PARAMETERS not in update.vectors and not spent):
            return
        if CLIPPED in spent:
            raise SiteDataError(
                f"report.{PRIVACY}.{CLIPPED} is an exact figure of patients; nothing is sent"
            )
        self._clear(instruction.binding)

    def _checked(
        self, update: Update, instruction: Instruction, loss_name: str
    ) -> tuple[Update, int]:
        """Return what may leave, and how many figures stay."""
        _check_vectors(update, instruction)
        if not np.isfinite(update.loss):
            raise SiteDataError(f"{loss_name} is not finite; nothing is sent")
        self._check_cohort(update.num_examples)
        self._check_norm(update, instruction)
        check_report(update.report)
        report, withheld = self._cleared(update)
        return replace(update, report=report), withheld

    def _check_cohort(self, num_patients: int) -> None:
        if num_patients < self.rules.min_cohort:
            # The message leaves out how many there are.
            raise RefusedError(
                f"fewer patients than the {self.rules.min_cohort} that the site demands behind "
                "anything that leaves (site.yaml: min_cohort); nothing is sent"
            )

    def _check_norm(self, update: Update, instruction: Instruction) -> None:
        bound = self.rules.update_norm
        if bound is None or PARAMETERS not in update.vectors:
            return
        if _distance(update.vectors[PARAMETERS], instruction.vectors[PARAMETERS]) > bound:
            raise RefusedError(
                f"the update is longer than the {bound:g} that the site allows "
                "(site.yaml: limits.update_norm); nothing is sent. Try fewer local epochs or a "
                "smaller local.learning_rate"
            )

    def _cleared(self, update: Update) -> tuple[dict[str, Any], int]:
        if not self.rules.show_metrics:
            kept = {key: value for key, value in update.report.items() if key in COUNTS}
            return kept, len(update.report) - len(kept)
        report, withheld = suppress(
            update.report,
            num_patients=update.num_examples,
            k=self.rules.min_cohort,
            families=self.rules.families,
        )
        if CME in report:
            watched = report.pop(CME)
            told = telemetry.let_through(watched, self.rules.telemetry)
            kinds = telemetry.figure_names
            withheld += len(kinds(watched)) - len(kinds(told))
            report |= {CME: told} if told else {}
        return report, withheld

    def _check_size(self, update: Update, instruction: Instruction) -> None:
        report_bytes = len(_as_json(update.report))
        if report_bytes > MAX_REPORT_BYTES:
            raise SiteDataError(
                f"the report has {report_bytes} bytes, more than the {MAX_REPORT_BYTES} that a "
                "report may have; nothing is sent"
            )
        size = report_bytes + sum(vector.nbytes for vector in update.vectors.values())
        received = sum(vector.nbytes for vector in instruction.vectors.values())
        expected = int(MARGIN_SHARE * received) + MARGIN_BYTES
        if size > expected:
            raise SiteDataError(
                f"the reply has {size} bytes, more than the {expected} that an answer to a model "
                f"of {received} bytes can need; nothing is sent"
            )
        limit = self.rules.payload_bytes
        if limit is not None and size > limit:
            raise RefusedError(
                f"the reply has {size} bytes, the site allows {limit} "
                "(site.yaml: limits.payload_bytes); nothing is sent"
            )

    def _note_let_out(
        self, update: Update, instruction: Instruction, loss_name: str, withheld: int
    ) -> Head | None:
        if self._log is None:
            return None
        arrays = [
            {
                "name": name,
                "dtype": str(vector.dtype),
                "shape": list(vector.shape),
                "bytes": vector.nbytes,
                "sha256": vector_hash(vector),
            }
            for name, vector in update.vectors.items()
        ]
        rounded_to = {
            f"{CME}.{name}": telemetry.ROUNDED_TO[name]
            for name in telemetry.figure_names(update.report.get(CME, {}))
        }
        return self._note(
            "let out",
            instruction,
            asked=loss_name,
            arrays=arrays,
            report=sorted(update.report),
            report_bytes=len(_as_json(update.report)),
            withheld=withheld,
            **({"rounded_to": rounded_to} if rounded_to else {}),
        )

    def _note(self, event: str, instruction: Instruction, **facts: Any) -> Head | None:
        if self._log is None:
            return None
        bound = instruction.binding
        return self._log.append(event, run_key=bound.run_key, round=bound.round_number, **facts)


def _check_vectors(update: Update, instruction: Instruction) -> None:
    for name, vector in update.vectors.items():
        asked = instruction.vectors.get(name)
        if asked is None:
            raise SiteDataError(f"{name} is not on the list of what may leave")
        if vector.shape != asked.shape or vector.dtype != asked.dtype:
            raise SiteDataError(f"{name} has another form than what was received")
        if not np.isfinite(vector).all():
            raise SiteDataError(
                f"training gave NaN or infinite values in {name}; nothing is sent. "
                "Try a smaller local.learning_rate"
            )


def _distance(new: npt.NDArray[Any], old: npt.NDArray[Any]) -> float:
    """Return the L2 norm of `new - old` in float64, some values at a time."""
    squares = 0.0
    for place in range(0, len(new), NORM_CHUNK):
        here = slice(place, place + NORM_CHUNK)
        step = new[here].astype(np.float64) - old[here].astype(np.float64)
        squares += float(step @ step)
    return math.sqrt(squares)


def _without_cme(update: Update) -> dict[str, Any]:
    # Of one site's own weights: beside a masked sum it would tell what the mask hides.
    return {key: value for key, value in update.report.items() if key != CME}


def _as_json(report: Mapping[str, Any]) -> bytes:
    return json.dumps(report, allow_nan=False).encode()
