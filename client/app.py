"""The Flower ClientApp of a site: the same in one process, on Ray, and at a hospital.

Its handlers only translate: message to instruction, trainer, update to records. What is trained
and how is injected, so that a stacked trainer can have filled in the results of many sites first.
"""

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.client.egress import Gate
from fedward.client.site import Site
from fedward.client.trainer import Trainer
from fedward.common.records import Instruction, Update, read_binding, read_instruction

SiteResolver = Callable[[Context], Site]


def make_client_app(site_of: SiteResolver, trainer: Trainer, gate: Gate | None = None) -> ClientApp:
    """Return the app that answers instructions with `trainer`.

    Args:
        site_of: the one resolver that says whose patients a context stands for.
        trainer: does the work of one site and one instruction.
        gate: decides what leaves; absent: one that keeps the checks and holds no figure back.
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
        records = way_out.let_out_sums(site_of(context).sums(), read_binding(message))
        return Message(records, reply_to=message)

    def _answer(
        message: Message,
        context: Context,
        work: Callable[[Site, Instruction], Update],
        loss_name: str,
    ) -> Message:
        instruction = read_instruction(message)
        update = work(site_of(context), instruction)
        records: RecordDict = way_out.let_out(update, instruction, loss_name=loss_name)
        return Message(records, reply_to=message)

    return app
