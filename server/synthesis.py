"""Asks sites for what synthetic patients are made of, and checks and keeps what they give.

Rows in one exchange, or sums for a copula in several: each carries what the earlier ones added up
to over all sites. No row is made here: this program imports no reader of patients. What came is
left in the run's folder, from which tables are written (`simulations/synthetic_tables.py`), here or
at the operator's.

A site that refuses, fails or sends something else costs the federation that site, as long as
`sampling.min_replies` are left.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fedward.common.errors import QuorumLostError
from fedward.common.flower import view
from fedward.common.records import (
    PARAMETERS,
    SYNTHESIS_QUERY,
    Binding,
    SynthesisQuery,
    Vectors,
    array_record,
    arrays_of,
    vectors_hash,
)
from fedward.common.study import Study
from fedward.common.tables.synthetic_rows import RowForm
from fedward.common.tables.synthetic_sums import PassForm, form_of
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.plan import Plan
from fedward.server.validation import Accepted, Rejected, Sent, check_replies

ROWS = "rows"
STATISTICS = "statistics"

Judge = Callable[[Vectors, int], str | None]
"""Says what is wrong with a site's arrays, given its registered cohort; None: nothing."""
Odd = Callable[[Sequence[Vectors]], Sequence[int]]
"""Says which of all sites' arrays do not go together with the others."""


@dataclass(frozen=True)
class Given:
    """What a run was given for synthetic patients."""

    by_site: Mapping[str, Vectors]
    """Rows of each site; nothing of a copula, of which only sums are kept."""
    summed: Vectors
    """Both passes of a copula, added up over the sites; empty for rows."""
    reports: Mapping[str, Mapping[str, Any]]
    """What each site said of its classes and candidates, and how many rows it still lets out."""
    refused: Sequence[Rejected] = field(default=())

    @property
    def num_sites(self) -> int:
        """How many sites gave something to the end."""
        return len(self.reports)


def collect(  # noqa: PLR0913 - whom, for what, and what is known from before
    grid: Grid,
    plan: Plan,
    study: Study,
    *,
    trained: Mapping[str, Any] | None = None,
    kept: Vectors | None = None,
    keep: Callable[[Vectors], None] = lambda summed: None,
) -> Given:
    """Return what all sites that agreed gave.

    Args:
        grid: reaches the sites.
        plan: whose sites are asked.
        study: whose `config.synthesis` says for what.
        trained: `parameters` and `statistics` of the model that filters; None: none does.
        kept: sums of the passes that were held before an interruption.
        keep: is given the sums after each pass, before the next is asked for: sites answer each
            pass for one sum of the earlier ones only.

    Raises:
        QuorumLostError: fewer than `min_replies` sites gave anything.
    """
    config, task = study.config.synthesis, study.task
    assert config is not None
    assert isinstance(task, EhrClassification), "the configuration allows no other"
    features = study.config.data.features
    if config.asks_for_rows:
        form = RowForm.of(config, task.schema, features)
        vectors = {} if trained is None else _model(study, trained)
        asking = Asking(ROWS, form.empty(), lambda arrays, _: form.why_not(arrays), vectors)
        accepted, refused = _ask(grid, plan, asking, round_number=1)
        by_site = {reply.site: _arrays(reply) for reply in accepted}
        return Given(by_site, {}, _reports(accepted), refused)
    sums = form_of(config, task.schema, features)
    summed, refused, reports = dict(kept or {}), list[Rejected](), dict[str, Any]()
    for number, which in enumerate(sums.passes, start=1):
        names = sums.added(which, [sums.empty(which)])
        if set(names) <= set(summed):  # before an interruption
            continue
        accepted, late = _ask(grid, plan, _asking(sums, which, summed), round_number=number)
        summed |= sums.added(which, [_arrays(reply) for reply in accepted])
        refused += late
        reports = _reports(accepted)
        if which != sums.passes[-1]:
            keep(summed)
    return Given({}, summed, reports, refused)


def describe_given(site: str, report: Mapping[str, Any]) -> str:
    """Return the line that those who follow a run see for each site that gave something."""
    classes = report.get("classes", {})
    withheld = [
        f"{name} withheld, {told['reason']}"
        for name, told in classes.items()
        if told.get("status") == "withheld"
    ]
    rows = sum(told.get("returned", 0) for told in classes.values())
    parts = [f"{site}: {rows} rows" if rows else f"{site}: sums", *withheld]
    if rows:
        parts.append(f"it lets out {report.get('rows_left', 0)} more, ever")
    return "; ".join(parts)


@dataclass(frozen=True)
class Asking:
    """One exchange: what is asked for, in which form, how it is judged, and what goes along."""

    what: str
    form: Vectors
    judge: Judge
    vectors: Vectors
    odd: Odd = lambda parts: ()


def _asking(sums: PassForm, which: str, summed: Vectors) -> Asking:
    def judge(arrays: Vectors, bound: int) -> str | None:
        return sums.why_not(which, arrays, bound)

    return Asking(which, sums.empty(which), judge, dict(summed), sums.odd)


def _ask(
    grid: Grid, plan: Plan, asking: Asking, *, round_number: int
) -> tuple[list[Accepted], list[Rejected]]:
    """Return the replies that count, by site, and what became of the others."""
    expected = array_record(asking.form)
    came_along = vectors_hash(asking.vectors)
    sent: dict[int, Sent] = {}
    messages = []
    for site in plan.evaluators:
        node = plan.nodes[site]
        binding = Binding(
            plan.run_key, round_number, secrets.token_hex(16), came_along, plan.manifest_hash
        )
        content = SynthesisQuery(binding, asking.what, asking.vectors).to_records()
        if plan.anchors is not None:
            content.update(plan.anchors.records(site))
        messages.append(Message(content, message_type=SYNTHESIS_QUERY, dst_node_id=node))
        sent[node] = Sent(site, binding, expected, plan.cohort_bounds[site])
    replies = grid.send_and_receive(messages, timeout=plan.sampling.deadline_s)
    accepted, refused = check_replies(sent, replies, loss_name="loss")
    if plan.anchors is not None:
        plan.anchors.note(round_number, accepted)
    good = []
    for reply in accepted:
        why = asking.judge(_arrays(reply), plan.cohort_bounds[reply.site])
        if why is None:
            good.append(reply)
        else:
            refused.append(Rejected(reply.site, "rejected", why))
    odd = {good[place].site for place in asking.odd([_arrays(reply) for reply in good])}
    why = "it answers another question than most sites"
    refused += [Rejected(site, "rejected", why) for site in sorted(odd)]
    good = [reply for reply in good if reply.site not in odd]
    if len(good) < plan.sampling.min_replies:
        reasons = "; ".join(f"{one.site}: {one.reason}" for one in refused[:3])
        raise QuorumLostError(
            f"synthesis: {len(good)} sites gave {asking.what}, and sampling.min_replies is "
            f"{plan.sampling.min_replies} ({reasons})"
        )
    return good, sorted(refused, key=lambda one: one.site)


def _model(study: Study, trained: Mapping[str, Any]) -> Vectors:
    vectors: Vectors = {PARAMETERS: trained[PARAMETERS]}
    if study.statistics_are_shared:
        vectors[STATISTICS] = trained[STATISTICS]
    return vectors


def _arrays(reply: Accepted) -> Vectors:
    record = arrays_of(reply.message.content)
    assert isinstance(record, ArrayRecord)
    return {name: view(array) for name, array in record.items()}


def _reports(accepted: Sequence[Accepted]) -> dict[str, Mapping[str, Any]]:
    return {reply.site: reply.report.get("synthesis", {}) for reply in accepted}
