"""What a registered site may send instead of its update, each as a change of an honest reply."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedward.common.records import PARAMETERS, Binding

Lie = Callable[[RecordDict, RecordDict | None], RecordDict]
"""Gets this round's honest reply and the previous one, and returns what is sent."""


def _with_vector(change: Callable[[Any], Any]) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        vector = honest.array_records["arrays"][PARAMETERS].numpy()
        return _put(honest, "arrays", ArrayRecord({PARAMETERS: Array(change(vector))}))

    return lie


def _spoiled(value: float) -> Callable[[Any], Any]:
    def change(vector: Any) -> Any:
        spoiled = vector.copy()
        spoiled[-1] = value
        return spoiled

    return change


def _with_key(name: str, *, keeps: bool) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        array = Array(honest.array_records["arrays"][PARAMETERS].numpy())
        arrays = {PARAMETERS: array, name: array} if keeps else {name: array}
        return _put(honest, "arrays", ArrayRecord(arrays))

    return lie


def _with_figure(name: str, value: float) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        figures = {**dict(honest.metric_records["metrics"].items()), name: value}
        return _put(honest, "metrics", MetricRecord(figures))

    return lie


def _with_receipt(**parts: Any) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        receipt = Binding.from_record(honest["receipt"])
        return _put(honest, "receipt", replace(receipt, **parts).to_record())

    return lie


def _with_report(text: str) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        return _put(honest, "report", ConfigRecord({"json": text}))

    return lie


def _without(name: str) -> Lie:
    def lie(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
        return RecordDict({key: value for key, value in honest.items() if key != name})

    return lie


def _two_records(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
    return _put(honest, "more", honest.array_records["arrays"])


def _previous_round(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
    assert previous is not None, "there is no previous round to repeat"
    return previous


def _lying_header(honest: RecordDict, previous: RecordDict | None) -> RecordDict:
    vector = honest.array_records["arrays"][PARAMETERS].numpy()
    short = Array(vector[:-1].copy())
    array = Array("float32", vector.shape, "numpy.ndarray", short.data)
    return _put(honest, "arrays", ArrayRecord({PARAMETERS: array}))


def _put(honest: RecordDict, name: str, record: Any) -> RecordDict:
    return RecordDict({**dict(honest.items()), name: record})


LIES: dict[str, Lie] = {
    "NaN": _with_vector(_spoiled(math.nan)),
    "a stale round": _previous_round,
    "infinity": _with_vector(_spoiled(math.inf)),
    "too short": _with_vector(lambda vector: vector[:-1].copy()),
    "another rank": _with_vector(lambda vector: vector.reshape(1, -1).copy()),
    "float64": _with_vector(lambda vector: vector.astype(np.float64)),
    "uint8": _with_vector(lambda vector: vector.astype(np.uint8)),
    "another key": _with_key("weights", keeps=False),
    "a key more": _with_key("more", keeps=True),
    "a record more": _two_records,
    "a lying header": _lying_header,
    "1e12 examples": _with_figure("num-examples", 10**12),
    "1e12 examples as a float": _with_figure("num-examples", 1e12),
    "-5 examples": _with_figure("num-examples", -5),
    "NaN examples": _with_figure("num-examples", math.nan),
    "no examples": _with_figure("num-examples", 0),
    "NaN loss": _with_figure("train_loss", math.nan),
    "a figure more": _with_figure("extra", 1.0),
    "another nonce": _with_receipt(nonce="0" * 32),
    "another model": _with_receipt(model_hash="0" * 64),
    "another run": _with_receipt(run_key="another"),
    "no receipt": _without("receipt"),
    "no arrays": _without("arrays"),
    "no JSON": _with_report("{"),
    "an endless report": _with_report(json.dumps("x" * 2_000_000)),
}
DUPLICATE = "a duplicate"
"""Not a changed reply: the honest one is pushed twice."""
