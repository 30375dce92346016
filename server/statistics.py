"""Collects preprocessing sums before round 1, where sites share means and deviations."""

import secrets

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedward.common.errors import QuorumLostError
from fedward.common.flower import view
from fedward.common.records import STATISTICS_QUERY, Binding, array_record, arrays_of
from fedward.common.task import Statistics
from fedward.server.plan import Plan
from fedward.server.validation import Rejected, Sent, check_replies


def collect_statistics(grid: Grid, plan: Plan) -> tuple[Statistics, list[Rejected]]:
    """Return the (d,) float64 sums over all sites that answered properly, and who did not.

    Summed in the order of the site ids, so that every engine gives the same bits.

    Raises:
        QuorumLostError: fewer than `min_replies` sites answered properly.
    """
    assert plan.statistics_size is not None
    expected = array_record({"sums": np.zeros(plan.statistics_size)})
    sent: dict[int, Sent] = {}
    messages = []
    for site in plan.evaluators:
        node = plan.nodes[site]
        binding = Binding(plan.run_key, 0, secrets.token_hex(16), "", plan.manifest_hash)
        content = RecordDict({"binding": binding.to_record()})
        messages.append(Message(content, message_type=STATISTICS_QUERY, dst_node_id=node))
        sent[node] = Sent(site, binding, expected, plan.cohort_bounds[site])
    replies = grid.send_and_receive(messages, timeout=plan.sampling.deadline_s)
    accepted, refused = check_replies(sent, replies, loss_name="loss")
    if len(accepted) < plan.sampling.min_replies:
        reasons = "; ".join(f"{r.site}: {r.reason}" for r in refused[:3])
        raise QuorumLostError(f"too few sites sent preprocessing statistics ({reasons})")
    total = np.zeros(plan.statistics_size)
    for reply in accepted:
        total += view(arrays_of(reply.message.content)["sums"])
    return total, refused
