"""A worker: the sites of one process, and the real ClientApp that answers for each of them."""

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from fedward.client.app import make_client_app
from fedward.client.egress import Gate
from fedward.client.site import Site
from fedward.client.trainer import Trainer
from fedward.common.errors import FedwardError
from fedward.common.records import read_instruction

if TYPE_CHECKING:
    from fedward.client.synthesis import Synthesis

log = logging.getLogger("fedward")
SITE_FAILED = 1
Prefill = Callable[[Sequence[tuple[Message, Context]]], None]


class SiteWorker:
    """Answers messages one by one; a stacked trainer may compute all of them first.

    Args:
        app: the ClientApp that a hospital would run.
        sites: name of the site behind each node id.
        prefill: sees all messages before the app sees the first; absent: one by one.
    """

    def __init__(
        self, app: ClientApp, sites: Mapping[int, str], *, prefill: Prefill | None = None
    ) -> None:
        self.app = app
        self._prefill = prefill
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"site": site},
                state=RecordDict(),
                run_config={},
            )
            for node, site in sites.items()
        }

    def handle(self, messages: Sequence[Message]) -> list[Message]:
        """Return one reply per message; a site that raises answers with an error."""
        pairs = [(message, self._contexts[message.metadata.dst_node_id]) for message in messages]
        if self._prefill is not None:
            try:
                self._prefill(pairs)
            except Exception:  # one site's numbers may not cost the others the round
                log.warning("training the sites at once failed; one by one instead", exc_info=True)
        return [self._answer(message, context) for message, context in pairs]

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message, context)
        except Exception as error:  # noqa: BLE001 - one site's failure must not end the round
            return Message(Error(SITE_FAILED, describe(error)), reply_to=message)


def app_worker(
    trainer: Trainer,
    sites: Mapping[int, Site],
    *,
    gate: Gate | None = None,
    synthesis: "Synthesis | None" = None,
) -> SiteWorker:
    """Return a worker whose sites, by node id, are served by one trainer.

    Args:
        trainer: of all of them.
        sites: by node id.
        gate: decides what leaves each of them; None: one that holds no figure back.
        synthesis: answers for a run that makes synthetic rows.
    """
    by_name = {site.site_id: site for site in sites.values()}

    def site_of(context: Context) -> Site:
        return by_name[str(context.node_config["site"])]

    def prefill(pairs: Sequence[tuple[Message, Context]]) -> None:
        trainer.prefill(
            [
                (site_of(context), read_instruction(message))
                for message, context in pairs
                if message.metadata.message_type == MessageType.TRAIN
            ]
        )

    names = {node: site.site_id for node, site in sites.items()}
    app = make_client_app(site_of, trainer, gate, synthesis)
    return SiteWorker(app, names, prefill=prefill)


def describe(error: Exception) -> str:
    """Return what may leave a site about its error: never a foreign message with values in it."""
    if isinstance(error, FedwardError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
