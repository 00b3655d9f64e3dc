"""Fused operators, norms and attention, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from camcore_onnx.reading.load import load
from camcore_onnx.unfold import unfold
from fused_files import (
    check_node,
    whole,
)
from onnx_graphs import images
from onnx_vjp import node_model

from camcore.errors import MethodNotPossible

MICROSOFT = "com.microsoft"
OPSETS = (13, 17, 20)


class TestSame:
    @pytest.mark.parametrize("opset", OPSETS)
    @pytest.mark.parametrize("flags", range(16))
    def test_transposed_factors(self, flags: int, opset: int) -> None:
        names = ("transA", "transB", "transBatchA", "transBatchB")
        given = {name: flags >> i & 1 for i, name in enumerate(names)}
        feed = {letter: images(*factor(letter, given)) for letter in "AB"}
        model = node_model("FusedMatMul", feed, opset=opset, domain=MICROSOFT, alpha=0.5, free=True, **given)
        check_node(model, feed)

    @pytest.mark.parametrize("opset", [11, *OPSETS])
    @pytest.mark.parametrize("op", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
    def test_gelu(self, op: str, opset: int) -> None:
        feed = {"x": images(2, 3, 8)} | ({"bias": images(8)} if op in ("BiasGelu", "FastGelu") else {})
        check_node(node_model(op, feed, opset=opset, domain=MICROSOFT), feed)

    @pytest.mark.parametrize("opset", OPSETS)
    @pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
    @pytest.mark.parametrize("bias", [False, True])
    def test_skip_connection_and_norm(self, op: str, bias: bool, opset: int) -> None:
        feed = {"x": images(2, 3, 8), "skip": images(2, 3, 8, seed=1), "gamma": images(8)}
        if op == "SkipLayerNormalization":
            feed["beta"] = images(8, seed=2)
        if bias:
            feed["bias"] = images(8, seed=3)
        model = node_model(op, feed, opset=opset, domain=MICROSOFT, epsilon=1e-3, outputs=4)
        model.graph.node[0].output[1:3] = ["", ""]
        for _ in range(2):
            model.graph.output.pop(1)
        check_node(model, feed)

    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    @pytest.mark.parametrize("axis", [-1, 1])
    @pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
    def test_norms_of_older_opsets(self, op: str, axis: int, dtype: Any) -> None:
        lengths = (8,) if axis == -1 else (3, 8)
        feed = {"x": images(2, 3, 8).astype(dtype), "scale": images(*lengths).astype(dtype)}
        check_node(node_model(op, feed, opset=15, axis=axis, epsilon=1e-3), feed, optimization="disabled")

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("sizes", [None, [6, 6, 10]])
    def test_attention(self, sizes: list[int] | None, bias: bool) -> None:
        columns = sum(sizes or [8, 8, 8])
        feed = {"x": images(2, 5, 8), "weights": images(8, columns), "bias": images(columns)}
        extra = {"mask": None, "past": None, "attention_bias": images(2, 2, 5, 5)} if bias else {}
        about = {"num_heads": 2, **({"qkv_hidden_sizes": sizes} if sizes else {})}
        given = {**feed, **extra}
        present = {n: a for n, a in given.items() if a is not None}
        check_node(node_model("Attention", given, wanted=["x"], domain=MICROSOFT, **about), {"x": present["x"]})

    @pytest.mark.parametrize("split", [False, True])
    def test_multi_head_attention(self, split: bool) -> None:
        keys = (2, 2, 7, 4) if split else (2, 7, 8)
        feed = {"q": images(2, 5, 8), "k": images(*keys, seed=1), "v": images(*keys, seed=2)}
        given = feed if split else {**feed, "bias": images(24)}
        model = node_model("MultiHeadAttention", given, wanted=list(feed), domain=MICROSOFT, num_heads=2, scale=0.3)
        check_node(model, feed)


def factor(letter: str, given: dict[str, int]) -> tuple[int, ...]:
    """The shape of a factor before it is transposed: (2, 3, 4, 5) @ (2, 3, 5, 6)."""
    shape = [2, 3, 4, 5] if letter == "A" else [2, 3, 5, 6]
    if given[f"trans{letter}"]:
        shape[2:] = shape[:1:-1]
    if given[f"transBatch{letter}"]:
        shape = [shape[2], *shape[:2], shape[3]]
    return tuple(shape)


class TestRefused:
    @pytest.mark.parametrize(
        ("op", "inputs", "about", "answer"),
        [
            ("NhwcMaxPool", {"x": whole(1, 4, 4, 3)}, {"kernel_shape": [2, 2]}, "save the model at a lower level"),
            ("Attention", {"x": images(2, 5, 8)}, {"num_heads": 2, "unidirectional": 1}, "unidirectional is not"),
            ("FusedGemm", {"a": images(2, 3)}, {"activation": "Mish"}, "activation is 'Mish'; expected one of Relu, "),
            ("MatMulIntegerToFloat", {"a": whole(2, 3)}, {}, "quantise the model statically"),
        ],
    )
    def test_with_an_answer(self, op: str, inputs: dict[str, Any], about: dict[str, Any], answer: str) -> None:
        loaded = load(node_model(op, inputs, domain=MICROSOFT, wanted=list(inputs), **about))
        with pytest.raises(MethodNotPossible, match=rf"{op} 'node' cannot be differentiated: .*{answer}"):
            unfold(loaded.model, list(loaded.model.graph))

    def test_masks(self) -> None:
        given = {"x": images(2, 5, 8), "w": images(8, 24), "b": images(24), "mask": np.int32([5, 4])}
        loaded = load(node_model("Attention", given, wanted=["x"], domain=MICROSOFT, num_heads=2))
        with pytest.raises(MethodNotPossible, match=r"a mask is not supported \(input 3\)"):
            unfold(loaded.model, list(loaded.model.graph))

    def test_statistics_that_are_read(self) -> None:
        given = {"x": images(2, 3, 8), "skip": images(2, 3, 8), "gamma": images(8)}
        loaded = load(node_model("SkipLayerNormalization", given, domain=MICROSOFT, outputs=2))
        with pytest.raises(MethodNotPossible, match="its statistics 'y1' are read"):
            unfold(loaded.model, list(loaded.model.graph))
