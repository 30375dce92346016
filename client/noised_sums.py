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
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedward.client.keyed_source import Below
from fedward.common.tables.synthetic_sums import FACTS, SUMS, Arrays, QueryForm
from fedward.common.tables.table import Table
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.dp_budget import gaussian_mu
from fedward.synth.tables.dp_queries import Answer, Patients, Query, ask
from fedward.synth.tables.dp_release import Account, Learned, release
from fedward.synth.tables.encoder import Form, public_encoder
from fedward.synth.tables.rows import Rows
from fedward.synth.tables.table_frame import frame_of


class _ReachedError(Exception):
    """The query that is asked now was answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.name)
        self.answer = answer


@dataclass
class ReplayedAccount(Account):
    """An account whose first answers are known: the sums over the sites.

    Args:
        mu: of a site, less by what the noise of several sites is more.
        below: source of a site's noise.
        own_mu: of a site.
        known: earlier answers, in order.
    """

    own_mu: float = 0.0
    known: tuple[Answer, ...] = ()

    def ask(self, query: Query, patients: Patients, share: float) -> Answer:
        """Return the known answer; behind the last one, ask and end."""
        if len(self.asked) == len(self.known):
            mu = self.own_mu * math.sqrt(share)
            raise _ReachedError(ask(query, patients, mu=mu, below=self.below))
        answer = self.known[len(self.asked)]
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

    def answer(self, table: Table, summed: Mapping[str, npt.NDArray[Any]], below: Below) -> Arrays:
        """Return this site's answer to the query after those that are summed.

        Args:
            table: the site's training patients, one row each.
            summed: answers to the earlier queries, added up over the sites.
            below: source of the noise.
        """
        encoder = public_encoder(self.columns, Form(transform="none"))
        rows = encoder.encode(frame_of(table, self.columns))
        try:
            release(self.columns, Patients(rows, table.label), self._account(summed, below))
        except _ReachedError as reached:
            answer = reached.answer
            return self.form.put(answer.sums_D, answer.bound, answer.deviation)
        raise AssertionError("every query was summed already")

    def learned(self, summed: Mapping[str, npt.NDArray[Any]]) -> tuple[Learned, dict[str, Answer]]:
        """Return what all answers say together, and the answers by name; no patient is seen."""
        width = len(self.columns.continuous), len(self.columns.categorical)
        none = Rows(
            np.zeros((0, width[0])),
            np.zeros((0, width[1]), dtype=np.int64),
            np.zeros((0, sum(width)), dtype=bool),
        )
        account = self._account(summed, _nobody)
        learned = release(self.columns, Patients(none, np.zeros(0, dtype=np.int64)), account)
        return learned, account.answers

    @property
    def mu(self) -> float:
        """Of a site, for all queries together."""
        return gaussian_mu(self.epsilon, self.delta)

    def _account(self, summed: Mapping[str, npt.NDArray[Any]], below: Below) -> ReplayedAccount:
        known = []
        num_sites = 1.0
        for name in self.form.passes:
            if f"{name}.{SUMS}" not in summed:
                break
            size, bound, deviation, num_sites = summed[f"{name}.{FACTS}"].tolist()
            known.append(Answer(name, summed[f"{name}.{SUMS}"][: int(size)], bound, deviation))
        mu = self.mu / math.sqrt(num_sites)
        return ReplayedAccount(mu, below, own_mu=self.mu, known=tuple(known))


def _nobody(_: int) -> int:
    raise AssertionError("no noise is drawn where every answer is known")
