"""Checks every reply before any strategy sees it; one bad reply never spoils a round.

A reply counts only if it answers exactly the instruction that was sent: same run, round, nonce,
model and manifest; the same array names, shapes and dtypes; finite; `num-examples` a positive
integer within the site's registered cohort. Each instruction is answered once.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fedward.common.flower import Records, num_bytes, view
from fedward.common.monitoring.telemetry import is_telemetry
from fedward.common.records import Binding, same_form

MAX_REPORT_BYTES = 1_000_000


@dataclass(frozen=True)
class Sent:
    """One instruction that is out, and what an answer to it must look like."""

    site: str
    binding: Binding
    arrays: ArrayRecord
    cohort_bound: int
    answers_with_arrays: bool = True
    num_bytes: int = 0


@dataclass(frozen=True)
class ValidationLoss:
    """Mean over patients that are neither trained on nor tested on."""

    loss: float
    num_examples: int


@dataclass(frozen=True)
class Accepted:
    """A reply that passed. `message` holds only what a Flower strategy expects."""

    site: str
    message: Message
    num_examples: int
    loss: float
    num_bytes: int
    report: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return the figures of the report that are defined."""
        metrics = self.report.get("metrics", {})
        return {k: float(m["value"]) for k, m in metrics.items() if m["value"] is not None}

    @property
    def epsilon(self) -> float | None:
        """What the site has spent in this run; None: it does not train privately."""
        spent: float | None = self.report.get("privacy", {}).get("epsilon")
        return spent

    @property
    def is_private(self) -> bool:
        """Whether the site tells no loss of its patients: a 0 stands in its place."""
        return "privacy" in self.report

    @property
    def validation(self) -> ValidationLoss | None:
        """The loss on the site's validation patients, where it has any."""
        found = self.report.get("validation")
        return None if found is None else ValidationLoss(found["loss"], found["num_examples"])


@dataclass(frozen=True)
class Rejected:
    """A reply that did not count, or one that never came."""

    site: str
    status: Literal["rejected", "failed"]
    reason: str


class _BadReplyError(Exception):
    """Why a reply is refused."""


def check_replies(
    sent: Mapping[int, Sent], replies: Iterable[Message], *, loss_name: str
) -> tuple[list[Accepted], list[Rejected]]:
    """Return the replies that count, sorted by site, and what happened to the others.

    Args:
        sent: the open instructions by node id.
        replies: what came back, in any order, possibly too much of it.
        loss_name: the metric that a reply carries beside `num-examples`.
    """
    accepted: dict[str, Accepted] = {}
    refused: list[Rejected] = []
    answered: set[int] = set()
    for reply in replies:
        node = reply.metadata.src_node_id
        if node not in sent:
            refused.append(Rejected(f"node {node}", "rejected", "was not asked in this round"))
            continue
        site = sent[node].site
        if node in answered:
            refused.append(Rejected(site, "rejected", "answered a second time"))
            continue
        answered.add(node)
        if reply.has_error():
            refused.append(Rejected(site, "failed", reply.error.reason or "error without a reason"))
            continue
        try:
            accepted[site] = _checked(sent[node], reply, loss_name)
        except _BadReplyError as error:
            refused.append(Rejected(site, "rejected", str(error)))
    silent = [sent[node].site for node in sent if node not in answered]
    refused += [Rejected(site, "failed", "no reply before the round closed") for site in silent]
    return [accepted[site] for site in sorted(accepted)], sorted(refused, key=lambda r: r.site)


def _checked(sent: Sent, reply: Message, loss_name: str) -> Accepted:
    """Return the reply's parts; raise `_BadReplyError` with the reason otherwise."""
    content = reply.content
    _check_receipt(sent.binding, content.get("receipt"))
    wanted = {"metrics", "receipt", "report"} | ({"arrays"} if sent.answers_with_arrays else set())
    if set(content.keys()) != wanted:
        raise _BadReplyError(f"has records {sorted(content)}, expected {sorted(wanted)}")
    metrics = content["metrics"]
    if not isinstance(metrics, MetricRecord) or set(metrics.keys()) != {"num-examples", loss_name}:
        raise _BadReplyError(f"metrics must be exactly num-examples and {loss_name}")
    num_examples = _num_examples(metrics["num-examples"], sent.cohort_bound)
    loss = metrics[loss_name]
    if not isinstance(loss, float) or not math.isfinite(loss):
        raise _BadReplyError(f"{loss_name} is not a finite number")
    size = _check_arrays(sent.arrays, content["arrays"]) if sent.answers_with_arrays else 0
    report = _report(content["report"])
    _check_validation(report, sent.cohort_bound)
    kept = wanted & {"arrays", "metrics"}
    reply.content = Records({key: content[key] for key in kept})
    return Accepted(sent.site, reply, num_examples, loss, size, report)


