"""One exchange: bound instructions go out, and every reply is checked before anyone uses it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedward.common.metrics import VALIDATION_LOSS
from fedward.server.history import Entry, Phase
from fedward.server.instructions import Round, bind
from fedward.server.plan import Plan
from fedward.server.validation import Accepted, Rejected, check_replies


@dataclass(frozen=True)
class Exchange:
    """What came back."""

    round_number: int
    phase: Phase
    accepted: list[Accepted]
    refused: list[Rejected]
    bytes_sent: Mapping[str, int]
    """To each site that was asked."""

    @property
    def num_bytes(self) -> int:
        """Bytes of models and statistics, both ways."""
        return sum(self.bytes_sent.values()) + sum(reply.num_bytes for reply in self.accepted)

    def entries(self) -> list[Entry]:
        """Return the history's lines, one per site."""
        good = [
            Entry(
                self.round_number,
                self.phase,
                site=reply.site,
                num_examples=reply.num_examples,
                metrics=_metrics(self.phase, reply),
                seconds=reply.report.get("seconds"),
                bytes_sent=self.bytes_sent[reply.site],
                bytes_received=reply.num_bytes,
                cme=reply.report.get("cme", {}),
                epsilon=reply.epsilon,
                privacy=reply.report.get("privacy", {}),
            )
            for reply in self.accepted
        ]
        return good + [refused_entry(self.round_number, self.phase, r) for r in self.refused]


def exchange(grid: Grid, plan: Plan, messages: Iterable[Message], this: Round) -> Exchange:
    """Send the strategy's messages, wait, and check every reply."""
    bound = [(message, bind(message, plan, this)) for message in messages]
    bound.sort(key=lambda pair: pair[1].site)
    replies = grid.send_and_receive(
        [message for message, _ in bound], timeout=plan.sampling.deadline_s
    )
    sent = {message.metadata.dst_node_id: expected for message, expected in bound}
    accepted, refused = check_replies(sent, replies, loss_name=loss_name(this.phase))
    if plan.anchors is not None:
        plan.anchors.note(this.number, accepted)
    sizes = {expected.site: expected.num_bytes for expected in sent.values()}
    return Exchange(this.number, this.phase, accepted, refused, sizes)


def _metrics(phase: Phase, reply: Accepted) -> dict[str, float]:
    # A private reply has a loss of 0 in its place: that of its patients is not released.
    loss = {} if reply.is_private else {loss_name(phase): reply.loss}
    metrics = {**loss, **reply.figures()}
    validation = reply.validation
    return metrics if validation is None else {**metrics, VALIDATION_LOSS: validation.loss}


def loss_name(phase: Phase) -> str:
    """Return the name of the loss that replies carry."""
    return "train_loss" if phase == "train" else "eval_loss"


def refused_entry(round_number: int, phase: Phase, refused: Rejected) -> Entry:
    """Return the history's line for a reply that did not count."""
    return Entry(
        round_number, phase, site=refused.site, status=refused.status, reason=refused.reason
    )
