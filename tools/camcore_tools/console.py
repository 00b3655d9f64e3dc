"""What commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from camcore.labels import clean, escaped, harmless

__all__ = ["Progress", "columns", "note", "print_json", "safe"]

_SPACES = 40  # in front of a cell, at most


def note(text: str) -> None:
    """A remark on stderr."""
    print(harmless(text), file=sys.stderr)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(escaped(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)))


def safe(name: Any) -> str:
    """A name of foreign origin without control characters."""
    return clean(str(name), 4000)


def columns(rows: Sequence[Sequence[Any]], *, indent: int = 2) -> str:
    """Rows in aligned columns; the last one is wrapped where it is long. Spaces before a cell stay.

    Examples
    --------
    >>> print(columns([("a", 1), ("long", 22)]))
      a     1
      long  22
    """
    texts = [[_cell(str(cell)) for cell in row] for row in rows]
    count = max((len(row) for row in texts), default=0)
    widths = [max((len(row[i]) for row in texts if i < len(row) - 1), default=0) for i in range(count)]
    return "\n".join(_row(row, widths, indent) for row in texts)


def _cell(text: str) -> str:
    return " " * min(len(text) - len(text.lstrip(" ")), _SPACES) + safe(text)


def _row(cells: Sequence[str], widths: Sequence[int], indent: int) -> str:
    """The last cell is broken into lines where it would run over the edge of the terminal."""
    start = " " * indent + "".join(cell.ljust(width) + "  " for cell, width in zip(cells[:-1], widths, strict=False))
    room = max(30, shutil.get_terminal_size((80, 24)).columns - len(start))
    lines = textwrap.wrap(cells[-1], room, break_long_words=False, break_on_hyphens=False) if cells else []
    return ("\n" + " " * len(start)).join(lines or [""]).join((start, "")).rstrip()


class Progress:
    """A bar on stderr where that is a terminal; nothing elsewhere.

    Parameters
    ----------
    total : int
    label : str
    """

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done = total, label, 0
        self._shown = sys.stderr.isatty()
        self._start = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the bar away until the next step, so that something else can be said."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def step(self, count: int = 1, text: str = "") -> None:
        """``count`` more are done."""
        self.done += count
        if time.monotonic() - self._last > 0.1 or self.done >= self.total:
            self._draw(text)

    def _draw(self, text: str = "") -> None:
        if not self._shown:
            return
        self._last = time.monotonic()
        spent = self._last - self._start
        left = spent / self.done * (self.total - self.done) if self.done else 0.0
        share = self.done / self.total if self.total else 1.0
        bar = ("#" * round(24 * share)).ljust(24, ".")
        line = f"{self.label} [{bar}] {self.done}/{self.total}  {left:.0f} s left  {text}"
        width = shutil.get_terminal_size((80, 24)).columns - 1
        sys.stderr.write("\r\x1b[K" + line[:width].rstrip())
        sys.stderr.flush()
