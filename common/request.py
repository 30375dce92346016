"""A run request: what an operator asks the sites to do, signed, and read by each site itself.

It travels through the coordinator, which can hold it back but not change a letter of it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fedward.common.errors import ConfigError, TrustError
from fedward.common.keys import sign, verify
from fedward.common.roster import Roster

MAX_BYTES = 256_000
_KIND = "fedward run request 1"
_KEYS = {"operator": str, "config": dict, "schema": dict, "submitted": str, "consortium": str}


@dataclass(frozen=True)
class RunRequest:
    """One run, as its operator asks for it."""

    operator: str
    """A name in the roster."""
    config: dict[str, Any]
    """The resolved run.yaml: every default written out."""
    schema: dict[str, Any]
    """What the columns mean; each site compares it with its own."""
    submitted: str
    """ISO 8601 with a time zone; makes two requests for the same run two requests."""
    consortium: str = ""
    """Whose sites are asked: a request of one consortium is of no use in another."""

    def canonical(self) -> bytes:
        """Return the bytes that are signed: equal for equal requests, however they were written.

        Raises:
            ConfigError: the request holds what JSON cannot say, such as infinity.
        """
        try:
            # Twice: keys that are no text become text first, and are sorted as text then.
            plain = json.loads(json.dumps(self._fields(), allow_nan=False))
            text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                "the run request holds a value that cannot be sent: only text, finite numbers, "
                "true and false, lists and sections"
            ) from error
        return text.encode("ascii")

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical bytes; names the request everywhere."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def _fields(self) -> dict[str, Any]:
        return {"kind": _KIND, **{name: getattr(self, name) for name in _KEYS}}


def sign_request(request: RunRequest, key: ec.EllipticCurvePrivateKey) -> str:
    """Return the request with its operator's signature as JSON text.

    Raises:
        ConfigError: it holds what JSON cannot say, or is too large to travel.
    """
    canonical = request.canonical()
    content = {"request": json.loads(canonical), "signature": sign(key, canonical)}
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        raise ConfigError(
            f"the run request has {len(text)} bytes, at most {MAX_BYTES} can travel; "
            "shorten the configuration or the schema"
        )
    return text


def read_request(text: str, roster: Roster) -> RunRequest:
    """Return the request in `text` if an operator of the roster signed exactly this.

    Raises:
        TrustError: malformed, too large, an unknown operator or a bad signature.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise TrustError(f"run request: larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(text)
        request, signature = _parse(content)
        canonical = request.canonical()
    except (ValueError, TypeError, KeyError, RecursionError, ConfigError):
        raise TrustError("run request: malformed; submit the run again") from None
    operator = roster.operator(request.operator)
    if request.consortium != roster.consortium:
        raise TrustError(
            f"run request: made for another consortium than {roster.consortium}; submit it with "
            "the kit of this one"
        )
    try:
        verify(operator.public_key, canonical, signature)
    except TrustError as error:
        raise TrustError(f"run request of {request.operator!r}: {error}") from None
    return request


def _parse(content: Mapping[str, Any]) -> tuple[RunRequest, str]:
    """Return request and signature; a TypeError for any other key or type."""
    fields, signature = dict(content["request"]), content["signature"]
    if fields.pop("kind") != _KIND or set(content) != {"request", "signature"}:
        raise TypeError
    if {name: type(value) for name, value in fields.items()} != _KEYS:
        raise TypeError
    if not isinstance(signature, str):
        raise TypeError
    return RunRequest(**fields), signature
