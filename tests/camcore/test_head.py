"""The linear head: shapes it takes, what it computes, and how far it is from given scores."""

from __future__ import annotations

import re

import numpy as np
import pytest

from camcore import InputError, LinearHead
from camcore.head import global_mean, head_error

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

    def test_scores_of_zero(self) -> None:
        zero = np.zeros_like(self.scores)
        assert head_error(self.head, self.features, zero) == np.inf
        assert head_error(LinearHead(np.zeros((5, 3))), self.features, zero) == 0
