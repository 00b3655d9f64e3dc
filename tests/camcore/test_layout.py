"""Layouts: maps and back, grids of tokens, and the search for the channel axis."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore import InputError
from camcore.layout import Hop, Layout, channels_at, inverse, through_view, token_grid

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def naive_maps(layout: Layout, native: np.ndarray) -> np.ndarray:
    """(N, C, *S), one number at a time."""
    if layout.kind == "first":
        return native
    if layout.kind == "last":
        channels, space = native.shape[-1], native.shape[1:-1]
        out = np.empty((len(native), channels, *space))
        for place in np.ndindex(*space):
            out[(slice(None), slice(None), *place)] = native[(slice(None), *place, slice(None))]
        return out
    out = np.empty((len(native), native.shape[-1], *layout.grid))
    for token, place in enumerate(np.ndindex(*layout.grid)):
        out[(slice(None), slice(None), *place)] = native[:, layout.prefix + token]
    return out


@st.composite
def natives(draw: st.DrawFn) -> tuple[Layout, np.ndarray]:
    """A layout and random features that have it."""
    kind, space = draw(st.sampled_from(["first", "last", "tokens"])), draw(LENGTHS)
    n, channels, prefix = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 5))
    shape = {
        "first": (n, channels, *space),
        "last": (n, *space, channels),
        "tokens": (n, prefix + math.prod(space), channels),
    }[kind]
    layout = Layout("tokens", prefix, space) if kind == "tokens" else Layout(kind)
    return layout, np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape)


@given(natives())
def test_maps_are_channels_first(case: tuple[Layout, np.ndarray]) -> None:
    layout, native = case
    maps = layout.maps(native)
    np.testing.assert_array_equal(maps, naive_maps(layout, native))
    assert layout.shape(native.shape[1:]) == maps.shape[1:]


@given(natives(), st.integers(1, 3))
def test_gradients_have_an_axis_more_in_front(case: tuple[Layout, np.ndarray], targets: int) -> None:
    layout, native = case
    gradients = np.stack([native * t for t in range(targets)], axis=1)
    maps = layout.maps(gradients, lead=2)
    for t in range(targets):
        np.testing.assert_array_equal(maps[:, t], layout.maps(native * t))


@given(natives(), st.integers(1, 3))
def test_native_is_the_inverse_and_the_prefix_is_that_of_the_image(case: tuple[Layout, np.ndarray], count: int) -> None:
    layout, native = case
    maps = np.concatenate([layout.maps(native[:1]) + i for i in range(count)])
    back = layout.native(maps, native[:1])
    expected = np.concatenate([native[:1] + i for i in range(count)])
    if layout.kind == "tokens":
        expected[:, : layout.prefix] = native[:1, : layout.prefix]
    np.testing.assert_array_equal(back, expected)


def test_the_type_of_the_maps_is_kept() -> None:
    maps = np.zeros((2, 5, 2, 2), np.float32)
    assert Layout("tokens", 1, (2, 2)).native(maps, np.zeros((1, 5, 5))).dtype == np.float32


def test_free_lengths_stay_free() -> None:
    assert Layout().shape((8, None, 7)) == (8, None, 7)
    assert Layout("last").shape((None, 7, 8)) == (8, None, 7)
    assert Layout("tokens", 1, (2, 3)).shape((7, None)) == (None, 2, 3)


def test_another_number_of_tokens_is_refused() -> None:
    layout = Layout("tokens", 1, (2, 3))
    with pytest.raises(InputError, match=re.escape("the features are 10x5; expected 1 + 2x3 tokens. Another image")):
        layout.maps(np.zeros((4, 10, 5)))
    with pytest.raises(InputError, match="the features are 10x5"):
        layout.native(np.zeros((4, 5, 2, 3)), np.zeros((1, 10, 5)))
    with pytest.raises(InputError, match="the features are 7x5x2"):
        layout.maps(np.zeros((4, 7, 5, 2)))


class TestTokenGrid:
    @pytest.mark.parametrize(
        ("network", "tokens", "known", "found"),
        [
            ("ViT-B/16", 197, [(14, 14)], (1, (14, 14))),
            ("DeiT, distilled", 198, [(14, 14)], (2, (14, 14))),
            ("DINOv2 with registers", 1374, [(37, 37)], (5, (37, 37))),
            ("registers without class token", 260, [(16, 16)], (4, (16, 16))),
            ("mean-pooled", 196, [(14, 14)], (0, (14, 14))),
            ("not a square", 85, [(28, 12), (14, 6)], (1, (14, 6))),
            ("of a stem, the last one", 50, [(56, 56), (14, 14), (7, 7)], (1, (7, 7))),
            ("of two that fit alike, the last one", 12, [(3, 4), (6, 2)], (0, (6, 2))),
            ("the fewest prefix tokens", 17, [(4, 4), (3, 5)], (1, (4, 4))),
            ("1-D", 51, [(100,), (50,)], (1, (50,))),
            ("3-D", 393, [(8, 56, 56), (8, 14, 14), (8, 7, 7)], (1, (8, 7, 7))),
        ],
    )
    def test_a_known_map(
        self, network: str, tokens: int, known: list[tuple[int, ...]], found: tuple[int, tuple[int, ...]]
    ) -> None:
        assert token_grid(tokens, known) == found

    @pytest.mark.parametrize(
        ("tokens", "image", "found"),
        [
            (197, (224, 224), (1, (14, 14))),
            (33, (128, 64), (1, (8, 4))),
            (50, (100,), (0, (50,))),
            (51, (100,), (1, (50,))),
            (65, (32, 32, 32), (1, (4, 4, 4))),
            (5, (8, 16, 16), (1, (1, 2, 2))),
        ],
    )
    def test_an_image_cut_into_patches(
        self, tokens: int, image: tuple[int, ...], found: tuple[int, tuple[int, ...]]
    ) -> None:
        assert token_grid(tokens, image=image) == found

    def test_a_line_is_cut_with_one_prefix_token_at_most(self) -> None:
        with pytest.raises(InputError, match="52 tokens make no grid"):
            token_grid(52, image=(100,))
        assert token_grid(52, image=(100,), prefix=2) == (2, (50,))

    def test_a_square_is_no_grid_of_a_volume(self) -> None:
        with pytest.raises(InputError, match="37 tokens make no grid"):
            token_grid(37, image=(16, 16, 16))

    @pytest.mark.parametrize(("tokens", "found"), [(197, 1), (196, 0), (198, 2), (201, 5), (260, 4), (1, 0), (2, 1)])
    def test_a_square_where_nothing_is_known(self, tokens: int, found: int) -> None:
        side = math.isqrt(tokens - found)
        assert token_grid(tokens) == (found, (side, side))

    def test_what_is_given_wins(self) -> None:
        assert token_grid(197, [(14, 14)], grid=(4, 49)) == (1, (4, 49))
        assert token_grid(197, [(14, 14)], prefix=1, grid=[28, 7]) == (1, (28, 7))
        assert token_grid(50, [(7, 7)], prefix=1) == (1, (7, 7))
        assert token_grid(120, grid=(10, 10)) == (20, (10, 10))
        assert token_grid(101, prefix=1, image=(1000,)) == (1, (100,))

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"grid": (14, 15)}, "grid=(14, 15) was given for 197 tokens; expected prefix + 14x15 = 197"),
            ({"grid": (14, 14), "prefix": 2}, "prefix=2, grid=(14, 14) was given for 197 tokens"),
            ({"grid": (14, 0)}, "grid=(14, 0) was given for 197 tokens"),
            ({"grid": ()}, "grid=() was given for 197 tokens"),
            ({"prefix": 2}, "197 tokens make no grid that is known"),
            ({"prefix": 197}, "197 tokens make no grid that is known"),
            ({"prefix": 300}, "197 tokens make no grid that is known"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, given: dict[str, object], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            token_grid(197, [(14, 14)], **given)

    def test_the_error_says_what_to_do(self) -> None:
        with pytest.raises(InputError, match=re.escape("Say how they lie: grid=(h, w), prefix=p")):
            token_grid(24, prefix=0)

    @given(LENGTHS, st.integers(0, 16))
    def test_it_always_fits(self, space: tuple[int, ...], prefix: int) -> None:
        tokens = prefix + math.prod(space)
        found, grid = token_grid(tokens, [space])
        assert found + math.prod(grid) == tokens
        assert token_grid(tokens, [space], prefix=prefix) == (prefix, space)


# A small abstract network: value -> what made it, as the adapters would say it.
Clues = dict[str, list[int | Hop[str]]]


def found_in(before: Clues, after: Clues, value: str = "x") -> int | None:
    return channels_at(value, lambda v: before.get(v, []), lambda v: after.get(v, []))


def same(value: str, rank: int = 4) -> Hop[str]:
    return Hop(value, tuple(range(rank)))


class TestChannelAxis:
    def test_what_made_the_value_says_it(self) -> None:
        assert found_in({"x": [1]}, {"x": [3]}) == 1
        assert found_in({"x": [3]}, {}) == 3

    def test_what_reads_it_says_it_where_nothing_else_does(self) -> None:
        assert found_in({}, {"x": [same("relu")], "relu": [3]}) == 3
        assert found_in({"x": [same("images")]}, {"x": [1]}) == 1

    def test_nothing_is_known(self) -> None:
        assert found_in({}, {}) is None
        assert found_in({"x": [same("x")]}, {"x": [same("x")]}) is None

    @pytest.mark.parametrize(("order", "there", "here"), [((0, 2, 3, 1), 1, 3), ((0, 3, 1, 2), 3, 1)])
    def test_permutations_are_followed(self, order: tuple[int, ...], there: int, here: int) -> None:
        assert found_in({"x": [Hop("conv", order)], "conv": [there]}, {}) == here
        assert found_in({}, {"x": [Hop("read", inverse(order))], "read": [there]}) == inverse(order).index(there)

    def test_two_permutations_one_after_another(self) -> None:
        steps: Clues = {"x": [Hop("a", (0, 2, 3, 1))], "a": [same("b")], "b": [Hop("c", (0, 3, 1, 2))], "c": [3]}
        assert found_in(steps, {}) == 3

    def test_the_nearest_clue_counts(self) -> None:
        steps: Clues = {"x": [same("skip"), same("norm")], "skip": [same("stem")], "stem": [1], "norm": [3]}
        assert found_in(steps, {}) == 3

    def test_an_axis_that_a_reshape_loses_is_no_clue(self) -> None:
        steps: Clues = {"x": [Hop("matrix", (0, None, None)), same("skip", 3)], "matrix": [1], "skip": [2]}
        assert found_in(steps, {}) == 2


@given(st.permutations(range(5)))
def test_a_permutation_is_undone(order: list[int]) -> None:
    array = np.empty((2, 3, 4, 5, 6))
    assert array.transpose(order).transpose(inverse(order)).shape == array.shape


@pytest.mark.parametrize(
    ("here", "there", "axes"),
    [
        ((2, 8, 49), (2, 8, 7, 7), (0, 1, None)),
        ((2, 8, 7, 7), (2, 8, 49), (0, 1, None, None)),
        ((2, 7, 7, 8), (98, 8), (None, None, None, 1)),
        ((98, 8), (2, 7, 7, 8), (None, 3)),
        ((2, 16, 16), (2, 16, 4, 4), (0, 1, None)),
        ((2, 16, 16), (2, 4, 4, 16), (0, None, 3)),
        ((2, 3, 4), (2, 3, 4), (0, 1, 2)),
        ((2, 1, 8), (2, 8), (0, None, 1)),
        (("N", None, 8), ("N", None, None, 8), (0, None, 3)),
        ((None, 8), (None, 4, 2), (None, None)),
    ],
)
def test_what_a_reshape_keeps(
    here: tuple[object, ...], there: tuple[object, ...], axes: tuple[int | None, ...]
) -> None:
    assert through_view(here, there) == axes


@given(LENGTHS, LENGTHS)
def test_the_axes_that_a_reshape_keeps_are_as_long(here: tuple[int, ...], there: tuple[int, ...]) -> None:
    axes = through_view(here, there)
    assert len(axes) == len(here)
    kept = [(i, axis) for i, axis in enumerate(axes) if axis is not None]
    assert all(here[i] == there[axis] for i, axis in kept)
    assert [axis for _, axis in kept] == sorted({axis for _, axis in kept})


@pytest.mark.parametrize("tokens", [8, 60, 43])
def test_a_square_with_an_odd_number_of_tokens_in_front_is_not_believed(tokens: int) -> None:
    with pytest.raises(InputError, match=f"{tokens} tokens make no grid that is known"):
        token_grid(tokens)
