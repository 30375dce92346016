"""The whole evaluation of a synthetic table: fidelity, utility, privacy, and the verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedward.common.errors import SiteDataError
from fedward.synth.evaluation.copies import Copies, copies
from fedward.synth.evaluation.fidelity import Fidelity, evaluate_fidelity
from fedward.synth.evaluation.mixing import Mixing, evaluate_mixing
from fedward.synth.evaluation.privacy import PrivacyReport, evaluate_privacy
from fedward.synth.evaluation.risk import MIN_PATIENTS
from fedward.synth.evaluation.tables import Tables
from fedward.synth.evaluation.utility import Utility, evaluate_utility
from fedward.synth.evaluation.verdict import Claim, Findings, Verdict, verdict
from fedward.synth.tables.columns import Columns

Facts = Mapping[str, str | int | float]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of everything that is done, 0 to 1."""
_PARTS = {
    "fidelity": (0.0, 0.1),
    "privacy": (0.1, 0.4),
    "utility": (0.4, 0.9),
    "mixing": (0.9, 1.0),
}
"""Where each part begins and ends, by its usual cost."""


@dataclass(frozen=True)
class Sizes:
    """How many rows there are of what."""

    rows: int
    """Synthetic rows that would be released."""
    train: int
    """Patients that they were made from."""
    holdout: int
    external: int
    columns: int
    """Without the label."""


@dataclass(frozen=True)
class Evaluation:
    """All that was found out about one synthetic table. It holds figures, and no row."""

    name: str
    facts: dict[str, str | int | float]
    """About the synthesiser and its rows, as they are shown."""
    sizes: Sizes
    fidelity: Fidelity
    utility: Utility
    mixing: Mixing | None
    copies: Copies
    privacy: PrivacyReport | None
    no_privacy: str | None
    """Why there is no report on privacy."""
    claim: Claim | None
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it: no tuples, no NaN, numbers of Python."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def evaluate(  # noqa: PLR0913 - the tables of an evaluation, and what it is called
    columns: Columns,
    *,
    train: pd.DataFrame,
    synthetic: pd.DataFrame | Sequence[pd.DataFrame],
    holdout: pd.DataFrame | None = None,
    external: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
    seed: int = 0,
    name: str = "Synthetic cohort",
    facts: Facts | None = None,
    claim: Claim | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Evaluation:
    """Return what a synthetic table is worth, how true it is, and what it gives away.

    All tables are in the form of `columns`, one row per patient.

    Args:
        columns: of all tables.
        train: the rows that the synthesiser has seen.
        synthetic: the table to be released; or first that table and then draws of other seeds,
            over which utility has its intervals. Only the first is attacked and described.
        holdout: other patients of the same site; without them the cohort is not shareable.
        external: patients of another site.
        reference: patients of the site that the attacker has; None: half of the holdout.
        seed: of learners, draws and attacks; the same seed gives the same evaluation.
        name: what the cohort is called.
        facts: about the synthesiser, shown as they are.
        claim: differential privacy that the synthesiser states of itself.
        progress: called as the parts are done.

    Raises:
        SiteDataError: a table is empty, lacks a column, or has a label that is no class; or the
            holdout repeats training rows.
    """
    drawn = (synthetic,) if isinstance(synthetic, pd.DataFrame) else tuple(synthetic)
    tables = Tables(train, drawn, holdout, external, reference)
    _check(columns, tables)
    findings = _findings(columns, tables, claim, seed=seed, progress=progress)
    mixing = evaluate_mixing(columns, tables, seed=seed, step=_part("mixing", progress))
    progress("verdict", 1.0)
    return Evaluation(
        name=name,
        facts=dict(facts or {}),
        sizes=_sizes(columns, tables),
        mixing=mixing,
        verdict=verdict(findings),
        **vars(findings),
    )


def _findings(
    columns: Columns, tables: Tables, claim: Claim | None, *, seed: int, progress: Progress
) -> Findings:
    """Return everything that the verdict is made from."""
    released = tables.synthetic[0]
    _part("fidelity", progress)
    fidelity = evaluate_fidelity(
        columns, train=tables.train, synthetic=released, holdout=tables.holdout, seed=seed
    )
    _part("privacy", progress)
    privacy, no_privacy = None, _why_no_privacy(tables.holdout)
    if no_privacy is None:
        privacy = evaluate_privacy(
            columns,
            members=tables.train,
            synthetic=released,
            holdout=tables.holdout,
            reference=tables.reference,
            seed=seed,
        )
    utility = evaluate_utility(columns, tables, seed=seed, step=_part("utility", progress))
    alike = copies(columns, tables.train, released, tables.holdout)
    return Findings(fidelity, utility, alike, privacy, no_privacy, claim)


def _sizes(columns: Columns, tables: Tables) -> Sizes:
    others = (tables.holdout, tables.external)
    holdout, external = (0 if table is None else len(table) for table in others)
    return Sizes(len(tables.synthetic[0]), len(tables.train), holdout, external, len(columns))


def _part(name: str, progress: Progress) -> Callable[[float], None]:
    """Say that a part begins, and return what says how far it is."""
    start, end = _PARTS[name]
    progress(name, start)
    return lambda share: progress(name, start + share * (end - start))


def _check(columns: Columns, tables: Tables) -> None:
    """Refuse tables that nothing can be said about."""
    named: list[tuple[str, pd.DataFrame | None]] = [
        ("train", tables.train),
        *(("synthetic", table) for table in tables.synthetic),
        ("holdout", tables.holdout),
        ("external", tables.external),
        ("reference", tables.reference),
    ]
    if not tables.synthetic:
        raise SiteDataError("synthetic: there is no table to evaluate")
    for name, table in named:
        if table is None:
            continue
        if not len(table) and name in {"train", "synthetic"}:
            raise SiteDataError(f"{name}: there are no rows to evaluate")
        for column in (*columns.names, *([columns.label] if columns.label else [])):
            if column not in table.columns:
                raise SiteDataError(f"{name}: no column {column!r}; expected all of the schema's")


def _why_no_privacy(holdout: pd.DataFrame | None) -> str | None:
    if holdout is None:
        return (
            "no patients were kept aside (a holdout), so that no attack could be compared with "
            "one on patients who were not used"
        )
    if len(holdout) < MIN_PATIENTS:
        return f"only {len(holdout)} patients were kept aside (at least {MIN_PATIENTS} are needed)"
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
