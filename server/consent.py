"""Before the first round: which hospitals take part?

A hospital may want a person to look at a run first, which can take days. Until enough hospitals
have agreed nothing is asked of anyone; who agrees later joins in the round that is held then.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedward.common.errors import QuorumLostError
from fedward.common.records import CONSENT_QUERY, LACKS, REFUSED, WAITS_FOR_APPROVAL, Binding
from fedward.server.plan import Plan

ASK_EVERY_S = 5.0
SAY_EVERY_S = 600.0
ANSWER_WITHIN_S = 60.0
TROUBLE_S = 300.0
"""How long a start waits for sites that are away or have trouble, without which it cannot begin."""


@dataclass
class Consents:
    """What the sites have answered so far."""

    agreed: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    """Why not, by site."""
    lacking: dict[str, frozenset[str]] = field(default_factory=dict)
    """Modalities that no row of a site that agreed has."""

    @property
    def undecided(self) -> set[str]:
        """The sites at which a person has yet to look."""
        return {site for site, reason in self.others.items() if WAITS_FOR_APPROVAL in reason}

    @property
    def lost(self) -> set[str]:
        """The sites whose rules do not allow the run."""
        refused = {site for site, reason in self.others.items() if reason.startswith(REFUSED)}
        return refused - self.undecided


def wait_for_consent(
    grid: Grid, plan: Plan, *, wait_s: float, on_line: Callable[[str], None]
) -> Consents:
    """Return once enough sites agreed, and the others have agreed too or had their time.

    Args:
        grid: reaches the sites.
        plan: whose sites are asked; `min_replies` of them are enough.
        wait_s: how long to wait for the others once there are enough.
        on_line: is told who is waited for.

    Raises:
        QuorumLostError: too many sites refuse, or are away for too long.
    """
    known = Consents()
    started, enough_since, said = time.monotonic(), None, ("", 0.0)
    while True:
        _ask(grid, plan, known)
        now = time.monotonic()
        reasons = [f"{site} {reason}" for site, reason in sorted(known.others.items())]
        text = "; ".join([f"{len(known.agreed)} of {len(plan.nodes)} sites take part", *reasons])
        if text != said[0] or now - said[1] > SAY_EVERY_S:
            on_line(text)
            said = text, now
        if len(known.agreed) >= plan.sampling.min_replies:
            enough_since = enough_since or now
            if set(known.others) <= known.lost or now - enough_since >= wait_s:
                return known
        lost = known.lost if now - started < TROUBLE_S else set(known.others) - known.undecided
        if len(plan.nodes) - len(lost) < plan.sampling.min_replies:
            raise QuorumLostError(
                f"sampling.min_replies is {plan.sampling.min_replies}, and "
                f"{len(plan.nodes) - len(lost)} sites can take part; {text}"
            )
        time.sleep(ASK_EVERY_S)


def _ask(grid: Grid, plan: Plan, known: Consents) -> None:
    """Ask those who have not agreed."""
    asked: dict[int, tuple[str, Binding]] = {}
    messages = []
    for site, node in plan.nodes.items():
        if site in known.agreed:
            continue
        binding = Binding(plan.run_key, 0, secrets.token_hex(16), "", plan.manifest_hash)
        content = RecordDict({"binding": binding.to_record()})
        messages.append(Message(content, message_type=CONSENT_QUERY, dst_node_id=node))
        asked[node] = site, binding
    told = _answers(grid.send_and_receive(messages, timeout=ANSWER_WITHIN_S), asked)
    for site, _ in asked.values():
        answer = told.get(site, "does not answer")
        if isinstance(answer, str):
            known.others[site] = answer
        else:
            known.agreed.add(site)
            known.others.pop(site, None)
            known.lacking[site] = answer


def _answers(
    replies: Iterable[Message], asked: Mapping[int, tuple[str, Binding]]
) -> dict[str, str | frozenset[str]]:
    """Return what each site lacks that agreed, and the reason of each other one that answered."""
    told: dict[str, str | frozenset[str]] = {}
    for reply in replies:
        found = asked.get(reply.metadata.src_node_id)
        if found is None:
            continue
        site, binding = found
        if reply.has_error():
            told[site] = reply.error.reason or "cannot be reached"
        elif binding.is_in(reply.content.get("receipt")):
            told[site] = _lacking(reply)
        else:
            told[site] = "answered something else"
    return told


def _lacking(reply: Message) -> frozenset[str]:
    """Return the modalities that a site says it has no row of; nothing of it is trusted."""
    record = reply.content.get(LACKS)
    names = record.get("modalities") if isinstance(record, ConfigRecord) else None
    return frozenset(map(str, names)) if isinstance(names, list) else frozenset()
