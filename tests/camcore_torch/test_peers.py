"""Raw maps beside those of captum, torch-cam and pytorch-grad-cam: the same where the definitions are, and where they
are not, a test that says who follows the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_autograd import EXPLAINED, forward, relative, slopes
from torch_networks import network

import camcore

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers have their own
CLASSES = [1, 4]
LIMIT = 1e-5


class Vgg(nn.Module):
    """Convolutions, ReLU in place, poolings by maximum; global average pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3)),
            *(
                nn.Conv2d(8, 10, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(10, 9, 3, padding=1),
                nn.ReLU(inplace=True),
            ),
        )
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(9, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


def made(name: str) -> nn.Module:
    if name != "vgg":
        return network(name).eval()
    torch.manual_seed(2)
    model = Vgg().eval()
    for parameter in model.parameters():  # lively: many features, of all classes
        nn.init.normal_(parameter, 0.02, 0.3) if parameter.ndim > 1 else nn.init.normal_(parameter, 0.1, 0.1)
    return model


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """How far, relative to the largest number; maps of zeros would show nothing."""
    assert expected.any()
    return relative(found, expected)


def images(side: int = 36) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)


def ours(model: nn.Module, method: str, layer: str, x: np.ndarray, **options: Any) -> np.ndarray:
    return camcore.explainer(model, method=method, layer=layer, **options)(x, CLASSES).maps[:, 0]


# network -> layer, and whether our map there comes from the closed form
PLACES = [
    ("resnet18", "layer4", "closed form"),
    ("resnet18", "layer3", "gradient"),
    ("vgg", "features", "closed form"),
    ("vgg", "features.2", "gradient"),
]
places = pytest.mark.parametrize(("name", "layer", "way"), PLACES)


def test_ways_are_both_there() -> None:
    for name, layer, way in PLACES:
        explainer = camcore.explainer(made(name), method="gradcam", layer=layer)
        explainer(images())
        assert explainer.plan.way == way


def grad_cam_raw(
    kind: str, model: nn.Module, layer: str, x: np.ndarray, line: Any = None, **options: Any
) -> np.ndarray:
    """What pytorch-grad-cam has before its ReLU, scaling and resizing."""
    peer = pytest.importorskip("pytorch_grad_cam")
    model, found = copy.deepcopy(model), []
    cam = getattr(peer, kind)(model, [model.get_submodule(layer)], **options)
    make = cam.get_cam_image
    cam.get_cam_image = lambda *a, **k: found.append(make(*a, **k)) or found[-1]
    line = line or EXPLAINED["logit"][1]
    cam(torch.from_numpy(x), [lambda s, c=c: line(s, c) for c in CLASSES])
    raw = found[0]
    return raw.detach().numpy() if isinstance(raw, Tensor) else raw


def torch_cam_raw(
    kind: str, model: nn.Module, layer: str, x: np.ndarray, call: Any = None, **options: Any
) -> np.ndarray:
    """What torch-cam has before its scaling; all but CAM have their ReLU."""
    peer = pytest.importorskip("torchcam.methods")
    model = copy.deepcopy(model)
    with getattr(peer, kind)(model, layer, input_shape=x.shape[1:], **options) as cam:
        scores = model(torch.from_numpy(x).requires_grad_(True))
        (raw,) = cam(CLASSES, scores, normalized=False, **(call or {}))
    return raw.detach().numpy()


def captum_layer(model: nn.Module, layer: str) -> tuple[Any, nn.Module, nn.Module]:
    peer = pytest.importorskip("captum.attr")
    model = copy.deepcopy(model)
    return peer, model, model.get_submodule(layer)


@places
@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        ("GradCAM", "gradcam", {}),
        ("HiResCAM", "hirescam", {}),
        ("XGradCAM", "xgradcam", {}),
        ("LayerCAM", "layercam", {}),
        ("GradCAMElementWise", "gradcam-elementwise", {}),
        ("KPCA_CAM", "kpcacam", {}),
        ("ShapleyCAM", "shapleycam", {"target": "logit"}),
        ("ShapleyCAM", "shapleycam", {"target": "rest"}),
    ],
)
def test_pytorch_grad_cam(kind: str, method: str, options: dict[str, Any], name: str, layer: str, way: str) -> None:
    model, x = made(name), images()
    line = EXPLAINED[options["target"]][1] if options else None
    theirs, found = grad_cam_raw(kind, model, layer, x, line), ours(model, method, layer, x, **options)
    if kind == "KPCA_CAM":  # theirs has either sign
        theirs = theirs * np.sign((theirs * found).sum((1, 2), keepdims=True))
    # an epsilon of 1e-7 in XGrad-CAM, where channels may sum to little; a component of a matrix in theirs
    assert apart(found, theirs) <= {"XGradCAM": 1e-4, "KPCA_CAM": 1e-4}.get(kind, LIMIT)


