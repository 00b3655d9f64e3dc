"""What to embed: checked before a graph is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from camcore.errors import InputError
from camcore.scores import top_count

__all__ = ["Heatmap", "Wanted", "wanted_classes", "wanted_heatmap", "wanted_name"]

Heatmap = str | tuple[int, ...] | None
_LARGEST = 1 << 14


@dataclass(frozen=True)
class Wanted:
    """An order for :func:`camcore_onnx.embed_cam`.

    Attributes
    ----------
    method : str
    layer : str or None
    classes : str
        ``"all"``, ``"top5"`` or ``"input"``.
    heatmap : "input", tuple of int or None
    name : str
        Of the output; ``name_classes``, ``name_scores`` and the input ``name_class`` go with it.
    target : str or None
    options : mapping
        Of the method.
    """

    method: str = "auto"
    layer: str | None = None
    classes: str = "top5"
    heatmap: Heatmap = None
    name: str = "cam"
    target: str | None = None
    options: Mapping[str, Any] | None = None

    @property
    def top(self) -> int:
        """How many of the best classes; 0 for the other kinds."""
        return top_count(self.classes)


def wanted_classes(classes: str, count: int | None) -> str:
    """``"all"``, ``"input"`` or ``"topK"`` with no more classes than there are."""
    if classes in ("all", "input"):
        return classes
    top = top_count(classes) if isinstance(classes, str) else 0
    if top < 1:
        raise InputError(f"classes is {classes!r}; expected 'all', 'input', or 'top5' for the best five")
    return f"top{min(top, count)}" if count else classes


def wanted_name(name: str) -> str:
    """The name of an output: some text."""
    if not isinstance(name, str) or not name:
        raise InputError(f"name is {name!r}; expected a text, such as 'cam'")
    return name


def wanted_heatmap(heatmap: str | Sequence[int] | None, axes: int) -> Heatmap:
    """``"input"``, or one length for each axis of the maps; a text such as ``"224x224"`` is read."""
    if heatmap is None or heatmap == "input":
        return heatmap
    try:
        size = tuple(map(int, heatmap.lower().split("x")) if isinstance(heatmap, str) else map(index, heatmap))
    except (ValueError, TypeError):
        size = ()
    if len(size) != axes or min(size, default=0) < 1 or max(size) > _LARGEST:
        example = "x".join(["224"] * axes)
        raise InputError(
            f"heatmap is {heatmap!r}; expected 'input', or {axes} lengths from 1 to {_LARGEST} such as '{example}'"
        )
    return size
