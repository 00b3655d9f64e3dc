"""The walk back from the scores, against the operations applied one after another to random features."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import HeadNotFound
from camcore.head import LinearHead, NormHead
from camcore.walk import HeadWalk, batch_norm_affine, channel_axis, dense_weight, refusal, scaled, times

RNG = np.random.default_rng(0)


@dataclass
class Step:
    """One operation: what it does to (N, C) values, and what an adapter says about it on the way back."""

    apply: Callable[[np.ndarray], np.ndarray]
    tell: Callable[[HeadWalk], None]
    width: int


def linear(rng: np.random.Generator, width: int) -> Step:
    rows = int(rng.integers(1, 6))
    weight = rng.standard_normal((rows, width))
    bias = rng.standard_normal(rows) if rng.random() < 0.7 else None
    shift = 0 if bias is None else bias
    return Step(lambda x: x @ weight.T + shift, lambda walk: walk.linear("linear", weight, bias), rows)


def scale(rng: np.random.Generator, width: int) -> Step:
    factor = rng.standard_normal(width) if rng.random() < 0.5 else float(rng.standard_normal())
    shift = rng.standard_normal(width) if rng.random() < 0.5 else float(rng.standard_normal())
    return Step(lambda x: factor * x + shift, lambda walk: walk.scale("scale", factor, shift), width)


def batch_norm(rng: np.random.Generator, width: int) -> Step:
    gamma, beta, mean = rng.standard_normal((3, width))
    variance, epsilon = rng.random(width) + 0.1, 1e-3

    def apply(x: np.ndarray) -> np.ndarray:
        return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta

    return Step(apply, lambda walk: walk.scale("bn", *batch_norm_affine(gamma, beta, mean, variance, epsilon)), width)


def nothing(rng: np.random.Generator, width: int) -> Step:
    return Step(lambda x: x, lambda walk: walk.same("dropout"), width)


def rounding(rng: np.random.Generator, width: int) -> Step:
    step = float(rng.random() + 0.01)
    return Step(lambda x: np.round(x / step) * step, lambda walk: walk.quantize("quantize", step), width)


def chain(seed: int, length: int, kinds: list[Callable[[np.random.Generator, int], Step]]) -> tuple[list[Step], int]:
    """Random steps from the pooled features to the scores, and how many channels the features have."""
    rng = np.random.default_rng(seed)
    channels = width = int(rng.integers(1, 6))
    steps = []
    for _ in range(length):
        steps.append(kinds[rng.integers(len(kinds))](rng, width))
        width = steps[-1].width
    return steps, channels


def applied(features: np.ndarray, factor: float, steps: list[Step]) -> np.ndarray:
    x = factor * features.mean(axis=(2, 3))
    for step in steps:
        x = step.apply(x)
    return x


def walked(factor: float, steps: list[Step]) -> HeadWalk:
    walk = HeadWalk()
    for step in reversed(steps):
        step.tell(walk)
    walk.pool("pool", factor)
    return walk


SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(0, 7)
FACTORS = st.sampled_from([1.0, 4.0, 0.25])


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, length=LENGTHS, factor=FACTORS)
def test_the_head_is_what_the_operations_do(seed: int, length: int, factor: float) -> None:
    steps, channels = chain(seed, length, [linear, scale, batch_norm, nothing])
    features = np.random.default_rng(seed).standard_normal((3, channels, 2, 3))
    walk = walked(factor, steps)
    scores = applied(features, factor, steps)
    head = walk.head(channels)
    # A gain that meets no matrix becomes a float32 one, and so does epsilon.
    np.testing.assert_allclose(head(features.mean(axis=(2, 3))), scores, atol=1e-5 * max(1, np.abs(scores).max()))
    assert walk.pooled
    assert np.all(walk.slack == 0)
    assert len(walk.path) == length + 1


@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, length=LENGTHS, factor=FACTORS)
def test_no_rounding_exceeds_the_slack(seed: int, length: int, factor: float) -> None:
    steps, channels = chain(seed, length, [linear, scale, rounding])
    features = np.random.default_rng(seed).standard_normal((20, channels, 2, 3))
    walk = walked(factor, steps)
    scores = applied(features, factor, steps)
    difference = np.abs(walk.head(channels)(features.mean(axis=(2, 3))) - scores).max(axis=0)
    assert (difference <= walk.slack + 1e-5 * max(1, np.abs(scores).max())).all()


def test_the_slack_is_reached() -> None:
    walk = HeadWalk()
    walk.linear("fc", np.array([[2.0, -3.0], [1.0, 0.0]]), None)
    walk.quantize("quantize", 0.5)
    x = np.array([0.25 - 1e-9, 0.25 + 1e-9])  # the worst: rounded down to 0, and up to 0.5
    difference = np.array([2 * 0 - 3 * 0.5, 0]) - (np.array([[2.0, -3.0], [1.0, 0.0]]) @ x)
    np.testing.assert_allclose(np.abs(difference), walk.slack, atol=1e-7)
    np.testing.assert_allclose(walk.slack, [0.5 * 0.5 * 5, 0.5 * 0.5 * 1])


def layer_norm(gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> Callable[[np.ndarray], np.ndarray]:
    """The layer normalisation of (N, C) values, as PyTorch does it."""
    tensors = torch.from_numpy(gamma), torch.from_numpy(beta)
    return lambda x: F.layer_norm(torch.from_numpy(x), (x.shape[1],), *tensors, eps=epsilon).numpy()


@settings(deadline=None)
@given(seed=SEEDS, length=LENGTHS, factor=FACTORS, affine=st.booleans(), number=st.sampled_from([1.0, 0.2, 5.0]))
def test_the_head_behind_a_layer_normalisation(
    seed: int, length: int, factor: float, affine: bool, number: float
) -> None:
    steps, channels = chain(seed, length, [linear, scale, batch_norm, nothing])
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((3, channels, 2, 3))
    gamma, beta = (rng.standard_normal((2, channels))) if affine else (np.ones(channels), np.zeros(channels))
    normalised = layer_norm(gamma, beta, 0.01)(number * factor * features.mean(axis=(2, 3)) - 3)
    scores = normalised
    for step in steps:
        scores = step.apply(scores)
    walk = HeadWalk()
    for step in reversed(steps):
        step.tell(walk)
    walk.layer_norm("norm", *((gamma, beta) if affine else (None, None)), 0.01)
    walk.same("flatten")
    walk.scale("mul", number, -3.0)
    walk.pool("pool", factor)
    head = walk.head(channels)
    assert isinstance(head, NormHead)
    tolerance = 1e-5 * max(1, np.abs(scores).max())
    np.testing.assert_allclose(head(features.mean(axis=(2, 3))), scores, atol=tolerance)
    assert walk.pooled
    assert walk.how().startswith("pool -> mul -> flatten -> norm")


def test_without_a_layer_normalisation_the_head_is_linear() -> None:
    walk = HeadWalk()
    walk.linear("fc", np.ones((2, 3)), None)
    walk.pool("pool")
    assert isinstance(walk.head(3), LinearHead)


def test_a_rounding_behind_a_layer_normalisation_counts() -> None:
    walk = HeadWalk()
    walk.linear("fc", np.array([[2.0, -3.0]]), None)
    walk.quantize("quantize", 0.5)
    walk.layer_norm("norm", np.ones(2), np.ones(2), 1e-5)
    np.testing.assert_allclose(walk.slack, [0.5 * 0.5 * 5])


def test_a_fresh_walk_is_an_identity() -> None:
    walk = HeadWalk()
    assert walk.untouched
    assert walk.width is None
    walk.squash("softmax", "probability")
    walk.same("flatten")
    walk.pool("GlobalAveragePool")
    assert walk.head(7).is_identity
    assert walk.scores_are == "probability"
    assert walk.how() == "GlobalAveragePool -> flatten -> softmax"
    assert not walk.untouched


def test_two_poolings_make_one_mean() -> None:
    walk = HeadWalk()
    walk.linear("fc", np.ones((2, 3)), np.ones(2))
    walk.pool("over width", 4.0)
    walk.pool("over height", 0.5)
    np.testing.assert_array_equal(walk.head(3).weight, np.full((2, 3), 2.0))


def test_a_gain_alone_makes_a_diagonal_head() -> None:
    walk = HeadWalk()
    walk.scale("div", 0.5, 1.0)
    walk.pool("pool")
    np.testing.assert_array_equal(walk.head(3).weight, 0.5 * np.eye(3))
    np.testing.assert_array_equal(walk.head(3).bias, np.ones(3))


@pytest.mark.parametrize(
    ("before", "width"),
    [
        (lambda walk: None, None),
        (lambda walk: walk.scale("mul", 2.0, 1.0), None),
        (lambda walk: walk.scale("add", 1.0, np.ones(3)), 3),
        (lambda walk: walk.scale("mul", np.ones(3)), 3),
        (lambda walk: walk.linear("fc", np.ones((2, 5)), None), 5),
    ],
)
def test_the_width_is_known_from_what_was_met(before: Callable[[HeadWalk], None], width: int | None) -> None:
    walk = HeadWalk()
    before(walk)
    assert walk.width == width


class TestObstacles:
    def refused(self, text: str, *tells: Callable[[HeadWalk], object]) -> None:
        walk = HeadWalk()
        for tell in tells[:-1]:
            tell(walk)
        with pytest.raises(HeadNotFound, match=re.escape(text)):
            tells[-1](walk)

    @pytest.mark.parametrize(
        "first",
        [
            lambda walk: walk.linear("fc", np.ones((2, 3)), None),
            lambda walk: walk.scale("mul", 2.0),
            lambda walk: walk.scale("add", 1.0, 1.0),
            lambda walk: walk.pool("pool"),
            lambda walk: walk.layer_norm("norm", None, None, 1e-5),
            lambda walk: walk.squash("softmax 1", "probability"),
        ],
    )
    def test_a_softmax_that_is_not_last(self, first: Callable[[HeadWalk], None]) -> None:
        text = "softmax 2 stands between the pooling and the scores, so the head is not linear"
        self.refused(text, first, lambda walk: walk.squash("softmax 2", "probability"))

    def test_a_matrix_that_gives_another_width(self) -> None:
        self.refused(
            "fc1 gives 4 values, the operation behind it reads 3",
            lambda walk: walk.linear("fc2", np.ones((2, 3)), None),
            lambda walk: walk.linear("fc1", np.ones((4, 5)), None),
        )

    def test_a_vector_that_does_not_fit_the_matrix_before_it(self) -> None:
        self.refused(
            "a vector of 3 is added to the 4 values of fc",
            lambda walk: walk.scale("add", 1.0, np.ones(3)),
            lambda walk: walk.linear("fc", np.ones((4, 5)), None),
        )

    @pytest.mark.parametrize(("factor", "shift"), [(np.ones(2), 0.0), (1.0, np.ones(2)), (np.ones(3), np.ones(2))])
    def test_a_scale_of_another_width_than_the_matrix(self, factor: np.ndarray | float, shift: np.ndarray) -> None:
        self.refused(
            "values on 3 channels",
            lambda walk: walk.linear("fc", np.ones((2, 3)), None),
            lambda walk: walk.scale("bn", factor, shift),
        )

    def test_vectors_of_two_widths(self) -> None:
        self.refused(
            "add 1 works with 2 values on 3 channels",
            lambda walk: walk.scale("add 2", 1.0, np.ones(3)),
            lambda walk: walk.scale("add 1", 1.0, np.ones(2)),
        )

    @pytest.mark.parametrize(
        ("name", "second"),
        [
            ("fc", lambda walk: walk.linear("fc", np.ones((3, 3)), None)),
            ("bn", lambda walk: walk.scale("bn", np.ones(3))),
            ("add", lambda walk: walk.scale("add", 1.0, np.ones(3))),
            ("mul (a factor of -2)", lambda walk: walk.scale("mul", -2.0)),
            ("quantize", lambda walk: walk.quantize("quantize", 0.1)),
            ("norm 1", lambda walk: walk.layer_norm("norm 1", np.ones(3), np.ones(3), 1e-5)),
            ("norm 1", lambda walk: walk.layer_norm("norm 1", None, None, 1e-5)),
        ],
    )
    def test_what_may_not_stand_in_front_of_a_layer_normalisation(
        self, name: str, second: Callable[[HeadWalk], None]
    ) -> None:
        text = f"{name} stands in front of norm 2; a layer normalisation is understood where it reads the pooled"
        self.refused(text, lambda walk: walk.layer_norm("norm 2", np.ones(3), np.zeros(3), 1e-5), second)

    def test_a_layer_normalisation_of_another_width(self) -> None:
        self.refused(
            "norm works with 4 values on 3 channels",
            lambda walk: walk.linear("fc", np.ones((2, 3)), None),
            lambda walk: walk.layer_norm("norm", np.ones(4), np.ones(4), 1e-5),
        )

    def test_features_with_other_channels(self) -> None:
        self.refused(
            "the pooling gives 5 values, the operation behind it reads 3",
            lambda walk: walk.linear("fc", np.ones((2, 3)), None),
            lambda walk: walk.head(5),
        )
        self.refused(
            "a vector of 3 is added to the 5 values of the pooling",
            lambda walk: walk.scale("add", 1.0, np.ones(3)),
            lambda walk: walk.head(5),
        )


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_a_grouped_weight_as_a_dense_one(groups: int) -> None:
    weight = RNG.standard_normal((12, 6 // groups))
    x = RNG.standard_normal((4, 6))
    kernel = torch.from_numpy(weight)[:, :, None]
    by_torch = F.conv1d(torch.from_numpy(x)[..., None], kernel, groups=groups)[..., 0].numpy()
    np.testing.assert_allclose(x @ dense_weight(weight, groups).T, by_torch, atol=1e-12)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation_is_that_of_pytorch(affine: bool) -> None:
    gamma, beta, mean = RNG.standard_normal((3, 5))
    variance, x = RNG.random(5) + 0.1, RNG.standard_normal((4, 5))
    weight, bias = (gamma, beta) if affine else (None, None)
    factor, shift = batch_norm_affine(weight, bias, mean, variance, 1e-5)
    tensors = [None if v is None else torch.from_numpy(v) for v in (weight, bias)]
    by_torch = F.batch_norm(torch.from_numpy(x), torch.from_numpy(mean), torch.from_numpy(variance), *tensors, eps=1e-5)
    np.testing.assert_allclose(factor * x + shift, by_torch.numpy(), atol=1e-7)


@pytest.mark.parametrize(
    ("axes", "rank", "axis"),
    [((2, 3), 4, 1), ((-2, -1), 4, 1), ((1, 2), 4, 3), ((2,), 3, 1), ((1,), 3, 2), ((2, 3, 4), 5, 1), ((3,), 4, 1)],
)
def test_the_channels_are_the_second_axis_or_the_last(axes: tuple[int, ...], rank: int, axis: int) -> None:
    assert channel_axis("mean", axes, rank) == axis


@pytest.mark.parametrize(("axes", "rank"), [((0, 2, 3), 4), ((1, 2, 3), 4), ((-4,), 4)])
def test_a_mean_over_batch_or_everything(axes: tuple[int, ...], rank: int) -> None:
    text = f"mean averages over the batch or the channels (axes {list(axes)})"
    with pytest.raises(HeadNotFound, match=re.escape(text)):
        channel_axis("mean", axes, rank)


def test_a_factor_of_one_makes_no_copy_and_the_type_is_kept() -> None:
    array = np.ones(3, np.float32)
    assert scaled(array, 1.0) is array
    assert scaled(array, 0.1).dtype == np.float32


def test_lengths_as_text() -> None:
    assert times((7, None, 3)) == "7x?x3"


def test_the_refusal_names_the_way_and_the_obstacle() -> None:
    way = ["fc2", "relu", "fc1"]
    assert refusal(way, True, "relu is not linear") == (
        "relu is not linear (way back from the scores: fc2 <- relu <- fc1)."
    )
    assert refusal(way, False, "relu is not linear") == (
        "CAM needs a global average pooling between the features and a linear head, and on the way back from the "
        "scores (fc2 <- relu <- fc1) relu is not linear."
    )
    assert refusal(way, False, "no pooling", "512x7x7").endswith(
        "the map 512x7x7 is flattened, so that every position has weights of its own."
    )
