"""A site's own synthetic rows: fit on its training patients, filter, sample exactly what was asked.

The model that was fitted stays here: some hold the patients themselves (kernels, neighbours). What
goes on is arrays of the agreed form (`common/tables/synthetic_rows.py`) and a report of how many
candidates were accepted.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.synthesis_report import COPIES, SHORT, SMALL, withheld
from fedward.common.config.synthesis import SynthesisConfig, SynthesiserConfig
from fedward.common.errors import ConfigError, RefusedError, ShortfallError
from fedward.common.tables.schema import FieldSchema
from fedward.common.tables.synthetic_rows import Arrays, RowForm
from fedward.common.tables.table import Table
from fedward.synth.tables.base import Sampling, Synthesiser
from fedward.synth.tables.checks import DuplicateRowsWarning
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.counts import ClassCounts
from fedward.synth.tables.encoder import Encoder, codes_of
from fedward.synth.tables.kde import KDE, NEAR_COPIES, NearCopyWarning
from fedward.synth.tables.methods import new_synthesiser
from fedward.synth.tables.rows import Bools, Candidates, Ints, Rows
from fedward.synth.tables.table_frame import frame_of

DEFAULT, DEFAULT_FILTERED = "gaussian-copula", "kde"
LEAST = {"bandwidth": 0.5, "min_mask_size": 5, "knot_size": 5, "redraw": 0.1}
"""Of a parameter of any synthesiser: with less, rows are patients with a little noise."""
OF_NEIGHBOURS = frozenset({"k", "vote", "exclude_parent", "max_reference"})
OURS = frozenset({"columns", "seed", "min_class_size", "on_shortfall"})
NOT_SHARED = {
    "smote": "its rows lie between two patients; it is for augmentation, not for sharing",
    "dp-gaussian-copula": "its noise is in no account this way; use synthesis.method: dp-copula",
}

Filter = Callable[[int, Table], Bools]
"""Says of candidates of a class which are kept."""


@dataclass(frozen=True, repr=False)
class MadeRows:
    """What came of it. It has no repr."""

    arrays: Arrays
    num_patients: int
    """Of the classes of which rows are given."""
    num_rows: int
    report: Mapping[str, Any]


@dataclass(frozen=True)
class RowMaker:
    """Makes the rows that a run asks for.

    Args:
        config: `synthesis` of the run.
        form: of the rows.
        columns: of the run's table.
        fewest: patients of a class of which rows are given.
    """

    config: SynthesisConfig
    form: RowForm
    columns: Columns
    fewest: int

    def make(self, table: Table, *, seed: int, keep: Filter | None = None) -> MadeRows:
        """Return rows learned from `table`.

        Args:
            table: the site's training patients, one row each.
            seed: unknown to everybody else.
            keep: a further filter of candidates; None: the synthesiser's own alone.

        Raises:
            RefusedError: no class is large enough.
            SiteDataError: nothing can be learned from the rows.
        """
        sizes = np.bincount(table.label, minlength=len(self.form.counts))
        asked = [code for code, rows in enumerate(self.form.counts) if rows]
        given = [code for code in asked if sizes[code] >= self.fewest]
        if not given:
            raise RefusedError(
                f"synthesis: no class has the {self.fewest} patients that the run "
                "(synthesis.min_class_size) and the site (min_cohort) ask for; nothing is sent"
            )
        learned = [code for code, size in enumerate(sizes) if size >= self.fewest]
        name, model = self._fitted(table, learned, seed)
        copies = _near_copies(model, learned)
        if keep is not None:
            # The synthesiser counts the classes that it has learned.
            model = FilteredByModel(
                model, lambda place, frame: keep(learned[place], self._table(frame))
            )
        told = {self._name(code): withheld(SMALL) for code in asked if code not in given}
        found: dict[int, pd.DataFrame] = {}
        for code in given:
            if code in copies:
                told[self._name(code)] = withheld(COPIES)
                continue
            found |= self._sampled(model, learned.index(code), code, seed=seed, told=told)
        if not found:
            raise RefusedError(
                f"synthesis: no class can be given: {_reasons(told)}; nothing is sent"
            )
        arrays = self.form.put({code: self._cells(frame) for code, frame in found.items()})
        report = {"synthesiser": name, "classes": told}
        num_patients = int(sum(sizes[code] for code in found))
        return MadeRows(arrays, num_patients, sum(map(len, found.values())), report)

    def _fitted(self, table: Table, learned: list[int], seed: int) -> tuple[str, Synthesiser]:
        """Return a synthesiser that has learned the rows of some classes, and its name.

        Of one class alone there is no label, and nothing else that a row could be taken for: there
        KDE-KNN refuses nothing, and is KDE.
        """
        rows = table.take(np.isin(table.label, learned))
        columns = _with_values(self.columns, rows)
        frame = frame_of(rows, columns)
        if len(learned) < len(columns.classes):
            columns = _with_classes(columns, learned)
        names = [*columns.names, *([] if columns.label is None else [columns.label])]
        method = method_of(self.config)
        name, own = method.name, method.own
        if len(learned) == 1 and name == "kde-knn":
            name = "kde"
            own = {key: value for key, value in own.items() if key not in OF_NEIGHBOURS}
        parameters = {**own, "columns": columns, "seed": seed, "min_class_size": self.fewest}
        with warnings.catch_warnings():
            # Here it is no warning: a class of which rows would be copies is withheld. Which rows
            # are the same patient, the schema says.
            warnings.simplefilter("ignore", NearCopyWarning)
            warnings.simplefilter("ignore", DuplicateRowsWarning)
            return name, new_synthesiser(name, **parameters).fit(frame[names])

    def _sampled(
        self, model: Synthesiser, place: int, code: int, *, seed: int, told: dict[str, Any]
    ) -> dict[int, pd.DataFrame]:
        """Return the rows of a class, none where they cannot be had, and write down which."""
        num_rows = self.form.counts[code]
        classes = model.columns_.classes
        wanted: ClassCounts = {classes[place]: num_rows} if classes else "original"
        try:
            sampling = model.sampling(num_rows, class_counts=wanted, seed=seed)
            frame = pd.concat(list(sampling.chunks()), ignore_index=True)
        except ShortfallError:
            told[self._name(code)] = withheld(SHORT)
            return {}
        told[self._name(code)] = {"status": "given", **_acceptance(sampling)}
        return {code: frame}

    def _name(self, code: int) -> str:
        return self.columns.class_names[code]

    def _cells(self, frame: pd.DataFrame) -> list[npt.NDArray[np.float64]]:
        return list(self._table(frame).columns.values())

    def _table(self, frame: pd.DataFrame) -> Table:
        """Return rows of a synthesiser as the task knows them; its label plays no part."""
        columns = {field.name: self._values(field, frame) for field in self.form.fields}
        index = np.arange(len(frame), dtype=np.int64)
        return Table(columns, np.zeros(len(frame), dtype=np.int64), index)

    def _values(self, field: FieldSchema, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        if field.name not in frame:  # nobody here had a value
            return np.full(len(frame), np.nan)
        if field.kind == "continuous":
            return frame[field.name].to_numpy(dtype=np.float64)
        code = codes_of(self.columns[field.name], frame)
        return np.where(code < 0, np.nan, code.astype(np.float64))


class FilteredByModel(Synthesiser):
    """A fitted synthesiser whose candidates must also pass a filter of somebody else's.

    Args:
        inner: fitted.
        agrees: says of the rows of a class, by its place among those of `inner`, which are kept.
    """

    def __init__(self, inner: Synthesiser, agrees: Callable[[int, pd.DataFrame], Bools]) -> None:
        self.inner = inner
        self.agrees = agrees
        self.max_candidates = inner.max_candidates
        self.on_shortfall = inner.on_shortfall
        self.columns_: Columns = inner.columns_
        self.encoder_: Encoder = inner.encoder_
        self.class_sizes_ = inner.class_sizes_

    @property
    def block_rows(self) -> int:  # type: ignore[override] # of the one inside
        """Candidates that are drawn at once."""
        return self.inner.block_rows

    def _fit_rows(self, rows: Rows, code_N: Ints, rng: np.random.Generator) -> None:
        raise TypeError("it was fitted before it was filtered")

    def _draw(self, code: int, size: int, rng: np.random.Generator) -> Candidates:
        return self.inner._draw(code, size, rng)

    def _keep(self, code: int, drawn: Candidates) -> Bools:
        kept = self.inner._keep(code, drawn)
        kept[kept] = self.agrees(code, self.encoder_.decode(drawn.rows.take(kept)))
        return kept


def method_of(config: SynthesisConfig) -> SynthesiserConfig:
    """Return the synthesiser of a run that asks for rows."""
    default = DEFAULT_FILTERED if config.method == "filtered-rows" else DEFAULT
    return config.synthesiser or SynthesiserConfig(name=default)


def check_method(config: SynthesisConfig) -> None:
    """Return if rows of the run's synthesiser may leave a site at all.

    Raises:
        ConfigError: there is no such synthesiser or parameter, or its rows are no more than
            patients with a little noise.
    """
    if not config.asks_for_rows:
        return
    method = method_of(config)
    place = "synthesis.synthesiser"
    if method.name in NOT_SHARED:
        raise ConfigError(f"{place}.name: {method.name}: {NOT_SHARED[method.name]}")
    for key in sorted(OURS & set(method.own)):
        raise ConfigError(f"{place}.{key}: each site decides; leave the key out")
    for key, least in LEAST.items():
        value = method.own.get(key)
        if isinstance(value, int | float) and value < least:
            raise ConfigError(
                f"{place}.{key}: given {value:g}, expected {least:g} or more: with less, rows are "
                "copies of patients with a little noise"
            )
    if method.own.get("preset") == "paper" or method.own.get("bounded") is False:
        raise ConfigError(
            f"{place}: rows that are not bounded hold values that the schema does not allow, which "
            "nobody accepts; use the preset guarded"
        )
    try:
        new_synthesiser(method.name, **method.own)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _near_copies(model: Synthesiser, learned: list[int]) -> set[int]:
    """Return the classes of which nearly every row lies nearest to the patient it was made from."""
    shares = model.near_copies_ if isinstance(model, KDE) else ()
    return {code for code, share in zip(learned, shares, strict=False) if share >= NEAR_COPIES}


def _reasons(told: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name}: {one['reason']}" for name, one in sorted(told.items()))


def _with_values(columns: Columns, table: Table) -> Columns:
    """Return the columns of which any row has a value, with the rules that concern them alone."""
    kept = tuple(c for c in columns if not np.isnan(table.columns[c.name]).all())
    names = {column.name for column in kept}
    rules = tuple(rule for rule in columns.constraints if set(rule.names) <= names)
    return replace(columns, columns=kept, constraints=rules)


def _with_classes(columns: Columns, learned: list[int]) -> Columns:
    if len(learned) < 2:
        return replace(columns, label=None, classes=(), class_names=())
    return replace(
        columns,
        classes=tuple(columns.classes[code] for code in learned),
        class_names=tuple(columns.class_names[code] for code in learned),
    )


def _acceptance(sampling: Sampling) -> dict[str, int]:
    (accepted,) = sampling.acceptance.values()
    return asdict(accepted)
