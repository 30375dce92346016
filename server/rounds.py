"""The round loop: ask sites, check what comes back, aggregate, evaluate, write down, go on.

    sample sites -> strategy.configure_train -> grid.send_and_receive -> check every reply
    -> quorum? -> strategy.aggregate_train -> evaluate -> history -> checkpoint

The strategies are Flower's (or ours, on Flower's interface) and so is the grid: in one process,
on Ray, or over TLS. This loop adds what Flower's own `Strategy.start` lacks: validation of each
reply, a quorum of replies, deadlines, per-site figures, checkpoints, resume and early stop.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedward.common.config.run import SamplingConfig, StopConfig
from fedward.common.errors import QuorumLostError
from fedward.common.records import PARAMETERS, array_record
from fedward.common.task import Statistics
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.history import Entry, History
from fedward.server.instructions import SelectedSites, bind
from fedward.server.sampling import sample_sites
from fedward.server.statistics import collect_statistics
from fedward.server.stopping import mean_over_sites, update_patience
from fedward.server.validation import Accepted, Rejected, check_replies


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first round."""

    run_key: str
    seed: int
    num_rounds: int
    nodes: Mapping[str, int]
    """Node id of each site."""
    cohort_bounds: Mapping[str, int]
    """Registered number of patients of each site: no reply may claim more."""
    manifest_hash: str
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluate_every: int = 1
    """Rounds between evaluations; 0: only after the last."""
    training_sites: Sequence[str] | None = None
    """Who may be asked to train; None: every site."""
    evaluation_sites: Sequence[str] | None = None
    """Who evaluates and sends statistics; None: every site."""
    stop: StopConfig | None = None
    statistics_size: int | None = None
    """Length of the preprocessing sums to collect before round 1; None: sites use their own."""

    @property
    def trainers(self) -> list[str]:
        """The sites that may be asked to train, sorted."""
        return sorted(self.nodes if self.training_sites is None else self.training_sites)

    @property
    def evaluators(self) -> list[str]:
        """The sites that evaluate, sorted."""
        return sorted(self.nodes if self.evaluation_sites is None else self.evaluation_sites)


@dataclass(frozen=True)
class RoundReport:
    """One finished round, for displays."""

    number: int
    num_rounds: int
    num_sampled: int
    num_accepted: int
    refused: Sequence[Rejected]
    train_loss: float | None
    eval_loss: float | None
    metrics: Mapping[str, float]
    """Mean over the sites of each figure, where the round was evaluated."""
    seconds: float
    num_bytes: int


@dataclass
class Outcome:
    """Where a run ended."""

    progress: Progress
    stopped_by: str
    evaluations: Mapping[str, Mapping[str, Any]]
    """The last report of each site."""
    num_train: Mapping[str, int]
    rejected: list[dict[str, Any]] = field(default_factory=list)
    skipped_rounds: list[int] = field(default_factory=list)
    bytes_sent: int = 0
    bytes_received: int = 0
    round_seconds: list[float] = field(default_factory=list)


@dataclass
class _Exchange:
    accepted: list[Accepted]
    refused: list[Rejected]
    bytes_sent: dict[str, int]
    seconds: float


