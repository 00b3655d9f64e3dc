"""Constants, however they are hidden, against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from camcore_onnx import constants as module
from camcore_onnx.constants import Constants
from camcore_onnx.reading.load import load
from onnx import TensorProto, helper
from onnx_graphs import FORMS, Graph, onnx_bytes

from camcore.errors import InputError

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4) / 4 - 1


def read(add: Callable[[Graph], str], **options):
    """The constant that ``add`` hides in a graph, and whether it is taken for one."""
    g = Graph(**options)
    image = g.image(["N", 3, 8, 8])
    name = add(g)
    g.out(g.add("Relu", image), ["N", 3, 8, 8])
    g.add("Identity", name, to="reader")
    loaded = load(g.model())
    value = next(n for n in loaded.model.graph if n.outputs[0].name == "reader").inputs[0]
    found = Constants(loaded)
    return found.value(value), found.is_constant(value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [10, 13, 21])
def test_every_form(form, opset):
    found, constant = read(lambda g: g.const(ARRAY, form=form), opset=opset, form=form)
    assert constant
    tolerance = np.abs(ARRAY).max() / 127 if form == "dequantized" else 1e-7
    np.testing.assert_allclose(found, ARRAY, atol=tolerance)


def test_dequantised_weights_with_a_scale_for_each_row():
    stored = np.array([[1, -2], [3, -4]], np.int8)
    scale = np.array([0.5, 2.0], np.float32)

    def add(g: Graph) -> str:
        zero = g.const([0, 1], dtype=np.int8)
        return g.add("DequantizeLinear", g.const(stored, dtype=np.int8), g.const(scale), zero, axis=0)

    found, _ = read(add)
    np.testing.assert_array_equal(found, [[0.5, -1], [4, -10]])


@pytest.mark.parametrize("keys", [{"value_float": 1.5}, {"value_floats": [1.5, 2.5]}, {"value_ints": [1, 2]}])
def test_constant_nodes_of_all_kinds(keys):
    found, _ = read(lambda g: g.add("Constant", **keys))
    np.testing.assert_array_equal(found, next(iter(keys.values())))


def test_a_long_way_of_operators():
    def add(g: Graph) -> str:
        value = g.const(ARRAY)
        for _ in range(3000):  # deeper than Python's stack
            value = g.add("Neg", value)
        return g.add("Slice", g.add("Concat", value, value, axis=0), g.ints(2), g.ints(4), g.ints(0))

    found, _ = read(add)
    np.testing.assert_array_equal(found, np.concatenate([ARRAY, ARRAY])[2:4])


def test_bfloat16_is_given_as_float32():
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [3], [1.0, -2.5, 0.125])
    found, _ = read(lambda g: g.add("Constant", value=tensor))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.0, -2.5, 0.125])


@pytest.mark.parametrize(
    "add",
    [
        lambda g: g.add("Identity", "image"),
        lambda g: g.add("Mul", g.const(ARRAY[0, :1]), "image"),
        lambda g: g.add("Shape", "image"),
        lambda g: g.add("RandomNormal", shape=[3, 4]),
        lambda g: "image",
    ],
)
def test_what_is_not_constant(add):
    assert read(add) == (None, False)


def test_no_tensor_is_no_constant():
    found = Constants(load(one_relu()))
    assert not found.is_constant(None)
    assert found.value(None) is None


def one_relu() -> onnx.ModelProto:
    g = Graph()
    g.out(g.add("Relu", g.image(["N", 3, 8, 8])), ["N", 3, 8, 8])
    return g.model()


def test_too_large_to_be_made(monkeypatch):
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 11)
    with pytest.raises(InputError, match=r"the weights 'w' would have 12 elements; the limit is 11"):
        read(lambda g: g.add("Neg", g.const(ARRAY), to="w") if infer(g, [3, 4]) else "")


def infer(g: Graph, shape: list[int]) -> bool:
    """State the shape of ``w``, for only a stated shape can be judged before the tensor is made."""
    g.outputs.append(helper.make_tensor_value_info("w", 1, shape))
    return True


def test_what_onnx_runtime_cannot_compute_is_an_answer():
    with pytest.raises(InputError, match=r"the weights 'w' cannot be read: .*Reshape"):
        read(lambda g: g.add("Reshape", g.const(ARRAY), g.ints(5, 5), to="w"))


def test_damaged_raw_data_is_an_answer():
    g = Graph()
    g.image(["N", 3, 8, 8])
    name = g.const(ARRAY)
    g.out(g.add("Identity", name), [3, 4])
    model = g.model()
    model.graph.initializer[0].raw_data = b"short"
    with pytest.raises(InputError, match=f"the shape 3x4 of '{name}' means 48 bytes, and 5 are there"):
        load(onnx_bytes(model))
