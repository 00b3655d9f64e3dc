"""Where a fused node is written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore_onnx.gradients.facts import Feed
from camcore_onnx.unfold.stating import state

__all__ = ["FORMS", "MICROSOFT", "Form", "Site", "form"]

MICROSOFT = "com.microsoft"
Operand = ir.Value | NDArray[Any] | None


class Site:
    """A node that is written out: new nodes go in front of it, and it becomes the last of them.

    Parameters
    ----------
    model : ir.Model
    node : ir.Node
        Of its graph.
    taken : set of str
        The names in the graph; those of new nodes and tensors are added.
    feeds : sequence of dict
        Inputs that the model runs on, for shapes that it does not state.
    """

    def __init__(self, model: ir.Model, node: ir.Node, taken: set[str], feeds: Sequence[Feed] = ()) -> None:
        self.model, self.node, self.taken, self.feeds = model, node, taken, feeds
        self.opset = int(model.opset_imports.get("", 0))

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    @property
    def inputs(self) -> list[ir.Value | None]:
        return list(self.node.inputs)

    def get(self, i: int) -> ir.Value | None:
        """Input ``i``, or None where it is absent."""
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def need(self, i: int) -> ir.Value:
        value = self.get(i)
        if value is None:
            self.refuse(f"it has no input {i}")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        if found is None:
            return default
        return found.as_string() if found.type == ir.AttributeType.STRING else found.value

    def attributes(self, *without: str) -> dict[str, Any]:
        """All attributes but some."""
        return {name: value for name, value in self.node.attributes.items() if name not in without}

    def refuse(self, why: str) -> NoReturn:
        """Say why this node cannot be written out."""
        name = self.node.name or self.node.outputs[0].name
        raise MethodNotPossible(f"{self.node.op_type} {name!r} cannot be differentiated: {why}")

    def refuse_inputs(self, *what: tuple[int, str]) -> None:
        """Refuse the node if one of some inputs is given."""
        for i, name in what:
            if self.get(i) is not None:
                self.refuse(f"{name} is not supported (input {i})")

    def refuse_outputs(self) -> None:
        """Refuse the node if more than its first output is read."""
        for value in self.node.outputs[1:]:
            if value.uses() or value.is_graph_output():
                self.refuse(f"its output {value.name!r} is read, which is not supported")

    def array(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The array of a stored tensor, or None."""
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()

    def stored(self, value: ir.Value | None, what: str) -> NDArray[Any]:
        found = self.array(value)
        if found is None:
            self.refuse(f"its {what} is computed; expected one that is stored")
        return found

    def shape(self, value: ir.Value) -> tuple[int | None, ...]:
        """The lengths of a tensor, None where they are not fixed."""
        self._state(value)
        if value.shape is None:
            self.refuse(f"the number of axes of {value.name!r} is not known; give feeds")
        return tuple(n if isinstance(n, int) else None for n in value.shape)

    def dtype(self, value: ir.Value) -> ir.DataType:
        """The type of a tensor; float32 where the graph does not tell."""
        self._state(value)
        return value.dtype or ir.DataType.FLOAT

    def _state(self, value: ir.Value) -> None:
        if value.shape is None or value.type is None:
            folded = [node for node in self.graph if (node.domain, node.op_type) in FORMS]
            state(self.model, [value, *(v for node in folded for v in node.inputs if v is not None)], self.feeds)

    def number(self, number: float, like: ir.Value) -> NDArray[Any]:
        """A number in the type of a tensor."""
        return np.asarray(number).astype(self.dtype(like).numpy())

    def op(self, kind: str, *inputs: Operand, domain: str = "", **attributes: Any) -> ir.Value:
        """Put a node of one output in front; None among the attributes leaves one out."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, number: int, *inputs: Operand, domain: str = "", **attributes: Any) -> list[ir.Value]:
        """Put a node of several outputs in front."""
        name = self.name(kind)
        outputs = [ir.Value(name=name if i == 0 else f"{name}/{i}") for i in range(number)]
        node = ir.Node(domain, kind, [self._value(v) for v in inputs], _wrapped(attributes), outputs=outputs, name=name)
        node.metadata_props.update(self.node.metadata_props)
        self.graph.insert_before(self.node, node)
        return outputs

    def become(self, kind: str, *inputs: Operand, domain: str = "", **attributes: Any) -> None:
        """Make the node itself another one, with the same first output."""
        values = [self._value(v) for v in inputs]
        self.node.resize_inputs(len(values))
        for i, value in enumerate(values):
            self.node.replace_input_with(i, value)
        self.node.attributes.clear()
        self.node.attributes.update({a.name: a for a in _wrapped(attributes)})
        self.node.op_type, self.node.domain, self.node.version = kind, domain, None
        self.node.resize_outputs(1)

    def give(self, i: int, value: ir.Value) -> None:
        """Take over the readers and the name of output ``i``."""
        old = self.node.outputs[i] if i < len(self.node.outputs) else None
        if old is None or not (old.uses() or old.is_graph_output()):
            return
        value.type, value.shape = old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        old.name, value.name = self.name("unread"), old.name

    def name(self, kind: str) -> str:
        """A name that is not taken: ``conv1/Conv``, ``conv1/Conv_2``."""
        stem = f"{self.node.name or self.node.outputs[0].name}/{kind}"
        name = next(name for name in chain([stem], (f"{stem}_{i}" for i in count(2))) if name not in self.taken)
        self.taken.add(name)
        return name

    def _value(self, operand: Operand) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        name = self.name("constant")
        stored = ir.tensor(operand, name=name)
        value = ir.Value(name=name, const_value=stored, type=ir.TensorType(stored.dtype), shape=ir.Shape(operand.shape))
        self.graph.register_initializer(value)
        return value


def _wrapped(attributes: dict[str, Any]) -> list[ir.Attr]:
    given = {name: value for name, value in attributes.items() if value is not None}
    ready = [value for value in given.values() if isinstance(value, ir.Attr)]
    return ready + list(
        ir.convenience.convert_attributes({n: v for n, v in given.items() if not isinstance(v, ir.Attr)})
    )


Form = Callable[[Site], None]
FORMS: dict[tuple[str, str], Form] = {}


def form(*ops: str, domain: str = MICROSOFT) -> Callable[[Form], Form]:
    """Decorator that enters how operators are written out."""

    def enter(write: Form) -> Form:
        for op in ops:
            FORMS[domain, op] = write
        return write

    return enter
