"""What an evaluation says on a terminal, at its width."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from camcore_tools.console import columns, safe

__all__ = ["print_evaluation", "table"]

_EPOCHS, _CLASSES = 12, 24  # that many rows, and no more


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), indent: int = 2) -> str:
    """Aligned columns: those of ``left`` to the left, numbers to the right; names in the first are cut if too long.

    Examples
    --------
    >>> print(table(["class", "F1"], [["cap", "0.91"], ["cube", "1.00"]]))
      class    F1
      cap    0.91
      cube   1.00
    """
    lines = [[safe(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    room = shutil.get_terminal_size((80, 24)).columns - indent - sum(w + 2 for w in widths[1:])
    widths[0] = min(widths[0], max(room, 8))
    cut = [[_short(line[0], widths[0]), *line[1:]] for line in lines]
    return "\n".join(_line(line, widths, left, indent) for line in cut)


def _line(cells: Sequence[str], widths: Sequence[int], left: Collection[int], indent: int) -> str:
    sized = enumerate(zip(cells, widths, strict=True))
    aligned = (cell.ljust(width) if n in left else cell.rjust(width) for n, (cell, width) in sized)
    return (" " * indent + "  ".join(aligned)).rstrip()


def print_evaluation(document: Mapping[str, Any]) -> None:
    """What ``eval.json`` holds, for a person."""
    count, classes = document["pictures"], len(document["classes"])
    print(f"{safe(document['run'])}: {count:,} validation pictures of {classes} classes")
    print(f"\n{_epochs(document)}")
    print(f"\n{_per_class(document)}")
    if document["localisation"]:
        print(f"\n{_localisation(document)}")
    print(f"\n{columns([('files', ', '.join(document['files'])), ('in', document['folder'])])}")


def _epochs(document: Mapping[str, Any]) -> str:
    rows, chosen = document["checkpoints"], document["checkpoint"]
    shown = _some(rows, _EPOCHS, keep=next((n for n, r in enumerate(rows) if r["epoch"] == chosen), 0))
    lines = [[f"epoch {row['epoch']}{' *' if row['epoch'] == chosen else ''}", *_scores(row)] for row in shown]
    left = f"\n  {len(rows) - len(shown)} more are in eval.json" if len(shown) < len(rows) else ""
    return table(["after", "loss", "top-1", "top-3", "top-5"], lines) + left + "\n  * what follows is of this one"


def _scores(row: Mapping[str, Any]) -> list[str]:
    if "error" in row:
        return ["damaged", "", "", ""]
    return [_number(row["loss"]), *(_percent(row[name]) for name in ("top1", "top3", "top5"))]


def _some(rows: Sequence[Any], most: int, *, keep: int) -> list[Any]:
    """At most so many, evenly, with the first, the last and one more."""
    if len(rows) <= most:
        return list(rows)
    step = (len(rows) - 1) / (most - 2)
    return [rows[n] for n in sorted({keep, *(round(i * step) for i in range(most - 1))})]


def _per_class(document: Mapping[str, Any]) -> str:
    rows = document["per_class"]
    shown = sorted(rows, key=lambda row: (_order(row["f1"]), row["name"]))[:_CLASSES] if len(rows) > _CLASSES else rows
    lines = [_class_line(row) for row in shown]
    mean = document["macro"]
    lines.append(["mean of classes", str(document["pictures"]), *(_percent(mean[n]) for n in _FIGURES), ""])
    text = table(["class", "pictures", "precision", "recall", "F1", "often taken for"], lines, left=(0, 5))
    note = f"\n  the {_CLASSES} lowest of {len(rows)}; all are in eval.json" if len(shown) < len(rows) else ""
    return text + note


_FIGURES = ("precision", "recall", "f1")


def _order(value: float | None) -> float:
    return 2.0 if value is None else value


def _class_line(row: Mapping[str, Any]) -> list[str]:
    taken = row["taken_for"]
    confused = f"{taken['name']} ({taken['count']})" if taken else ""
    return [row["name"], str(row["count"]), *(_percent(row[n]) for n in _FIGURES), _short(confused, 22)]


def _localisation(document: Mapping[str, Any]) -> str:
    found = document["localisation"]
    lines = [
        [name, *(_percent(row[n]) for n in ("peaks", "right_peaks", "energy", "iou")), _best(row)]
        for name, row in found["methods"].items()
    ]
    lines.append(["by chance", *[_percent(found["by_chance"])] * 3, "", ""])
    head = ["on the object", "peaks", "of right", "heat", f"IoU at {found['threshold']:g}", "best IoU"]
    return f"{table(head, lines)}\n  maps of the true classes of {found['pictures']:,} pictures"


def _best(row: Mapping[str, Any]) -> str:
    return f"{_percent(row['best_iou'])} at {row['best_threshold']:g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