def _check_receipt(expected: Binding, record: object) -> None:
    if expected.is_in(record):
        return
    if record is None:
        raise _BadReplyError("receipt is missing")
    try:
        receipt = Binding.from_record(record)
    except ValueError as error:
        raise _BadReplyError(f"receipt is malformed: {error}") from error
    for name, text in (
        ("run_key", "belongs to another run"),
        ("round_number", f"answers another round than {expected.round_number}"),
        ("nonce", "does not carry this round's nonce"),
        ("manifest_hash", "comes from a model with other shared tensors"),
        ("model_hash", "was trained from another model than the one that was sent"),
    ):
        if getattr(receipt, name) != getattr(expected, name):
            raise _BadReplyError(text)


def _num_examples(value: object, cohort_bound: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _BadReplyError("num-examples is not an integer")
    if not 0 < value <= cohort_bound:
        raise _BadReplyError(
            f"num-examples {value} is not in 1..{cohort_bound}, the registered cohort"
        )
    return value


def _check_arrays(expected: ArrayRecord, arrays: object) -> int:
    """Return the size of the arrays in bytes."""
    if not isinstance(arrays, ArrayRecord):
        raise _BadReplyError("arrays is not an ArrayRecord")
    if arrays.keys() != expected.keys():
        raise _BadReplyError(f"has arrays {sorted(arrays)}, expected {sorted(expected)}")
    for key, wanted in expected.items():
        array = arrays[key]
        if not same_form(array, wanted):
            raise _BadReplyError(
                f"{key} is {array.dtype} {tuple(array.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )
        try:
            values = view(array)
        except (ValueError, EOFError, TypeError) as error:
            raise _BadReplyError(f"{key} cannot be read as an array") from error
        # The header says what it likes; the values themselves are what is averaged.
        if values.shape != tuple(wanted.shape) or values.dtype != np.dtype(wanted.dtype):
            raise _BadReplyError(f"{key} holds {values.dtype} {values.shape} behind its header")
        if not np.isfinite(values).all():
            raise _BadReplyError(f"{key} holds NaN or infinite values")
    return sum(num_bytes(array) for array in arrays.values())


def _report(record: object) -> Mapping[str, Any]:
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str) or len(text) > MAX_REPORT_BYTES:
        raise _BadReplyError("report is not text, or too long")
    try:
        report = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise _BadReplyError(f"report is not valid JSON: {error}") from error
    if not isinstance(report, dict):
        raise _BadReplyError("report is not an object")
    metrics = report.get("metrics", {})
    if not isinstance(metrics, dict) or not all(map(_is_figure, metrics.values())):
        raise _BadReplyError("report.metrics does not hold figures")
    if not isinstance(report.get("seconds", 0.0), int | float):
        raise _BadReplyError("report.seconds is not a number")
    if not _is_spent(report.get("privacy", {})):
        raise _BadReplyError("report.privacy does not hold what was spent")
    if not is_telemetry(report.get("cme", {})):
        raise _BadReplyError("report.cme does not hold figures of layers")
    return report


def _check_validation(report: Mapping[str, Any], cohort_bound: int) -> None:
    found = report.get("validation")
    if found is None:
        return
    if not isinstance(found, dict) or set(found) != {"loss", "num_examples"}:
        raise _BadReplyError("report.validation is not a loss and its num_examples")
    if not isinstance(found["loss"], float) or not math.isfinite(found["loss"]):
        raise _BadReplyError("report.validation.loss is not a finite number")
    _num_examples(found["num_examples"], cohort_bound)


def _is_figure(metric: object) -> bool:
    """Return whether `metric` has the form of `fedward.common.task.Metric`."""
    if not isinstance(metric, dict) or "value" not in metric:
        return False
    numbers = [metric.get(key) for key in ("value", "low", "high", "n")]
    fits = all(x is None or (isinstance(x, int | float) and math.isfinite(x)) for x in numbers)
    return fits and isinstance(metric.get("reason"), str | None)


def _is_spent(found: object) -> bool:
    return isinstance(found, dict) and all(
        isinstance(x, int | float) and math.isfinite(x) and x >= 0 for x in found.values()
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a figure")