@places
@pytest.mark.parametrize("kind", ["EigenCAM", "EigenGradCAM"])
def test_pytorch_grad_cam_centres_and_leaves_the_sign_to_chance(kind: str, name: str, layer: str, way: str) -> None:
    """The paper of Eigen-CAM neither centres nor flips: ours projects the features as they are, and fixes the sign."""
    model, x = made(name), images()
    theirs = grad_cam_raw(kind, model, layer, x)
    centred = ours(model, kind.lower(), layer, x, centred=True)
    assert apart(np.abs(centred), np.abs(theirs)) <= 1e-3
    if kind == "EigenCAM":
        assert (ours(model, "eigencam", layer, x) >= 0).all()  # of features that are not negative
        assert (theirs < 0).any()


@places
@pytest.mark.parametrize(
    ("kind", "method"),
    [("GradCAM", "gradcam"), ("XGradCAM", "xgradcam"), ("LayerCAM", "layercam"), ("FinerCAM", "finercam")],
)
def test_torch_cam(kind: str, method: str, name: str, layer: str, way: str) -> None:
    model, x = made(name), images()
    theirs = torch_cam_raw(kind, model, layer, x)
    assert apart(np.maximum(ours(model, method, layer, x), 0), theirs) <= LIMIT


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("vgg", "features")])
def test_class_activation_map_of_torch_cam(name: str, layer: str) -> None:
    model, x = made(name), images()
    theirs = torch_cam_raw("CAM", model, layer, x, fc_layer="fc")
    assert apart(ours(model, "cam", layer, x), theirs) <= LIMIT


@places
def test_captum(name: str, layer: str, way: str) -> None:
    model, x = made(name), images()
    peer, theirs, module = captum_layer(model, layer)
    target = torch.tensor(CLASSES)
    grad_cam = peer.LayerGradCam(theirs, module).attribute(torch.from_numpy(x), target=target)
    assert apart(ours(model, "gradcam", layer, x), grad_cam[:, 0].detach().numpy()) <= LIMIT
    products = peer.LayerGradientXActivation(theirs, module).attribute(torch.from_numpy(x), target=target)
    assert apart(ours(model, "hirescam", layer, x), products.sum(1).detach().numpy()) <= LIMIT


@pytest.mark.parametrize(("name", "layer"), [("vgg", "features"), ("vgg", "features.2"), ("vgg", "features.3")])
def test_ablation_of_captum(name: str, layer: str) -> None:
    """Its ablation of a layer, a channel at a time, gives the weights of Ablation-CAM."""
    model, x = made(name).double(), images().astype(np.float64)
    peer, theirs, module = captum_layer(model, layer)
    _, values = forward(model, x, [layer])
    a = values[layer].detach()
    channels = torch.arange(a.shape[1])[None, :, None, None].expand(1, *a.shape[1:])
    drops = peer.LayerFeatureAblation(theirs, module).attribute(
        torch.from_numpy(x), target=torch.tensor(CLASSES), layer_mask=channels
    )
    assert apart(ours(model, "ablationcam", layer, x), (drops * a).sum(1).numpy()) <= LIMIT


def positive(model: nn.Module) -> nn.Module:
    """With scores above zero, by which a peer may divide."""
    with torch.no_grad():
        model.fc.bias.add_(5)
    return model


@pytest.mark.parametrize("layer", ["features", "features.2"])
def test_ablation_of_pytorch_grad_cam(layer: str) -> None:
    """The same where features are not negative, some are zero, and the score is positive."""
    model, x = positive(made("vgg")), images()
    theirs = grad_cam_raw("AblationCAM", model, layer, x)
    assert apart(ours(model, "ablationcam", layer, x, relative=True), theirs) <= 1e-3  # differences of float32 scores


