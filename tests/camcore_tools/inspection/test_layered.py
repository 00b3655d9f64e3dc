from __future__ import annotations

from itertools import combinations

from camcore_tools.inspection.layered import lay_out
from hypothesis import given, settings
from hypothesis import strategies as st

Edges = list[tuple[int, int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], Edges]:
    count = draw(st.integers(1, 14))
    pairs = list(combinations(range(count), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24, unique=True)) if pairs else []
    sizes = [(draw(st.sampled_from([40.0, 90.0, 236.0])), draw(st.sampled_from([20.0, 60.0]))) for _ in range(count)]
    return sizes, edges


@settings(max_examples=80, deadline=None)
@given(graphs())
def test_boxes_do_not_touch_and_edges_go_down(graph: tuple[list[tuple[float, float]], Edges]) -> None:
    sizes, edges = graph
    layout = lay_out(sizes, edges)
    for (w, h), place in zip(sizes, layout.places, strict=True):
        assert (place.width, place.height) == (w, h)
        assert -1e-6 <= place.x <= layout.width - w + 1e-6
        assert -1e-6 <= place.y <= layout.height - h + 1e-6
    for a, b in combinations(layout.places, 2):
        apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.bottom <= b.y or b.bottom <= a.y
        assert apart, (a, b)
    for a, b in edges:
        assert layout.places[a].bottom < layout.places[b].y


@settings(max_examples=80, deadline=None)
@given(graphs())
def test_edges_go_around_boxes(graph: tuple[list[tuple[float, float]], Edges]) -> None:
    """In the layers between, an edge passes beside all boxes."""
    layout = lay_out(*graph)
    for passes in layout.passes.values():
        for x, top, bottom in passes:
            beside = [p for p in layout.places if p.y < bottom and p.bottom > top]
            assert all(x <= p.x or x >= p.x + p.width for p in beside)


def test_a_chain_is_straight() -> None:
    """A skip connection goes around it and does not push it aside."""
    layout = lay_out([(100.0, 20.0)] * 6, [(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (4, 5)])
    middles = [place.middle for place in layout.places]
    assert max(middles) - min(middles) < 1
    assert [len(layout.passes[edge]) for edge in ((0, 1), (0, 3))] == [0, 2]


def test_nothing() -> None:
    layout = lay_out([], [])
    assert (layout.places, layout.width, layout.height) == ([], 0.0, 0.0)
