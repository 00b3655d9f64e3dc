"""The formulas on gradients against loops written from the papers, in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods import METHODS, cam, method
from camcore.methods.gradients import (
    grad_cam,
    grad_cam_elementwise,
    grad_cam_plus_plus,
    hires_cam,
    layer_cam,
    shapley_cam,
    smooth_grad_cam_plus_plus,
    xgrad_cam,
)

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
Flat = list[list[float]]


def weighted(weights: list[float], a: Flat) -> list[float]:
    """sum_k w_k A_k(u), u by u."""
    return [sum(w * channel[u] for w, channel in zip(weights, a, strict=True)) for u in range(len(a[0]))]


def paper_grad_cam(a: Flat, g: Flat) -> list[float]:
    """Equations 1 and 2 of Selvaraju et al., without the ReLU."""
    return weighted([sum(row) / len(row) for row in g], a)


def paper_grad_cam_plus_plus(a: Flat, g: Flat) -> list[float]:
    """Equations 19 and 5 of Chattopadhyay et al. without exp(s)."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        alphas = [x**2 / (2 * x**2 + total * x**3) if x > 0 else 0 for x in g_k]
        weights.append(sum(alpha * max(x, 0) for alpha, x in zip(alphas, g_k, strict=True)))
    return weighted(weights, a)