def test_ablation_of_pytorch_grad_cam_turns_with_the_sign_of_the_score() -> None:
    """It divides by a negative score, so what supports the class gets a negative weight; ours does not divide."""
    model, x = made("vgg"), images()
    with torch.no_grad():
        model.fc.bias.sub_(5)
    theirs = grad_cam_raw("AblationCAM", model, "features", x)
    found = ours(model, "ablationcam", "features", x)
    for one, other in zip(found, theirs, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < -0.999


def test_ablation_of_pytorch_grad_cam_with_negative_features() -> None:
    """It puts -1e7 below the minimum where one is negative; the paper, and ours, put zero."""
    model, x = positive(made("vgg")), images()
    model.features[6] = nn.Identity()
    theirs = grad_cam_raw("AblationCAM", model, "features", x)
    assert np.abs(theirs).max() > 1e4 * np.abs(ours(model, "ablationcam", "features", x)).max()


def test_grad_cam_plus_plus_of_torch_cam_never_divides() -> None:
    """Its masked division writes into a copy, so that its weights are the sums of g^2 ReLU(g); ours are the paper's."""
    model, x = made("vgg").double(), images().astype(np.float64)
    scores, values = forward(model, x, ["features.2"])
    g = slopes(scores, values["features.2"], np.array(CLASSES)[:, None], EXPLAINED["logit"][1])[:, 0]
    a = values["features.2"].detach().numpy()
    undivided = ((g**2 * np.maximum(g, 0)).sum((2, 3), keepdims=True) * a).sum(1)
    paper = _plus_plus(g, a, 0)
    theirs = torch_cam_raw("GradCAMpp", model, "features.2", x)
    found = ours(model, "gradcam++", "features.2", x)
    assert apart(theirs, np.maximum(undivided, 0)) <= 1e-6
    assert apart(found, paper) <= LIMIT
    assert apart(theirs / theirs.max(), found / found.max()) > 0.01


def _plus_plus(g: np.ndarray, a: np.ndarray, epsilon: float) -> np.ndarray:
    """Equation 19 of the paper, with what pytorch-grad-cam adds to the denominator."""
    below = 2 * g**2 + a.sum((2, 3), keepdims=True) * g**3 + epsilon
    alpha = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)
    return ((alpha * np.maximum(g, 0)).sum((2, 3), keepdims=True) * a).sum(1)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("resnet18", "layer3")])
def test_grad_cam_plus_plus_of_pytorch_grad_cam_has_an_epsilon(name: str, layer: str) -> None:
    """1e-6 beside squares of gradients that are no larger; the paper has none, nor have we."""
    model, x = made(name).double(), images(64).astype(np.float64)
    scores, values = forward(model, x, [layer])
    g = slopes(scores, values[layer], np.array(CLASSES)[:, None], EXPLAINED["logit"][1])[:, 0]
    a = values[layer].detach().numpy()
    theirs = grad_cam_raw("GradCAMPlusPlus", model, layer, x)
    found = ours(model, "gradcam++", layer, x)
    assert apart(theirs, _plus_plus(g, a, 1e-6)) <= 1e-6
    assert apart(found, _plus_plus(g, a, 0)) <= LIMIT
    assert apart(theirs, found) > 1e-4


@pytest.mark.parametrize("kind", ["XGradCAM"])
def test_xgrad_cam_of_the_peers_has_an_epsilon(kind: str) -> None:
    """Features of 1e-10 vanish beside it; ours are the quotient that the paper writes, whatever the scale."""
    model, x = made("vgg").double(), images().astype(np.float64)
    exact = ours(model, "xgradcam", "features.2", x)
    small = copy.deepcopy(model)
    with torch.no_grad():
        small.features[0].weight.mul_(1e-10)
        small.features[0].bias.mul_(1e-10)
        small.features[3].weight.mul_(1e10)
    assert apart(ours(small, "xgradcam", "features.2", x), exact) <= LIMIT
    assert apart(grad_cam_raw(kind, small, "features.2", x), exact) > 0.5
    assert apart(torch_cam_raw(kind, small, "features.2", x), np.maximum(exact, 0)) > 0.1


def test_smooth_grad_cam_plus_plus_of_torch_cam() -> None:
    """Behind a pooled head noise changes no gradient, so the noise does not matter. It weighs the features of the last
    noisy image, where the paper, and ours, weigh those of the image itself; and it has an epsilon."""
    model, x = made("vgg").double(), images().astype(np.float64)
    with torch.no_grad():
        model.fc.weight.mul_(1e3)
    found = ours(model, "smoothgradcam++", "features", x)
    assert apart(torch_cam_raw("SmoothGradCAMpp", model, "features", x, std=1e-9), found) <= LIMIT
    assert apart(torch_cam_raw("SmoothGradCAMpp", model, "features", x, std=0.3), found) > 0.01
    with torch.no_grad():
        model.fc.weight.div_(1e4)
    found = ours(model, "smoothgradcam++", "features", x)
    assert apart(torch_cam_raw("SmoothGradCAMpp", model, "features", x, std=1e-9), found) > 0.01


def test_finer_cam_of_pytorch_grad_cam_is_another_target() -> None:
    """Its references are weighted by their probabilities, and differentiated too; the paper takes 0.6 of their mean."""
    peer = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x = made("vgg"), images()
    lines = EXPLAINED["finer"][1]
    assert (
        apart(grad_cam_raw("GradCAM", model, "features.2", x, lines), ours(model, "finercam", "features.2", x)) <= LIMIT
    )
    weighted = lambda s, c: peer.FinerWeightedTarget(c, [0, 2, 3], 1.0)(s)  # noqa: E731
    assert (
        apart(grad_cam_raw("GradCAM", model, "features.2", x, weighted), ours(model, "finercam", "features.2", x)) > 0.1
    )


