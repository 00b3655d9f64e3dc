"""What a pooled head tells, against differences of the whole tail and runs of it, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import METHODS, LinearHead, NormHead, closed_form, method, target
from camcore.head import global_mean
from camcore.methods.probes import Probe, Scene
from camcore.targets import Aim

K, C = 5, 4
Head = LinearHead | NormHead
SEEDS = st.integers(0, 2**32 - 1)
SPACES = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((K, C)), rng.standard_normal(K)


def bump(scores: np.ndarray) -> np.ndarray:
    return np.tanh(scores[:, 0]) + 0.3 * scores[:, 1] ** 2


HEADS: dict[str, Head] = {
    "linear": LinearHead(*rows(1)),
    "identity": LinearHead.identity(C),
    "norm": NormHead(*rows(2), epsilon=1e-5),
    "norm with a large epsilon": NormHead(*rows(3), epsilon=0.7),
}
TARGETS: list[Any] = ["logit", "probability", "log-probability", "rest", "finer", "difference", "difference:1", bump]
EACH_HEAD = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
EACH_TARGET = pytest.mark.parametrize("wanted", TARGETS, ids=lambda t: getattr(t, "__name__", t))
EACH_ALONE = pytest.mark.parametrize("alone", [False, True])


def case(head: Head, wanted: Any, space: tuple[int, ...], seed: int, alone: bool = False) -> tuple[np.ndarray, Aim]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2, C, *space)) + 0.3
    scores = head(global_mean(features))
    return features, target(wanted).aim(scores, rng.integers(0, head.classes, (2, 2)), alone=alone)


def tail(head: Head, features: np.ndarray, aim: Aim) -> np.ndarray:
    """(N, T) target values of (N, C, *S) features."""
    return aim.moved(head(features.mean(axis=tuple(range(2, features.ndim))))).values()


def gradients_by_differences(head: Head, features: np.ndarray, aim: Aim, step: float = 1e-6) -> np.ndarray:
    """(N, T, C, *S): each feature at each position moved by itself."""
    out = np.empty((*aim.classes.shape, *features.shape[1:]))
    for at in np.ndindex(*features.shape[1:]):
        shift = np.zeros(features.shape)
        shift[(slice(None), *at)] = step
        out[(..., *at)] = (tail(head, features + shift, aim) - tail(head, features - shift, aim)) / (2 * step)
    return out


@EACH_HEAD
@EACH_TARGET
@EACH_ALONE
@settings(deadline=None, max_examples=8)
@given(space=SPACES, seed=SEEDS)
def test_gradients(head: Head, wanted: Any, alone: bool, space: tuple[int, ...], seed: int) -> None:
    features, aim = case(head, wanted, space, seed, alone)
    found = closed_form.gradients(head, features, aim)
    assert found.shape == (2, 2, C, *(1 for _ in space))
    expected = gradients_by_differences(head, features, aim)
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(np.broadcast_to(found, expected.shape), expected, rtol=1e-5, atol=1e-7 * scale)


@EACH_HEAD
@EACH_TARGET
@settings(deadline=None, max_examples=8)
@given(space=SPACES, seed=SEEDS)
def test_curvature_is_how_the_gradient_changes_as_the_features_grow(
    head: Head, wanted: Any, space: tuple[int, ...], seed: int
) -> None:
    features, aim = case(head, wanted, space, seed)
    found = closed_form.curvature(head, features, aim)
    assert found.shape == (2, 2, C, *(1 for _ in space))

    def gradient(scale: float) -> np.ndarray:
        moved = features * scale
        return closed_form.gradients(head, moved, aim.moved(head(global_mean(moved))))

    step = 1e-5
    expected = (gradient(1 + step) - gradient(1 - step)) / (2 * step)
    scale = max(1, np.abs(expected).max(), np.abs(gradient(1)).max())
    loose = 1e-3 if wanted is bump else 1e-5  # its slopes are differences of their own
    np.testing.assert_allclose(found, expected, rtol=loose, atol=loose * 1e-1 * scale)


@pytest.mark.parametrize("wanted", ["logit", "finer", "difference"])
@pytest.mark.parametrize("name", ["linear", "identity"])
def test_a_linear_target_of_a_linear_head_has_none(name: str, wanted: str) -> None:
    features, aim = case(HEADS[name], wanted, (2, 3), 4)
    assert not closed_form.curvature(HEADS[name], features, aim).any()


@pytest.mark.parametrize("wanted", ["logit", "finer", "difference", "difference:1"])
@pytest.mark.parametrize("name", ["linear", "identity"])
@settings(deadline=None, max_examples=20)
@given(space=SPACES, seed=SEEDS)
def test_contributions_are_what_the_target_loses_without_a_channel(
    name: str, wanted: str, space: tuple[int, ...], seed: int
) -> None:
    head = HEADS[name]
    assert isinstance(head, LinearHead)
    features, aim = case(head, wanted, space, seed)
    found = closed_form.contributions(head, features, aim)
    for k in range(C):
        without = features.copy()
        without[:, k] = 0
        expected = tail(head, features, aim) - tail(head, without, aim)
        np.testing.assert_allclose(found[:, :, k], expected, rtol=1e-9, atol=1e-12)
    zeros = tail(head, np.zeros_like(features), aim)
    np.testing.assert_allclose(found.sum(axis=2), tail(head, features, aim) - zeros, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_contributions_are_as_exact_as_the_features_and_at_least_float32(kind: type, kept: type) -> None:
    features, aim = case(HEADS["identity"], "logit", (2, 2), 0)
    assert closed_form.contributions(LinearHead.identity(C), features.astype(kind), aim).dtype == kept


def test_moments_of_what_noise_cannot_change() -> None:
    g = np.random.default_rng(0).standard_normal((2, 1, 3, 1)).astype(np.float32)
    first, second, third = closed_form.moments(g)
    for moment, power in ((first, 1), (second, 2), (third, 3)):
        assert moment.dtype == np.float64
        np.testing.assert_allclose(moment, g.astype(float) ** power, rtol=1e-15)
    assert (closed_form.moments(np.full((1, 1, 1, 1), 1e-30, np.float32))[2] > 0).all()  # float32 would have lost it


PROBED = [
    ("ablationcam", {"relative": False}),
    ("reciprocam", {"kernel": "pixel"}),
    ("reciprocam", {"kernel": "gaussian"}),
]


@EACH_HEAD
@EACH_TARGET
@pytest.mark.parametrize(("name", "options"), PROBED)
@settings(deadline=None, max_examples=6)
@given(space=SPACES, seed=SEEDS)
def test_responses_are_those_of_runs(
    head: Head, wanted: Any, name: str, options: dict[str, Any], space: tuple[int, ...], seed: int
) -> None:
    features, aim = case(head, wanted, space, seed)
    row = method(name, **options)
    assert row.probe is not None
    found = closed_form.responses(head, row.probe, features, aim, row.options)
    for n in range(2):
        scene = Scene(features[n], features[n])
        total = row.probe.count(scene, **options)
        assert found.shape == (2, 2, total)
        inputs = row.probe.inputs(scene, range(total), **options)
        expected = aim.of(n, head(inputs.mean(axis=tuple(range(2, inputs.ndim))))).T
        np.testing.assert_allclose(found[n], expected, rtol=1e-6, atol=1e-7)


def test_small_drops_of_large_float32_scores_are_not_lost() -> None:
    """A channel that gives 1e-3 of a score of 1e4: their difference in float32 would have no digit left."""
    weight = np.array([[1e4, 1e-3]], np.float32)
    features = np.ones((1, 2, 3, 3), np.float32)
    head = LinearHead(weight)
    aim = target("logit").aim(head(global_mean(features)), np.array([[0]]))
    row = METHODS["ablationcam"]
    assert row.probe is not None
    whole, *without = closed_form.responses(head, row.probe, features, aim, row.options)[0, 0]
    np.testing.assert_allclose(whole - np.array(without), weight[0], rtol=1e-6)


def test_a_probe_that_knows_no_linear_form_is_pooled() -> None:
    probe = Probe("tail", lambda scene: 2, lambda scene, index: np.stack([scene.features] * len(index)))
    doubled = Probe(
        "tail", probe.count, probe.inputs, pooled=lambda features: np.stack([global_mean(features[None])[0]] * 2)
    )
    features, aim = case(HEADS["linear"], "probability", (3,), 5)
    found = closed_form.responses(HEADS["linear"], doubled, features, aim, {})
    np.testing.assert_allclose(found, np.repeat(aim.values()[:, :, None], 2, axis=2), rtol=1e-12)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wanted", ["logit", "probability"])
def test_gradients_are_as_exact_as_the_features_and_at_least_float32(kind: type, wanted: str) -> None:
    features, aim = case(HEADS["linear"], wanted, (2, 2), 6)
    exact = closed_form.gradients(HEADS["linear"], features, aim)
    found = closed_form.gradients(HEADS["linear"], features.astype(kind), aim)
    assert found.dtype == (np.float64 if kind is np.float64 else np.float32)
    np.testing.assert_allclose(found, exact, rtol=1e-15 if kind is np.float64 else 1e-6)


def test_a_class_next_to_certain_keeps_its_gradient() -> None:
    """p ~ 1 - 1e-20 in a float32 network: the gradient is 1e-20 of a logit's, not nothing."""
    features = np.full((1, 2, 2, 2), 1, np.float32)
    head = LinearHead(np.array([[46, 0], [0, 0.5]], np.float32))
    aim = target("probability").aim(head(global_mean(features)), np.array([[0]]))
    chance = np.exp(-45.5)
    np.testing.assert_allclose(
        closed_form.gradients(head, features, aim)[0, 0, :, 0, 0], [46 * chance / 4, -0.5 * chance / 4], rtol=1e-5
    )


def test_the_identity_head_is_the_head_of_ones() -> None:
    features, aim = case(HEADS["identity"], "probability", (3, 2), 7)
    same = LinearHead(np.eye(C))
    for way in (closed_form.gradients, closed_form.curvature):
        np.testing.assert_allclose(
            way(HEADS["identity"], features, aim), way(same, features, aim), rtol=1e-12, atol=1e-15
        )
