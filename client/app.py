"""The Flower ClientApp of a site: the same in one process, on Ray, and at a hospital.

Its handlers only translate: message to instruction, trainer, update to records. What is trained
and how is injected, so that a stacked trainer can have filled in the results of many sites first.
"""

from collections.abc import Callable

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.client.egress import egress
from fedward.client.site import Site
from fedward.client.trainer import Trainer
from fedward.common.records import Instruction, Update, read_binding, read_instruction

SiteResolver = Callable[[Context], Site]


def make_client_app(site_of: SiteResolver, trainer: Trainer) -> ClientApp:
    """Return the app that answers instructions with `trainer`.

    Args:
        site_of: the one resolver that says whose patients a context stands for.
        trainer: does the work of one site and one instruction.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _answer(message, context, trainer.train, "train_loss")

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, context, trainer.evaluate, "eval_loss")

    @app.query("statistics")
    def statistics(message: Message, context: Context) -> Message:
        sums = site_of(context).sums()
        asked = Instruction(read_binding(message), {"sums": np.empty_like(sums)})
        update = Update(max(int(sums[0]), 1), 0.0, {"sums": sums})
        return Message(egress(update, asked, loss_name="loss"), reply_to=message)

    def _answer(
        message: Message,
        context: Context,
        work: Callable[[Site, Instruction], Update],
        loss_name: str,
    ) -> Message:
        instruction = read_instruction(message)
        update = work(site_of(context), instruction)
        records: RecordDict = egress(update, instruction, loss_name=loss_name)
        return Message(records, reply_to=message)

    return app
