"""Small ONNX graphs for the tests: a builder that hides what differs between opsets, and a few whole models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

FORMS = ("initializer", "input", "constant", "filled", "transposed", "reshaped", "dequantized")
_MADE_SINCE = {"filled": 9, "dequantized": 10}


@cache
def newest_opset() -> int:
    """The newest opset that both onnx and ONNX Runtime know."""
    from camcore.errors import InputError

    opset = onnx.defs.onnx_opset_version()
    while True:
        g = Graph(opset)
        g.out(g.add("Relu", g.image(["N", 1, 1])), ["N", 1, 1])
        try:
            run_plainly(g.model(), images(1, 1, 1))
        except InputError:
            opset -= 1
        else:
            return opset


def forms_at(opset: int, dtype: str = "float32") -> tuple[str, ...]:
    """The ways to hide a weight that an opset knows."""
    return tuple(
        form
        for form in FORMS
        if _MADE_SINCE.get(form, 1) <= opset and not (form == "dequantized" and dtype != "float32")
    )


class Graph:
    """Nodes, weights and inputs of a graph that grows. Every method gives the name of a tensor.

    Parameters
    ----------
    opset : int
    dtype : str
        Of all weights: ``"float32"`` or ``"float16"``.
    named : bool
        False leaves the names of all nodes empty.
    form : str
        How weights are stored, one of ``FORMS``.
    """

    def __init__(
        self, opset: int = 17, *, dtype: str = "float32", named: bool = True, form: str = "initializer", seed: int = 0
    ) -> None:
        self.opset, self.dtype, self.named, self.form = opset, np.dtype(dtype), named, form
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    @property
    def type(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def image(self, shape: Sequence[int | str], name: str = "image", type: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, type or self.type, shape))
        return name

    def add(
        self,
        op: str,
        *inputs: str,
        to: str | Sequence[str] | None = None,
        name: str | None = None,
        domain: str = "",
        meta: dict[str, str] | None = None,
        **attributes: Any,
    ) -> str:
        self._count += 1
        outputs = [to or f"{op.lower()}_{self._count}"] if to is None or isinstance(to, str) else list(to)
        label = name if name is not None else f"node_{op}_{self._count}" if self.named else ""
        node = helper.make_node(op, list(inputs), outputs, name=label, domain=domain, **attributes)
        for key, value in (meta or {}).items():
            entry = node.metadata_props.add()
            entry.key, entry.value = key, value
        self.nodes.append(node)
        return outputs[0]

    def out(self, value: str, shape: Sequence[int | str | None] | None = None, type: int | None = None) -> str:
        self.outputs.append(helper.make_tensor_value_info(value, type or self.type, shape))
        return value

    def normal(self, *shape: int) -> NDArray[Any]:
        return self.random.normal(size=shape).astype(self.dtype)

    def const(self, array: Any, *, form: str | None = None, dtype: Any = None) -> str:
        """A tensor that depends on no input, stored in one of ``FORMS``."""
        self._count += 1
        array = np.asarray(array).astype(dtype or self.dtype)
        return getattr(self, f"_{form or self.form}")(array, f"weight_{self._count}")

    def ints(self, *values: int) -> str:
        return self.const(np.array(values), form="initializer", dtype=np.int64)

    def _initializer(self, array: NDArray[Any], name: str) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        if self.form == "input":  # as IR version 3 wants it: every initialiser is an input too
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self.inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        return name

    _input = _initializer

    def _constant(self, array: NDArray[Any], name: str) -> str:
        return self.add("Constant", to=name, value=numpy_helper.from_array(array))

    def _filled(self, array: NDArray[Any], name: str) -> str:
        """ConstantOfShape plus something: a fill alone would make all classes equal."""
        value = numpy_helper.from_array(np.array([0.5], array.dtype))
        fill = self.add("ConstantOfShape", self.ints(*array.shape), value=value)
        return self.add("Add", fill, self._initializer(array - array.dtype.type(0.5), name + "_rest"), to=name)

    def _transposed(self, array: NDArray[Any], name: str) -> str:
        if array.ndim < 2:
            return self._reshaped(array, name)
        stored = self._initializer(np.ascontiguousarray(array.T), name + "_stored")
        return self.add("Transpose", stored, to=name)

    def _reshaped(self, array: NDArray[Any], name: str) -> str:
        return self.add(
            "Reshape", self._initializer(array.reshape(-1), name + "_flat"), self.ints(*array.shape), to=name
        )

    def _dequantized(self, array: NDArray[Any], name: str) -> str:
        """Weights of 8 bits; from opset 13 on with a scale for each row."""
        by_row = array.ndim > 1 and self.opset >= 13
        reach = np.abs(array).max(axis=tuple(range(1, array.ndim))) if by_row else np.abs(array).max(initial=1e-3)
        scale = (np.maximum(reach, 1e-3) / 127).astype(np.float32)
        spread = scale.reshape(-1, *[1] * (array.ndim - 1)) if by_row else scale
        stored = self._initializer(np.rint(array / spread).astype(np.int8), name + "_int8")
        zero = self._initializer(np.zeros(scale.shape, np.int8), name + "_zero")
        axis = {"axis": 0} if by_row else {}
        return self.add("DequantizeLinear", stored, self._initializer(scale, name + "_scale"), zero, to=name, **axis)

    def reduce(self, op: str, value: str, axes: Sequence[int], *, keep: int = 0, to: str | None = None) -> str:
        """ReduceMean or ReduceSum: the axes are an attribute, later an input."""
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.add(op, value, self.ints(*axes), keepdims=keep, to=to)
        return self.add(op, value, axes=list(axes), keepdims=keep, to=to)

    def squeeze(self, value: str, axes: Sequence[int]) -> str:
        if self.opset >= 13:
            return self.add("Squeeze", value, self.ints(*axes))
        return self.add("Squeeze", value, axes=list(axes))

    def batch_norm(self, value: str, channels: int) -> str:
        parts = [self.normal(channels), self.normal(channels), self.normal(channels), abs(self.normal(channels)) + 1]
        return self.add("BatchNormalization", value, *[self.const(p) for p in parts], epsilon=1e-3)

    def quantized(self, value: str, scale: float = 1 / 64, zero: int = 0) -> str:
        """QuantizeLinear, DequantizeLinear in int8."""
        step = self.const(np.array(scale, np.float32), form="initializer")
        offset = self.const(np.array(zero), form="initializer", dtype=np.int8)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", value, step, offset), step, offset)

    def conv(self, value: str, inside: int, outside: int, *, kernel: int = 3, axes: int = 2, groups: int = 1) -> str:
        weight = self.normal(outside, inside // groups, *[kernel] * axes) / np.sqrt(inside * kernel**axes)
        shape = {"kernel_shape": [kernel] * axes, "pads": [kernel // 2] * (2 * axes), "group": groups}
        return self.add("Conv", value, self.const(weight), self.const(self.normal(outside)), **shape)

    def model(
        self, *, ir_version: int | None = None, functions: Sequence[Any] = (), domains: Sequence[str] = ()
    ) -> Any:
        graph = helper.make_graph(self.nodes, "test", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), *[helper.make_opsetid(d, 1) for d in domains]]
        ir_version = ir_version or (3 if self.form == "input" else 10 if functions else 8)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


def classifier(
    *,
    batch: int | str = "N",
    size: Sequence[int | str] = ("H", "W"),
    channels: int = 3,
    classes: int = 5,
    ending: str = "",
    **options: Any,
) -> Any:
    """image -> Conv -> Relu (``features``) -> GlobalAveragePool -> Flatten -> Gemm (``scores``) [-> ending]."""
    g = Graph(**options)
    image = g.image([batch, channels, *size])
    features = g.add("Relu", g.conv(image, channels, 6, axes=len(size)), to="features", name="last_relu")
    return finish(g, features, 6, classes, batch=batch, ending=ending)


def finish(
    g: Graph, features: str, channels: int, classes: int = 5, *, batch: int | str = "N", ending: str = "", **model: Any
) -> Any:
    """The usual head behind ``features``."""
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features, name="pool"), axis=1, to="pooled")
    weight, bias = g.const(g.normal(channels, classes)), g.const(g.normal(classes))
    scores = g.add("Gemm", pooled, weight, bias, to="scores", name="head")
    g.out(g.add(ending, scores, to="ending", axis=1) if ending else scores, [batch, classes])
    return g.model(**model)


def images(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run_plainly(model: Any, pixels: NDArray[Any], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
    """The outputs of a model as it is, in a session that camcore has not touched but for its telemetry."""
    from camcore_onnx.running.runtime import make_session

    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = make_session(data, device="cpu", threads=1)
    value = session.get_inputs()[0]
    dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
    found: list[NDArray[Any]] = session.run(outputs, {value.name: pixels.astype(dtype.get(value.type, np.float32))})
    return found


def pixels_for(model: Any, *, batch: int = 2, seed: int = 0, length: int = 6) -> NDArray[np.float32]:
    """Random images that fit the first input of a model; its free axes get a length of their own each."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or (batch if i == 0 else length + i) for i, d in enumerate(dims)]
    return images(*shape, seed=seed)


def onnx_bytes(model: Any) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def python(code: str) -> str:
    """What a fresh interpreter prints; its warnings are errors."""
    root = Path(__file__).parents[1]
    script = f"import sys; sys.path[:0] = {[str(root), str(root / 'adapters')]!r}\n{code}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
