"""Multiply-accumulates of one ONNX operator, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

__all__ = ["MULTIPLIES", "Unknown", "macs_of"]

Shape = tuple[int, ...]
Shapes = Mapping[ir.Value, Shape]
Rule = Callable[["Site"], int]
RULES: dict[str, Rule] = {}
UNCOUNTED = frozenset(
    {
        *("QMoE", "MoE", "GroupQueryAttention", "PagedAttention", "PackedAttention", "PackedMultiHeadAttention"),
        *("DecoderAttention", "DecoderMaskedMultiHeadAttention", "LongformerAttention", "SparseAttention"),
        *("RelativePositionBias", "GatedRelativePositionBias", "LinearAttention", "CausalConvWithState"),
        *("DFT", "STFT", "SVMClassifier", "SVMRegressor", "LinearClassifier", "LinearRegressor"),
    }
)
"""Operators that multiply, and that no rule is known of."""


class Unknown(Exception):
    """Shapes are missing, or no rule fits."""


class Site:
    """A node with the shapes around it."""

    def __init__(self, node: ir.Node, shapes: Shapes) -> None:
        self.node, self._shapes = node, shapes

    def input(self, i: int) -> Shape:
        """The shape of an input."""
        value = self.node.inputs[i] if i < len(self.node.inputs) else None
        if value is None or value not in self._shapes:
            raise Unknown
        return self._shapes[value]

    def output(self) -> Shape:
        """The shape of the first output."""
        if self.node.outputs[0] not in self._shapes:
            raise Unknown
        return self._shapes[self.node.outputs[0]]

    def text(self, name: str) -> str:
        return self.node.attributes.get_string(name, "") or ""

    def number(self, name: str, default: int = 0) -> int:
        return self.node.attributes.get_int(name, default) or 0


def macs_of(node: ir.Node, shapes: Shapes) -> int:
    """Multiply-accumulates of a node.

    Parameters
    ----------
    node : ir.Node
    shapes : mapping
        Of its inputs and outputs, as far as known.

    Raises
    ------
    Unknown
        For missing shapes, operators without a rule that multiply, and graphs inside that do.
    """
    rule = RULES.get(node.op_type)
    if rule is not None:
        try:
            return rule(Site(node, shapes))
        except (IndexError, ValueError) as error:  # ranks that the operator does not take
            raise Unknown from error
    if node.op_type in UNCOUNTED or any(n.op_type in MULTIPLIES for n in _inner(node)):
        raise Unknown
    return 0


def _inner(node: ir.Node) -> list[ir.Node]:
    """The nodes of the graphs inside: which of them run, and how often, depends on the image."""
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.as_graphs()
    return [n for graph in graphs for n in ir.traversal.RecursiveGraphIterator(graph)]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for some operators."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


@rule("Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "DeformConv")
def _conv(site: Site) -> int:
    """Each number of the output is a sum over the channels of its group and the kernel: the weight's (M, C/g, *k)."""
    return math.prod(site.output()) * math.prod(site.input(1)[1:])


@rule("QLinearConv")
def _quantized_conv(site: Site) -> int:
    return math.prod(site.output()) * math.prod(site.input(3)[1:])


@rule("ConvTranspose", "ConvTransposeWithDynamicPads")
def _transposed(site: Site) -> int:
    """Each number of the input is spread over (M/g, *k)."""
    return math.prod(site.input(0)) * math.prod(site.input(1)[1:])


@rule("Gemm", "FusedGemm", "QGemm")
def _gemm(site: Site) -> int:
    return math.prod(site.output()) * site.input(0)[0 if site.number("transA") else 1]


@rule("MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "MatMulInteger", "MatMulIntegerToFloat")
@rule("DynamicQuantizeMatMul", "QLinearMatMul", "GemmFastGelu")
def _matmul(site: Site) -> int:
    first = site.input(0)
    return math.prod(site.output()) * (first[-2] if site.number("transA") and len(first) > 1 else first[-1])


@rule("MatMulNBits", "MatMulBnb4", "MatMulFpQ4")
def _packed_weights(site: Site) -> int:
    return math.prod(site.output()) * site.input(0)[-1]


@rule("Einsum")
def _einsum(site: Site) -> int:
    """Every combination of indices is one product; with one operand there is none."""
    terms = site.text("equation").replace(" ", "").partition("->")[0].split(",")
    if len(terms) == 1:
        return 0
    if len(terms) > 2 or "." in "".join(terms):
        raise Unknown
    lengths: dict[str, int] = {}
    for i, term in enumerate(terms):
        for index, length in zip(term, site.input(i), strict=True):
            lengths[index] = max(length, lengths.get(index, 1))
    return math.prod(lengths.values())


@rule("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
def _recurrent(site: Site) -> int:
    """Every step multiplies the input by ``W`` and the state by ``R``, each (D, gates * H, ...), in every direction."""
    steps = math.prod(site.input(0)[:2])
    return steps * (math.prod(site.input(1)) + math.prod(site.input(2)))


@rule("Attention", "QAttention")
def _attention(site: Site) -> int:
    """That of onnx takes queries, keys and values; that of ONNX Runtime makes them, by a weight of its own."""
    if site.node.domain == "com.microsoft":
        batch, length, width = site.input(0)
        *_, hidden = site.output()
        return batch * length * width * site.input(1)[-1] + 2 * batch * length * length * hidden
    return _products(site.input(0), site.input(1), site.output())


@rule("MultiHeadAttention")
def _multi_head(site: Site) -> int:
    queries = site.input(0)
    if len(queries) == 5:  # (N, L, heads, 3, d): keys and values are packed with them
        return _products((*queries[:3], queries[-1]), queries[:2], site.output(), length=queries[1])
    return _products(queries, site.input(1), site.output())


def _products(queries: Shape, keys: Shape, output: Shape, *, length: int | None = None) -> int:
    """``softmax(q k') v``: each query meets each key, and each output each value."""
    return (keys[-2] if length is None else length) * (math.prod(queries) + math.prod(output))


MULTIPLIES = frozenset(RULES) | UNCOUNTED
"""Operators whose tensors' shapes are needed."""
