"""A copula with differential privacy, federated: each site answers with noise of its own.

The queries are those of `DPGaussianCopula` (`synth/tables/dp_release.py`), one exchange each. What
earlier ones added up to over the sites comes along, so that every site asks its own patients the
same next query; `release` is played again up to there, with those answers in place of patients.

Unit: one patient of the site, added or removed. All queries of a site compose to its (epsilon,
delta), which holds against the coordinator and the other sites alike: nobody has to be trusted to
add noise. No patient is at two sites, so sites compose in parallel, and the federation's copula,
with all rows that are ever drawn from it, costs no more. Nothing is withheld by size, since that
would tell; the noise of the sum grows with the square root of the number of sites.

Not covered: that the site takes part, that it refuses where it has fewer than `min_cohort`
patients, and whoever has the site's key, from which the noise follows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.client.keyed_source import Below
from fedward.common.tables.synthetic_sums import FACTS, SUMS, Arrays, QueryForm
from fedward.common.tables.table import Table
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.dp_budget import gaussian_mu
from fedward.synth.tables.dp_queries import Answer, Patients, Query, ask
from fedward.synth.tables.dp_release import Learned, Replay, release
from fedward.synth.tables.encoder import Form, public_encoder
from fedward.synth.tables.rows import Rows
from fedward.synth.tables.table_frame import frame_of

Sums = Mapping[str, npt.NDArray[Any]]
"""Answers of all sites so far, added up: as `QueryForm.added` returns them."""


class _AnsweredError(Exception):
    """The query that is asked now was answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.name)
        self.answer = answer


class _NextQuery:
    """Gives the answers that are known, and asks the site's patients what comes behind them.

    Args:
        known: sums over the sites, in order.
        mu: of the site, for all queries together.
        below: source of its noise.
    """

    def __init__(self, known: tuple[Answer, ...], mu: float, below: Below) -> None:
        self._known, self._mu, self._below = known, mu, below
        self.asked: list[tuple[Query, Answer]] = []

    def ask(self, query: Query, patients: Patients, share: float) -> Answer:
        """Return a known answer; behind the last one, ask and end."""
        if len(self.asked) == len(self._known):
            mu = self._mu * math.sqrt(share)
            raise _AnsweredError(ask(query, patients, mu=mu, below=self._below))
        answer = self._known[len(self.asked)]
        self.asked.append((query, answer))
        return answer


@dataclass(frozen=True)
class NoisedQueries:
    """The queries of one run, at a site or played again from their sums.

    Args:
        form: of the answers.
        columns: of the run's table.
        epsilon: of all queries of a site together.
        delta: of all queries of a site together.
    """

    form: QueryForm
    columns: Columns
    epsilon: float
    delta: float

    def answer(self, table: Table, summed: Sums, below: Below) -> Arrays:
        """Return this site's answer to the query after those that are summed.

        Args:
            table: the site's training patients, one row each.
            summed: answers to the earlier queries, added up over the sites.
            below: source of the noise.
        """
        encoder = public_encoder(self.columns, Form(transform="none"))
        rows = encoder.encode(frame_of(table, self.columns))
        mu = gaussian_mu(self.epsilon, self.delta)
        try:
            release(
                self.columns,
                Patients(rows, table.label),
                _NextQuery(self.summed_answers(summed), mu, below),
            )
        except _AnsweredError as answered:
            answer = answered.answer
            return self.form.put(answer.sums_D, answer.bound, answer.deviation)
        raise AssertionError("every query was summed already")

    def learned(self, summed: Sums) -> Learned:
        """Return what all answers say together; no patient is looked at."""
        numbers, codes = len(self.columns.continuous), len(self.columns.categorical)
        nobody = Rows(
            np.zeros((0, numbers)),
            np.zeros((0, codes), dtype=np.int64),
            np.zeros((0, numbers + codes), dtype=bool),
        )
        patients = Patients(nobody, np.zeros(0, dtype=np.int64))
        return release(self.columns, patients, Replay(self.summed_answers(summed)))

    def summed_answers(self, summed: Sums) -> tuple[Answer, ...]:
        """Return the answers that are known: sums over the sites, with the noise of all of them."""
        known = []
        for name in self.form.passes:
            if f"{name}.{SUMS}" not in summed:
                break
            size, bound, deviation, _ = summed[f"{name}.{FACTS}"].tolist()
            known.append(Answer(name, summed[f"{name}.{SUMS}"][: int(size)], bound, deviation))
        return tuple(known)

    def answers_of_a_site(self, summed: Sums) -> tuple[Answer, ...]:
        """Return the same answers with the noise of one site: what a patient is promised."""
        return tuple(
            replace(
                answer,
                deviation=answer.deviation / math.sqrt(summed[f"{answer.name}.{FACTS}"][3]),
            )
            for answer in self.summed_answers(summed)
        )
