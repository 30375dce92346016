"""Hands the trained model to the hospitals, signed, and says who has it."""

import logging
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from fedward.common.release import RELEASE_QUERY, Release, sign_release

OK = "ok"
_LONGEST_REASON = 300
log = logging.getLogger(__name__)


def send_release(
    grid: Grid,
    nodes: Mapping[str, int],
    release: Release,
    key: EllipticCurvePrivateKey,
    *,
    timeout_s: float,
) -> dict[str, str]:
    """Return for each site `ok`, or why it has not kept the model.

    A site that is away now loses nothing: the run's folder at the coordinator holds the model, and
    the release can be sent again.

    Args:
        grid: reaches the sites.
        nodes: node id of each site that gets the model.
        release: the model.
        key: the model key of the roster.
        timeout_s: how long to wait for the slowest site.
    """
    signature = sign_release(release, key)
    messages = [
        # Records of its own for each: a grid may empty what it has sent.
        Message(release.to_records(signature), message_type=RELEASE_QUERY, dst_node_id=node)
        for node in nodes.values()
    ]
    told = dict.fromkeys(nodes, f"no answer within {timeout_s:g} s")
    sites = {node: site for site, node in nodes.items()}
    for reply in grid.send_and_receive(messages, timeout=timeout_s):
        site = sites.get(reply.metadata.src_node_id)
        if site is None:
            log.warning("a reply to a release came from a node that was not asked")
            continue
        told[site] = _outcome(reply, release)
    return told


def _outcome(reply: Message, release: Release) -> str:
    """Return `ok` where the site named exactly this release as kept."""
    if reply.has_error():
        return str(reply.error.reason or "the site could not keep it")[:_LONGEST_REASON]
    kept = reply.content.get("kept")
    if isinstance(kept, ConfigRecord) and kept.get("release") == release.fingerprint:
        return OK
    return "the answer names another model"
