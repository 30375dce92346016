"""An operator's signature under one call to the coordinator: made there, checked at its door.

Flower's Control API asks nobody who they are. What is signed is the call as a whole (consortium,
path, time, a nonce, the hash of the body), so that whoever records one can neither change it nor
send it again, nor use it in another consortium. The answer is not signed: it comes over TLS.
"""

import datetime
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import TrustError
from fedward.common.keys import sign, verify
from fedward.common.roster import Roster

OPERATOR, TIME = "fedward-operator", "fedward-time"
NONCE, SIGNATURE = "fedward-nonce", "fedward-signature"
WINDOW_S = 300.0
MAX_NONCES = 100_000
_KIND = "fedward operator call 1"
_NONCE_BYTES = 16
_SHAPES = {
    OPERATOR: re.compile(r"[\w.-]{1,64}", re.ASCII),
    TIME: re.compile(r"[0-9T:.+Z-]{19,40}"),
    NONCE: re.compile(r"[0-9a-f]{32}"),
    SIGNATURE: re.compile(r"[A-Za-z0-9+/=]{1,256}"),
}


@dataclass(frozen=True)
class Signer:
    """Signs the calls of one operator."""

    operator: str
    """A name in the roster."""
    consortium: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def headers(self, path: str, body: bytes) -> dict[str, str]:
        """Return the headers for one POST of `body` to `path`; each call gives others."""
        now = datetime.datetime.now(datetime.UTC).isoformat()
        nonce = secrets.token_hex(_NONCE_BYTES)
        content = _signed(self.consortium, self.operator, path, (now, nonce), body)
        signature = sign(self.key, content)
        return {OPERATOR: self.operator, TIME: now, NONCE: nonce, SIGNATURE: signature}


@dataclass(frozen=True)
class Claim:
    """Who says to have signed a call, when, and the signature, not yet checked."""

    operator: str
    time: str
    nonce: str
    signature: str


class Doorkeeper:
    """Lets calls of the roster's operators in, each once.

    It forgets the nonces at its end. Hence a call that was signed before it began is refused, and
    one can come twice only if its operator's clock was ahead by more than the time in between.
    """

    def __init__(self, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Begin without a memory.

        Args:
            now: default: this machine's clock.
        """
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._began = self._now()
        self._used: OrderedDict[tuple[str, str], datetime.datetime] = OrderedDict()

    def claim(self, headers: Mapping[str, str], roster: Roster) -> Claim:
        """Return what the headers claim, before the body was read.

        Raises:
            TrustError: no signature, one of another hour, or an operator that nobody knows.
        """
        values = {name: headers.get(name, "") for name in _SHAPES}
        if not any(values.values()):
            raise TrustError(
                "only operators may do this, and the call is not signed; give `--key` with the "
                "operator's private key"
            )
        wrong = [name for name, shape in _SHAPES.items() if not shape.fullmatch(values[name])]
        if wrong:
            raise TrustError(f"the call's signature is malformed: {', '.join(wrong)}")
        found = Claim(values[OPERATOR], values[TIME], values[NONCE], values[SIGNATURE])
        self._check_time(found.time)
        self._public_key(found, roster)
        return found

    def admit(self, claim: Claim, path: str, body: bytes, roster: Roster) -> str:
        """Return the name of the operator who signed exactly this call, which is then used up.

        Raises:
            TrustError: somebody else signed, something was changed, or it was sent before.
        """
        public = self._public_key(claim, roster)
        at = (claim.time, claim.nonce)
        content = _signed(roster.consortium, claim.operator, path, at, body)
        try:
            verify(public, content, claim.signature)
        except TrustError:
            raise _stranger(claim, roster) from None
        self._check_time(claim.time)  # the body may have taken its time
        self._use_up(claim)
        return claim.operator

    def _check_time(self, text: str) -> None:
        now = self._now()
        try:
            signed = datetime.datetime.fromisoformat(text)
            ahead_s = (signed - now).total_seconds()
        except (ValueError, TypeError):  # a time without a zone cannot be compared
            raise TrustError("the call's signature is malformed: its time") from None
        if abs(ahead_s) > WINDOW_S:
            raise TrustError(
                f"the call was signed {abs(ahead_s):.0f} s {'after' if ahead_s > 0 else 'before'} "
                f"the coordinator's time, at most {WINDOW_S:g} s are allowed; set the clock"
            )
        if signed < self._began:
            raise TrustError("the call was signed before the coordinator's start; try again")

    def _public_key(self, claim: Claim, roster: Roster) -> str:
        try:
            return roster.operator(claim.operator).public_key
        except TrustError:
            raise _stranger(claim, roster) from None

    def _use_up(self, claim: Claim) -> None:
        now = self._now()
        while self._used and next(iter(self._used.values())) < now:
            self._used.popitem(last=False)
        key = (claim.operator, claim.nonce)
        if key in self._used:
            raise TrustError("the call was sent before, and each counts once; try again")
        if len(self._used) >= MAX_NONCES:
            raise TrustError("too many calls in the last minutes; try again later")
        # As long as its time can still be in the window, whatever that time is.
        self._used[key] = now + datetime.timedelta(seconds=2 * WINDOW_S)


def _signed(consortium: str, operator: str, path: str, at: tuple[str, str], body: bytes) -> bytes:
    """Return the bytes that are signed; JSON, so that no field can reach into the next."""
    time, nonce = at
    content = {
        "kind": _KIND,
        "consortium": consortium,
        "operator": operator,
        "method": "POST",
        "path": path,
        "time": time,
        "nonce": nonce,
        "body": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def _stranger(claim: Claim, roster: Roster) -> TrustError:
    # One text for all: a stranger shall not learn which names and keys there are.
    return TrustError(
        f"not signed as it is by an operator {claim.operator!r} of roster {roster.serial}: an "
        "unknown name, a revoked key, another key, or a call that was changed on its way"
    )
