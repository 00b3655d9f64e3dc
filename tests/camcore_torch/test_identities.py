"""Methods that are one on a pooled linear head: the closed form against real gradients, on real networks.

The classes of equal maps are those of the table in camcore.methods; a positive factor, and a constant, are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from camcore_torch import TorchBackend
from torch_autograd import Distrusting, relative
from torch_networks import network

import camcore
from camcore import METHODS

NETWORKS = ("resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1", "vgg16_gap")
QUICK = ("resnet18", "densenet121", "squeezenet1_1")
LIMIT = 1e-5
GRADIENT = [n for n, row in METHODS.items() if row.needs & {"gradients", "curvature"} and "model" not in row.needs]


IMAGES = np.random.default_rng(0).standard_normal((2, 3, 64, 64))


@dataclass(frozen=True)
class Both:
    """A network that is trusted to have the head that was found, and one that is not."""

    trusted: TorchBackend
    distrusted: TorchBackend


@pytest.fixture(scope="module", params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def model(request: pytest.FixtureRequest) -> Both:
    made = network(request.param).double().eval()
    return Both(TorchBackend(made), Distrusting(made))


def explained(backend: TorchBackend, method: str, classes: str, ways: set[str], **options: Any) -> camcore.Explanation:
    explainer = camcore.Explainer(backend, method=method, **options)
    out = explainer(IMAGES, classes)
    assert explainer.plan.way in ways
    return out


def closed(model: Both, method: str, classes: str = "top3", **options: Any) -> camcore.Explanation:
    return explained(model.trusted, method, classes, {"closed form"}, **options)


def run(model: Both, method: str, **options: Any) -> np.ndarray:
    """By differentiating, or by running, the network behind the features."""
    return explained(model.distrusted, method, "top3", {"gradient", "tail runs"}, **options).maps


def scaled(maps: np.ndarray) -> np.ndarray:
    """Each with a largest number of one; those of zeros as they are."""
    largest = np.abs(maps).max((2, 3), keepdims=True)
    return maps / np.where(largest > 0, largest, 1)


@pytest.mark.parametrize("method", GRADIENT)
def test_closed_form_is_the_gradient(model: Both, method: str) -> None:
    assert relative(run(model, method), closed(model, method).maps) <= LIMIT


@pytest.mark.parametrize("target", ["probability", "log-probability", "rest", "difference"])
@pytest.mark.parametrize("method", ["gradcam", "shapleycam"])
def test_closed_form_of_other_targets(model: Both, method: str, target: str) -> None:
    assert relative(run(model, method, target=target), closed(model, method, target=target).maps) <= LIMIT


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_e1_the_class_activation_map(model: Both, method: str) -> None:
    cam = closed(model, "cam").maps
    assert relative(run(model, method) * (cam.shape[2] * cam.shape[3]), cam) <= LIMIT


def test_e1_shapley_cam_on_the_score(model: Both) -> None:
    """The Hessian is zero."""
    grad_cam = closed(model, "gradcam").maps
    assert relative(run(model, "shapleycam", target="logit"), grad_cam) <= LIMIT
    assert relative(closed(model, "shapleycam", target="logit").maps, grad_cam) <= LIMIT


def test_e1_recipro_cam(model: Both) -> None:
    """``b_c + M_c(u) / P``."""
    cam, recipro = closed(model, "cam"), run(model, "reciprocam")
    bias = model.trusted.tap().need_head().bias[cam.classes][:, :, None, None]
    assert relative(recipro, bias + cam.maps / np.prod(cam.maps.shape[2:])) <= LIMIT


@pytest.mark.parametrize("kernel", ["pixel", "gaussian"])
def test_recipro_cam_in_closed_form(model: Both, kernel: str) -> None:
    options = {"kernel": kernel}
    assert (
        relative(run(model, "reciprocam", options=options), closed(model, "reciprocam", options=options).maps) <= LIMIT
    )


@pytest.mark.parametrize(
    ("method", "options"), [("gradcam-elementwise", {}), ("gradcam++", {"variant": "official"}), ("layercam", {})]
)
def test_e2_positive_weights(model: Both, method: str, options: dict[str, str]) -> None:
    """``sum_k ReLU(W_ck) A_k``."""
    expected = closed(model, "layercam").maps
    assert relative(scaled(run(model, method, options=options)), scaled(expected)) <= LIMIT


def test_e3_noise_does_not_matter(model: Both) -> None:
    plus_plus = closed(model, "gradcam++").maps
    assert relative(run(model, "gradcam++"), plus_plus) <= LIMIT
    assert relative(run(model, "smoothgradcam++", options={"samples": 2}), plus_plus) <= LIMIT


def test_e4_channels_are_players_of_an_additive_game(model: Both) -> None:
    """Ablation-CAM and LIFT-CAM: what a channel takes away is its weight times its mean."""
    out = closed(model, "liftcam")
    seen = model.trusted.observe(IMAGES, needs=frozenset({"features", "head"}))[0]
    assert seen.features is not None
    rows = model.trusted.tap().need_head().weight[out.classes] * seen.features.mean((2, 3))[:, None]
    expected = np.einsum("ntc,nchw->nthw", rows, seen.features)
    assert relative(out.maps, expected) <= LIMIT
    assert relative(closed(model, "ablationcam").maps, expected) <= LIMIT


@pytest.mark.slow
def test_e4_by_tail_runs(model: Both) -> None:
    """A thousand runs of a pooling and a matrix product."""
    assert relative(run(model, "ablationcam"), closed(model, "liftcam").maps) <= LIMIT


def probabilities(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("target", ["probability", "log-probability"])
def test_e5_probabilities_contrast_a_class_with_all(model: Both, target: str) -> None:
    """Grad-CAM on ``ln p_c`` is ``(M_c - sum_j p_j M_j) / P``."""
    every, found = closed(model, "cam", "all"), closed(model, "gradcam", target=target)
    p = probabilities(every.scores)
    mean = np.einsum("nk,nkhw->nhw", p, every.maps.astype(np.float64))
    for n, row in enumerate(found.classes):
        for t, c in enumerate(row):
            factor = (p[n, c] if target == "probability" else 1) / mean[n].size
            assert relative(found.maps[n, t], factor * (every.maps[n, c] - mean[n])) <= 1e-4  # float32 maps subtracted


def test_e5_finer_cam_subtracts_the_maps_of_the_nearest(model: Both) -> None:
    every, found = closed(model, "cam", "all"), run(model, "finercam")
    for n, scores in enumerate(every.scores.astype(np.float64)):
        for t, c in enumerate(np.argsort(-scores)[:3]):
            distance = np.abs(scores - scores[c])
            distance[c] = np.inf
            nearest = np.argsort(distance, kind="stable")[:3]
            expected = every.maps[n, c] - 0.6 * every.maps[n, nearest].mean(0)
            assert relative(found[n, t] * expected.size, expected) <= LIMIT
