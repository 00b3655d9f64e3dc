"""The mean of a layer's gradient where one matrix reads its whole map: by the matrix summed over positions.

Grad-CAM asks for nothing but that mean. Behind the last convolution of VGG stands a matrix of 25088 columns; summed
over its 49 positions it has 512, and the backward pass reads 2 per cent of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.sweep import Way
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["FlatReader", "flat_reader"]


@dataclass(frozen=True, eq=False)
class FlatReader:
    """The matrix product that reads a layer's map as one row of ``channels * positions`` numbers.

    Attributes
    ----------
    node : ir.Node
        Gemm or MatMul.
    channels, positions : int
        Positions are those that the matrix reads, behind a pooling.
    """

    node: ir.Node
    channels: int
    positions: int

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    def mean(self, g: Tensor, layer: Tensor) -> Tensor:
        """The mean over positions of the layer's gradient (N, C, 1, ...), from the gradient of the product."""
        at = Step(self.node, g.pen)
        weights, space = at.x(1), [1] * (layer.rank - 2)
        if self.node.op_type == "Gemm" and at.attribute("transB", 0):
            summed = weights.reshape(weights.shape[0], self.channels, self.positions).sum(2, keep=False)
        else:
            summed = weights.reshape(self.channels, self.positions, weights.shape[1]).sum(1, keep=False).turned()
        pulled = g.expand(at.y()).matmul(summed) * float(at.attribute("alpha", 1.0))
        return pulled.unsqueeze(*range(2, 2 + len(space))) / layer.count(*range(2, layer.rank))


def flat_reader(way: Way, layer: ir.Value, pen: Pen) -> FlatReader | None:
    """What reads a layer's map as one row, with nothing between that changes the sum of a gradient over positions.

    A max pooling sends each number to one position, an average over places on the map shares it out: both keep the sum.
    """
    assert way.facts is not None  # the way is known
    channels, at, flat = way.facts.shape(layer)[1], layer, False
    while channels is not None:
        readers = {use.node for use in at.uses()} & set(way.nodes)
        node = readers.pop() if len(readers) == 1 else None
        if node is None or node.inputs[0] is not at or at in node.inputs[1:]:
            return None
        if flat and node.op_type in ("Gemm", "MatMul"):
            return _reader(Step(node, pen), channels)
        if not flat and node.op_type in ("Flatten", "Reshape"):
            flat = _is_flattened(way.facts.shape(at), way.facts.shape(node.outputs[0]), channels)
            if not flat:
                return None
        elif not _keeps_sums(Step(node, pen)):
            return None
        at = node.outputs[0]
    return None


def _reader(at: Step, channels: int) -> FlatReader | None:
    width = at.shape(0)[1]
    plain = at.rank(1) == 2 and not at.attribute("transA", 0) and None not in at.shape(1)
    return FlatReader(at.node, channels, width // channels) if plain and width is not None else None


def _is_flattened(before: tuple[int | None, ...], after: tuple[int | None, ...], channels: int) -> bool:
    fixed = [n for n in before[1:] if n is not None]
    return len(fixed) == len(before) - 1 and fixed[0] == channels and after[1:] == (prod(fixed),)


def _keeps_sums(at: Step) -> bool:
    if at.node.op_type == "AveragePool":
        counted = at.attribute("count_include_pad", 0) and any(at.attribute("pads", ()))
        return not counted and not at.attribute("ceil_mode", 0) and at.attribute("auto_pad", "NOTSET") == "NOTSET"
    return at.node.op_type in ("MaxPool", "Identity", "Dropout")
