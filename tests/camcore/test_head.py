"""Heads: shapes they take, what they compute, their gradients, and how far they are from given scores."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import InputError, LinearHead
from camcore.head import Head, NormHead, global_mean, head_error

RNG = np.random.default_rng(0)


def test_the_scores_are_weight_times_pooled_plus_bias() -> None:
    weight, bias, pooled = RNG.random((4, 3)), RNG.random(4), RNG.random((2, 3))
    head = LinearHead(weight, bias)
    naive = [[sum(weight[k, c] * pooled[n, c] for c in range(3)) + bias[k] for k in range(4)] for n in range(2)]
    np.testing.assert_allclose(head(pooled), naive, rtol=1e-14)
    assert (head.classes, head.channels, head.is_identity) == (4, 3, False)


@pytest.mark.parametrize("kernel", [(), (1,), (1, 1), (1, 1, 1)])
def test_the_axes_of_a_1x1_kernel_are_dropped(kernel: tuple[int, ...]) -> None:
    weight = RNG.random((4, 3))
    np.testing.assert_array_equal(LinearHead(weight.reshape(4, 3, *kernel)).weight, weight)


def test_without_a_bias_it_is_zero_of_the_type_of_the_weight() -> None:
    bias = LinearHead(np.ones((4, 3))).bias
    np.testing.assert_array_equal(bias, np.zeros(4))
    assert bias.dtype == np.float64


def test_a_bias_may_have_the_axes_of_a_kernel() -> None:
    np.testing.assert_array_equal(LinearHead(np.ones((2, 3)), [[[5.0]], [[6.0]]]).bias, [5, 6])


@pytest.mark.parametrize(
    ("given", "kept"), [(np.float16, np.float32), (np.int8, np.float32), (np.float32, np.float32), (float, np.float64)]
)
def test_the_type_is_at_least_float32(given: type, kept: type) -> None:
    head = LinearHead(np.ones((2, 3), given), np.ones(2, given))
    assert head.weight.dtype == head.bias.dtype == kept


@pytest.mark.parametrize("shape", [(), (3,), (4, 3, 3, 3), (4, 3, 1, 2)])
def test_a_weight_of_another_shape(shape: tuple[int, ...]) -> None:
    text = f"the head's weight has shape {shape}; expected (classes, channels) or a 1x1 kernel (K, C, 1, 1)"
    with pytest.raises(InputError, match=re.escape(text)):
        LinearHead(np.ones(shape))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_bias_of_another_length(count: int) -> None:
    with pytest.raises(InputError, match=f"bias has {count} values for 4 classes; give one a class"):
        LinearHead(np.ones((4, 3)), np.ones(count))


def test_the_identity_gives_the_pooled_features_and_makes_its_matrix_when_asked() -> None:
    head, pooled = LinearHead.identity(3), RNG.random((2, 3))
    assert head.is_identity
    np.testing.assert_array_equal(head(pooled), pooled)
    np.testing.assert_array_equal(head.weight, np.eye(3))
    np.testing.assert_array_equal(LinearHead(head.weight, head.bias)(pooled), pooled)


def test_it_says_what_it_is() -> None:
    assert repr(LinearHead(np.ones((4, 3)))) == "LinearHead(3 channels -> 4 classes)"
    assert repr(LinearHead.identity(3)) == "LinearHead(identity, 3 channels -> 3 classes)"


class TestNormHead:
    def test_the_scores_are_those_of_normalised_features(self) -> None:
        weight, bias, pooled = RNG.random((4, 3)), RNG.random(4), RNG.random((2, 3))
        head = NormHead(weight, bias, epsilon=0.1)
        for n in range(2):
            mean = sum(pooled[n]) / 3
            variance = sum((f - mean) ** 2 for f in pooled[n]) / 3
            z = [(f - mean) / (variance + 0.1) ** 0.5 for f in pooled[n]]
            naive = [sum(weight[k, c] * z[c] for c in range(3)) + bias[k] for k in range(4)]
            np.testing.assert_allclose(head(pooled)[n], naive, rtol=1e-13)
        assert (head.classes, head.channels, head.epsilon) == (4, 3, 0.1)
        np.testing.assert_array_equal(head.weight, weight)
        np.testing.assert_array_equal(head.bias, bias)

    def test_what_the_linear_part_reads_has_mean_0_and_variance_1(self) -> None:
        z = NormHead(RNG.random((4, 50)), epsilon=0.0).normal(3 + 7 * RNG.random((2, 50)))
        np.testing.assert_allclose(z.mean(axis=1), 0, atol=1e-14)
        np.testing.assert_allclose(z.var(axis=1), 1, rtol=1e-13)

    def test_half_precision_is_computed_in_float32(self) -> None:
        pooled = np.array([[60000, -60000, 0]], np.float16)  # the squares exceed float16
        scores = NormHead(np.eye(3, dtype=np.float32))(pooled)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, [[1.5**0.5, -(1.5**0.5), 0]], rtol=1e-6)

    def test_equal_features_give_the_bias(self) -> None:
        np.testing.assert_array_equal(NormHead(RNG.random((2, 3)), [1, 2])(np.full((1, 3), 5.0)), [[1, 2]])

    def test_shapes_that_do_not_fit_and_a_negative_epsilon(self) -> None:
        with pytest.raises(InputError, match=r"the head's weight has shape \(3,\)"):
            NormHead(np.ones(3))
        with pytest.raises(InputError, match=r"epsilon is -0\.5; expected 0 or more"):
            NormHead(np.ones((2, 3)), epsilon=-0.5)

    def test_it_says_what_it_is(self) -> None:
        head = NormHead(np.ones((4, 3)), epsilon=1e-6)
        assert repr(head) == "NormHead(3 channels -> 4 classes, epsilon=1e-06)"


def differences(head: Head, pooled: np.ndarray, seeds: np.ndarray, step: float) -> np.ndarray:
    """Central differences of ``sum_k seeds_k s_k`` with respect to the pooled features, (N, T, C)."""
    columns = []
    for c in range(head.channels):
        moved = np.zeros(head.channels)
        moved[c] = step
        change = head(pooled + moved) - head(pooled - moved)
        columns.append(np.einsum("ntk,nk->nt", seeds, change) / (2 * step))
    return np.stack(columns, axis=2)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 6),
    kind=st.sampled_from(["linear", "identity", "norm"]),
    epsilon=st.sampled_from([1e-6, 1e-3, 1.0, 30.0]),
)
def test_the_pull_is_the_gradient(seed: int, channels: int, kind: str, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((3, channels)), rng.standard_normal(3)
    kinds: dict[str, Head] = {
        "linear": LinearHead(weight, bias),
        "identity": LinearHead.identity(channels),
        "norm": NormHead(weight, bias, epsilon=epsilon),
    }
    head = kinds[kind]
    pooled, seeds = rng.standard_normal((2, channels)), rng.standard_normal((2, 4, head.classes))
    pulled = head.pull(pooled, seeds)
    sigma = np.sqrt(pooled.var(axis=1).min() + epsilon)  # the scale on which a normalisation bends
    expected = differences(head, pooled, seeds, 1e-4 * sigma)
    assert pulled.shape == (2, 4, channels)
    np.testing.assert_allclose(pulled, expected, atol=1e-6 * (1 + np.abs(seeds).sum() * np.abs(weight).max()) / sigma)


def test_a_normalised_head_has_effective_weights() -> None:
    """``w~ = (v - mean(v) - z mean(v z)) / sigma``, which a shift or a common factor of the features cannot see."""
    weight, pooled = RNG.standard_normal((4, 8)), RNG.standard_normal((1, 8))
    head = NormHead(weight, epsilon=0.0)
    z, sigma = (pooled - pooled.mean()) / pooled.std(), pooled.std()
    rows = head.pull(pooled, np.eye(4)[None])[0]
    for v, row in zip(weight, rows, strict=True):
        np.testing.assert_allclose(row, (v - v.mean() - z[0] * (v * z[0]).mean()) / sigma, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rows.sum(axis=1), 0, atol=1e-13)
    np.testing.assert_allclose(rows @ pooled[0], 0, atol=1e-13)


@pytest.mark.parametrize("space", [(6,), (2, 3), (2, 1, 3)])
def test_the_mean_is_over_all_spatial_axes(space: tuple[int, ...]) -> None:
    features = RNG.random((2, 3, *space))
    naive = [[sum(features[n, c].ravel()) / 6 for c in range(3)] for n in range(2)]
    np.testing.assert_allclose(global_mean(features), naive, rtol=1e-14)


def test_the_mean_of_half_precision_is_summed_in_float32() -> None:
    features = np.full((1, 1, 64, 64), 60000, np.float16)  # two of them already exceed float16
    assert global_mean(features).dtype == np.float32
    assert global_mean(features)[0, 0] == 60000


class TestHeadError:
    features = RNG.random((2, 3, 4, 4))
    head = LinearHead(RNG.random((5, 3)), RNG.random(5))
    scores = head(global_mean(features))

    def test_an_exact_head_has_none(self) -> None:
        assert head_error(self.head, self.features, self.scores) == 0

    def test_it_is_relative_to_the_largest_score(self) -> None:
        wrong = self.scores.copy()
        wrong[1, 2] -= 0.25
        assert head_error(self.head, self.features, wrong) == pytest.approx(0.25 / wrong.max())

    def test_slack_is_free_for_each_class(self) -> None:
        wrong = self.scores.copy()
        wrong[:, 2] -= 0.25
        assert head_error(self.head, self.features, wrong, 0.26) == 0
        assert head_error(self.head, self.features, wrong, np.array([0, 0, 0.26, 0, 0])) == 0
        assert head_error(self.head, self.features, wrong, np.array([0.26, 0, 0, 0, 0])) > 0.01

    def test_a_normalised_head(self) -> None:
        head = NormHead(self.head.weight, self.head.bias)
        scores = head(global_mean(self.features))
        assert head_error(head, self.features, scores) == 0
        assert head_error(self.head, self.features, scores) > 0.01

    def test_scores_of_zero(self) -> None:
        zero = np.zeros_like(self.scores)
        assert head_error(self.head, self.features, zero) == np.inf
        assert head_error(LinearHead(np.zeros((5, 3))), self.features, zero) == 0


@given(st.integers(0, 10_000), st.floats(1e-6, 10))
def test_growth_and_bend_are_the_derivatives_as_the_features_grow(seed: int, epsilon: float) -> None:
    """Central differences of the scores and of their gradient along F, in float64."""
    generator = np.random.default_rng(seed)
    weight, bias = generator.standard_normal((3, 6)), generator.standard_normal(3)
    pooled, seeds = generator.standard_normal((2, 6)), generator.standard_normal((2, 4, 3))
    for head in (NormHead(weight, bias, epsilon=epsilon), LinearHead(weight, bias)):
        step = 1e-6
        ahead, behind = pooled * (1 + step), pooled * (1 - step)
        growth = (head(ahead) - head(behind)) / (2 * step)
        bend = (head.pull(ahead, seeds) - head.pull(behind, seeds)) / (2 * step)
        np.testing.assert_allclose(head.growth(pooled), growth, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(head.bend(pooled, seeds), bend, rtol=1e-5, atol=1e-6)
