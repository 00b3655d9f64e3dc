"""Grad-CAM++ and its smooth form: what sets them apart from the other methods on gradients."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from gradient_papers import (
    SEEDS,
    SPACES,
    Flat,
    Formula,
    by_loops,
    case,
    official,
    on_a_pooled_head,
    paper_grad_cam_plus_plus,
    peer_map,
    pooled_case,
    unit_of,
    weighted,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.methods import method
from camcore.methods.plusplus import grad_cam_plus_plus, smooth_grad_cam_plus_plus


def paper_smooth(a: Flat, samples: list[Flat]) -> list[float]:
    """Omeiza et al., with the second derivative as numerator."""
    weights = []
    for k, a_k in enumerate(a):
        weight = 0.0
        for u in range(len(a_k)):
            m1, m2, m3 = (sum(g[k][u] ** p for g in samples) / len(samples) for p in (1, 2, 3))
            if m1 > 0:
                weight += m2 / (2 * m2 + sum(a_k) * m3) * m1
        weights.append(weight)
    return weighted(weights, a)


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, count=st.integers(1, 4))
def test_smooth_grad_cam_plus_plus_averages_powers(space, seed: int, count: int) -> None:
    features, _ = case(space, seed)
    drawn = [np.abs(case(space, seed + i + 1)[1]) * (1 if i % 3 else 0.2) for i in range(count)]
    drawn[-1][:, :, 0] *= -0.05  # some means negative, but no denominator near zero
    moments = tuple(np.mean([g**p for g in drawn], axis=0) for p in (1, 2, 3))
    maps = smooth_grad_cam_plus_plus(features, moments)
    for i, t in np.ndindex(2, 2):
        a = features[i].reshape(3, -1).tolist()
        expected = paper_smooth(a, [g[i, t].reshape(3, -1).tolist() for g in drawn])
        np.testing.assert_allclose(maps[i, t].ravel(), expected, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_without_noise_it_is_grad_cam_plus_plus(space, seed: int) -> None:
    features, gradients = case(space, seed)
    for g in (gradients, unit_of(gradients)):
        np.testing.assert_allclose(
            smooth_grad_cam_plus_plus(features, (g, g**2, g**3)), grad_cam_plus_plus(features, g), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("size", [1e-4, 1e-10, 1e-15, 1e-25, 1e-30])
def test_moments_that_underflow_in_float32_lose_nothing(size: float) -> None:
    features, gradients = case((3, 4), 5)
    g = (gradients * size).astype(np.float32)
    moments = (g, g**2, g**3)
    assert size > 1e-20 or not moments[1].any()
    maps = smooth_grad_cam_plus_plus(features.astype(np.float32), moments)
    expected = by_loops(paper_grad_cam_plus_plus, features.astype(np.float32), g.astype(np.float64))
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("options", [{"samples": 9}, {"spread": 1.5}, {"seed": 3}])
def test_the_noise_is_no_matter_of_the_formula(options: dict[str, float]) -> None:
    features, g = case((3, 4), 6)
    moments = (g, g**2, g**3)
    row = method("smoothgradcam++", **options)
    changed = row.formula(features=features, moments=moments, **row.options)
    np.testing.assert_array_equal(changed, smooth_grad_cam_plus_plus(features, moments))


@pytest.mark.parametrize("name", ["gradcam++", "smoothgradcam++"])
@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_class_e3_divides_by_what_the_channel_gives(name: str, space, seed: int) -> None:
    """sum_k [W_ck]+ / (2 + W_ck F_k) A_k."""
    head, features, classes = pooled_case(space, seed)
    pooled = features.mean(axis=tuple(range(2, features.ndim)))
    maps = on_a_pooled_head(name, head, features, classes)
    for i, t in np.ndindex(2, 2):
        row = head.weight[classes[i, t]]
        weights = [max(w, 0) / (2 + w * f) if w > 0 else 0 for w, f in zip(row, pooled[i], strict=True)]
        expected = sum(w * a for w, a in zip(weights, features[i], strict=True))
        np.testing.assert_allclose(maps[i, t], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("formula", [grad_cam_plus_plus, official], ids=lambda f: f.__name__)
def test_grad_cam_plus_plus_only_knows_the_product_of_gradient_and_feature(formula: Formula) -> None:
    """Features twice as large with gradients half as large are the same network; the map is the same map."""
    features, gradients = case((4, 4), 9)
    expected = formula(features, gradients)
    for power in (-40, 60):
        np.testing.assert_array_equal(formula(features * 2.0**power, gradients * 2.0**-power), expected)


def test_where_the_denominator_is_zero_the_weight_is_zero() -> None:
    features = np.array([[[-1.0, -1.0]]])  # S = -2
    gradients = np.array([[[[1.0, 0.5]]]])  # 2 + S g = 0 and 1
    assert grad_cam_plus_plus(features, gradients).tolist() == [[[-0.5, -0.5]]]
    assert official(features, gradients).tolist() == [[[-0.5, -0.5]]]
    moments = (gradients, gradients**2, gradients**3)
    assert smooth_grad_cam_plus_plus(features, moments).tolist() == [[[-0.5, -0.5]]]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_moments_of_float64_keep_the_precision_of_the_features(kind: type) -> None:
    features, g = case((3, 4), 13)
    assert smooth_grad_cam_plus_plus(features.astype(kind), (g, g**2, g**3)).dtype == kind
    assert smooth_grad_cam_plus_plus(features.astype(np.float16), (g, g**2, g**3)).dtype == np.float32


def test_an_unknown_variant_offers_the_known() -> None:
    features, gradients = case((3,), 0)
    with pytest.raises(InputError, match=r"variant 'offical' of gradcam\+\+ is not known\. Did you mean 'official'\?"):
        grad_cam_plus_plus(features, gradients, variant="offical")


def test_the_epsilon_of_pytorch_grad_cam_drowns_small_gradients() -> None:
    """Its Grad-CAM++ adds 1e-6 to a denominator of 2 g^2 + S g^3: at |g| = 1e-4 the paper's weights are lost."""
    features, gradients = case((7, 7), 17, shape=(1, 1, 16))
    g = gradients * 1e-4
    theirs = peer_map("grad_cam_plusplus", "GradCAMPlusPlus", features, g)
    exact = by_loops(paper_grad_cam_plus_plus, features, g)
    np.testing.assert_allclose(grad_cam_plus_plus(features, g), exact, rtol=1e-9)
    assert np.abs(theirs).max() < 0.1 * np.abs(exact).max()


def test_torchcam_leaves_out_the_denominator() -> None:
    """Its GradCAMpp divides a copy in place: weights of sum g^2 ReLU(g), the paper's without 2 g^2 + S g^3."""
    torch = pytest.importorskip("torch")
    kind = pytest.importorskip("torchcam.methods").GradCAMpp
    features, gradients = case((4, 5), 18, shape=(2, 1, 3))
    me = SimpleNamespace(
        _backprop=lambda *given: None, hook_a=[torch.tensor(features)], hook_g=[torch.tensor(gradients[:, 0])]
    )
    theirs = kind._get_weights(me, 0, None)[0].numpy()
    np.testing.assert_allclose(theirs, (np.maximum(gradients[:, 0], 0) ** 3).sum(axis=(2, 3)), rtol=1e-12)
    paper = by_loops(paper_grad_cam_plus_plus, features, gradients)
    np.testing.assert_allclose(grad_cam_plus_plus(features, gradients), paper, rtol=1e-10, atol=1e-12)
    wrong = np.einsum("nc,nchw->nhw", theirs, features)
    assert np.abs(wrong / wrong.max() - paper[:, 0] / paper.max()).max() > 0.05
