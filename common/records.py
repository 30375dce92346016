"""The one place where Flower's records become dataclasses and back.

An instruction (server to site) is `arrays` (an ArrayRecord whose `parameters` is the wire
vector, beside further vectors of the strategy such as `control.parameters`), `config` (the
strategy's ConfigRecord), `binding` (ours: run, round, nonce, hashes) and, for preprocessing,
`statistics`. A reply is `arrays` with the same keys, `metrics` (num-examples and one loss),
`receipt` (the binding, echoed) and `report` (per-site figures as JSON).

A query carries a binding and no model; one for synthesis says in `ask` what it wants, and its
reply has the arrays that the signed request fixes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from fedward.common.flower import LazyArray, Records, array_hash, fill, view
from fedward.common.vectors import vector_hash

PARAMETERS = "parameters"
CONTROL = "control.parameters"
STATISTICS_QUERY = "query.statistics"
SYNTHESIS_QUERY = "query.synthesis"
"""Asks for what synthetic rows are made of; the record `ask` says which part of it."""
CONSENT_QUERY = "query.consent"
"""Asks whether a site takes part in a run, before anything else is asked of it."""
WAITS_FOR_APPROVAL = "waits for the approval of the site"
"""In the answer of a site where a person has not decided yet; any other refusal is final."""
REFUSED = "refused:"
"""Begins the answer of a site whose rules do not allow what was asked."""
LACKS = "lacks"
"""A record in the answer of a site that takes part: modalities that none of its rows has."""
ANCHOR = "anchor"
"""A record with the head of the site's audit log as the coordinator saw and signed it."""

# Options that strategies put into their ConfigRecord; Flower's own name for the first.
PROXIMAL_MU = "proximal-mu"
DITTO_LAMBDA = "ditto-lambda"
LOSS_OF_RECEIVED_MODEL = "loss-of-received-model"

Vectors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Binding:
    """What ties a reply to one instruction: it must come back unchanged."""

    run_key: str
    round_number: int
    nonce: str
    model_hash: str
    manifest_hash: str

    def to_record(self) -> ConfigRecord:
        """Return the binding as Flower's record: one text, as each value costs a check."""
        return fill(ConfigRecord(), {"binding": self.text})

    @cached_property
    def text(self) -> str:
        """The binding as JSON; equal bindings have equal texts."""
        parts = (
            self.run_key, self.round_number, self.nonce, self.model_hash, self.manifest_hash,
        )  # fmt: skip
        return json.dumps(parts)

    def is_in(self, record: object) -> bool:
        """Return whether `record` holds exactly this binding."""
        return isinstance(record, ConfigRecord) and record.get("binding") == self.text

    @classmethod
    def from_record(cls, record: object) -> "Binding":
        """Return the binding in `record`.

        Raises:
            ValueError: it is not a record, or a part is missing or has another type.
        """
        text = record.get("binding") if isinstance(record, ConfigRecord) else None
        parts = json.loads(text) if isinstance(text, str) else None
        if not isinstance(parts, list) or [type(part) for part in parts] != _BINDING_TYPES:
            raise ValueError("it does not hold a binding")
        return cls(*parts)


_BINDING_TYPES = [str, int, str, str, str]


@dataclass(frozen=True)
class Instruction:
    """What the server asks of one site."""

    binding: Binding
    vectors: Vectors
    """Read-only: `parameters`, and what the strategy adds."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The strategy's own settings, such as `proximal-mu`."""
    statistics: npt.NDArray[np.float64] | None = None
    """Summed preprocessing statistics of the federation."""
    is_evaluation: bool = False


@dataclass(frozen=True)
class Update:
    """What a site found: new vectors, or figures only."""

    num_examples: int
    loss: float
    vectors: Vectors = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


def array_record(vectors: Mapping[str, npt.NDArray[Any]]) -> ArrayRecord:
    """Return the vectors as Flower's record, without copying them."""
    return record_of({key: LazyArray(vector) for key, vector in vectors.items()})


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return the arrays as a record. Flower's constructor would write each out as npy bytes."""
    return fill(ArrayRecord(), arrays)


