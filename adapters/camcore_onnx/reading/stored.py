"""Stored tensors say a shape and hold numbers: that the two agree is checked before anything is made of them."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto

from camcore.errors import InputError

__all__ = ["check_stored"]

_MAX_ELEMENTS = 1 << 40
_FIELDS: dict[
    int, tuple[str, int]
] = {  # where numbers lie that are not raw bytes, and how many of them make an element
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.COMPLEX128: ("double_data", 2),
    **dict.fromkeys(
        (TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT8),
        ("int32_data", 1),
    ),
    **dict.fromkeys((TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16), ("int32_data", 1)),
}
_BYTES: dict[int, int] = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64, TensorProto.COMPLEX64), 8),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 2),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 1),
    TensorProto.COMPLEX128: 16,
}


def check_stored(tensor: onnx.TensorProto, name: str) -> None:
    """Refuse a tensor whose shape is none, or holds more or fewer numbers than are there.

    Types that are packed, of 4 bits or less, and those newer than this list are left to what reads them.

    Raises
    ------
    InputError
    """
    dims = list(tensor.dims)
    if any(n < 0 for n in dims):
        raise _wrong(name, tensor, "a length below 0")
    count = math.prod(dims)
    if count > _MAX_ELEMENTS:
        raise _wrong(name, tensor, f"some 10^{len(str(count)) - 1} elements")
    size = _BYTES.get(tensor.data_type)
    if tensor.data_location == TensorProto.EXTERNAL:
        stated = [e.value for e in tensor.external_data if e.key == "length"]  # whole numbers: checked before
        if size is not None and stated and int(stated[0]) != count * size:
            raise _wrong(name, tensor, f"{count * size} bytes, and {stated[0]} in its file")
    elif tensor.HasField("raw_data"):
        if size is not None and len(tensor.raw_data) != count * size:
            raise _wrong(name, tensor, f"{count * size} bytes, and {len(tensor.raw_data)} are there")
    elif tensor.data_type in _FIELDS:
        field, each = _FIELDS[tensor.data_type]
        found = len(getattr(tensor, field))
        if found != count * each:
            raise _wrong(name, tensor, f"{count * each} numbers, and {found} are there")


def _wrong(name: str, tensor: onnx.TensorProto, what: str) -> InputError:
    shape = "x".join(map(str, list(tensor.dims)[:8])) or "a single number"
    return InputError(f"{name}: the graph is damaged: the shape {shape} of {tensor.name[:80]!r} means {what}")
