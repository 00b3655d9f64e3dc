"""What a graph states of the shapes of its tensors."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

__all__ = ["channels_of", "is_one", "lengths_of", "rank_of", "space_of"]


def lengths_of(value: ir.Value) -> tuple[int | str | None, ...]:
    """The shape, with the names of free lengths; empty where the rank is not known."""
    return tuple(n if isinstance(n, int) else n.value for n in value.shape or ())


def rank_of(value: ir.Value) -> int:
    """The number of axes; 0 where it is not known."""
    return len(value.shape or ())


def space_of(value: ir.Value) -> tuple[Any, ...] | None:
    """The spatial lengths of an (N, C, *S) value, int or None each; None where the rank is unknown or below 3."""
    if value.shape is None or len(value.shape) < 3:
        return None
    return tuple(n if isinstance(n, int) else None for n in value.shape[2:])


def channels_of(value: ir.Value, axis: int = 1) -> int | None:
    """The length of the channel axis, where it is fixed."""
    if value.shape is None or len(value.shape) <= axis:
        return None
    n = value.shape[axis]
    return n if isinstance(n, int) else None


def is_one(n: Any) -> bool:
    """Whether a length is fixed and one."""
    return isinstance(n, int) and n == 1
