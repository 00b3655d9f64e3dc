"""Shapes that agree with what is stored pass, in every type and form; those that do not are in tests/attacks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from camcore_onnx.reading.stored import check_stored
from onnx import TensorProto, helper, numpy_helper

from camcore.errors import InputError

TYPES = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED})


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (0,), (4, 0, 2)])
@pytest.mark.parametrize("kind", TYPES, ids=TensorProto.DataType.Name)
def test_every_type(kind, shape):
    """As onnx.helper stores them, in the field of their type."""
    count = int(np.prod(shape))
    values = [b"x"] * count if kind == TensorProto.STRING else [1] * count
    check_stored(helper.make_tensor("t", kind, shape, values), "model")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"])
def test_raw_bytes(dtype):
    tensor = numpy_helper.from_array(np.ones((2, 5), dtype))
    check_stored(tensor, "model")
    tensor.raw_data += b"\0"
    with pytest.raises(
        InputError, match=r"model: the graph is damaged: the shape 2x5 of '' means \d+ bytes, and \d+ are"
    ):
        check_stored(tensor, "model")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.float8_e4m3fn])
def test_types_that_numpy_does_not_have(dtype):
    check_stored(numpy_helper.from_array(np.ones((3, 5), dtype)), "model")


@pytest.mark.parametrize("length", ["648", None])
def test_in_a_file(length):
    tensor = onnx.TensorProto(data_type=TensorProto.FLOAT, dims=[6, 27], data_location=TensorProto.EXTERNAL)
    if length is not None:
        tensor.external_data.add(key="length", value=length)
    check_stored(tensor, "model")
