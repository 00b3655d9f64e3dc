"""Each rule against a count of its products, one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import onnx_ir as ir
import pytest
from camcore_onnx.counting.macs import MULTIPLIES, RULES, Unknown, macs_of


def node(op: str, *inputs: tuple[int, ...] | None, out: tuple[int, ...], domain: str = "", **attributes: Any) -> int:
    """The multiply-accumulates of an operator between tensors of these shapes."""
    values = [None if s is None else ir.Value(name=f"i{i}", shape=ir.Shape(s)) for i, s in enumerate(inputs)]
    made = ir.node(op, values, attributes, domain=domain, num_outputs=1)
    shapes = {v: s for v, s in zip(values, inputs, strict=True) if v is not None and s is not None}
    return macs_of(made, shapes | {made.outputs[0]: out})


def conv_by_hand(
    batch: int, inside: int, outside: int, out: tuple[int, ...], kernel: tuple[int, ...], groups: int
) -> int:
    """One product for each output number, channel of its group and place in the kernel."""
    places = product(range(batch), range(outside), *map(range, out), range(inside // groups), *map(range, kernel))
    return sum(1 for _ in places)


@pytest.mark.parametrize(("groups", "out", "kernel"), [(1, (4, 5), (3, 2)), (2, (4, 5), (1, 1)), (4, (7,), (3,))])
def test_convolutions(groups: int, out: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    expected = conv_by_hand(2, 4, 8, out, kernel, groups)
    weight, image = (8, 4 // groups, *kernel), (2, 4, *(9,) * len(out))
    assert node("Conv", image, weight, (8,), out=(2, 8, *out), group=groups) == expected
    assert node("FusedConv", image, weight, (8,), out=(2, 8, *out), domain="com.microsoft") == expected
    assert node("ConvInteger", image, weight, out=(2, 8, *out)) == expected
    assert node("QLinearConv", image, (), (), weight, (), (), (), (), (8,), out=(2, 8, *out)) == expected


def test_transposed_convolution() -> None:
    """Each number that comes in is multiplied with the kernel of each channel that goes out."""
    expected = sum(1 for _ in product(range(2), range(6), range(3), range(4), range(5), range(2), range(2)))
    assert node("ConvTranspose", (2, 6, 3, 4), (6, 5, 2, 2), out=(2, 5, 6, 8), strides=[2, 2]) == expected


@pytest.mark.parametrize("turned", [0, 1])
def test_products_of_matrices(turned: int) -> None:
    a = (7, 3) if turned else (3, 7)
    assert node("Gemm", a, (7, 5), (5,), out=(3, 5), transA=turned) == 3 * 7 * 5
    assert node("FusedMatMul", a, (7, 5), out=(3, 5), domain="com.microsoft", transA=turned) == 3 * 7 * 5


def test_products_over_a_batch() -> None:
    assert node("MatMul", (2, 1, 3, 7), (4, 7, 5), out=(2, 4, 3, 5)) == 2 * 4 * 3 * 7 * 5
    assert node("MatMul", (7,), (7,), out=()) == 7
    assert node("QLinearMatMul", (3, 7), (), (), (7, 5), (), (), (), (), out=(3, 5)) == 3 * 7 * 5
    assert node("MatMulNBits", (2, 3, 64), (5, 2, 16), (5, 2), out=(2, 3, 5), domain="com.microsoft") == 2 * 3 * 64 * 5


def test_sums_over_indices() -> None:
    assert node("Einsum", (2, 3, 7), (2, 7, 5), out=(2, 3, 5), equation="bij,bjk->bik") == 2 * 3 * 7 * 5
    assert node("Einsum", (3, 4), out=(4, 3), equation="ij->ji") == 0
    for equation in ("ij,jk,kl->il", "...ij,...jk->...ik"):
        with pytest.raises(Unknown):
            node("Einsum", *[(3, 3)] * equation.count("j"), out=(3, 3), equation=equation)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(op: str, gates: int) -> None:
    """Every step and direction: gates of the input and of the state."""
    steps, batch, width, hidden = 6, 2, 5, 7
    weights = ((2, gates * hidden, width), (2, gates * hidden, hidden))
    expected = steps * batch * 2 * gates * (hidden * width + hidden * hidden)
    assert node(op, (steps, batch, width), *weights, out=(steps, 2, batch, hidden)) == expected


def test_attention() -> None:
    """Queries meet keys, weights meet values; ONNX Runtime's own operator makes all three first."""
    tokens, others, heads, d = 5, 9, 2, 4
    expected = heads * tokens * others * (d + d)
    assert node("Attention", (1, heads, tokens, d), (1, heads, others, d), out=(1, heads, tokens, d)) == expected
    flat = ((1, tokens, heads * d), (1, others, heads * d), (1, others, heads * d))
    assert node("MultiHeadAttention", *flat, out=flat[0], domain="com.microsoft") == expected
    packed = (1, tokens, heads, 3, d)
    assert node("MultiHeadAttention", packed, out=flat[0], domain="com.microsoft") == heads * tokens * tokens * (d + d)
    made = tokens * 8 * 24 + 2 * heads * tokens * tokens * d
    assert node("Attention", (1, tokens, 8), (8, 24), (24,), out=(1, tokens, 8), domain="com.microsoft") == made


