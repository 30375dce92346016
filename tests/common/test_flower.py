"""What fedward takes from Flower's inside. If flwr changes any of it, this file says so first."""

import pickle
from importlib.metadata import version
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from fedward.common.flower import (
    LazyArray,
    Records,
    array_hash,
    assume_server_identity,
    fill,
    npy_parts,
    num_bytes,
    stamp,
    view,
    with_content,
)
from fedward.common.records import (
    PARAMETERS,
    Binding,
    Update,
    arrays_of,
    record_of,
    reply_records,
)
from fedward.common.vectors import vector_hash

VALUES = np.array([1.5, -2.0, 3.25], dtype=np.float32)


def test_the_version_is_the_one_that_this_was_written_for() -> None:
    assert version("flwr") == "1.41.0"


def test_a_message_can_be_made_and_stamped_without_a_superlink() -> None:
    assume_server_identity(run_id=7)
    assert (TaskIdentity.run_id, TaskIdentity.node_id) == (7, 0)
    message = Message(RecordDict(), dst_node_id=3, message_type="train")
    first, second = stamp(message).metadata.message_id, stamp(message).metadata.message_id
    assert first
    assert first != second
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert reply.metadata.src_node_id == 3


def test_a_message_keeps_its_metadata_with_another_content() -> None:
    assume_server_identity(run_id=7)
    message = stamp(Message(RecordDict(), dst_node_id=3, message_type="train"))
    other = with_content(message, RecordDict({"c": ConfigRecord({"a": 1})}))
    assert other.metadata.message_id == message.metadata.message_id
    assert list(other.content) == ["c"]


def test_a_lazy_array_is_on_the_wire_what_flowers_own_is() -> None:
    lazy, own = LazyArray(VALUES), Array(VALUES)
    assert (lazy.dtype, tuple(lazy.shape), lazy.stype) == (own.dtype, tuple(own.shape), own.stype)
    assert lazy.data == own.data
    assert lazy.deflate() == own.deflate()
    np.testing.assert_array_equal(lazy.numpy(), own.numpy())


def test_a_large_array_is_cut_as_flower_cuts_it_and_looks_at_the_values() -> None:
    values = np.arange(3_000_000, dtype=np.float32)
    lazy, own = LazyArray(values), Array(values)
    assert lazy.deflate() == own.deflate()
    assert list(lazy.children) == list(own.children)
    assert len(lazy.children) == 3
    later = lazy.slice_array()[1][1]
    assert isinstance(later, ArrayChunk)
    assert np.shares_memory(np.frombuffer(later.data, np.uint8), values)
    assert b"".join(npy_parts(lazy)) == own.data == b"".join(npy_parts(own))


@pytest.mark.parametrize(
    "values",
    [
        np.array(2.5, np.float32),
        np.zeros(0, np.float32),
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
    ],
)
def test_arrays_of_any_shape_are_read_as_flower_reads_them(values: npt.NDArray[Any]) -> None:
    for array in (Array(values), LazyArray(values)):
        read = view(array)
        assert (read.shape, read.dtype) == (values.shape, values.dtype)
        np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(np.load(BytesIO(LazyArray(values).data)), values)


def test_the_values_of_an_array_that_came_are_looked_at_where_they_lie() -> None:
    array = Array(np.arange(4, dtype=np.float32))
    assert np.shares_memory(view(array), np.frombuffer(array.data, np.uint8))


def test_bytes_that_are_no_array_are_refused_when_looked_at() -> None:
    whole = Array(VALUES).data
    for data in (b"", b"no npy", whole[:20], whole[:-1]):
        with pytest.raises((ValueError, EOFError)):
            view(Array("float32", (3,), "numpy.ndarray", data))


def test_what_a_strategy_writes_into_an_array_stays_with_it() -> None:
    lazy = LazyArray(VALUES.copy())
    lazy.numpy()[:] = 0.0
    np.testing.assert_array_equal(view(lazy), VALUES)


def test_a_lazy_array_survives_pickling_as_ray_does_it() -> None:
    copy = pickle.loads(pickle.dumps(record_of({"w": LazyArray(VALUES)}), protocol=5))
    np.testing.assert_array_equal(copy["w"].numpy(), VALUES)


def test_hash_and_size_are_those_of_the_values_in_either_form() -> None:
    for array in (LazyArray(VALUES), Array(VALUES)):
        assert array_hash(array) == vector_hash(VALUES)
    assert num_bytes(LazyArray(VALUES)) == VALUES.nbytes


def test_a_message_of_ours_crosses_flowers_wire_and_arrives_as_flowers_own() -> None:
    assume_server_identity(run_id=7)
    update = Update(5, 0.5, {PARAMETERS: VALUES}, {"seconds": 1.0})
    binding = Binding("run", 3, "nonce", "model", "manifest")
    content = reply_records(update, binding, loss_name="train_loss")
    sent = Message(content, dst_node_id=3, message_type="train")
    objects = get_all_nested_objects(sent)
    wire = {object_id: obj.deflate() for object_id, obj in objects.items()}
    arrived = inflate_object_from_contents(sent.object_id, wire)
    assert isinstance(arrived, Message)
    assert type(arrived.content) is RecordDict
    assert binding.is_in(arrived.content["receipt"])
    array = arrays_of(arrived.content)[PARAMETERS]
    assert type(array) is Array
    np.testing.assert_array_equal(array.numpy(), VALUES)


def test_chunks_that_two_arrays_have_in_common_reach_both() -> None:
    zeros = np.zeros(3_000_000, dtype=np.float32)
    sent = RecordDict({"arrays": record_of({"a": LazyArray(zeros), "b": LazyArray(zeros)})})
    wire = {object_id: obj.deflate() for object_id, obj in get_all_nested_objects(sent).items()}
    arrived = inflate_object_from_contents(sent.object_id, wire)
    assert isinstance(arrived, RecordDict)
    for array in arrays_of(arrived).values():
        np.testing.assert_array_equal(view(array), zeros)


def test_a_filled_record_equals_a_checked_one() -> None:
    assert fill(ConfigRecord(), {"a": 1}) == ConfigRecord({"a": 1})
    assert fill(MetricRecord(), {"a": 1.5}) == MetricRecord({"a": 1.5})


def test_records_have_the_views_that_strategies_look_at() -> None:
    records = Records({"arrays": record_of({"w": LazyArray(VALUES)}), "m": MetricRecord({"n": 1})})
    assert isinstance(records, RecordDict)
    assert list(records.array_records) == ["arrays"]
    assert list(records.metric_records) == ["m"]
    assert list(records.config_records) == []


def test_a_record_of_another_kind_is_no_array_record() -> None:
    records = RecordDict({"arrays": MetricRecord({"n": 1})})
    with pytest.raises(TypeError, match="not an ArrayRecord"):
        arrays_of(records)
    assert isinstance(record_of({}), ArrayRecord)
