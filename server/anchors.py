"""Anchors for the sites' audit logs: a hash chain alone does not show that its tail was cut off.

With each reply a site says how long its log is and how it ends (its head). The coordinator writes
that into `audit.jsonl`, and sends it back signed with the next instruction. Whoever shortens the
log of a site would have to change both. Source: ours; as RFC 6962 does with signed tree heads.
"""

import re
from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord

from fedward.common.chain import Anchor, anchor_text
from fedward.common.flower import fill
from fedward.common.records import ANCHOR
from fedward.server.audit import AuditLog
from fedward.server.validation import Accepted

_HASH = re.compile(r"[0-9a-f]{64}")


class Anchors:
    """The last head of each site's audit log.

    Args:
        log: the run's own audit log.
        sign: signs with the key that signs models.
        run_key: the run that the heads belong to.
    """

    def __init__(self, log: AuditLog, sign: Callable[[bytes], str], run_key: str) -> None:
        self._log = log
        self._sign = sign
        self._run_key = run_key
        self._signed: dict[str, dict[str, str]] = {}

    def note(self, round_number: int, replies: list[Accepted]) -> None:
        """Write down the heads that came with `replies`; a malformed one is none."""
        for reply in replies:
            head = _head(reply.site, reply.report.get("audit"))
            if head is None:
                continue
            self._log.write(
                "site-audit-head", site=head.site, seq=head.seq, hash=head.hash, round=round_number
            )
            text = anchor_text(head, round_number=round_number, run_key=self._run_key)
            self._signed[reply.site] = {"text": text, "signature": self._sign(text.encode())}

    def records(self, site: str) -> dict[str, ConfigRecord]:
        """Return what goes to `site` with its next instruction."""
        signed = self._signed.get(site)
        return {} if signed is None else {ANCHOR: fill(ConfigRecord(), signed)}


def _head(site: str, found: Any) -> Anchor | None:
    if not isinstance(found, dict):
        return None
    seq, digest = found.get("seq"), found.get("hash")
    if type(seq) is not int or not isinstance(digest, str) or not _HASH.fullmatch(digest):
        return None
    return Anchor(site, seq, digest)