def read_instruction(message: Message) -> Instruction:
    """Return the instruction in `message`, with the hash of the model *as received*.

    Read once per message: a stacked trainer looks at it before the client app does.
    """
    known = message.__dict__.get("_instruction")
    if isinstance(known, Instruction):
        return known
    content = message.content
    arrays, config = arrays_of(content), content["config"]
    assert isinstance(config, ConfigRecord)
    sent = Binding.from_record(content["binding"])
    statistics = content.get("statistics")
    received = array_hash(arrays[PARAMETERS])
    instruction = Instruction(
        sent if sent.model_hash == received else replace(sent, model_hash=received),
        {key: view(array) for key, array in arrays.items()},
        dict(config.items()),
        view(statistics["sums"]) if isinstance(statistics, ArrayRecord) else None,
        message.metadata.message_type == MessageType.EVALUATE,
    )
    message.__dict__["_instruction"] = instruction
    return instruction


def arrays_of(content: RecordDict, name: str = "arrays") -> ArrayRecord:
    """Return the ArrayRecord of that name. The view `content.array_records` costs 20 us.

    Raises:
        KeyError, TypeError: there is none.
    """
    record = content[name]
    if not isinstance(record, ArrayRecord):
        raise TypeError(f"{name} is not an ArrayRecord")
    return record


@dataclass(frozen=True)
class SynthesisQuery:
    """What the server asks of one site, and what it sends along: a model, or summed margins."""

    binding: Binding
    what: str
    vectors: Vectors

    @property
    def vectors_hash(self) -> str:
        """SHA-256 over names and hashes of what was sent along."""
        return vectors_hash(self.vectors)

    def to_records(self) -> RecordDict:
        """Return the query as the records of a message."""
        records: dict[str, Any] = {
            "binding": self.binding.to_record(),
            "ask": fill(ConfigRecord(), {"what": self.what}),
        }
        if self.vectors:
            records["arrays"] = array_record(self.vectors)
        return Records(records)


def read_synthesis_query(message: Message) -> SynthesisQuery:
    """Return the query in `message`, bound to what came along *as received*.

    Raises:
        ValueError, KeyError: it is none.
    """
    content = message.content
    ask = content["ask"]
    what = ask.get("what") if isinstance(ask, ConfigRecord) else None
    if not isinstance(what, str):
        raise ValueError("the query does not say what it asks for")  # noqa: TRY004 - as Binding's
    arrays = arrays_of(content) if "arrays" in content else {}
    vectors = {key: view(array) for key, array in arrays.items()}
    binding = replace(read_binding(message), model_hash=vectors_hash(vectors))
    return SynthesisQuery(binding, what, vectors)


def vectors_hash(vectors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return one SHA-256 (hex) over the names, forms and values of vectors."""
    parts = [
        [name, str(vector.dtype), list(vector.shape), vector_hash(vector)]
        for name, vector in sorted(vectors.items())
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_binding(message: Message) -> Binding:
    """Return the binding of a message that carries no model, such as a query."""
    return Binding.from_record(message.content["binding"])


def reply_records(update: Update, binding: Binding, *, loss_name: str) -> RecordDict:
    """Return `update` as the records of a reply to the instruction with `binding`."""
    figures = {"num-examples": update.num_examples, loss_name: update.loss}
    report = json.dumps(update.report, allow_nan=False)
    records: dict[str, Any] = {
        "metrics": fill(MetricRecord(), figures),
        "receipt": binding.to_record(),
        "report": fill(ConfigRecord(), {"json": report}),
    }
    if update.vectors:
        records["arrays"] = array_record(update.vectors)
    return Records(records)


def same_form(array: Array, other: Array) -> bool:
    """Return whether both have the same shape and dtype."""
    return tuple(array.shape) == tuple(other.shape) and array.dtype == other.dtype
