"""Where the boxes of a directed graph without cycles go: in layers from top to bottom.

The layer of a box is the longest way to it. Edges that pass a layer get a narrow place in it, so that they go around
the boxes there. Boxes are ordered within a layer by the mean place of their neighbours, and then moved as near to
these as the gaps allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Layout", "Place", "lay_out"]

_SWEEPS = 8
_NARROW = 16.0  # an edge that passes
_LIGHT = 0.002  # how much it pulls at the boxes beside it


@dataclass(frozen=True)
class Place:
    """A box, in pixels: its upper left corner, and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True)
class Layout:
    """Places of the boxes; for each edge the (x, top, bottom) that it passes through in the layers between."""

    places: Sequence[Place]
    passes: Mapping[tuple[int, int], Sequence[tuple[float, float, float]]]
    width: float
    height: float


def lay_out(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    *,
    across: float = 28.0,
    down: float = 46.0,
) -> Layout:
    """Place boxes.

    Parameters
    ----------
    sizes : sequence of (width, height)
        Of boxes 0, 1, ..., which are given in such an order that every edge goes to a later one.
    edges : sequence of (int, int)
    across, down : float
        Gaps between boxes of a layer, and between layers.
    """
    ranks = _ranks(len(sizes), edges)
    chains = {(a, b): _chain(a, b, ranks) for a, b in dict.fromkeys(edges)}
    rows: list[list[object]] = [[] for _ in range(max(ranks, default=0) + 1)]
    for box, rank in enumerate(ranks):
        rows[rank].append(box)
    for chain in chains.values():
        for dummy in chain:
            rows[dummy[2]].append(dummy)
    near = _neighbours(chains)
    _order(rows, near)
    widths = {item: sizes[item][0] if isinstance(item, int) else _NARROW for row in rows for item in row}
    middles = _middles(rows, near, widths, across)
    left = min((middles[i] - widths[i] / 2 for i in widths), default=0.0)
    right = max((middles[i] + widths[i] / 2 for i in widths), default=0.0)
    tops, heights = _heights(rows, sizes, down)
    places = [
        Place(middles[i] - w / 2 - left, tops[ranks[i]] + (heights[ranks[i]] - h) / 2, w, h)
        for i, (w, h) in enumerate(sizes)
    ]
    passes = {
        edge: [(middles[d] - left, tops[d[2]], tops[d[2]] + heights[d[2]]) for d in chain]
        for edge, chain in chains.items()
    }
    return Layout(places, passes, right - left, tops[-1] + heights[-1] if rows[0] else 0.0)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    ranks = [0] * count
    for a, b in sorted(edges, key=lambda edge: edge[0]):
        ranks[b] = max(ranks[b], ranks[a] + 1)
    return ranks


def _chain(a: int, b: int, ranks: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(a, b, rank) for rank in range(ranks[a] + 1, ranks[b])]


def _neighbours(chains: Mapping[tuple[int, int], Sequence[object]]) -> dict[object, tuple[list[object], list[object]]]:
    """What lies above and what below, one layer away."""
    near: dict[object, tuple[list[object], list[object]]] = {}
    for (a, b), chain in chains.items():
        path = [a, *chain, b]
        for upper, lower in pairwise(path):
            near.setdefault(upper, ([], []))[1].append(lower)
            near.setdefault(lower, ([], []))[0].append(upper)
    return near


def _order(rows: list[list[object]], near: Mapping[object, tuple[list[object], list[object]]]) -> None:
    """Sort each layer by the mean rank of its neighbours, downwards and upwards in turn; edges that pass go outside."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            index = {item: i / max(1, len(r) - 1) if len(r) > 1 else 0.5 for r in rows for i, item in enumerate(r)}
            means = {
                item: sum(index[n] for n in others) / len(others)
                for item in row
                if (others := near.get(item, ([], []))[0 if down else 1])
            }
            row.sort(key=lambda item: means.get(item, index[item]))


def _middles(
    rows: Sequence[Sequence[object]],
    near: Mapping[object, tuple[list[object], list[object]]],
    widths: Mapping[object, float],
    across: float,
) -> dict[object, float]:
    middles: dict[object, float] = dict.fromkeys(widths, 0.0)
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            wanted = [_wanted(item, near.get(item, ([], [])), middles, down) for item in row]
            weights = [1.0 if isinstance(item, int) else _LIGHT for item in row]
            for item, middle in zip(row, _spread(wanted, weights, [widths[i] for i in row], across), strict=True):
                middles[item] = middle
    return middles


def _wanted(
    item: object, near: tuple[list[object], list[object]], middles: Mapping[object, float], down: bool
) -> float:
    """The mean place of the boxes on one side, of all neighbours where there are none; edges that pass count little."""
    others = near[0 if down else 1] or near[1 if down else 0]
    weights = [1.0 if isinstance(n, int) or not isinstance(item, int) else _LIGHT for n in others]
    if not others:
        return middles[item]
    return sum(w * middles[n] for w, n in zip(weights, others, strict=True)) / sum(weights)


def _spread(wanted: Sequence[float], weights: Sequence[float], widths: Sequence[float], gap: float) -> list[float]:
    """The places nearest to those wanted, in this order and with a gap: isotonic regression."""
    offsets = [0.0]
    for a, b in pairwise(widths):
        offsets.append(offsets[-1] + (a + b) / 2 + gap)
    blocks: list[list[float]] = []  # mean, weight, count
    for want, weight, offset in zip(wanted, weights, offsets, strict=False):
        blocks.append([want - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, own, count = blocks.pop()
            total = blocks[-1][1] + own
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * own) / total, total, blocks[-1][2] + count]
    means = [mean for mean, _, count in blocks for _ in range(int(count))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _heights(
    rows: Sequence[Sequence[object]], sizes: Sequence[tuple[float, float]], down: float
) -> tuple[list[float], list[float]]:
    """Where each layer begins, and how high it is."""
    heights = [max((sizes[i][1] for i in row if isinstance(i, int)), default=0.0) for row in rows]
    tops = [sum(heights[:i]) + i * down for i in range(len(rows))]
    return tops, heights
