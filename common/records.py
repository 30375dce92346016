"""The one place where Flower's records become dataclasses and back.

An instruction (server to site) is `arrays` (an ArrayRecord whose `parameters` is the wire
vector, beside further vectors of the strategy such as `control.parameters`), `config` (the
strategy's ConfigRecord), `binding` (ours: run, round, nonce, hashes) and, for preprocessing,
`statistics`. A reply is `arrays` with the same keys, `metrics` (num-examples and one loss),
`receipt` (the binding, echoed) and `report` (per-site figures as JSON).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

from fedward.common.flower import LazyArray, array_hash, view
from fedward.common.vectors import Vector

PARAMETERS = "parameters"
CONTROL = "control.parameters"
STATISTICS_QUERY = "query.statistics"

# Options that strategies put into their ConfigRecord; Flower's own name for the first.
PROXIMAL_MU = "proximal-mu"
DITTO_LAMBDA = "ditto-lambda"
LOSS_OF_RECEIVED_MODEL = "loss-of-received-model"

Vectors = dict[str, Vector]


@dataclass(frozen=True)
class Binding:
    """What ties a reply to one instruction: it must come back unchanged."""

    run_key: str
    round_number: int
    nonce: str
    model_hash: str
    manifest_hash: str

    def to_record(self) -> ConfigRecord:
        """Return the binding as Flower's record."""
        return ConfigRecord(
            {
                "run-key": self.run_key,
                "round": self.round_number,
                "nonce": self.nonce,
                "model-hash": self.model_hash,
                "manifest-hash": self.manifest_hash,
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "Binding":
        """Return the binding in `record`.

        Raises:
            KeyError, TypeError: a part is missing or has another type.
        """
        round_number = record["round"]
        if not isinstance(round_number, int) or isinstance(round_number, bool):
            raise TypeError("round is not an integer")
        texts = [record[key] for key in ("run-key", "nonce", "model-hash", "manifest-hash")]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a binding is not text")
        run_key, nonce, model_hash, manifest_hash = map(str, texts)
        return cls(run_key, round_number, nonce, model_hash, manifest_hash)


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
    record = ArrayRecord()
    for key, array in arrays.items():
        record[key] = array
    return record


def read_instruction(message: Message) -> Instruction:
    """Return the instruction in `message`, with the hash of the model *as received*."""
    content = message.content
    arrays = content.array_records["arrays"]
    sent = Binding.from_record(content.config_records["binding"])
    binding = Binding(
        sent.run_key,
        sent.round_number,
        sent.nonce,
        array_hash(arrays[PARAMETERS]),
        sent.manifest_hash,
    )
    statistics = content.array_records.get("statistics")
    config = content.config_records.get("config")
    return Instruction(
        binding,
        {key: view(array) for key, array in arrays.items()},
        dict(config) if config is not None else {},
        None if statistics is None else view(statistics["sums"]),
        message.metadata.message_type == MessageType.EVALUATE,
    )


def read_binding(message: Message) -> Binding:
    """Return the binding of a message that carries no model, such as a query."""
    return Binding.from_record(message.content.config_records["binding"])


def reply_records(update: Update, binding: Binding, *, loss_name: str) -> RecordDict:
    """Return `update` as the records of a reply to the instruction with `binding`."""
    records = RecordDict(
        {
            "metrics": MetricRecord({"num-examples": update.num_examples, loss_name: update.loss}),
            "receipt": binding.to_record(),
            "report": ConfigRecord({"json": json.dumps(update.report, allow_nan=False)}),
        }
    )
    if update.vectors:
        records["arrays"] = array_record(update.vectors)
    return records


def same_form(array: Array, other: Array) -> bool:
    """Return whether both have the same shape and dtype."""
    return tuple(array.shape) == tuple(other.shape) and array.dtype == other.dtype
