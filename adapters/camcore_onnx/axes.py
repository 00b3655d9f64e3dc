"""How each tensor of a model holds its maps: told by the graph, by the head that reads it, by the user, or by a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import onnx_ir as ir

from camcore.errors import InputError
from camcore.layout import Layout
from camcore_onnx.constants import Constants
from camcore_onnx.heads import Found
from camcore_onnx.layouts import axis_of_channels, layout_of
from camcore_onnx.shapes import lengths_of, rank_of

__all__ = ["Axes", "is_map"]


class Axes:
    """The layouts of a model's tensors, each found once; safe for threads.

    Parameters
    ----------
    found : Found
        What the pooling of its head says goes before all else.
    constants : Constants
    grid, prefix
        What the user says of tokens; see :class:`camcore_onnx.OnnxBackend`.
    """

    def __init__(
        self, found: Found, constants: Constants, *, grid: Sequence[int] | None = None, prefix: int | None = None
    ) -> None:
        self._found, self._constants = found, constants
        self._grid, self._prefix = grid, prefix
        self._layouts: dict[tuple[ir.Value, int | None, tuple[int, ...]], Layout] = {}

    def of(self, value: ir.Value, tokens: int | None = None, image: tuple[int, ...] = ()) -> Layout:
        """The layout of a tensor.

        Parameters
        ----------
        value : ir.Value
        tokens : int, optional
            The length of its axis 1, as a run has shown; needed where it is a row of tokens and the graph does not
            state how many.
        image : tuple of int
            Spatial lengths of the images of that run.

        Raises
        ------
        InputError
            If it is a row of tokens whose grid cannot be told.
        """
        key = (value, tokens, image)
        if key not in self._layouts:
            read = self._found.head is not None and self._found.reads(value)
            self._layouts[key] = self._pooled(value, tokens, image) if read else self._layout(value, tokens, image)
        return self._layouts[key]

    def pools_prefix(self, value: ir.Value) -> bool:
        """Whether tokens that are not of the picture lie among those that the head pools, as far as is known by now."""
        if self._found.head is None or not self._found.reads(value):
            return False
        with suppress(InputError):
            self.of(value)
        return any(layout.prefix for (known, _, _), layout in list(self._layouts.items()) if known is value)

    def is_row(self, value: ir.Value) -> bool:
        """Whether a tensor is a row of tokens, (N, T, C)."""
        return rank_of(value) == 3 and axis_of_channels(value, self._constants) == 2

    def shape(self, value: ir.Value) -> tuple[int | None, ...]:
        """(C, *S) as far as the graph states it; empty where a tensor is not known to hold maps."""
        native = tuple(n if isinstance(n, int) else None for n in lengths_of(value))[1:]
        if len(native) < 2 or axis_of_channels(value, self._constants) not in (1, len(native)):
            return ()
        try:
            return self.of(value).shape(native)
        except InputError:
            return ()

    def _layout(self, value: ir.Value, tokens: int | None, image: tuple[int, ...]) -> Layout:
        return layout_of(
            value, self._constants, grid=self._grid, prefix=self._prefix, tokens=tokens, image=image or None
        )

    def _pooled(self, value: ir.Value, tokens: int | None, image: tuple[int, ...]) -> Layout:
        """What the head pools: the pooling knows the axes, but not the grid of tokens."""
        if self._found.channel_axis == 1:
            return Layout()
        if rank_of(value) != 3:
            return Layout("last")
        try:
            layout = self._layout(value, tokens, image)
        except InputError:
            stated = isinstance(lengths_of(value)[1], int)
            if self._grid is not None or not (stated or tokens):
                raise
            return Layout("last")  # a line: what is pooled is right whatever its form
        return layout if layout.kind == "tokens" else Layout("last")


def is_map(shape: tuple[int | None, ...]) -> bool:
    """Whether a (C, *S) has more than one position, as far as is known."""
    return len(shape) > 1 and math.prod(2 if n is None else n for n in shape[1:]) > 1
