"""Arithmetic on tensors of a graph: each operation appends a node, so that a derivative reads as it does on paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    from camcore_onnx.gradients.pen import Pen

__all__ = ["STEEP", "Lengths", "Operand", "Tensor", "broadcast", "work_type"]

Lengths = tuple[int | None, ...]
STEEP = 2.0**100  # of a hard sigmoid that is a step
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def work_type(dtype: ir.DataType | None) -> ir.DataType:
    """In which type the gradient of a tensor is computed: half precision would lose what is small."""
    return ir.DataType.FLOAT if dtype is None or dtype in _HALVES else dtype


def broadcast(*shapes: Lengths) -> Lengths:
    """The shape of an elementwise result; None where a length is not fixed."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(_longest(lengths) for lengths in zip(*padded, strict=True))


def _longest(lengths: Sequence[int | None]) -> int | None:
    fixed = [n for n in lengths if n is not None and n != 1]
    return fixed[0] if fixed else None if None in lengths else 1


class Tensor:
    """A tensor of the graph: ``+ - * / ** > < >= <=`` and the methods append nodes.

    Attributes
    ----------
    value : ir.Value
    dtype : ir.DataType
    shape : tuple of int or None
        None for lengths that follow the batch or the size of the images.
    hot : Tensor or None
        Of an (R, K) tensor that is one at one place of each row and else zero: these places, (R, 1). A product with it
        then is a row of the other operand.
    """

    __slots__ = ("dtype", "hot", "pen", "shape", "value")

    def __init__(
        self, pen: Pen, value: ir.Value, dtype: ir.DataType, shape: Lengths, hot: Tensor | None = None
    ) -> None:
        self.pen, self.value, self.dtype, self.shape, self.hot = pen, value, dtype, shape, hot

    def __repr__(self) -> str:
        return f"Tensor({self.value.name!r}, {self.dtype.name}, {self.shape})"

    @property
    def rank(self) -> int:
        return len(self.shape)

    def _with(self, kind: str, other: Operand, *, swap: bool = False, dtype: ir.DataType | None = None) -> Tensor:
        right = self.pen.tensor(other, self.dtype)
        pair = (right, self) if swap else (self, right)
        return self.pen.op(kind, *pair, shape=broadcast(self.shape, right.shape), dtype=dtype or self.dtype)

    def __add__(self, other: Operand) -> Tensor:
        return self._with("Add", other)

    def __sub__(self, other: Operand) -> Tensor:
        return self._with("Sub", other)

    def __mul__(self, other: Operand) -> Tensor:
        return self if _is(other, 1) else self._with("Mul", other)

    def __truediv__(self, other: Operand) -> Tensor:
        return self if _is(other, 1) else self._with("Div", other)

    def __radd__(self, other: Operand) -> Tensor:
        return self._with("Add", other, swap=True)

    def __rsub__(self, other: Operand) -> Tensor:
        return self._with("Sub", other, swap=True)

    def __rmul__(self, other: Operand) -> Tensor:
        return self if _is(other, 1) else self._with("Mul", other, swap=True)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self.unary("Reciprocal") if _is(other, 1) else self._with("Div", other, swap=True)

    def __pow__(self, exponent: Operand) -> Tensor:
        return self._with("Pow", exponent)

    def __neg__(self) -> Tensor:
        return self.unary("Neg")

    def __gt__(self, other: Tensor | float) -> Tensor:
        return self._with("Greater", other, dtype=ir.DataType.BOOL)

    def __lt__(self, other: Tensor | float) -> Tensor:
        return self._with("Less", other, dtype=ir.DataType.BOOL)

    def __ge__(self, other: Tensor | float) -> Tensor:
        return (self < other).unary("Not")

    def __le__(self, other: Tensor | float) -> Tensor:
        return (self > other).unary("Not")

    def __and__(self, other: Tensor) -> Tensor:
        return self._with("And", other)

    def __or__(self, other: Tensor) -> Tensor:
        return self._with("Or", other)

    def above(self, bound: float = 0.0) -> Tensor:
        """1 where it is larger than a number, else 0, in its own type.

        A hard sigmoid, so steep that no float lies on its slope: runtimes take half the time for it that they take to
        compare and to cast.
        """
        return self._step(bound, 1)

    def below(self, bound: float) -> Tensor:
        """1 where it is smaller than a number, else 0; see :meth:`above`."""
        return self._step(bound, -1)

    def _step(self, bound: float, sign: int) -> Tensor:
        if self.dtype != ir.DataType.FLOAT or not (bound == 0 or STEEP**-0.5 < abs(bound) < 1e6):
            return (self > bound if sign > 0 else self < bound).cast(self.dtype)
        alpha = sign * (STEEP if bound else STEEP * 2.0**26)  # powers of two, so that nothing is rounded
        return self.unary("HardSigmoid", alpha=alpha, beta=-alpha * float(np.float32(bound)))

    def equals(self, other: Operand) -> Tensor:
        """Where two tensors are the same; floats are compared since opset 11 only."""
        if self.pen.opset >= 11 or self.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return self._with("Equal", other, dtype=ir.DataType.BOOL)
        right = self.pen.tensor(other, self.dtype)
        return ((self < right) | (self > right)).unary("Not")

    def unary(self, kind: str, **attributes: Any) -> Tensor:
        """An operator that keeps shape and type: ``unary("Sigmoid")``."""
        return self.pen.op(kind, self, shape=self.shape, dtype=self.dtype, **attributes)

    def where(self, yes: Operand, no: Operand) -> Tensor:
        """``yes`` where this mask is true, else ``no``; at least one of the two is a tensor."""
        dtype = next(o.dtype for o in (yes, no) if isinstance(o, Tensor))
        a, b = (self.pen.tensor(o, dtype) for o in (yes, no))
        return self.pen.op("Where", self, a, b, shape=broadcast(self.shape, a.shape, b.shape), dtype=dtype)

    def cast(self, dtype: ir.DataType) -> Tensor:
        if dtype == self.dtype:
            return self
        return self.pen.op("Cast", self, shape=self.shape, dtype=dtype, to=int(dtype))

    def transpose(self, *order: int) -> Tensor:
        if list(order) == list(range(self.rank)):
            return self
        return self.pen.op(
            "Transpose", self, shape=tuple(self.shape[a] for a in order), dtype=self.dtype, perm=list(order)
        )

    def sum(self, *axes: int, keep: bool = True) -> Tensor:
        """Over some axes; over none it is the tensor itself."""
        return self.reduce("ReduceSum", *axes, keep=keep)

    def mean(self, *axes: int, keep: bool = True) -> Tensor:
        return self.reduce("ReduceMean", *axes, keep=keep)

    def reduce(self, kind: str, *axes: int, keep: bool = True) -> Tensor:
        """``ReduceSum`` and its kin."""
        if not axes:
            return self
        there = {a % self.rank for a in axes}
        shape = tuple(1 if a in there else n for a, n in enumerate(self.shape) if keep or a not in there)
        inputs, attributes = self.pen.axes(kind, sorted(there))
        return self.pen.op(kind, self, *inputs, shape=shape, dtype=self.dtype, keepdims=int(keep), **attributes)

    def unsqueeze(self, *axes: int) -> Tensor:
        """New axes of length one, counted in the result."""
        rank = self.rank + len(axes)
        there, lengths = {a % rank for a in axes}, iter(self.shape)
        shape = tuple(1 if a in there else next(lengths) for a in range(rank))
        inputs, attributes = self.pen.axes("Unsqueeze", sorted(there))
        return self.pen.op("Unsqueeze", self, *inputs, shape=shape, dtype=self.dtype, **attributes) if axes else self

    def squeeze(self, *axes: int) -> Tensor:
        there = {a % self.rank for a in axes}
        shape = tuple(n for a, n in enumerate(self.shape) if a not in there)
        inputs, attributes = self.pen.axes("Squeeze", sorted(there))
        return self.pen.op("Squeeze", self, *inputs, shape=shape, dtype=self.dtype, **attributes) if axes else self

    def lengths(self) -> Tensor:
        """The shape as an int64 tensor; a constant where it is fixed."""
        if None not in self.shape:
            return self.pen.constant(np.array(self.shape, np.int64))
        return self.pen.op("Shape", self, shape=(self.rank,), dtype=ir.DataType.INT64)

    def length(self, axis: int) -> Tensor:
        """One length of the shape, as an int64 tensor of one number."""
        axis %= self.rank
        if self.shape[axis] is not None:
            return self.pen.constant(np.array([self.shape[axis]], np.int64))
        return self.pen.op(
            "Gather", self.lengths(), np.array([axis], np.int64), shape=(1,), dtype=ir.DataType.INT64, axis=0
        )

    def count(self, *axes: int) -> Tensor:
        """How many numbers lie along some axes, as a scalar of the tensor's type."""
        fixed = [n for n in (self.shape[a] for a in axes) if n is not None]
        if len(fixed) == len(axes):
            return self.pen.constant(np.array(np.prod(fixed, dtype=np.int64)), self.dtype)
        total = None
        for axis in axes:
            total = self.length(axis) if total is None else total * self.length(axis)
        assert total is not None  # some length is free
        return total.squeeze(0).cast(self.dtype)

    def reshape(self, *lengths: int | Tensor | None, shape: Lengths | None = None) -> Tensor:
        """To some lengths: numbers (one may be -1) or int64 tensors of one number.

        ``shape`` says what is known of the result where ``lengths`` do not.
        """
        known = tuple(n if isinstance(n, int) and n >= 0 else None for n in lengths)
        return self._shaped(self.pen.lengths(lengths), known if shape is None else shape)

    def _shaped(self, lengths: Tensor, shape: Lengths) -> Tensor:
        empty = 1 if 0 in shape and self.pen.opset >= 14 else None  # a zero would mean the length of the input
        return self.pen.op("Reshape", self, lengths, shape=shape, dtype=self.dtype, allowzero=empty)

    def like(self, other: Tensor) -> Tensor:
        """Reshaped to the shape of ``other``, which has as many numbers."""
        if self.shape == other.shape and self.shape.count(None) <= 1:
            return self
        if other.shape.count(None) > 1 or 0 in other.shape:
            return self._shaped(other.lengths(), other.shape)
        return self._shaped(self.pen.lengths([-1 if n is None else n for n in other.shape]), other.shape)

    def expand(self, other: Tensor) -> Tensor:
        """Repeated along axes of length one, to the shape of ``other``."""
        if self.shape == other.shape:
            return self
        return self.pen.op("Expand", self, other.lengths(), shape=other.shape, dtype=self.dtype)

    def slice(self, axis: int, start: int, end: int, step: int = 1) -> Tensor:
        """``x[start:end:step]`` along one axis, with fixed bounds, as in NumPy; steps may be negative (opset 10)."""
        axis %= self.rank
        whole = self.shape[axis]
        length = None if whole is None else len(range(*slice(start, end, step).indices(whole)))
        shape = (*self.shape[:axis], length, *self.shape[axis + 1 :])
        if self.pen.opset >= 10:
            bounds = [np.array([n], np.int64) for n in (start, end, axis, step)]
            return self.pen.op("Slice", self, *bounds, shape=shape, dtype=self.dtype)
        if step == 1:
            return self.pen.op("Slice", self, shape=shape, dtype=self.dtype, starts=[start], ends=[end], axes=[axis])
        assert whole is not None  # before opset 10 steps are gathered
        return self.gather(np.arange(*slice(start, end, step).indices(whole)), axis)

    def gather(self, indices: NDArray[Any] | Tensor, axis: int) -> Tensor:
        """``take`` along an axis."""
        axis %= self.rank
        where = self.pen.tensor(indices, ir.DataType.INT64)
        shape = (*self.shape[:axis], *where.shape, *self.shape[axis + 1 :])
        return self.pen.op("Gather", self, where, shape=shape, dtype=self.dtype, axis=axis)

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """With zeros at both ends of each axis; negative numbers cut off."""
        if not any(before) and not any(after):
            return self
        shape = tuple(None if n is None else n + a + b for n, a, b in zip(self.shape, before, after, strict=True))
        pads = [*before, *after]
        if self.pen.opset < 11:
            return self.pen.op("Pad", self, shape=shape, dtype=self.dtype, pads=pads)
        return self.pen.op("Pad", self, np.array(pads, np.int64), shape=shape, dtype=self.dtype)

    def matmul(self, other: Tensor) -> Tensor:
        """``self @ other`` of tensors with at least two axes."""
        batch = broadcast(self.shape[:-2], other.shape[:-2])
        shape = (*batch, self.shape[-2], other.shape[-1])
        return self.pen.op("MatMul", self, other, shape=shape, dtype=self.dtype)

    def turned(self) -> Tensor:
        """With the last two axes exchanged."""
        order = list(range(self.rank))
        return self.transpose(*order[:-2], order[-1], order[-2])


Operand = Tensor | float | int | NDArray[Any]


def _is(operand: Operand, number: float) -> bool:
    return isinstance(operand, (int, float)) and operand == number
