"""What a drawing of a graph consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

__all__ = ["Box", "Edge", "Picture", "title_of"]


@dataclass(eq=False)
class Box:
    """Some nodes in a row, mostly one; or an input, an output, or all that lies in front.

    Attributes
    ----------
    kind : {"node", "input", "output", "front"}
    role : {"trunk", "head", "cam", "tail"}
        What part of the network it belongs to.
    title, name : str
        The operator, and the node's own name.
    details : list of str
        Attributes and weights, a line each.
    macs : int
        For one image.
    """

    kind: str
    role: str
    title: str
    name: str = ""
    details: list[str] = field(default_factory=list)
    macs: int = 0
    nodes: tuple[ir.Node, ...] = ()


@dataclass(frozen=True, eq=False)
class Edge:
    """A tensor on its way from a box to another; ``mark`` is ``"features"`` or ``"scores"`` where it is these."""

    source: int
    target: int
    name: str
    shape: str
    type: str
    mark: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """Boxes in an order in which every edge goes to a later one."""

    boxes: Sequence[Box]
    edges: Sequence[Edge]


def title_of(node: ir.Node) -> str:
    """The operator, with the kernel and the stride where it has some."""
    kernel = node.attributes.get_ints("kernel_shape")
    strides = node.attributes.get_ints("strides")
    parts = [node.op_type]
    if kernel:
        parts.append("×".join(map(str, kernel)))
    if strides and max(strides) > 1:
        parts.append("/" + ("×".join(map(str, strides)) if len(set(strides)) > 1 else str(strides[0])))
    return " ".join(parts)
