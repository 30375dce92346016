"""The round loop: ask sites, check what comes back, aggregate, evaluate, write down, go on.

    sample sites -> strategy.configure_train -> grid.send_and_receive -> check every reply
    -> quorum? -> strategy.aggregate_train -> evaluate -> history -> checkpoint

The strategies are Flower's (or ours, on Flower's interface) and so is the grid: in one process,
on Ray, or over TLS. This loop adds what Flower's own `Strategy.start` lacks: validation of each
reply, a quorum of replies, deadlines, per-site figures, checkpoints, resume and early stop.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedward.common.errors import QuorumLostError
from fedward.common.flower import Records, view
from fedward.common.metrics import VALIDATION_LOSS
from fedward.common.records import PARAMETERS, array_record, arrays_of
from fedward.common.vectors import Vector
from fedward.server.central_noise import SPENT
from fedward.server.checkpoint import CheckpointFolder, Progress
from fedward.server.exchange import Exchange, exchange, refused_entry
from fedward.server.history import Entry, History
from fedward.server.instructions import Round, SelectedSites
from fedward.server.monitoring import Monitor
from fedward.server.plan import Plan
from fedward.server.sampling import sample_sites
from fedward.server.statistics import collect_statistics
from fedward.server.stopping import (
    mean_over_sites,
    mean_validation_loss,
    stopped_by,
    update_patience,
)
from fedward.server.validation import Accepted, Rejected


class RoundObserver(Protocol):
    """Looks at what a round did to the model, while the replies still hold their models."""

    def __call__(
        self, number: int, received: Vector, replies: Sequence[Accepted], vector: Vector
    ) -> None:
        """Look; nothing of it may be written to.

        Args:
            number: of the round; rounds that are skipped are not shown.
            received: (D,) the model that was sent to the sites.
            replies: accepted, by site; emptied when this returns, so copy what is to be kept.
            vector: (D,) the new model.
        """


@dataclass(frozen=True)
class RoundReport:
    """One finished round, for displays."""

    number: int
    num_rounds: int
    num_sampled: int
    num_accepted: int
    refused: Sequence[Rejected]
    train_loss: float | None
    """None: the round was skipped, or is private."""
    eval_loss: float | None
    metrics: Mapping[str, float]
    """Mean over the sites of each figure, where the round was evaluated."""
    seconds: float
    num_bytes: int
    resting: Sequence[str] = ()
    """Sites of this round that were not asked, as they are saturated."""
    saturated: Sequence[str] = ()
    """Sites whose weights have stopped going anywhere, as far as is known."""
    is_private: bool = False
    """Whether sites train privately, and tell no loss of their patients."""
    epsilon: float | None = None
    """The most that any site, or its patients, have spent in this run."""

    @property
    def is_skipped(self) -> bool:
        """Whether there was no new model."""
        return self.train_loss is None and not self.is_private


@dataclass(frozen=True)
class Outcome:
    """Where a run ended."""

    progress: Progress
    stopped_by: str
    """`rounds`, `plateau` or `saturation`."""
    evaluations: Mapping[str, Mapping[str, Any]]
    """The last report of each site."""


class RoundLoop:
    """Runs the rounds of one plan on one grid with one strategy."""

    def __init__(  # noqa: PLR0913 - the six parts that a run is made of
        self,
        grid: Grid,
        strategy: Strategy,
        plan: Plan,
        *,
        history: History | None = None,
        checkpoints: CheckpointFolder | None = None,
        on_round: Callable[[RoundReport], None] = lambda report: None,
        observers: Sequence[RoundObserver] = (),
    ) -> None:
        self.grid = grid
        self.strategy = strategy
        self.plan = plan
        self.history = history or History()
        self.checkpoints = checkpoints
        self.on_round = on_round
        self.observers = observers
        self._monitor = Monitor(plan)
        self._evaluations: Mapping[str, Mapping[str, Any]] = {}
        self._evaluated: Vector | None = None

    def run(self, start: Progress) -> Outcome:
        """Run from `start` to the last round, or until the run stops earlier.

        Raises:
            QuorumLostError: too many rounds in a row, or all of them, had too few replies.
            StorageError: a checkpoint or the history cannot be written.
        """
        progress = self._with_statistics(start)
        self._monitor.learn(self.history.entries)
        # Asked before each round, so that a run that had stopped does not go on when resumed.
        while progress.round_number < self.plan.num_rounds and not self._stopped_by(progress):
            progress = self._one_round(progress)
        if not progress.num_aggregated:
            raise QuorumLostError(f"no round had enough replies{self._why()}")
        if self._evaluated is not progress.vectors[PARAMETERS]:  # resumed at its end, or skipped
            self._evaluate(progress)
        return Outcome(progress, self._stopped_by(progress) or "rounds", self._evaluations)

    def _one_round(self, before: Progress) -> Progress:
        started = time.perf_counter()
        number = before.round_number + 1
        asked, resting = self._who(number, before)
        spending = self._spend(before)
        answers = self._train(number, before, asked)
        vector, train_loss = self._aggregate(number, answers, before)
        is_private = any(reply.is_private for reply in answers.accepted)
        if is_private:
            train_loss = None
        self.history.add(self._monitor.lines(number, answers.entries(), resting))
        for reply in answers.accepted:
            reply.message.content = RecordDict()  # a model each, and the evaluation needs room
        eval_loss: float | None = None
        metrics: dict[str, float] = {}
        if vector is None:
            skipped = before.skipped_in_a_row + 1
            after = replace(before, round_number=number, skipped_in_a_row=skipped, previous=None)
        else:
            after = replace(
                before,
                round_number=number,
                vectors={**before.vectors, **spending, PARAMETERS: vector},
                skipped_in_a_row=0,
                num_aggregated=before.num_aggregated + 1,
                previous=before.vectors[PARAMETERS] if self.plan.monitor.influence else None,
            )
            if spending and self.checkpoints is not None:
                # What is spent is on disk before the sites see the model: a round that is run
                # again after a crash would release it with other noise.
                self.checkpoints.save(after, self.strategy)
            if self._evaluation_is_due(after):
                eval_loss, metrics = self._evaluate(after)
                after = update_patience(after, self.plan.stop, {"eval_loss": eval_loss, **metrics})
        seconds = time.perf_counter() - started
        self._close_round(after, train_loss, seconds, is_skipped=vector is None)
        self.on_round(
            RoundReport(
                number=number,
                num_rounds=self.plan.num_rounds,
                num_sampled=len(answers.bytes_sent),
                num_accepted=len(answers.accepted),
                refused=answers.refused,
                train_loss=train_loss,
                is_private=is_private and vector is not None,
                epsilon=self._most_spent(after, answers),
                eval_loss=eval_loss,
                metrics=metrics,
                seconds=seconds,
                num_bytes=answers.num_bytes,
                resting=resting,
                saturated=self._monitor.saturated_sites,
            )
        )
        if after.skipped_in_a_row > self.plan.sampling.max_skipped_rounds:
            raise QuorumLostError(
                f"{after.skipped_in_a_row} rounds in a row were skipped{self._why()}"
            )
        return after

    def _who(self, number: int, progress: Progress) -> tuple[list[str], list[str]]:
        """Return who is asked to train in a round, and who rests instead."""
        sites = sample_sites(
            self.plan.trainers, self.plan.sampling, seed=self.plan.seed, round_number=number
        )
        # After a round without enough replies, nobody that could help stays away.
        resting = [] if progress.skipped_in_a_row else self._monitor.resting(number, sites)
        return [site for site in sites if site not in resting], resting

    def _spend(self, before: Progress) -> dict[str, Any]:
        """Return what the run has spent once this round is released; nothing where sites account.

        Raises:
            BudgetSpentError: it may not be released.
        """
        if self.plan.central is None:
            return {}
        return {SPENT: self.plan.central.spend(before.vectors.get(SPENT))}

    def _train(self, number: int, progress: Progress, sites: Sequence[str]) -> Exchange:
        """Let the sites train, and check what comes back."""
        view = SelectedSites(self.grid, [self.plan.nodes[site] for site in sites])
        arrays = array_record({PARAMETERS: progress.vectors[PARAMETERS]})
        messages = self.strategy.configure_train(number, arrays, ConfigRecord({}), view)
        this = Round(number, "train", progress.vectors.get("statistics"))
        return exchange(self.grid, self.plan, messages, this)

    def _aggregate(
        self, number: int, answers: Exchange, before: Progress
    ) -> tuple[Vector | None, float | None]:
        """Return the new model and the mean training loss; None and None skip the round."""
        if len(answers.accepted) < self.plan.sampling.min_replies:
            return None, None
        models = self._models(answers.accepted)
        messages = [reply.message for reply in answers.accepted]
        if self.plan.central is not None:
            messages = [self.plan.central.release(number, before.vectors[PARAMETERS], messages)]
        if self.plan.products is not None:
            messages = [self.plan.products.combine(messages)]
        arrays, metrics = self.strategy.aggregate_train(number, messages)
        if arrays is None or metrics is None:
            return None, None
        # FedAdam and its kin compute in float64; the wire and the sites hold float32.
        vector: Vector = view(arrays[PARAMETERS]).astype(np.float32, copy=False)
        if not np.isfinite(vector).all():
            why = Rejected("aggregate", "rejected", "the strategy gave NaN or infinite values")
            answers.refused.append(why)
            return None, None
        if self.plan.frozen is not None:  # whatever noise, masks or a site's reply made of it
            vector = np.where(self.plan.frozen, before.vectors[PARAMETERS], vector)
        if models:
            self._show(before, answers.accepted, models, vector)
        loss = metrics["train_loss"]
        assert isinstance(loss, float)
        return vector, loss

    def _models(self, replies: Sequence[Accepted]) -> list[Vector]:
        """Return what is looked at after the strategy, as some take the models out of replies."""
        if not self.plan.monitor.influence and not self.observers:
            return []
        return [view(arrays_of(reply.message.content)[PARAMETERS]) for reply in replies]

    def _show(
        self,
        before: Progress,
        replies: Sequence[Accepted],
        models: Sequence[Vector],
        vector: Vector,
    ) -> None:
        """Let the monitor and the observers look at what a round did to the model."""
        received: Vector = before.vectors[PARAMETERS]
        for reply, model in zip(replies, models, strict=True):
            reply.message.content = Records({"arrays": array_record({PARAMETERS: model})})
        self._monitor.look(received, replies, vector, previous=before.previous)
        for observer in self.observers:
            observer(before.round_number + 1, received, replies, vector)

    def _evaluate(self, progress: Progress) -> tuple[float | None, dict[str, float]]:
        """Let the sites evaluate the model; return the mean loss and the mean of each figure."""
        number = progress.round_number
        view = SelectedSites(self.grid, [self.plan.nodes[site] for site in self.plan.evaluators])
        arrays = array_record({PARAMETERS: progress.vectors[PARAMETERS]})
        messages = self.strategy.configure_evaluate(number, arrays, ConfigRecord({}), view)
        this = Round(number, "evaluate", progress.vectors.get("statistics"))
        # A run that is resumed after its end asks again for what is written down already.
        is_new = not self.history.has(number, "evaluate")
        answers = exchange(self.grid, self.plan, messages, this)
        if is_new:
            self.history.add(answers.entries())
        self._evaluations = {reply.site: reply.report for reply in answers.accepted}
        self._evaluated = progress.vectors[PARAMETERS]
        total = self.strategy.aggregate_evaluate(number, [r.message for r in answers.accepted])
        if total is None:
            return None, {}
        loss = total["eval_loss"]
        assert isinstance(loss, float)
        told = None if any(reply.is_private for reply in answers.accepted) else loss
        metrics = mean_over_sites([reply.figures() for reply in answers.accepted])
        validation_loss = mean_validation_loss(answers.accepted)
        if validation_loss is not None:
            metrics[VALIDATION_LOSS] = validation_loss
        if is_new:
            figures = metrics if told is None else {"eval_loss": told, **metrics}
            self.history.add([Entry(number, "evaluate", metrics=figures)])
        return told, metrics

    def _with_statistics(self, start: Progress) -> Progress:
        if self.plan.statistics_size is None or "statistics" in start.vectors:
            return start
        total, refused = collect_statistics(self.grid, self.plan)
        self.history.add([refused_entry(0, "train", r) for r in refused])
        return replace(start, vectors={**start.vectors, "statistics": total})

    def _evaluation_is_due(self, after: Progress) -> bool:
        number, every = after.round_number, self.plan.evaluate_every
        is_last = number == self.plan.num_rounds or self._stopped_by(after) == "saturation"
        return is_last or (every > 0 and number % every == 0)

    def _stopped_by(self, progress: Progress) -> str | None:
        return stopped_by(self.plan.stop, progress, is_saturated=self._monitor.is_saturated)

    def _close_round(
        self, after: Progress, loss: float | None, seconds: float, *, is_skipped: bool
    ) -> None:
        """Write the round's own line and the checkpoint."""
        line = Entry(
            after.round_number,
            "train",
            status="skipped" if is_skipped else "ok",
            metrics={} if loss is None else {"train_loss": loss},
            seconds=seconds,
            epsilon=self._epsilon(after),
            update=self._monitor.step,
            saturated=self._monitor.is_saturated,
        )
        self.history.add([line])
        self._monitor.close()
        if self.checkpoints is not None:
            self.checkpoints.save(after, self.strategy)

    def _most_spent(self, after: Progress, answers: Exchange) -> float | None:
        told = [self._epsilon(after), *(reply.epsilon for reply in answers.accepted)]
        return max((epsilon for epsilon in told if epsilon is not None), default=None)

    def _epsilon(self, progress: Progress) -> float | None:
        """Return what the server's noise has cost every site; None where sites account."""
        central = self.plan.central
        return None if central is None else central.epsilon_of(progress.vectors.get(SPENT))

    def _why(self) -> str:
        """Return the rule that was broken, and the last reason for it."""
        rule = f": sampling.min_replies is {self.plan.sampling.min_replies}"
        refused = [entry for entry in self.history.entries if entry.reason is not None]
        return f"{rule}; {refused[-1].site}: {refused[-1].reason}" if refused else rule