def test_fem_of_pytorch_grad_cam_is_another_method() -> None:
    """It weighs features by how often they are unusual; the paper sums the means where they are unusual, as we do."""
    model, x = made("vgg").double(), images().astype(np.float64)
    _, values = forward(model, x, ["features.2"])
    a = values["features.2"].detach().numpy()
    mean, spread = a.mean((2, 3), keepdims=True), a.std((2, 3), keepdims=True)
    unusual = a >= mean + 2 * spread
    found = ours(model, "fem", "features.2", x)
    theirs = grad_cam_raw("FEM", model, "features.2", x)
    assert apart(found, (mean * unusual).sum(1)) <= LIMIT
    assert apart(theirs, (unusual.mean((2, 3), keepdims=True) * a).sum(1)) <= 1e-4
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] < 0.999


def peaked(model: nn.Module) -> nn.Module:
    """With scores that differ much, so that a softmax over channels shows what the masks were."""
    with torch.no_grad():
        model.fc.weight.mul_(20)
    return model


def test_score_cam_of_torch_cam() -> None:
    """The same where the image is an odd multiple of the map, so that resizing meets every maximum: 12 to 36."""
    model, x = peaked(made("vgg")), images()
    theirs = torch_cam_raw("ScoreCAM", model, "features.2", x)
    assert apart(np.maximum(ours(model, "scorecam", "features.2", x), 0), theirs) <= 1e-4


def _score_cam(model: nn.Module, layer: str, x: np.ndarray, masks: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Channel by channel; ``masks`` makes (C, 1, H, W) out of (C, 1, h, w)."""
    _, values = forward(model, x, [layer])
    maps = []
    for image, a, c in zip(torch.from_numpy(x), values[layer].detach(), CLASSES, strict=True):
        with torch.no_grad():
            weights = model(image * masks(a[:, None]))[:, c].softmax(0)
        maps.append((weights[:, None, None] * a).sum(0).numpy())
    return np.stack(maps)


def _scaled(masks: Tensor) -> Tensor:
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    return (masks - low) / (high - low).where(high > low, torch.ones(()).to(low))


def test_score_cam_where_torch_cam_scales_before_resizing() -> None:
    """12 to 48 misses the maxima; the paper scales the resized map to [0, 1], as we do."""
    model, x = peaked(made("vgg")).double(), images(48).astype(np.float64)
    model.features[2] = nn.MaxPool2d(4)
    up = lambda a: nn.functional.interpolate(a, (48, 48), mode="bilinear")  # noqa: E731
    found = ours(model, "scorecam", "features.2", x)
    theirs = torch_cam_raw("ScoreCAM", model, "features.2", x)
    assert apart(found, _score_cam(model, "features.2", x, lambda a: _scaled(up(a)))) <= 1e-4
    assert apart(theirs, np.maximum(_score_cam(model, "features.2", x, lambda a: up(_scaled(a))), 0)) <= 1e-4
    assert apart(theirs, np.maximum(found, 0)) > 1e-3


def test_score_cam_of_pytorch_grad_cam_resizes_masks_to_the_corners() -> None:
    """align_corners=True for its masks and not for its maps; ours has one geometry, that of the pixels' centres."""
    model, x = peaked(made("vgg")).double(), images().astype(np.float64)
    up = lambda a: nn.functional.interpolate(a, (36, 36), mode="bilinear", align_corners=True)  # noqa: E731
    theirs = grad_cam_raw("ScoreCAM", model, "features.2", x)
    assert apart(theirs, _score_cam(model, "features.2", x, lambda a: _scaled(up(a)))) <= 1e-4
    assert apart(theirs, ours(model, "scorecam", "features.2", x)) > 1e-3


def test_is_cam_of_torch_cam_goes_beyond_the_image() -> None:
    """Its factors add up, 1/2 and then 3/2; the paper's, and ours, are 1/2 and 1. One step is Score-CAM for all."""
    model, x = peaked(made("vgg")), images()
    one = torch_cam_raw("ISCAM", model, "features.2", x, num_samples=1)
    assert apart(np.maximum(ours(model, "iscam", "features.2", x, samples=1), 0), one) <= 1e-4
    two = torch_cam_raw("ISCAM", model, "features.2", x, num_samples=2)
    assert apart(np.maximum(ours(model, "iscam", "features.2", x, samples=2), 0), two) > 1e-3