class RoundLoop:
    """Runs the rounds of one plan on one grid with one strategy."""

    def __init__(
        self,
        grid: Grid,
        strategy: Strategy,
        plan: Plan,
        *,
        history: History | None = None,
        checkpoints: CheckpointFolder | None = None,
        on_round: Callable[[RoundReport], None] = lambda report: None,
    ) -> None:
        self.grid = grid
        self.strategy = strategy
        self.plan = plan
        self.history = history or History()
        self.checkpoints = checkpoints
        self.on_round = on_round
        self._sites = {node: site for site, node in plan.nodes.items()}

    def run(self, start: Progress) -> Outcome:
        """Run from `start` to the last round, or until the run stops earlier.

        Raises:
            QuorumLostError: too many rounds in a row, or all of them, had too few replies.
            StorageError: a checkpoint or the history cannot be written.
        """
        outcome = Outcome(start, "rounds", {}, {})
        if self.plan.statistics_size is not None and "statistics" not in start.vectors:
            outcome.progress = self._with_statistics(start, outcome)
        while outcome.progress.round_number < self.plan.num_rounds:
            self._one_round(outcome)
            if self._plateau_reached(outcome.progress):
                outcome.stopped_by = "plateau"
                break
        if not outcome.progress.num_aggregated:
            raise QuorumLostError(
                f"no round had the {self.plan.sampling.min_replies} replies that "
                f"sampling.min_replies asks for{_last_reason(outcome)}"
            )
        if not outcome.evaluations:  # resumed after its last round
            self._evaluate(outcome.progress, outcome)
        return outcome

    def _one_round(self, outcome: Outcome) -> None:
        started = time.perf_counter()
        before, number = outcome.progress, outcome.progress.round_number + 1
        sites = sample_sites(
            self.plan.trainers, self.plan.sampling, seed=self.plan.seed, round_number=number
        )
        exchange = self._train(number, before, sites)
        self._write_down(number, "train", exchange, outcome)
        vector, train_loss = self._aggregate(number, exchange)
        if vector is None:
            after = replace(
                before, round_number=number, skipped_in_a_row=before.skipped_in_a_row + 1
            )
            outcome.skipped_rounds.append(number)
        else:
            after = replace(
                before,
                round_number=number,
                vectors={**before.vectors, PARAMETERS: vector},
                skipped_in_a_row=0,
                num_aggregated=before.num_aggregated + 1,
            )
        eval_loss, metrics = None, {}
        if vector is not None and self._evaluation_is_due(number):
            eval_loss, metrics = self._evaluate(after, outcome)
            after = update_patience(after, self.plan.stop, {"eval_loss": eval_loss, **metrics})
        outcome.progress = after
        seconds = time.perf_counter() - started
        outcome.round_seconds.append(seconds)
        self._close_round(number, seconds, vector is None, train_loss, outcome)
        self.on_round(
            RoundReport(
                number=number,
                num_rounds=self.plan.num_rounds,
                num_sampled=len(sites),
                num_accepted=len(exchange.accepted),
                refused=exchange.refused,
                train_loss=train_loss,
                eval_loss=eval_loss,
                metrics=metrics,
                seconds=seconds,
                num_bytes=_total_bytes(exchange),
            )
        )
        if after.skipped_in_a_row > self.plan.sampling.max_skipped_rounds:
            raise QuorumLostError(
                f"round {number}: {after.skipped_in_a_row} rounds in a row had fewer than "
                f"{self.plan.sampling.min_replies} replies{_last_reason(outcome)}"
            )

    def _train(self, number: int, progress: Progress, sites: Sequence[str]) -> _Exchange:
        view = SelectedSites(self.grid, [self.plan.nodes[site] for site in sites])
        arrays = array_record({PARAMETERS: progress.vectors[PARAMETERS]})
        messages = self.strategy.configure_train(number, arrays, ConfigRecord({}), view)
        return self._exchange(messages, number, progress, loss_name="train_loss")

    def _aggregate(
        self, number: int, exchange: _Exchange
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]] | None, float | None]:
        """Return the new model and the mean training loss, or None without a quorum."""
        if len(exchange.accepted) < self.plan.sampling.min_replies:
            return None, None
        arrays, metrics = self.strategy.aggregate_train(
            number, [reply.message for reply in exchange.accepted]
        )
        if arrays is None or metrics is None:
            return None, None
        # FedAdam and its kin compute in float64; the wire and the sites hold float32.
        vector = arrays[PARAMETERS].numpy().astype(np.float32, copy=False)
        if not np.isfinite(vector).all():
            exchange.refused.append(
                Rejected("aggregate", "rejected", "the strategy returned NaN or infinite values")
            )
            return None, None
        loss = metrics["train_loss"]
        return vector, loss if isinstance(loss, float) else None

    def _evaluate(
        self, progress: Progress, outcome: Outcome
    ) -> tuple[float | None, dict[str, float]]:
        """Let the sites evaluate the model; return the mean loss and the mean of each figure."""
        number = progress.round_number
        view = SelectedSites(self.grid, [self.plan.nodes[site] for site in self.plan.evaluators])
        arrays = array_record({PARAMETERS: progress.vectors[PARAMETERS]})
        messages = self.strategy.configure_evaluate(number, arrays, ConfigRecord({}), view)
        exchange = self._exchange(messages, number, progress, loss_name="eval_loss")
        self._write_down(number, "evaluate", exchange, outcome)
        outcome.evaluations = {reply.site: reply.report for reply in exchange.accepted}
        if not exchange.accepted:
            return None, {}
        total = self.strategy.aggregate_evaluate(number, [r.message for r in exchange.accepted])
        loss = total["eval_loss"] if total is not None else None
        metrics = mean_over_sites(outcome.evaluations)
        loss = loss if isinstance(loss, float) else None
        figures = metrics if loss is None else {"eval_loss": loss, **metrics}
        self.history.add([Entry(number, "evaluate", metrics=figures)])
        return loss, metrics

    def _exchange(
        self, messages: Iterable[Message], number: int, progress: Progress, *, loss_name: str
    ) -> _Exchange:
        """Send bound instructions, wait, and check every reply."""
        statistics: Statistics | None = progress.vectors.get("statistics")
        bound = [
            bind(message, self.plan, self._sites, statistics, number, loss_name)
            for message in messages
        ]
        bound.sort(key=lambda pair: pair[1].site)
        started = time.perf_counter()
        replies = self.grid.send_and_receive(
            [message for message, _ in bound], timeout=self.plan.sampling.deadline_s
        )
        seconds = time.perf_counter() - started
        sent = {message.metadata.dst_node_id: sent for message, sent in bound}
        accepted, refused = check_replies(sent, replies, loss_name=loss_name)
        sizes = {s.site: s.num_bytes for s in sent.values()}
        return _Exchange(accepted, refused, sizes, seconds)

    def _with_statistics(self, start: Progress, outcome: Outcome) -> Progress:
        total, refused = collect_statistics(self.grid, self.plan)
        outcome.rejected += [
            {"round": 0, "site": r.site, "status": r.status, "reason": r.reason} for r in refused
        ]
        return replace(start, vectors={**start.vectors, "statistics": total})

    def _evaluation_is_due(self, number: int) -> bool:
        every = self.plan.evaluate_every
        return number == self.plan.num_rounds or (every > 0 and number % every == 0)

    def _plateau_reached(self, progress: Progress) -> bool:
        stop = self.plan.stop
        return stop is not None and progress.evaluations_without_gain >= stop.patience

    def _write_down(self, number: int, phase: Any, exchange: _Exchange, outcome: Outcome) -> None:
        loss_name = "train_loss" if phase == "train" else "eval_loss"
        entries = []
        for reply in exchange.accepted:
            figures = reply.report.get("metrics", {})
            values = {k: m["value"] for k, m in figures.items() if m.get("value") is not None}
            entries.append(
                Entry(
                    number,
                    phase,
                    site=reply.site,
                    num_examples=reply.num_examples,
                    metrics={loss_name: reply.loss, **values},
                    seconds=reply.report.get("seconds"),
                    bytes_sent=exchange.bytes_sent[reply.site],
                    bytes_received=reply.num_bytes,
                )
            )
            outcome.bytes_received += reply.num_bytes
        if phase == "train":
            outcome.num_train = {
                **outcome.num_train,
                **{reply.site: reply.num_examples for reply in exchange.accepted},
            }
        for r in exchange.refused:
            entries.append(Entry(number, phase, site=r.site, status=r.status, reason=r.reason))
            outcome.rejected.append(
                {"round": number, "site": r.site, "status": r.status, "reason": r.reason}
            )
        outcome.bytes_sent += sum(exchange.bytes_sent.values())
        self.history.add(entries)

    def _close_round(
        self, number: int, seconds: float, skipped: bool, loss: float | None, outcome: Outcome
    ) -> None:
        self.history.add(
            [
                Entry(
                    number,
                    "train",
                    status="skipped" if skipped else "ok",
                    metrics={} if loss is None else {"train_loss": loss},
                    seconds=seconds,
                )
            ]
        )
        if self.checkpoints is not None:
            self.checkpoints.save(outcome.progress, self.strategy)


def _total_bytes(exchange: _Exchange) -> int:
    received = sum(reply.num_bytes for reply in exchange.accepted)
    return received + sum(exchange.bytes_sent.values())


def _last_reason(outcome: Outcome) -> str:
    if not outcome.rejected:
        return ""
    last = outcome.rejected[-1]
    return f"; the last to fail was {last['site']}: {last['reason']}"
