"""A released model is believed only as it was signed."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedward.common.errors import TrustError
from fedward.common.keys import public_text, sign
from fedward.common.release import Release, sign_release, verify_release

KEY = ec.generate_private_key(ec.SECP384R1())
OTHER_KEY = ec.generate_private_key(ec.SECP384R1())
RELEASE = Release(
    run_key="heart-federated-seed1-abc",
    request_hash="ab" * 32,
    name="heart",
    round=7,
    config={"name": "heart", "local": {"learning_rate": 0.1}, "shared": ["*"]},
    schema={"name": "heart-disease", "missing": {9: "nine", 10: "ten"}},
    parameters=np.array([0.5, -1.25, 3e-7], dtype=np.float32),
    statistics=np.array([10.0, 0.1, 1e12]),
    manifest_hash="cd" * 32,
)


def over_the_wire(content: RecordDict) -> RecordDict:
    """Return the records as they come out of Flower's bytes."""
    wire = {key: item.deflate() for key, item in get_all_nested_objects(content).items()}
    arrived = inflate_object_from_contents(content.object_id, wire)
    assert isinstance(arrived, RecordDict)
    return arrived


def changed(content: RecordDict, **facts: str) -> RecordDict:
    record = content["release"]
    assert isinstance(record, ConfigRecord)
    content["release"] = ConfigRecord({**record, **facts})
    return content


def test_a_release_arrives_as_it_was_sent() -> None:
    content = over_the_wire(RELEASE.to_records(sign_release(RELEASE, KEY)))
    arrived, signature = Release.from_records(content)
    verify_release(arrived, signature, public_text(KEY))
    assert arrived.parameters.tobytes() == RELEASE.parameters.tobytes()
    assert arrived.statistics is not None
    assert RELEASE.statistics is not None
    assert arrived.statistics.tobytes() == RELEASE.statistics.tobytes()
    assert arrived.config == RELEASE.config
    assert arrived.fingerprint == RELEASE.fingerprint


def test_a_release_without_statistics_arrives_without_them() -> None:
    release = dataclasses.replace(RELEASE, statistics=None)
    arrived, _ = Release.from_records(release.to_records(sign_release(release, KEY)))
    assert arrived.statistics is None


@pytest.mark.parametrize(
    "change",
    [
        {"round": 8},
        {"config": {"name": "heart", "local": {"learning_rate": 0.2}}},
        {"schema": {}},
        {"parameters": RELEASE.parameters + np.float32(1e-3)},
        {"statistics": None},
        {"statistics": np.array([10.0, 0.1, 1e12 + 1])},
        {"run_key": "another"},
        {"manifest_hash": "00" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_covers_every_part(change: dict[str, Any]) -> None:
    signature = sign_release(RELEASE, KEY)
    with pytest.raises(TrustError, match="not of the roster's model key"):
        verify_release(dataclasses.replace(RELEASE, **change), signature, public_text(KEY))


def test_another_key_is_refused() -> None:
    with pytest.raises(TrustError):
        verify_release(RELEASE, sign_release(RELEASE, OTHER_KEY), public_text(KEY))


def test_a_signature_over_the_bare_header_is_none_over_the_release() -> None:
    with pytest.raises(TrustError):
        verify_release(RELEASE, sign(KEY, RELEASE.header.encode()), public_text(KEY))


def test_arrays_that_the_header_does_not_name_are_refused() -> None:
    content = RELEASE.to_records("sig")
    content["release.arrays"] = ArrayRecord(
        {"parameters": Array(RELEASE.parameters + np.float32(1))}
    )
    with pytest.raises(TrustError, match="not those that its header names"):
        Release.from_records(content)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"round": NaN}', "[" * 100_000, "x" * 2_000_000]
)
def test_a_malformed_header_is_refused(text: str) -> None:
    with pytest.raises(TrustError, match="header"):
        Release.from_records(changed(RELEASE.to_records("sig"), header=text))


def test_a_header_with_a_further_key_is_refused() -> None:
    header = json.dumps({**json.loads(RELEASE.header), "run_code": "x"}, sort_keys=True)
    with pytest.raises(TrustError):
        Release.from_records(changed(RELEASE.to_records("sig"), header=header))


@pytest.mark.parametrize(
    "parameters",
    [
        np.array([0.5, np.nan, 1], dtype=np.float32),
        np.array([0.5, 1.0, 1.0]),
        np.ones((1, 3), dtype=np.float32),
    ],
    ids=["nan", "float64", "matrix"],
)
def test_parameters_of_another_form_are_refused(parameters: Any) -> None:
    with pytest.raises(TrustError, match="finite float32"):
        Release.from_parts(RELEASE.header, parameters, RELEASE.statistics)


@pytest.mark.parametrize("missing", ["release", "release.arrays"])
def test_a_message_without_a_release_is_refused(missing: str) -> None:
    content = RELEASE.to_records("sig")
    del content[missing]
    with pytest.raises(TrustError):
        Release.from_records(content)


def test_its_repr_shows_no_weight() -> None:
    assert "-1.25" not in repr(RELEASE)


def test_the_header_does_not_hold_the_arrays() -> None:
    assert len(RELEASE.header) < 1000