def code_grad_cam_plus_plus(a: Flat, g: Flat) -> list[float]:
    """misc/utils.py of the authors: the alphas of positive gradients are made to sum to one."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        alphas = [x**2 / (2 * x**2 + total * x**3) if x > 0 else 0 for x in g_k]
        one = sum(alphas) or 1
        weights.append(sum(alpha / one * max(x, 0) for alpha, x in zip(alphas, g_k, strict=True)))
    return weighted(weights, a)


def paper_xgrad_cam(a: Flat, g: Flat) -> list[float]:
    """Equation 8 of Fu et al."""
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = sum(a_k)
        weights.append(sum(x * y / total for x, y in zip(a_k, g_k, strict=True)) if total else 0)
    return weighted(weights, a)


def paper_hires_cam(a: Flat, g: Flat) -> list[float]:
    return [sum(g_k[u] * a_k[u] for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


def paper_layer_cam(a: Flat, g: Flat) -> list[float]:
    return [sum(max(g_k[u], 0) * a_k[u] for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


def paper_elementwise(a: Flat, g: Flat) -> list[float]:
    return [sum(max(g_k[u] * a_k[u], 0) for a_k, g_k in zip(a, g, strict=True)) for u in range(len(a[0]))]


Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]
Paper = Callable[[Flat, Flat], list[float]]


def official(features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    return grad_cam_plus_plus(features, gradients, variant="official")


PAPERS: dict[Formula, Paper] = {
    grad_cam: paper_grad_cam,
    grad_cam_plus_plus: paper_grad_cam_plus_plus,
    official: code_grad_cam_plus_plus,
    xgrad_cam: paper_xgrad_cam,
    hires_cam: paper_hires_cam,
    layer_cam: paper_layer_cam,
    grad_cam_elementwise: paper_elementwise,
}
ALL = pytest.mark.parametrize("formula", PAPERS, ids=lambda f: f.__name__)


def case(space: tuple[int, ...], seed: int, *, rectified: bool = True, shape: tuple[int, int, int] = (2, 2, 3)):
    """Features, a third of them zero where rectified, and gradients of both signs, some exactly zero."""
    n, targets, channels = shape
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, channels, *space)) + 0.4
    gradients = rng.standard_normal((n, targets, channels, *space))
    gradients[rng.random(gradients.shape) < 0.1] = 0
    return np.maximum(features, 0) if rectified else features, gradients


def by_loops(paper: Paper, features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    n, targets, channels = gradients.shape[:3]
    maps = np.empty((n, targets, *features.shape[2:]))
    wide = np.broadcast_to(gradients, (n, targets, *features.shape[1:]))
    for i, t in np.ndindex(n, targets):
        a = features[i].reshape(channels, -1).tolist()
        maps[i, t] = np.reshape(paper(a, wide[i, t].reshape(channels, -1).tolist()), features.shape[2:])
    return maps


def spread(unit: np.ndarray, features: np.ndarray) -> np.ndarray:
    """A gradient that is the same everywhere, written out at every position."""
    return np.broadcast_to(unit, (*unit.shape[:3], *features.shape[2:])).copy()


def unit_of(gradients: np.ndarray) -> np.ndarray:
    return gradients[(..., *[slice(0, 1)] * (gradients.ndim - 3))]


@ALL
@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5)))
def test_the_formula_is_that_of_the_paper(formula: Formula, space, seed: int, shape: tuple[int, int, int]) -> None:
    features, gradients = case(space, seed, shape=shape)
    expected = by_loops(PAPERS[formula], features, gradients)
    np.testing.assert_allclose(formula(features, gradients), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "formula", [grad_cam, hires_cam, layer_cam, grad_cam_elementwise, grad_cam_plus_plus], ids=lambda f: f.__name__
)
@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_features_of_both_signs_change_no_formula(formula: Formula, space, seed: int) -> None:
    features, gradients = case(space, seed, rectified=False)
    expected = by_loops(PAPERS[formula], features, gradients)
    near_the_pole = np.abs(expected).max() > 1e3  # where 2 + S g is almost zero, both are right and neither is exact
    np.testing.assert_allclose(formula(features, gradients), expected, rtol=1e-3 if near_the_pole else 1e-8, atol=1e-8)


@ALL
@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_unit_axes_mean_the_same_gradient_everywhere(formula: Formula, space, seed: int) -> None:
    features, gradients = case(space, seed)
    unit = unit_of(gradients)
    np.testing.assert_allclose(
        formula(features, unit), formula(features, spread(unit, features)), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 2)])
def test_curvature_is_taken_off_by_half(space: tuple[int, ...]) -> None:
    features, gradients = case(space, 3)
    _, curvature = case(space, 4)
    expected = by_loops(paper_grad_cam, features, gradients) - by_loops(paper_grad_cam, features, curvature) / 2
    np.testing.assert_allclose(shapley_cam(features, gradients, curvature), expected, rtol=1e-12, atol=1e-13)
    both = shapley_cam(features, unit_of(gradients), unit_of(curvature))
    one = shapley_cam(features, spread(unit_of(gradients), features), unit_of(curvature))
    np.testing.assert_allclose(both, one, rtol=1e-12, atol=1e-13)


def test_the_second_order_weights_are_the_shapley_values_of_a_quadratic_game() -> None:
    """For y = h(mean A) quadratic in F, (g - HA/2) F is a channel's exact Shapley value, here by all orders."""
    rng = np.random.default_rng(0)
    features = rng.random((1, 3, 2, 2))
    pooled = features.mean(axis=(2, 3))[0]
    slope, half = rng.standard_normal(3), rng.standard_normal((3, 3))
    hessian = half + half.T

    def game(present: tuple[int, ...]) -> float:
        f = np.where(np.isin(np.arange(3), present), pooled, 0)
        return float(slope @ f + f @ hessian @ f / 2)

    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    gains = [
        [game(o[: o.index(k) + 1]) - game(o[: o.index(k)]) for k in range(3)] for o in orders
    ]  # what channel k adds when it comes
    shapley = np.mean(gains, axis=0)
    gradients = ((slope + hessian @ pooled) / 4).reshape(1, 1, 3, 1, 1)
    curvature = ((hessian @ pooled) / 4).reshape(1, 1, 3, 1, 1)
    parts = [shapley_cam(features * np.eye(3)[k].reshape(1, 3, 1, 1), gradients, curvature).sum() for k in range(3)]
    np.testing.assert_allclose(parts, shapley, rtol=1e-12)


# Moments


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


# A linear head behind a global average pooling


def on_a_pooled_head(name: str, head: LinearHead, features: np.ndarray, classes: np.ndarray, **options) -> np.ndarray:
    """What a method gives there with the logit as target: ``g = W_c / |S|``, no curvature, noise without effect."""
    unit = head.weight[classes] / math.prod(features.shape[2:])
    g = unit.reshape(*unit.shape, *[1] * (features.ndim - 2))
    have = {"features": features, "gradients": g, "curvature": np.zeros_like(g), "moments": (g, g**2, g**3)}
    row = method(name, **options)
    return row.formula(classes=classes, **{need: have[need] for need in row.needs}, **row.options)


