"""Matrix products: what is linear in each of its operands."""

from __future__ import annotations

from typing import Any

from camcore_onnx.gradients.step import Step
from camcore_onnx.gradients.sweep import unbroadcast
from camcore_onnx.gradients.table import rule
from camcore_onnx.gradients.tensor import Tensor


@rule("MatMul")
def matmul(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = a b``: ``g b'`` and ``a' g``, summed over the axes in front along which an operand was repeated."""
    operand, (a, b) = at.x(i), (at.x(0), at.x(1))
    if i == 0 and g.hot is not None and b.rank == 2:
        return _row(b, g.hot, 1)
    if a.rank == 1:
        a, g = a.unsqueeze(0), g.unsqueeze(-1 if b.rank == 1 else -2)
    if b.rank == 1:
        b, g = b.unsqueeze(1), g.unsqueeze(-1)
    pulled = g.matmul(b.turned()) if i == 0 else _weights(a, b, g)
    whole = unbroadcast(pulled, a if i == 0 else b, pulled)
    return whole.squeeze(0 if i == 0 else 1) if operand.rank == 1 else whole


def _weights(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """``a' g``; where the other operand has no axes in front, its rows are all one batch."""
    if b.rank == 2 and a.rank > 2:
        width, count = a.shape[-1], g.shape[-1]
        if width is not None and count is not None:
            a, g = a.reshape(-1, width), g.reshape(-1, count)
    return a.turned().matmul(g)


@rule("Gemm")
def gemm(at: Step, g: Tensor, i: int) -> Tensor:
    """``y = alpha a b + beta c``, with a and b perhaps transposed: ``alpha g b'``, ``alpha a' g`` and ``beta g``."""
    a_turned, b_turned = int(at.attribute("transA", 0)), int(at.attribute("transB", 0))
    if i == 2:
        c = at.x(2)
        return unbroadcast(g * float(at.attribute("beta", 1.0)), c, g)
    a, b = at.x(0), at.x(1)
    if i == 0 and g.hot is not None and not a_turned:
        return _row(b, g.hot, 1 - b_turned) * float(at.attribute("alpha", 1.0))
    if i == 0:
        return _gemm(at, b, g, b_turned, 1) if a_turned else _gemm(at, g, b, 0, 1 - b_turned)
    return _gemm(at, g, a, 1, a_turned) if b_turned else _gemm(at, a, g, 1 - a_turned, 0)


def _row(weights: Tensor, places: Tensor, axis: int) -> Tensor:
    """The product of rows that are one at one place with a matrix: a row of it, or a column."""
    there = places < (weights.shape[axis] or 0)
    taken = weights.gather(there.where(places, 0).squeeze(1), axis)
    return (taken.turned() if axis else taken) * there.cast(weights.dtype)


def _gemm(at: Step, a: Tensor, b: Tensor, a_turned: int, b_turned: int) -> Tensor:
    """``alpha a b``; before opset 11 something must be added."""
    shape = (a.shape[1 if a_turned else 0], b.shape[0 if b_turned else 1])
    nothing = [at.pen.tensor(0.0, a.dtype)] if at.opset < 11 else []
    about: dict[str, Any] = {"alpha": float(at.attribute("alpha", 1.0)), "transA": a_turned, "transB": b_turned}
    return at.pen.op("Gemm", a, b, *nothing, shape=shape, dtype=a.dtype, **about)


@rule("Einsum", since=12)
def einsum(at: Step, g: Tensor, i: int) -> Tensor:
    """Sums of products over named axes: ``g`` and the other operands, summed to the axes of this one."""
    terms, out = _terms(at)
    mine = terms[i]
    others = [k for k in range(len(terms)) if k != i]
    known = set(out).union(*(terms[k] for k in others))
    kept = "".join(axis for axis in mine if axis in known)
    equation = ",".join([out, *(terms[k] for k in others)]) + "->" + kept
    shape = tuple(n for n, axis in zip(at.shape(i), mine, strict=True) if axis in known)
    operands = [g, *(at.x(k) for k in others)]
    pulled = at.pen.op("Einsum", *operands, shape=shape, dtype=g.dtype, equation=equation)
    return pulled.unsqueeze(*(a for a, axis in enumerate(mine) if axis not in known))


def _terms(at: Step) -> tuple[list[str], str]:
    """The axes of each operand and of the result, by letters."""
    left, arrow, out = at.attribute("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(axis for axis in set(left) - {","} if left.count(axis) == 1))
    if "." in left or any(len(set(term)) < len(term) for term in terms):
        at.refuse(f"the equation {at.attribute('equation')!r} has an ellipsis or takes a diagonal")
    for axis in set(left) - {","}:
        lengths = {at.shape(j)[term.index(axis)] for j, term in enumerate(terms) if axis in term}
        if len(lengths) > 1 and 1 in lengths:
            at.refuse(f"axis {axis!r} of the equation {at.attribute('equation')!r} is 1 long for some operands only")
    return terms, out
