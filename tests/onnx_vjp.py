"""Vector-Jacobian products of small graphs, by graph nodes in ONNX Runtime, and by differences of the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from camcore_onnx.gradients.vjp import SEED, add_vjp
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Feed = Mapping[str, NDArray[Any]]
Arrays = dict[str, NDArray[Any]]


def node_model(
    op: str,
    inputs: Feed,
    *,
    wanted: Sequence[str] | None = None,
    opset: int = 20,
    outputs: int = 1,
    domain: str = "",
    free: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node.

    Inputs named in ``wanted`` (all floats where absent) are graph inputs, all others initialisers; None among
    ``inputs`` leaves that one out. ``free`` leaves all lengths of the graph inputs open.
    """
    given = {n: np.asarray(a) for n, a in inputs.items() if a is not None}
    names = [n if n in given else "" for n in inputs]
    open_ = [n for n, a in given.items() if (a.dtype.kind == "f" if wanted is None else n in wanted)]
    results = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op, names, results, name="node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(
                n,
                helper.np_dtype_to_tensor_dtype(given[n].dtype),
                [None] * given[n].ndim if free else given[n].shape,
            )
            for n in open_
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
        [onnx.numpy_helper.from_array(a, n) for n, a in given.items() if n not in open_],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=min(10, onnx.IR_VERSION))


def by_nodes(
    model: onnx.ModelProto,
    feed: Feed,
    *,
    seed: NDArray[Any] | None = None,
    probes: Sequence[Feed] = (),
    output: int = 0,
    wanted: Sequence[str] | None = None,
    optimization: str = "all",
) -> tuple[Arrays, Arrays]:
    """The outputs, and the gradients of the inputs (floats) for a cotangent, by graph nodes in ONNX Runtime.

    ``probes`` are more feeds, of other lengths, for graphs whose lengths are free. The seed is random where absent and
    is returned among the outputs under ``grad/seed``.
    """
    loaded = load(model)
    graph = loaded.model.graph
    outputs = [v.name or "" for v in graph.outputs]
    names = list(wanted) if wanted is not None else [n for n, a in feed.items() if a.dtype.kind == "f"]
    values = {v.name: v for v in graph.inputs} | {v.name: v for node in graph for v in node.outputs}
    gradients = add_vjp(loaded, graph.outputs[output], [values[n] for n in names], [feed, *probes])
    graph.outputs.extend(g.value for g in gradients)
    session = make_session(serialize(loaded.model), device="cpu", optimization=optimization)
    if seed is None:
        plain = make_session(model.SerializeToString(), device="cpu").run([outputs[output]], dict(feed))[0]
        kind = np.float64 if plain.dtype == np.float64 else np.float32
        seed = np.asarray(np.random.default_rng(7).standard_normal(plain.shape)).astype(kind)
    results = session.run([*outputs, *(g.value.name for g in gradients)], {**feed, SEED: seed})
    found = dict(zip(outputs, results, strict=False))
    return found | {SEED: seed}, dict(zip(names, results[len(outputs) :], strict=True))


class Erf(OpRun):  # type: ignore[misc]
    """In double precision: that of the reference evaluator is rounded to single."""

    op_domain = ""

    def _run(self, x: NDArray[Any]) -> tuple[NDArray[Any]]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):  # type: ignore[misc]
    """In double precision, too."""

    op_domain = ""

    def _run(self, x: NDArray[Any], approximate: str = "none") -> tuple[NDArray[Any]]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))),)


def by_differences(
    model: onnx.ModelProto,
    feed: Feed,
    seed: NDArray[Any],
    direction: Feed,
    *,
    output: int = 0,
    step: float = 1e-5,
) -> float:
    """``seed . dy`` along a direction of the inputs: central differences of the reference evaluator in float64."""
    double = ReferenceEvaluator(in_double(model), new_ops=[Erf, Gelu])

    def value(sign: float) -> float:
        moved = {n: a.astype(np.float64) + sign * step * direction[n] if n in direction else a for n, a in feed.items()}
        return float((seed.astype(np.float64) * double.run(None, moved)[output]).sum())

    return (value(1) - value(-1)) / (2 * step)


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with floats of 64 bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    double, floats = onnx.TensorProto.DOUBLE, (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    for info in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if info.type.tensor_type.elem_type in floats:
            info.type.tensor_type.elem_type = double
    for tensor in copy.graph.initializer:
        if tensor.data_type in floats:
            tensor.CopyFrom(_doubled(tensor))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type in floats:
                attribute.t.CopyFrom(_doubled(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in floats:
                attribute.i = double
    return copy


def _doubled(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)


def agrees_with_differences(model: onnx.ModelProto, feed: Feed, *, directions: int = 4, output: int = 0) -> float:
    """The largest relative error of the gradient nodes against central differences, along random directions."""
    outputs, gradients = by_nodes(model, feed, output=output)
    generator, worst = np.random.default_rng(11), 0.0
    for _ in range(directions):
        direction = {n: generator.standard_normal(feed[n].shape) for n in gradients}
        expected = by_differences(model, feed, outputs[SEED], direction, output=output)
        found = sum(float((gradients[n].astype(np.float64) * direction[n]).sum()) for n in gradients)
        scale = sum(float(np.abs(gradients[n].astype(np.float64) * direction[n]).sum()) for n in gradients)
        worst = max(worst, abs(found - expected) / max(scale, abs(expected), 1e-12))
    return worst


def readers(model: onnx.ModelProto, feed: Feed) -> list[str]:
    """The operators that read the first input, once the gradient is written: what reads it forbids a fusion."""
    loaded = load(model)
    graph = loaded.model.graph
    x = graph.inputs[0]
    add_vjp(loaded, graph.outputs[0], [x], [feed])
    return [node.op_type for node in graph if x in node.inputs]


def opset_of(model: ir.Model) -> int:
    """The version of the standard operators."""
    return int(model.opset_imports[""])
