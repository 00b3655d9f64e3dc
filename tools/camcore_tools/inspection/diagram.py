"""The tail of a graph as a drawing: SVG, with colours from the style of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from camcore_tools.console import safe
from camcore_tools.inspection.layered import Layout, Place, lay_out
from camcore_tools.inspection.picture import Box, Edge, Picture
from camcore_tools.inspection.words import count, short

__all__ = ["Drawing", "draw"]

_WIDTH, _PILL = 236.0, 176.0
_TITLE, _LINE, _PADDING = 19.0, 15.0, 9.0  # heights
_MONO, _BOLD = 6.65, 7.3  # widths of a character
_MARGIN = 12.0
_LABELS = 3  # below one box; more would lie on each other
_BENDS = 40.0  # an edge that goes further to a side bends there


@dataclass(frozen=True)
class Drawing:
    """An SVG element, and its width in pixels."""

    svg: str
    width: float


def draw(picture: Picture) -> Drawing:
    """Draw the boxes and edges; all names are escaped.

    Parameters
    ----------
    picture : Picture
    """
    edges = [(e.source, e.target) for e in picture.edges]
    layout = lay_out([_size(box) for box in picture.boxes], edges)
    width, height = layout.width + 2 * _MARGIN + _overhang(picture, layout), layout.height + 2 * _MARGIN
    parts = [
        f'<svg viewBox="{-_MARGIN:.0f} {-_MARGIN:.0f} {width:.0f} {height:.0f}" '
        f'style="width:100%;max-width:{width:.0f}px;min-width:{0.72 * width:.0f}px" role="img" '
        'aria-label="The tail of the graph, from top to bottom">',
        *_edges(picture, layout),
        *(_box(box, place) for box, place in zip(picture.boxes, layout.places, strict=True)),
        *_labels(picture, layout),
        "</svg>",
    ]
    return Drawing("\n".join(parts), width)


def _text(text: Any, room: float, character: float) -> str:
    return escape(short(text, max(4, int(room / character)), "…"))


def _size(box: Box) -> tuple[float, float]:
    if box.kind != "node":
        lines = 1 if box.kind == "front" and not box.macs else 2
        return (_WIDTH if box.kind == "front" else _PILL), 2 * _PADDING + _TITLE + (lines - 1) * _LINE
    return _WIDTH, 2 * _PADDING + _TITLE + _LINE * (1 + len(box.details))


def _box(box: Box, place: Place) -> str:
    lines = {"node": _node, "front": _front, "input": _pill, "output": _pill}[box.kind](box, place)
    tip = " ".join(n.op_type for n in box.nodes) + f"\n{box.name}" if box.nodes else box.title
    radius = place.height / 2 if box.kind in ("input", "output") else 9
    frame = (
        f'<rect x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.0f}" height="{place.height:.0f}" '
        f'rx="{radius:.0f}"/>'
    )
    return f'<g class="box {box.kind} {box.role}"><title>{escape(safe(tip))}</title>{frame}{"".join(lines)}</g>'


def _node(box: Box, place: Place) -> list[str]:
    left, y = place.x + 14, place.y + _PADDING + 13
    macs = count(box.macs, "MAC") if box.macs else ""
    room = place.width - 28 - 6.2 * len(macs)
    parts = [
        f'<rect class="stripe" x="{place.x:.1f}" y="{place.y + 9:.1f}" width="4" height="{place.height - 18:.0f}" '
        'rx="2"/>',
        f'<text class="op" x="{left:.1f}" y="{y:.1f}">{_text(box.title, room, _BOLD)}</text>',
    ]
    if macs:
        parts.append(f'<text class="macs" x="{place.x + place.width - 11:.1f}" y="{y:.1f}">{macs}</text>')
    for i, (line, kind) in enumerate([(box.name, "name"), *((d, "weight") for d in box.details)]):
        at = y + 4 + _LINE * (i + 1) - 1
        parts.append(f'<text class="{kind}" x="{left:.1f}" y="{at:.1f}">{_text(line, place.width - 26, _MONO)}</text>')
    return parts


def _front(box: Box, place: Place) -> list[str]:
    y = place.y + _PADDING + 13
    parts = [f'<text class="op" x="{place.middle:.1f}" y="{y:.1f}">{escape(box.title)}</text>']
    if box.macs:
        parts.append(f'<text class="name" x="{place.middle:.1f}" y="{y + 17:.1f}">{count(box.macs, "MAC")}</text>')
    return parts


def _pill(box: Box, place: Place) -> list[str]:
    y = place.y + _PADDING + 12
    return [
        f'<text class="op" x="{place.middle:.1f}" y="{y:.1f}">{_text(box.title, place.width - 24, _BOLD)}</text>',
        f'<text class="name" x="{place.middle:.1f}" y="{y + 16:.1f}">{_text(box.name, place.width - 24, _MONO)}</text>',
    ]


def _edges(picture: Picture, layout: Layout) -> list[str]:
    """Marked ones last, so that they lie on top."""
    drawn = sorted(range(len(picture.edges)), key=lambda i: picture.edges[i].mark != "")
    return [_edge(i, picture.edges, layout) for i in drawn]


def _edge(index: int, edges: Sequence[Edge], layout: Layout) -> str:
    edge = edges[index]
    start, end = _leaves(edge, edges, layout), _arrives(index, edges, layout)
    (x, y), last = start, (end[0], end[1] - 5)
    path = [f"M{x:.1f} {y:.1f}"]
    for across, top, bottom in layout.passes[edge.source, edge.target]:
        path += [_bend(x, y, across, top), f"V{bottom:.1f}"]
        x, y = across, bottom
    path.append(_bend(x, y, *last))
    head = f'<path class="head" d="M{end[0] - 4:.1f} {end[1] - 7:.1f}l4 7 4 -7z"/>'
    tip = escape(safe(f"{edge.name}\n{edge.shape} {edge.type}"))
    return f'<g class="edge {edge.mark}"><title>{tip}</title><path d="{" ".join(path)}"/>{head}</g>'


def _bend(x: float, y: float, to_x: float, to_y: float) -> str:
    half = (to_y - y) / 2
    return f"C{x:.1f} {y + half:.1f} {to_x:.1f} {to_y - half:.1f} {to_x:.1f} {to_y:.1f}"


def _leaves(edge: Edge, edges: Sequence[Edge], layout: Layout) -> tuple[float, float]:
    """Each tensor has a place of its own at the bottom of its box."""
    own = list(dict.fromkeys(e.name for e in edges if e.source == edge.source))
    place = layout.places[edge.source]
    return place.middle + _port(own.index(edge.name), len(own), place), place.bottom


def _arrives(index: int, edges: Sequence[Edge], layout: Layout) -> tuple[float, float]:
    """From the left to the right as they come."""
    edge = edges[index]
    others = [i for i, e in enumerate(edges) if e.target == edge.target]
    others.sort(key=lambda i: _from(edges[i], layout))
    place = layout.places[edge.target]
    return place.middle + _port(others.index(index), len(others), place), place.y


def _from(edge: Edge, layout: Layout) -> float:
    passed = layout.passes[edge.source, edge.target]
    return passed[-1][0] if passed else layout.places[edge.source].middle


def _port(i: int, count: int, place: Place) -> float:
    return (i - (count - 1) / 2) * min(34.0, place.width / (count + 1))


def _labels(picture: Picture, layout: Layout) -> list[str]:
    """The shape of each tensor, once, where it leaves its box; outputs show theirs themselves."""
    firsts: dict[tuple[int, str], Edge] = {}
    for edge in picture.edges:
        shown = edge.mark or picture.boxes[edge.target].kind != "output"
        if shown and picture.boxes[edge.source].kind != "input":
            firsts.setdefault((edge.source, edge.name), edge)
    many = {box for box, n in Counter(source for source, _ in firsts).items() if n > _LABELS}
    return [_label(edge, picture.edges, layout) for edge in firsts.values() if edge.source not in many]


def _label(edge: Edge, edges: Sequence[Edge], layout: Layout) -> str:
    """On the side to which no edge bends; beside its beginning where they bend to both, one below the other."""
    x, y = _leaves(edge, edges, layout)
    own = list(dict.fromkeys(e.name for e in edges if e.source == edge.source))
    targets = [_to(e, layout) - x for e in edges if e.source == edge.source and e.name == edge.name]
    right, left = any(d > _BENDS for d in targets), any(d < -_BENDS for d in targets)
    down = 12 + 12 * own.index(edge.name) if (right and left) or len(own) > 1 else 19
    side = ("end", x - 9) if right and not left else ("start", x + 9)
    text = _text(f"{edge.mark} {edge.shape}".strip(), 230, _MONO)
    return f'<text class="shape {edge.mark}" text-anchor="{side[0]}" x="{side[1]:.1f}" y="{y + down:.1f}">{text}</text>'


def _to(edge: Edge, layout: Layout) -> float:
    passed = layout.passes[edge.source, edge.target]
    return passed[0][0] if passed else layout.places[edge.target].middle


def _overhang(picture: Picture, layout: Layout) -> float:
    """How far labels reach over the right edge."""
    ends = [
        _leaves(e, picture.edges, layout)[0] + 9 + _MONO * min(36, len(f"{e.mark} {e.shape}".strip()))
        for e in picture.edges
    ]
    return max(0.0, *(end - layout.width for end in ends)) if ends else 0.0
