"""What a rule sees of the node that it differentiates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Lengths, Tensor

__all__ = ["Step"]


@dataclass(frozen=True, eq=False)
class Step:
    """A node of the forward graph, where its derivative is written.

    Attributes
    ----------
    node : ir.Node
    pen : Pen
    gradients : sequence of Tensor or None
        Of each output of the node; None where it does not matter for the score.
    wanted : collection of ir.Value
        The tensors whose gradient is asked for: each needs its own share.
    """

    node: ir.Node
    pen: Pen
    gradients: Sequence[Tensor | None] = ()
    wanted: Collection[ir.Value] = ()

    @property
    def opset(self) -> int:
        return self.pen.opset

    def has(self, i: int) -> bool:
        """Whether the node has an input ``i``."""
        return i < len(self.node.inputs) and self.node.inputs[i] is not None

    def value(self, i: int = 0) -> ir.Value:
        value = self.node.inputs[i] if self.has(i) else None
        if value is None:
            self.refuse(f"it has no input {i}")
        return value

    def x(self, i: int = 0) -> Tensor:
        """Input ``i`` of the forward pass; half precision as float32."""
        return self.pen.read(self.value(i))

    def bare(self, i: int = 0) -> Tensor:
        """Input ``i`` in its own type: for its lengths, or to copy it."""
        value = self.value(i)
        return Tensor(self.pen, value, self.pen.facts.dtype(value), self.pen.facts.shape(value))

    def y(self, i: int = 0) -> Tensor:
        """Output ``i`` of the forward pass; half precision as float32."""
        return self.pen.read(self.node.outputs[i])

    def shape(self, i: int = 0) -> Lengths:
        """The lengths of input ``i``, None for those that follow the images."""
        return self.pen.facts.shape(self.value(i))

    def rank(self, i: int = 0) -> int:
        return len(self.shape(i))

    def constant(self, i: int) -> NDArray[Any] | None:
        """The array of input ``i`` where it is the same for all images; None where it is not, or absent."""
        return self.pen.facts.number(self.node.inputs[i]) if self.has(i) else None

    def need(self, i: int, what: str) -> NDArray[Any]:
        """The array of an input, which must be the same for all images."""
        found = self.constant(i)
        if found is None:
            self.refuse(f"its {what} depend on the image")
        return found

    def ints(self, name: str, i: int) -> list[int] | None:
        """Whole numbers that are an attribute in old opsets and input ``i`` in new ones; None where absent."""
        if self.attribute(name) is not None:
            given = self.attribute(name)
            return [int(n) for n in given] if isinstance(given, Sequence) else [int(given)]
        return [int(n) for n in self.need(i, name).reshape(-1)] if self.has(i) else None

    def axes(self, i: int = 1) -> list[int]:
        """The ``axes`` of a reduction or a squeeze, counted from the front; all where they are absent."""
        found = self.ints("axes", i)
        rank = self.rank()
        return sorted(a % rank for a in found) if found is not None else list(range(rank))

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        if found is None:
            return default
        return found.as_string() if found.type == ir.AttributeType.STRING else found.value

    def refuse(self, why: str) -> NoReturn:
        """Say why this node cannot be differentiated."""
        name = self.node.name or self.node.outputs[0].name
        raise MethodNotPossible(f"{self.node.op_type} {name!r} cannot be differentiated: {why}")
