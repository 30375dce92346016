"""`fedward privacy`: what was spent of the patients' privacy, and whether a claim holds."""

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fedward.deploy.commands import privacy_audit, privacy_curve, privacy_inversion
from fedward.deploy.commands.audit import add_site, existing_database
from fedward.deploy.commands.parsing import Commands, add_command, add_group

if TYPE_CHECKING:
    from fedward.client.privacy.entries import Book, Budget
    from fedward.client.privacy.statement import DataSetSpent

STATUS_EXAMPLES = """\
  fedward privacy status --site site.yaml            spent, left, rounds left, by which study
  fedward privacy status --site site.yaml --json     for scripts

exit codes: 0 something is left (or the site has no limit), 6 not one more round like the last fits,
7 the ledger is damaged or missing, 2 configuration
"""


def add(commands: Commands) -> None:
    """Add `fedward privacy` to the parser."""
    verbs = add_group(
        commands,
        "privacy",
        about="what was spent of the patients' privacy, and whether what is claimed is kept",
        examples="  fedward privacy status --site site.yaml\n  fedward privacy audit private_heart",
    )
    status = add_command(
        verbs,
        "status",
        _status,
        about="what the site's ledger says; it is verified first",
        examples=STATUS_EXAMPLES,
    )
    add_site(status)
    status.add_argument("--json", action="store_true", help="for scripts")
    privacy_audit.add(verbs)
    privacy_curve.add(verbs)
    privacy_inversion.add(verbs)


def _status(args: argparse.Namespace) -> int:
    from fedward.client.audit import AuditTrail
    from fedward.client.privacy.entries import Budget
    from fedward.client.privacy.ledger import PrivacyLedger
    from fedward.client.privacy.statement import statements
    from fedward.common.config.site import load_site_config
    from fedward.common.errors import BudgetSpentError

    site = load_site_config(args.site)
    limits = site.config.limits
    budget = Budget(limits.epsilon, limits.delta)
    database = existing_database(site)
    trail = AuditTrail(database)
    ledger = PrivacyLedger(database, site=site.config.site, budget=budget, trail=trail)
    book, known = ledger.read()
    found = statements(book, known, budget)
    ledger.close()
    trail.close()
    if args.json:
        print(json.dumps(_facts(book, budget, found), indent=1))
    else:
        for line in _lines(book, budget, found):
            print(line)
    return BudgetSpentError.exit_code if found and found[0].rounds_left == 0 else 0


def _facts(book: "Book", budget: "Budget", found: "tuple[DataSetSpent, ...]") -> dict[str, Any]:
    return {
        "site": book.site,
        "entries": book.num_entries,
        "head": book.last_hash,
        "limits": {"epsilon": budget.epsilon, "delta": budget.delta},
        "data_sets": [one.to_dict() for one in found],
    }


def _lines(book: "Book", budget: "Budget", found: "tuple[DataSetSpent, ...]") -> Iterator[str]:
    yield f"{book.site}: privacy ledger of {book.num_entries} entries, each as it was written"
    if budget.epsilon is None:
        yield "no limit: limits.epsilon and limits.delta of site.yaml set one"
    if not found:
        yield "nothing was spent: no run with differential privacy was begun"
        return
    yield from _whole(found[0], budget)
    for one in found[1:]:
        yield f"{_title(one)}: epsilon {one.claim.epsilon:.3g} at delta {one.claim.delta:g}"


def _whole(one: "DataSetSpent", budget: "Budget") -> Iterator[str]:
    claim, closing = one.claim, one.closing
    yield ""
    yield f"{_title(one)}:"
    limit = "" if budget.epsilon is None else f" of {budget.epsilon:g}"
    yield f"  spent           epsilon {claim.epsilon:.4g}{limit} at delta {claim.delta:g}"
    if closing is not None:
        tight = (
            f"epsilon {closing.epsilon:.4g}, if no setting was chosen by what came out before"
            if closing.tight is not None
            else f"none: {closing.why_not}"
        )
        yield f"  tighter bound   {tight}"
    if one.left is not None:
        setting = ", ".join(
            f"{step.num_steps} steps at noise multiplier {step.noise_multiplier:g} and sample rate "
            f"{step.sample_rate:.3g}"
            for step in one.setting
        )
        yield f"  left            epsilon {one.left:.4g}; {one.rounds_left} rounds like the last"
        yield f"                  ({setting})"
    for study in one.studies:
        yield (
            f"  study           {study.study}: {study.num_rounds} rounds, results of "
            f"{study.num_released} left; by itself epsilon {study.epsilon:.4g}"
        )
    for name in ("unit", "neighbourhood", "mechanism", "sampling", "composition", "noise"):
        yield f"  {name:<15} {getattr(claim, name)}"
    for text in claim.not_covered:
        yield f"  not covered     {text}"


def _title(one: "DataSetSpent") -> str:
    who = (
        "which patients is not known: the schema names none, or their hashes were removed"
        if one.num_patients is None
        else f"{one.num_patients} patients"
    )
    return f"data set {one.name[:8]} ({who}, last used {one.last_used[:10]})"