def pooled_case(space, seed: int) -> tuple[LinearHead, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    head = LinearHead(rng.standard_normal((4, 3)), rng.standard_normal(4))
    return head, np.maximum(rng.standard_normal((2, 3, *space)), 0), np.array([[0, 3], [2, 1]])


@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "hirescam", "shapleycam", "finercam"])
@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_class_e1_is_cam(name: str, space, seed: int) -> None:
    head, features, classes = pooled_case(space, seed)
    maps = on_a_pooled_head(name, head, features, classes) * math.prod(space)
    np.testing.assert_allclose(maps, cam(features, head, classes), rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_the_sum_of_a_hirescam_map_and_the_bias_is_the_score(space, seed: int) -> None:
    head, features, classes = pooled_case(space, seed)
    axes = tuple(range(2, features.ndim))
    sums = on_a_pooled_head("hirescam", head, features, classes).sum(axis=axes)
    scores = np.take_along_axis(head(features.mean(axis=axes)), classes, axis=1)
    np.testing.assert_allclose(sums + head.bias[classes], scores, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"), [("layercam", {}), ("gradcam-elementwise", {}), ("gradcam++", {"variant": "official"})]
)
@settings(deadline=None, max_examples=30)
@given(space=SPACES, seed=SEEDS)
def test_class_e2_is_the_positive_part_of_the_weights(name: str, options: dict[str, str], space, seed: int) -> None:
    head, features, classes = pooled_case(space, seed)
    maps = on_a_pooled_head(name, head, features, classes, **options) * math.prod(space)
    expected = cam(features, LinearHead(np.maximum(head.weight, 0)), classes)
    np.testing.assert_allclose(maps, expected, rtol=1e-11, atol=1e-12)


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


def test_the_table_says_which_are_alike() -> None:
    kin = {name: METHODS[name].kin for name in METHODS if METHODS[name].needs & {"gradients", "moments"}}
    assert {name for name, group in kin.items() if group == "E1"} >= {"gradcam", "xgradcam", "hirescam", "shapleycam"}
    assert {name for name, group in kin.items() if group == "E2"} >= {"layercam", "gradcam-elementwise"}
    assert {name for name, group in kin.items() if group == "E3"} >= {"gradcam++", "smoothgradcam++"}
    assert method("gradcam++", variant="official").kin == "E2"
    assert method("gradcam++", variant="unheard of").kin == ""
    assert METHODS["finercam"].kin == ""


def test_targets_and_rectification_are_those_of_the_papers() -> None:
    assert METHODS["finercam"].target == "finer"
    assert METHODS["finercam"].formula is grad_cam
    assert METHODS["shapleycam"].target == "rest"
    assert {n for n, r in METHODS.items() if "gradients" in r.needs and r.formula is hires_cam and r.rectifies} == set()
    for name in (
        "gradcam",
        "gradcam++",
        "smoothgradcam++",
        "xgradcam",
        "layercam",
        "gradcam-elementwise",
        "shapleycam",
    ):
        assert METHODS[name].rectifies, name


# Sizes, signs and degenerate arrays


LINEAR = [grad_cam, hires_cam, layer_cam, grad_cam_elementwise, xgrad_cam]


@pytest.mark.parametrize("formula", LINEAR, ids=lambda f: f.__name__)
@pytest.mark.parametrize("power", [-13, -100, 90])
def test_maps_scale_with_the_gradients_to_the_last_bit(formula: Formula, power: int) -> None:
    features, gradients = (x.astype(np.float32) for x in case((4, 4), 7))
    scale = np.float32(2.0) ** power
    for g in (gradients, unit_of(gradients)):
        np.testing.assert_array_equal(formula(features, g * scale), formula(features, g) * scale)


@pytest.mark.parametrize("size", [1e-4, 1e-10, 1e-30])
@pytest.mark.parametrize("formula", PAPERS, ids=lambda f: f.__name__)
def test_tiny_gradients_of_float32_are_exact(formula: Formula, size: float) -> None:
    features, gradients = (x.astype(np.float32) for x in case((4, 4), 8))
    g = gradients * np.float32(size)
    expected = by_loops(PAPERS[formula], features.astype(float), g.astype(float))
    maps = formula(features, g)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("formula", [grad_cam_plus_plus, official], ids=lambda f: f.__name__)
def test_grad_cam_plus_plus_only_knows_the_product_of_gradient_and_feature(formula: Formula) -> None:
    """Features twice as large with gradients half as large are the same network; the map is the same map."""
    features, gradients = case((4, 4), 9)
    expected = formula(features, gradients)
    for power in (-40, 60):
        np.testing.assert_array_equal(formula(features * 2.0**power, gradients * 2.0**-power), expected)


@ALL
@pytest.mark.parametrize("space", [(4,), (3, 3), (2, 2, 2), (1,), (1, 1)])
def test_zeros_give_zeros(formula: Formula, space: tuple[int, ...]) -> None:
    features, gradients = case(space, 10)
    for a, g in [(features * 0, gradients), (features, gradients * 0), (features * 0, gradients * 0)]:
        assert (formula(a, g) == 0).all()
        assert (formula(a, unit_of(g)) == 0).all()


@ALL
def test_constants_give_constants(formula: Formula) -> None:
    features, gradients = np.full((1, 3, 2, 5), 0.7), np.full((1, 2, 3, 2, 5), 0.3)
    maps = formula(features, gradients)
    assert maps.shape == (1, 2, 2, 5)
    np.testing.assert_allclose(maps, maps[0, 0, 0, 0], rtol=1e-14)
    assert maps[0, 0, 0, 0] > 0


@ALL
def test_one_pixel_is_the_whole_map(formula: Formula) -> None:
    features, gradients = case((1, 1), 11)
    expected = by_loops(PAPERS[formula], features, gradients)
    np.testing.assert_allclose(formula(features, gradients), expected, rtol=1e-12, atol=1e-14)


@ALL
def test_features_that_are_all_negative(formula: Formula) -> None:
    features, gradients = case((3, 3), 12)
    features, gradients = -features - 0.1, gradients * 0.01  # so that 2 + S g stays positive
    expected = by_loops(PAPERS[formula], features, gradients)
    np.testing.assert_allclose(formula(features, gradients), expected, rtol=1e-9, atol=1e-12)


def test_where_the_denominator_is_zero_the_weight_is_zero() -> None:
    features = np.array([[[-1.0, -1.0]]])  # S = -2
    gradients = np.array([[[[1.0, 0.5]]]])  # 2 + S g = 0 and 1
    assert grad_cam_plus_plus(features, gradients).tolist() == [[[-0.5, -0.5]]]
    assert official(features, gradients).tolist() == [[[-0.5, -0.5]]]
    moments = (gradients, gradients**2, gradients**3)
    assert smooth_grad_cam_plus_plus(features, moments).tolist() == [[[-0.5, -0.5]]]


def test_features_that_cancel_have_no_average_gradient() -> None:
    features = np.array([[[-1.0, 1.0]]])
    assert xgrad_cam(features, np.array([[[[2.0, 3.0]]]])).tolist() == [[[0, 0]]]
    assert xgrad_cam(features, np.array([[[[2.0]]]])).tolist() == [[[-2, 2]]]  # the average of a constant is that


@ALL
def test_half_precision_is_computed_in_float32(formula: Formula) -> None:
    features, gradients = np.full((1, 300, 4, 4), 300, np.float16), np.full((1, 1, 300, 4, 4), 2, np.float16)
    maps = formula(features, gradients)  # sums of 300 * 300 * 2 and of 300 * 16 * 2 exceed float16
    assert maps.dtype == np.float32
    expected = by_loops(PAPERS[formula], features.astype(float), gradients.astype(float))
    np.testing.assert_allclose(maps, expected, rtol=1e-5)


@ALL
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_precision_given_is_kept(formula: Formula, kind: type) -> None:
    features, gradients = (x.astype(kind) for x in case((3, 4), 13))
    assert formula(features, gradients).dtype == kind
    assert formula(features, unit_of(gradients)).dtype == kind


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_moments_of_float64_keep_the_precision_of_the_features(kind: type) -> None:
    features, g = case((3, 4), 13)
    assert smooth_grad_cam_plus_plus(features.astype(kind), (g, g**2, g**3)).dtype == kind
    assert smooth_grad_cam_plus_plus(features.astype(np.float16), (g, g**2, g**3)).dtype == np.float32


@ALL
def test_nan_stays_with_its_image_and_class(formula: Formula) -> None:
    features, gradients = case((3, 3), 14)
    clean = formula(features, gradients)
    gradients[0, 1, 2, 1, 1] = np.nan
    maps = formula(features, gradients)
    assert np.isnan(maps[0, 1, 1, 1])
    np.testing.assert_array_equal(maps[1], clean[1])
    np.testing.assert_array_equal(maps[0, 0], clean[0, 0])


@ALL
def test_nan_in_the_features_stays_with_its_image(formula: Formula) -> None:
    features, gradients = case((3, 3), 15)
    clean = formula(features, np.abs(gradients) + 0.1)
    features[0, 2, 1, 1] = np.nan
    maps = formula(features, np.abs(gradients) + 0.1)
    assert np.isnan(maps[0, :, 1, 1]).all()
    np.testing.assert_array_equal(maps[1], clean[1])


def test_an_unknown_variant_offers_the_known() -> None:
    features, gradients = case((3,), 0)
    with pytest.raises(InputError, match=r"variant 'offical' of gradcam\+\+ is not known\. Did you mean 'official'\?"):
        grad_cam_plus_plus(features, gradients, variant="offical")


@ALL
@pytest.mark.parametrize(
    "shape", [(2, 1, 4, 3, 3), (1, 1, 3, 3, 3), (2, 1, 3), (2, 3, 3, 3), (2, 1, 3, 3, 1), (2, 1, 3, 1), (2, 1, 3, 5, 5)]
)
def test_gradients_of_another_layer(formula: Formula, shape: tuple[int, ...]) -> None:
    text = (
        f"gradients have shape {shape}; features of shape (2, 3, 3, 3) ask for (N, T, C, *S) = (2, T, 3, 3, 3), "
        "or spatial axes of length one"
    )
    with pytest.raises(InputError, match=re.escape(text)):
        formula(np.ones((2, 3, 3, 3)), np.ones(shape))


def test_curvature_and_moments_of_another_layer() -> None:
    features, gradients = case((3, 3), 0)
    with pytest.raises(InputError, match=r"curvature have shape \(2, 2, 3, 3, 2\); features of shape"):
        shapley_cam(features, gradients, gradients[..., :2])
    with pytest.raises(InputError, match=r"moments have shape \(2, 2, 3, 3, 2\); features of shape"):
        smooth_grad_cam_plus_plus(features, (gradients, gradients, gradients[..., :2]))
    with pytest.raises(InputError, match=r"moments are 2 arrays; expected the means of g, g\^2 and g\^3"):
        smooth_grad_cam_plus_plus(features, (gradients, gradients))  # type: ignore[arg-type]


# Other libraries, on the same arrays


def peer_map(module: str, name: str, features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """pytorch-grad-cam's map of the first class: its functions look at nothing but the arrays."""
    kind = getattr(pytest.importorskip(f"pytorch_grad_cam.{module}"), name)
    me = SimpleNamespace()
    me.get_cam_weights = lambda *given: kind.get_cam_weights(me, *given)
    return kind.get_cam_image(me, None, None, None, features, gradients[:, 0], False)


@pytest.mark.parametrize("space", [(4, 5), (2, 3, 4)])
@pytest.mark.parametrize(
    ("formula", "module", "name"),
    [
        (grad_cam, "grad_cam", "GradCAM"),
        (hires_cam, "hirescam", "HiResCAM"),
        (layer_cam, "layer_cam", "LayerCAM"),
        (grad_cam_elementwise, "grad_cam_elementwise", "GradCAMElementWise"),
        (xgrad_cam, "xgrad_cam", "XGradCAM"),
        (grad_cam_plus_plus, "grad_cam_plusplus", "GradCAMPlusPlus"),
    ],
)
def test_maps_equal_those_of_pytorch_grad_cam(formula: Formula, module: str, name: str, space) -> None:
    features, gradients = case(space, 16, shape=(3, 1, 6))
    gradients = np.where(np.abs(gradients) < 0.3, 0, gradients)  # large beside its epsilons
    theirs = peer_map(module, name, features, gradients)
    np.testing.assert_allclose(formula(features, gradients)[:, 0], theirs, rtol=1e-5, atol=1e-5)


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
