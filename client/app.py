"""The Flower ClientApp of a site: the same in one process, on Ray, and at a hospital.

Its handlers only translate: message to instruction, trainer, update to records. What is trained
and how is injected, so that a stacked trainer can have filled in the results of many sites first.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.client.egress import Gate
from fedward.client.site import Site
from fedward.client.trainer import Trainer
from fedward.common.errors import RefusedError
from fedward.common.records import (
    Instruction,
    Update,
    read_binding,
    read_instruction,
    read_synthesis_query,
)

if TYPE_CHECKING:  # it brings pandas and scikit-learn along, which few runs need
    from fedward.client.synthesis import Synthesis

SiteResolver = Callable[[Context], Site]


def make_client_app(
    site_of: SiteResolver,
    trainer: Trainer,
    gate: Gate | None = None,
    synthesis: "Synthesis | None" = None,
) -> ClientApp:
    """Return the app that answers instructions with `trainer`.

    Args:
        site_of: the one resolver that says whose patients a context stands for.
        trainer: does the work of one site and one instruction.
        gate: decides what leaves; absent: one that keeps the checks and holds no figure back.
        synthesis: answers for a run that makes synthetic rows; None: the run makes none.
    """
    app = ClientApp()
    way_out = gate or Gate()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, context, trainer.train, "train_loss")

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, context, trainer.evaluate, "eval_loss")

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        _check_trains(synthesis)
        records = way_out.let_out_sums(site_of(context).sums(), read_binding(message))
        return Message(records, reply_to=message)

    @app.query("synthesis")
    def synthetic(message: Message, context: Context) -> Message:
        if synthesis is None:
            raise RefusedError("synthesis: the run is not signed for synthetic rows")
        query = read_synthesis_query(message)
        release = synthesis.answer(site_of(context), query)
        records = way_out.let_out_release(release, query.binding, synthesis.form(query.what))
        return Message(records, reply_to=message)

    def _answer(
        message: Message,
        context: Context,
        work: Callable[[Site, Instruction], Update],
        loss_name: str,
    ) -> Message:
        _check_trains(synthesis)
        instruction = read_instruction(message)
        update = work(site_of(context), instruction)
        records: RecordDict = way_out.let_out(update, instruction, loss_name=loss_name)
        return Message(records, reply_to=message)

    return app


def _check_trains(synthesis: "Synthesis | None") -> None:
    """Refuse to train, or to sum up for it, where the signed run only makes synthetic rows."""
    if synthesis is not None and not synthesis.trains:
        raise RefusedError(
            f"synthesis: the run is signed for {synthesis.config.method}, which trains no model"
        )
