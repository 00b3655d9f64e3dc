"""The formulas on gradients against loops written from the papers, in float64."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from gradient_papers import (
    ALL,
    PAPERS,
    SEEDS,
    SPACES,
    Formula,
    by_loops,
    case,
    on_a_pooled_head,
    paper_grad_cam,
    peer_map,
    pooled_case,
    spread,
    unit_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods import METHODS, cam, method
from camcore.methods.gradients import (
    grad_cam,
    grad_cam_elementwise,
    hires_cam,
    layer_cam,
    shapley_cam,
    xgrad_cam,
)
from camcore.methods.plusplus import grad_cam_plus_plus, smooth_grad_cam_plus_plus


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


# A linear head behind a global average pooling


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


def test_the_table_says_which_are_alike() -> None:
    kin = {name: METHODS[name].kin for name in METHODS if METHODS[name].needs & {"gradients", "moments"}}
    first = {"gradcam", "xgradcam", "hirescam", "shapleycam", "finercam"}
    assert {name for name, group in kin.items() if group == "E1"} >= first
    assert {name for name, group in kin.items() if group == "E2"} >= {"layercam", "gradcam-elementwise"}
    assert {name for name, group in kin.items() if group == "E3"} >= {"gradcam++", "smoothgradcam++"}
    assert method("gradcam++", variant="official").kin == "E2"
    assert method("gradcam++", variant="unheard of").kin == ""


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
