"""Write nodes into a graph: each only once, with names that tell where they belong, in the operators of its opset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.tensor import Lengths, Operand, Tensor, work_type

__all__ = ["Pen"]

_AXES_BY_INPUT = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}
_REDUCTIONS_BY_INPUT = 18  # all others
_SMALL = 4096  # constants of at most so many bytes are looked up, not stored twice


class Pen:
    """Writes nodes into a graph, each only once: what was computed before is taken again.

    Parameters
    ----------
    graph : ir.Graph
        It is changed: nodes are appended, and constants stored.
    facts : Facts
        Shapes and types of its tensors.

    Attributes
    ----------
    scope : str
        What the names of nodes begin with.
    """

    def __init__(self, graph: ir.Graph, facts: Facts) -> None:
        self.graph, self.facts, self.scope = graph, facts, "grad"
        self.opset: int = graph.opset_imports.get("", 0)
        self._made: dict[Any, list[Tensor]] = {}
        self._constants: dict[Any, Tensor] = {}
        self._floats: dict[ir.Value, Tensor] = {}
        self._counts: Counter[str] = Counter()
        values = {v.name for node in graph for v in node.outputs}
        self._taken = values | {v.name for v in graph.inputs} | set(graph.initializers) | {n.name for n in graph}

    def read(self, value: ir.Value) -> Tensor:
        """A tensor of the graph as it came; half precision as float32, integers as they are."""
        dtype = self.facts.dtype(value)
        if value not in self._floats and self.facts.is_dequantized(value):
            stored = np.asarray(self.facts.number(value))
            self._floats[value] = self.constant(stored, work_type(ir.DataType.from_numpy(stored.dtype)))
        if value in self._floats:
            return self._floats[value]
        tensor = Tensor(self, value, dtype, self.facts.shape(value))
        return tensor.cast(work_type(dtype))

    def op(
        self,
        kind: str,
        *inputs: Operand | None,
        shape: Lengths,
        dtype: ir.DataType = ir.DataType.FLOAT,
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """Append a node of one output.

        Parameters
        ----------
        kind : str
            The operator.
        *inputs : Tensor, ndarray or None
            Arrays are stored; None leaves an optional input out.
        shape, dtype
            Of the result.
        **attributes
            Of the node; None is left out.
        """
        return self.ops(kind, 1, *inputs, shapes=[shape], dtypes=[dtype], domain=domain, **attributes)[0]

    def ops(
        self,
        kind: str,
        count: int,
        *inputs: Operand | None,
        shapes: Sequence[Lengths],
        dtypes: Sequence[ir.DataType] = (),
        domain: str = "",
        **attributes: Any,
    ) -> list[Tensor]:
        """Append a node of several outputs; see :meth:`op`."""
        read = [None if i is None else self.tensor(i).value for i in inputs]
        given = {name: value for name, value in attributes.items() if value is not None}
        key = (kind, domain, tuple(read), repr(sorted(given.items())), count)
        if key not in self._made:
            name = self.name(kind)
            outputs = [ir.Value(name=name if i == 0 else self.name(f"{kind}_{i}")) for i in range(count)]
            wrapped = ir.convenience.convert_attributes(given)
            self.graph.append(ir.Node(domain, kind, read, wrapped, outputs=outputs, name=name))
            types = list(dtypes) or [ir.DataType.FLOAT] * count
            for output, dtype in zip(outputs, types, strict=True):
                output.type = ir.TensorType(dtype)
            self._made[key] = [Tensor(self, *v) for v in zip(outputs, types, shapes, strict=True)]
        return self._made[key]

    def name(self, kind: str) -> str:
        """A name that is not taken yet: ``grad/layer4/Conv``, ``grad/layer4/Conv_2``."""
        wanted = f"{self.scope}/{kind}"
        while True:
            self._counts[wanted] += 1
            count = self._counts[wanted]
            name = wanted if count == 1 else f"{wanted}_{count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def tensor(self, operand: Operand, dtype: ir.DataType | None = None) -> Tensor:
        """An operand as a tensor: numbers and arrays are stored, in ``dtype`` or their own."""
        return operand if isinstance(operand, Tensor) else self.constant(np.asarray(operand), dtype)

    def constant(self, array: NDArray[Any], dtype: ir.DataType | None = None) -> Tensor:
        """Store an array, in ``dtype`` or its own."""
        array = array if dtype is None else array.astype(dtype.numpy())
        key = (array.dtype, array.shape, array.tobytes()) if array.nbytes <= _SMALL else object()
        if key not in self._constants:
            name = self.name("constant")
            stored = ir.tensor(array, name=name)
            value = ir.Value(
                name=name, const_value=stored, type=ir.TensorType(stored.dtype), shape=ir.Shape(array.shape)
            )
            self.graph.register_initializer(value)
            self._constants[key] = Tensor(self, value, stored.dtype, tuple(array.shape))
        return self._constants[key]

    def lengths(self, lengths: Sequence[int | Tensor | None]) -> Tensor:
        """Numbers and int64 tensors of one number, joined to one tensor."""
        if all(isinstance(n, int) for n in lengths):
            return self.constant(np.array(lengths, np.int64))
        parts = [n if isinstance(n, Tensor) else np.array([n], np.int64) for n in lengths]
        return self.concat([self.tensor(p, ir.DataType.INT64) for p in parts], 0)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Joined along an axis."""
        first = parts[0]
        axis %= first.rank
        along = [part.shape[axis] for part in parts]
        total = None if None in along else sum(n for n in along if n is not None)
        shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
        return first if len(parts) == 1 else self.op("Concat", *parts, shape=shape, dtype=first.dtype, axis=axis)

    def zeros(self, like: Tensor) -> Tensor:
        """As many zeros as ``like`` has numbers, of its type."""
        return self.constant(np.zeros(()), like.dtype).expand(like)

    def axes(self, kind: str, axes: Sequence[int]) -> tuple[list[Operand], Mapping[str, Any]]:
        """Axes are an attribute in old opsets and an input in new ones."""
        if self.opset >= _AXES_BY_INPUT.get(kind, _REDUCTIONS_BY_INPUT):
            return [np.array(axes, np.int64)], {}
        return [], {"axes": list(axes)}
