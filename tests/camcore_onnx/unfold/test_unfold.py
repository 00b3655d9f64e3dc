"""Whole files, written out: the same outputs, and the gradients of the plain network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.gradients.vjp import SEED, add_vjp
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.unfold import dequantized, unfold
from fused_files import (
    distance,
    exported,
    feeds,
    fused,
    optimised,
    quantised,
    run,
)
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"
OPSETS = (13, 17, 20)


def unfolded(data: bytes) -> bytes:
    """With all nodes written out; nothing of it is ONNX Runtime's own."""
    loaded = load(data)
    unfold(loaded.model, list(loaded.model.graph), feeds(data))
    assert {node.domain for node in loaded.model.graph} == {""}
    assert not [node.op_type for node in loaded.model.graph if node.op_type.startswith(("QLinear", "QGemm"))]
    proto = onnx.load_from_string(serialize(loaded.model))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def operators(data: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(data).graph.node if node.domain == MICROSOFT}


def gradient(data: bytes, *, plain: bool = False, tensor: str = "") -> NDArray[Any]:
    """Of the scores of two classes, for the image or another tensor."""
    loaded = load(data)
    graph = loaded.model.graph
    if not plain:
        unfold(loaded.model, list(graph), feeds(data))
    layer = next((v for node in graph for v in node.outputs if v.name == tensor), graph.inputs[0])
    (found,) = add_vjp(loaded, graph.outputs[0], [dequantized(loaded.model, layer)], feeds(data))
    graph.outputs.append(found.value)
    seed = np.eye(5, dtype=np.float32)[[1, 2]]
    return run(serialize(loaded.model), {**feeds(data)[1], SEED: seed})[-1]


class TestFusedFiles:
    @pytest.mark.parametrize("opset", OPSETS)
    @pytest.mark.parametrize("name", ["convolutions", "activations", "patches"])
    def test_saved_by_onnx_runtime(self, name: str, opset: int) -> None:
        data = optimised(exported(name, opset))
        expected = {"patches": {"BiasGelu"}, "activations": {"FusedConv", "FusedGemm"}}.get(name, {"FusedConv"})
        assert operators(data) >= expected or (name, opset) == ("patches", 13)
        plain = unfolded(data)
        for optimization in ("all", "disabled"):
            (found,), (wanted,) = (run(d, feeds(data)[1], optimization) for d in (plain, data))
            assert distance(found, wanted) < 1e-6

    @pytest.mark.parametrize("opset", OPSETS)
    @pytest.mark.parametrize("options", [{}, {"use_multi_head_attention": True, "enable_gelu_approximation": True}])
    def test_written_by_onnx_runtime_transformers(self, options: dict[str, bool], opset: int) -> None:
        data = fused(exported("patches", opset), **options)
        some = {"MultiHeadAttention", "FastGelu"} if options else {"Attention", "BiasGelu"}
        assert operators(data) == some | {"SkipLayerNormalization"}
        plain = unfolded(data)
        for optimization in ("all", "disabled"):
            (found,), (wanted,) = (run(d, feeds(data)[1], optimization) for d in (plain, data))
            assert distance(found, wanted) < 2e-6

    @pytest.mark.parametrize("name", ["convolutions", "activations", "patches"])
    def test_gradients_are_those_of_the_plain_file(self, name: str) -> None:
        data = exported(name)
        assert distance(gradient(optimised(data)), gradient(data, plain=True)) < 1e-5

    def test_gradients_through_attention(self) -> None:
        data = exported("patches")
        assert distance(gradient(fused(data)), gradient(data, plain=True)) < 1e-5

    def test_only_the_nodes_given(self) -> None:
        loaded = load(optimised(exported("convolutions")))
        graph = loaded.model.graph
        first, *others = [node for node in graph if node.op_type == "FusedConv"]
        outputs = first.outputs
        unfold(loaded.model, [first])
        assert first.op_type == "Relu"
        assert first.outputs == outputs
        assert all(node.op_type == "FusedConv" for node in others)

    def test_nodes_keep_the_path_of_their_module(self) -> None:
        loaded = load(optimised(exported("convolutions")))
        (node,) = [n for n in loaded.model.graph if n.op_type == "FusedConv" and "/a/" in (n.name or "")]
        node.metadata_props["key"] = "word"
        unfold(loaded.model, [node])
        before = node.inputs[0].producer()
        assert before is not None
        assert (before.op_type, before.name, before.metadata_props["key"]) == ("Conv", f"{node.name}/Conv", "word")


class TestQuantisedFiles:
    @pytest.mark.parametrize("opset", [11, 13, 17, 20])
    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
    def test_integers_are_the_same(self, activations: str, per_channel: bool, opset: int) -> None:
        data = quantised(
            exported("convolutions", opset), form="QOperator", activations=activations, per_channel=per_channel
        )
        assert operators(data) >= {"QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QGemm"}
        plain = unfolded(data)
        for optimization in ("all", "disabled"):
            (found,), (wanted,) = (run(d, feeds(data)[1], optimization) for d in (plain, data))
            if per_channel and opset < 13:  # weights become floats
                scale = step_of_scores(data)
                assert np.abs(found - wanted).max() <= 1.01 * scale
            else:
                assert np.array_equal(found, wanted)

    @pytest.mark.parametrize("form", ["QOperator", "QDQ"])
    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
    def test_gradients_follow_those_of_the_float_file(self, activations: str, per_channel: bool, form: str) -> None:
        data = exported("convolutions")
        estimate = gradient(quantised(data, form=form, activations=activations, per_channel=per_channel))
        wanted = gradient(data, plain=True)
        assert np.corrcoef(estimate.ravel(), wanted.ravel())[0, 1] > 0.9

    def test_a_layer_of_integers(self) -> None:
        data = exported("convolutions")
        pooled = next(n for n in load(data).model.graph if n.op_type == "MaxPool").outputs[0].name or ""
        estimate = gradient(quantised(data, form="QOperator"), tensor=f"{pooled}_quantized")
        wanted = gradient(data, plain=True, tensor=pooled)
        assert np.corrcoef(estimate.ravel(), wanted.ravel())[0, 1] > 0.9


def step_of_scores(data: bytes) -> float:
    loaded = load(data)
    last = loaded.model.graph.outputs[0].producer()
    assert last is not None
    assert last.op_type == "DequantizeLinear"
    tensor = last.inputs[1].const_value if last.inputs[1] is not None else None
    assert tensor is not None
    return float(tensor.numpy().reshape(-1)[0])
