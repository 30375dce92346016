"""What a site gives so that synthetic patients can be made: rows, or sums for a copula.

A site answers only what the signed request asks for; the coordinator's message cannot widen it.
Whatever is random here follows from the site's own key (`keyed_source.py`), so that a message that
is repeated gets the same release again, which the gate counts once.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedward.client.keyed_source import KeyedSource
from fedward.client.model_filter import ModelFilter
from fedward.client.noised_sums import NoisedQueries
from fedward.client.releases import ROWS, Release
from fedward.client.site import Site
from fedward.client.synthesis_report import SMALL, withheld
from fedward.client.synthetic_rows import RowMaker, check_method
from fedward.client.synthetic_sums import SumMaker, check_one_row_each
from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.errors import RefusedError
from fedward.common.records import PARAMETERS, SynthesisQuery, Vectors, vectors_hash
from fedward.common.study import Study
from fedward.common.tables.synthetic_rows import RowForm
from fedward.common.tables.synthetic_sums import (
    FACTS,
    MARGINS,
    SIZES,
    PassForm,
    QueryForm,
    SumsForm,
    carried,
    form_of,
)
from fedward.common.tables.table import Table
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.synth.tables.columns import Columns

STATISTICS = "statistics"
"""Beside the model that is sent along: summed preprocessing statistics."""


@dataclass(frozen=True)
class Synthesis:
    """Answers the queries of one run, for any site of this process.

    Args:
        study: whose `config.synthesis` says what is asked.
        source: of what is random.
        min_cohort: fewest patients that the site demands behind anything.

    Raises:
        ConfigError: the run's synthesiser or classes cannot be used.
    """

    study: Study
    source: KeyedSource
    min_cohort: int

    def __post_init__(self) -> None:
        check_method(self.config)
        _ = self.forms  # names a class that does not exist

    @property
    def trains(self) -> bool:
        """Whether the run trains a model as well."""
        return self.config.trains

    @property
    def config(self) -> SynthesisConfig:
        """What is asked."""
        assert self.study.config.synthesis is not None
        return self.study.config.synthesis

    @cached_property
    def forms(self) -> dict[str, Vectors]:
        """The arrays of each answer, with zeros: by what may be asked for."""
        if self.config.asks_for_rows:
            return {ROWS: self._row_form.empty()}
        return {which: self._pass_form.empty(which) for which in self._pass_form.passes}

    def form(self, what: str) -> Vectors:
        """Return the arrays of an answer, with zeros.

        Raises:
            RefusedError: the request does not ask for it.
        """
        if what not in self.forms:
            raise RefusedError(
                f"synthesis: the message asks for something else than the request, which is signed "
                f"for {self.config.method}"
            )
        return self.forms[what]

    def answer(self, site: Site, query: SynthesisQuery) -> Release:
        """Return what is ready to leave; the gate decides.

        Raises:
            RefusedError: it is not what was signed, or patients are too few.
            SiteDataError: nothing can be learned from the rows.
        """
        self.form(query.what)
        self._check_along(query)
        assert site.training is not None, "whoever makes the site gives it its rows"
        table = site.training()
        check_one_row_each(table)
        _check_cohort(len(table), self.min_cohort)
        label = self._label(site, query, table)
        if query.what == ROWS:
            return self._rows(site, query, table, label)
        return self._sums(site, query, table, label)

    def _rows(self, site: Site, query: SynthesisQuery, table: Table, label: str) -> Release:
        maker = RowMaker(self.config, self._row_form, self._columns, self._fewest)
        keep = self._filter(query, table) if self.trains else None
        made = maker.make(table, seed=self.source.number(label), keep=keep)
        return Release(
            site.site_id, ROWS, label, dict(made.arrays), made.num_patients,
            num_rows=made.num_rows, report=made.report,
        )  # fmt: skip

    def _sums(self, site: Site, query: SynthesisQuery, table: Table, label: str) -> Release:
        form = self._pass_form
        if isinstance(form, QueryForm):
            return self._noised(site, query, table, label)
        assert isinstance(form, SumsForm)
        maker = SumMaker(form, self._fewest, self.min_cohort)
        margins = maker.margins(table)
        given = margins[SIZES] > 0
        status = {
            name: {"status": "given"} if is_given else withheld(SMALL)
            for name, is_given in zip(self._task.schema.class_names, given, strict=True)
        }
        return Release(
            site.site_id,
            query.what,
            label,
            margins if query.what == MARGINS else maker.pairs(table, query.vectors),
            int(np.isin(table.label, np.flatnonzero(given)).sum()),
            report={"classes": status},
        )

    def _noised(self, site: Site, query: SynthesisQuery, table: Table, label: str) -> Release:
        form, config = self._pass_form, self.config
        assert isinstance(form, QueryForm)
        assert config.epsilon is not None
        assert config.delta is not None
        queries = NoisedQueries(form, self._columns, config.epsilon, config.delta)
        arrays = queries.answer(table, query.vectors, self.source.below(label))
        _, bound, deviation = arrays[FACTS].tolist()
        return Release(
            site.site_id,
            query.what,
            label,
            arrays,
            len(table),
            noise_multiplier=deviation / bound,
        )

    def _filter(self, query: SynthesisQuery, table: Table) -> ModelFilter:
        shared, _ = self.study.initial
        statistics = query.vectors.get(STATISTICS)
        if statistics is None:
            statistics = self._task.statistics_of(table)
        model = self.study.new_model()
        shared.load(model, query.vectors[PARAMETERS])
        return ModelFilter.of(self._task, model, statistics, table)

    def _check_along(self, query: SynthesisQuery) -> None:
        """Refuse what came along in another form than the request fixes."""
        expected: Vectors = {}
        if not self.config.asks_for_rows:
            expected = carried(self._pass_form, query.what)
        elif self.trains:
            expected[PARAMETERS] = self.study.initial[1]
            if self.study.statistics_are_shared:
                expected[STATISTICS] = np.zeros(self._task.statistics_size)
        _check_sent(query.vectors, expected)

    @property
    def _task(self) -> EhrClassification:
        task = self.study.task
        assert isinstance(task, EhrClassification), "the configuration allows no other"
        return task

    @cached_property
    def _columns(self) -> Columns:
        return Columns.of_schema(self._task.schema, self.study.config.data.features)

    @cached_property
    def _row_form(self) -> RowForm:
        return RowForm.of(self.config, self._task.schema, self.study.config.data.features)

    @cached_property
    def _pass_form(self) -> PassForm:
        return form_of(self.config, self._task.schema, self.study.config.data.features)

    @property
    def _fewest(self) -> int:
        return max(self.config.min_class_size, self.min_cohort)

    def _label(self, site: Site, query: SynthesisQuery, table: Table) -> str:
        """Return a name for all that the release is made of."""
        made_of = vectors_hash({**table.columns, "label": table.label})
        parts = (self.study.run_key, site.site_id, query.what, query.vectors_hash, made_of)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _check_cohort(num_patients: int, min_cohort: int) -> None:
    if num_patients < min_cohort:
        raise RefusedError(
            f"synthesis: fewer training patients than the {min_cohort} that the site demands "
            "(min_cohort); nothing is sent"
        )


def _check_sent(sent: Vectors, expected: Vectors) -> None:
    """Refuse what came along in another form than the request fixes."""
    forms = [
        {name: (vector.dtype, vector.shape) for name, vector in vectors.items()}
        for vectors in (sent, expected)
    ]
    if forms[0] != forms[1] or not all(np.isfinite(vector).all() for vector in sent.values()):
        raise RefusedError("synthesis: what the message brings along has another form than agreed")