def test_what_does_not_multiply() -> None:
    for op in ("Relu", "Add", "MaxPool", "GlobalAveragePool", "BatchNormalization", "Resize", "Softmax"):
        assert op not in MULTIPLIES
        assert node(op, (1, 2, 3, 3), out=(1, 2, 3, 3)) == 0


def test_what_is_not_known() -> None:
    """No count is better than a wrong one."""
    for op in ("GroupQueryAttention", "MoE", "DFT"):
        with pytest.raises(Unknown):
            node(op, (1, 2, 3), out=(1, 2, 3))
    lone = ir.node("Conv", [ir.Value(name="x"), ir.Value(name="w")])
    with pytest.raises(Unknown):
        macs_of(lone, {})
    with pytest.raises(Unknown):  # a rank that the operator does not take
        node("Gemm", (3,), (3, 4), out=(4,))


@pytest.mark.parametrize("op", ["Loop", "If", "Scan"])
def test_graphs_inside(op: str) -> None:
    """How often they run depends on the image."""
    x = ir.Value(name="x", shape=ir.Shape([1, 3]))
    for inner, known in (("Relu", True), ("MatMul", False)):
        made = ir.node(inner, [x] if inner == "Relu" else [x, x])
        body = ir.Graph([], [made.outputs[0]], nodes=[made], name="body")
        holder = ir.node(op, [x], {"body": body})
        if known:
            assert macs_of(holder, {}) == 0
        else:
            with pytest.raises(Unknown):
                macs_of(holder, {})


def test_every_rule_is_tested() -> None:
    """The names here and in the table are the same operators."""
    same = {
        "NhwcFusedConv",
        "DeformConv",
        "ConvTransposeWithDynamicPads",
        "FusedGemm",
        "QGemm",
        "FusedMatMulActivation",
    }
    same |= {"TransposeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "GemmFastGelu"}
    same |= {"MatMulBnb4", "MatMulFpQ4", "DynamicQuantizeLSTM", "QAttention"}
    here = {"Conv", "FusedConv", "ConvInteger", "QLinearConv", "ConvTranspose", "Gemm", "FusedMatMul", "MatMul"}
    here |= {"QLinearMatMul", "MatMulNBits", "Einsum", "LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"}
    assert set(RULES) == same | here
    for name in sorted(same - {"QAttention", "QGemm", "DynamicQuantizeLSTM", "ConvTransposeWithDynamicPads"}):
        twin = "Conv" if "Conv" in name else "Gemm" if name == "FusedGemm" else "MatMul"
        shapes = ((1, 3, 8, 8), (4, 3, 3, 3)) if twin == "Conv" else ((3, 7), (7, 5))
        out = (1, 4, 6, 6) if twin == "Conv" else (3, 5)
        assert node(name, *shapes, out=out, domain="com.microsoft") == node(twin, *shapes, out=out)
    assert (node("QGemm", (3, 7), (), (), (7, 5), out=(3, 5), domain="com.microsoft")) == 3 * 7 * 5
