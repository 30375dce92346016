"""A trained model on its way to the hospitals: signed by the coordinator, checked by each site.

A release carries what a hospital needs to use the model without the coordinator: the shared
parameters, the configuration and the schema that they belong to, and the federation's
preprocessing sums. The signature is over a header that names all of it, large arrays by their
SHA-256; it is made with the model key of the roster.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from safetensors import SafetensorError, safe_open

from fedward.common.errors import TrustError
from fedward.common.flower import fill, view
from fedward.common.keys import sign, verify
from fedward.common.records import PARAMETERS, array_record, record_of
from fedward.common.task import Statistics
from fedward.common.tensor_file import tensor_parts
from fedward.common.vectors import Vector

RELEASE_QUERY = "query.release"
MAX_HEADER_BYTES = 1_000_000
_DOMAIN = b"fedward release 1\n"
"""Signed first, so that a signature over anything else never passes for one over a release."""
_TEXTS = ("run_key", "request_hash", "name", "manifest_hash")


@dataclass(frozen=True)
class Release:
    """The shared part of a trained model, and what it means."""

    run_key: str
    """The training, as in the sites' databases."""
    request_hash: str
    """Of the signed request that asked for it."""
    name: str
    """Of the run."""
    round: int
    """After which round."""
    config: dict[str, Any]
    """The resolved `run.yaml`."""
    schema: dict[str, Any]
    """The table's schema."""
    parameters: Vector = field(repr=False)
    """(size,) float32, the wire vector of the shared tensors."""
    statistics: Statistics | None = field(repr=False)
    """(d,) float64 sums over all sites' training rows; None where each site uses its own."""
    manifest_hash: str
    """Of names and shapes of the shared tensors."""

    @cached_property
    def header(self) -> str:
        """Everything but the arrays, which it names by their SHA-256; equal for equal releases."""
        facts = {
            **{name: getattr(self, name) for name in _TEXTS},
            "round": self.round,
            "config": self.config,
            "schema": self.schema,
            "parameters_sha256": content_hash(self.parameters, "<f4"),
            "statistics_sha256": (
                None if self.statistics is None else content_hash(self.statistics, "<f8")
            ),
        }
        # Twice: keys that are no text become text first, and are sorted as text then.
        plain = json.loads(json.dumps(facts, allow_nan=False))
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the header: names this release and no other."""
        return hashlib.sha256(self.header.encode()).hexdigest()

    def to_records(self, signature: str) -> RecordDict:
        """Return the release and its signature as the content of a message."""
        facts = {"header": self.header, "signature": signature}
        return RecordDict(
            {"release": fill(ConfigRecord(), facts), "release.arrays": record_of(self._sent)}
        )

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        found: dict[str, npt.NDArray[Any]] = {PARAMETERS: self.parameters}
        if self.statistics is not None:
            found["statistics"] = self.statistics
        return found

    @cached_property
    def _sent(self) -> ArrayRecord:
        return array_record(self.arrays)  # whose hashes are computed once for all sites

    @classmethod
    def from_records(cls, content: RecordDict) -> tuple[Self, str]:
        """Return the release in a message and its signature, which is still to be verified.

        Raises:
            TrustError: it is malformed, or its arrays are not those that its header names.
        """
        try:
            facts, arrays = content["release"], content["release.arrays"]
        except KeyError:
            raise TrustError("released model: the message holds none") from None
        if not isinstance(facts, ConfigRecord) or not isinstance(arrays, ArrayRecord):
            raise TrustError("released model: malformed records")
        header, signature = facts.get("header"), facts.get("signature")
        if not isinstance(header, str) or not isinstance(signature, str):
            raise TrustError("released model: no header or no signature")
        vectors = {}
        for name in set(arrays) & {PARAMETERS, "statistics"}:
            try:
                vectors[name] = view(arrays[name])
            except (ValueError, TypeError, OSError, EOFError) as error:
                raise TrustError(f"released model: {name} cannot be read") from error
        return cls.from_parts(header, vectors.get(PARAMETERS), vectors.get("statistics")), signature

    @classmethod
    def from_parts(
        cls,
        header: str,
        parameters: npt.NDArray[Any] | None,
        statistics: npt.NDArray[Any] | None,
    ) -> Self:
        """Return the release that `header` and the arrays make up.

        Raises:
            TrustError: the header is malformed, or names other arrays.
        """
        facts = _read_header(header)
        if parameters is None or not _is_vector(parameters, np.float32):
            raise TrustError("released model: parameters are not a vector of finite float32")
        if statistics is not None and not _is_vector(statistics, np.float64):
            raise TrustError("released model: statistics are not a vector of finite float64")
        release = cls(
            **{name: facts[name] for name in _TEXTS},
            round=facts["round"],
            config=facts["config"],
            schema=facts["schema"],
            parameters=parameters,
            statistics=statistics,
        )
        # The same text again: no array, key or number is other than the header says.
        if release.header != header:
            raise TrustError("released model: its arrays are not those that its header names")
        return release


def release_parts(release: Release, signature: str) -> Sequence[bytes | memoryview]:
    """Return the signed release as the parts of a `.safetensors` file, for a site that was away."""
    return tensor_parts(release.arrays, {"header": release.header, "signature": signature})


def read_release(path: Path) -> tuple[Release, str]:
    """Return the release in a file and its signature, which is still to be verified.

    Raises:
        TrustError: there is none, or its arrays are not those that its header names.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise TrustError(f"{path}: cannot be read as a released model") from error
    if not {"header", "signature"} <= set(facts):
        raise TrustError(f"{path}: not a released model; take release.safetensors of the run")
    release = Release.from_parts(facts["header"], arrays.get(PARAMETERS), arrays.get("statistics"))
    return release, facts["signature"]


def sign_release(release: Release, key: EllipticCurvePrivateKey) -> str:
    """Return the coordinator's signature, with the model key of the roster."""
    return sign(key, _signed(release))


def verify_release(release: Release, signature: str, model_key: str) -> None:
    """Check a release against the roster's model key.

    Args:
        release: as it arrived.
        signature: as it arrived.
        model_key: `Roster.model_key`, the public text.

    Raises:
        TrustError: another key signed it, or another release.
    """
    try:
        verify(model_key, _signed(release), signature)
    except TrustError as error:
        raise TrustError(
            f"released model {release.name}: the signature is not of the roster's model key; it is "
            "not kept. Has the coordinator a new model key? Then get a new kit"
        ) from error


def content_hash(vector: npt.NDArray[Any], form: str) -> str:
    """Return the SHA-256 (hex) of a vector's values as little-endian `form`."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype=form).data).hexdigest()


def _signed(release: Release) -> bytes:
    return _DOMAIN + release.header.encode()


def _read_header(header: str) -> dict[str, Any]:
    if len(header) > MAX_HEADER_BYTES:
        raise TrustError("released model: its header is too large")
    try:
        facts = json.loads(header, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise TrustError("released model: its header is not JSON") from None
    forms = {**dict.fromkeys(_TEXTS, str), "round": int, "config": dict, "schema": dict}
    if not isinstance(facts, dict) or any(type(facts.get(k)) is not v for k, v in forms.items()):
        raise TrustError("released model: its header lacks a part")
    return facts


def _refuse(constant: str) -> float:
    raise ValueError(constant)  # NaN and infinity are not JSON


def _is_vector(values: npt.NDArray[Any], form: type) -> bool:
    return values.ndim == 1 and values.dtype == form and bool(np.isfinite(values).all())
