"""A worker: the sites of one process, and the real ClientApp that answers for each of them."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedward.common.errors import FedwardError

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
        self._app = app
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
            self._prefill(pairs)
        return [self._answer(message, context) for message, context in pairs]

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as error:  # noqa: BLE001 - one site's failure must not end the round
            return Message(Error(SITE_FAILED, describe(error)), reply_to=message)


def describe(error: Exception) -> str:
    """Return what may leave a site about its error: never a foreign message with values in it."""
    if isinstance(error, FedwardError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
