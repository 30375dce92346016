"""Our writer of `.safetensors` files: as the official one, without a copy of the arrays."""

import numpy as np
from safetensors.numpy import load, save

from fedward.common.tensor_file import tensor_parts

ARRAYS = {
    "model": np.arange(6, dtype=np.float32),
    "sums": np.array([[1.5, -2.0], [0.0, 3.0]]),
    "random": np.arange(5, dtype=np.uint64),
    "bytes": np.arange(3, dtype=np.uint8),
    "counter": np.array(7),
    "nothing": np.zeros(0, dtype=np.float32),
}


def test_the_arrays_come_back_with_their_types_and_shapes() -> None:
    found = load(b"".join(tensor_parts(ARRAYS, {"a": "b"})))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_the_values_lie_in_the_order_of_the_official_writer() -> None:
    arrays = {name: ARRAYS[name] for name in ("bytes", "model", "sums")}
    ours, official = b"".join(tensor_parts(arrays)), save(arrays)
    begin = [8 + int.from_bytes(content[:8], "little") for content in (ours, official)]
    assert begin[0] % 8 == 0
    assert ours[begin[0] :] == official[begin[1] :]


def test_the_parts_look_at_the_arrays_themselves() -> None:
    array = np.zeros(4, dtype=np.float32)
    _, values = tensor_parts({"a": array})
    array[:] = 1.0
    assert bytes(values) == array.tobytes()


def test_an_array_in_another_order_is_written_row_by_row() -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3).T
    np.testing.assert_array_equal(load(b"".join(tensor_parts({"a": array})))["a"], array)
