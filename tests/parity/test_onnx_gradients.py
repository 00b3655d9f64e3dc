"""Gradients at any layer: the same maps in PyTorch and in ONNX Runtime, kinks and saturated heads included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import data
import numpy as np
import pytest
import torch
import torchvision
from camcore_onnx import OnnxBackend
from camcore_torch import TorchBackend
from camcore_torch.exporting import EXPORTERS, to_onnx
from data import Real
from numpy.typing import NDArray
from token_networks import Tokens, first
from torch import Tensor, nn
from torch_networks import CifarResNet20

from camcore import METHODS
from camcore.engine import Explainer
from camcore.pictures import load_picture

Floats = NDArray[np.floating[Any]]

LIMIT = 1e-4
GRADIENT = tuple(n for n, row in METHODS.items() if row.needs & {"gradients", "curvature", "moments"})
MANY = ("groupcam", "smoothgradcam++")  # which run the network many times: in the wide form, but for one
QUICK = {"groupcam": {"groups": 4}, "smoothgradcam++": {"samples": 3}}
TARGETS = ("logit", "probability", "log-probability", "rest", "difference", "difference:1", "finer")


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """What is in front of the layers goes past them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.SiLU(), Gate(6))
        self.right = nn.Sequential(nn.Conv2d(6, 6, 1, groups=3), nn.Hardswish())
        self.last = nn.Sequential(nn.Conv2d(12, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left = self.left(x) + x
        return self.head(self.last(torch.cat([left, self.right(left)], 1)).mean((2, 3)))


class LastAxis(nn.Module):
    """Channels last between the convolutions, where they are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 4, 2), nn.LayerNorm(6)
        self.wide, self.act, self.narrow = nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6)
        self.mix, self.head = nn.Conv2d(6, 6, 3, 1, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        x = self.narrow(self.act(self.wide(x))).permute(0, 3, 1, 2)
        return self.head(torch.tanh(self.mix(x)).mean((2, 3)))


def vgg(classes: int = 5) -> nn.Module:
    """Flattened behind the last pooling, so that each position has weights of its own."""
    front = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*front, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 7), nn.ReLU(), nn.Linear(7, classes))


def line(axes: int, window: int, numbers: int) -> nn.Module:
    conv, pool = getattr(nn, f"Conv{axes}d"), getattr(nn, f"MaxPool{axes}d")
    middle = [conv(3, 6, 3, 1, 1), nn.ReLU(), pool(3, 2, 1), conv(6, 6, 3, 1, 1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*middle, getattr(nn, f"AvgPool{axes}d")(window), nn.Flatten(), nn.Linear(numbers, 5))


@dataclass(frozen=True)
class Network:
    """How to make one, an image for it, and layers from the image to the scores."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: tuple[str, ...]


NETWORKS = {
    "vgg": Network(vgg, (3, 12, 12), ("1", "3", "4")),
    "residual": Network(Residual, (3, 14, 11), ("stem.2", "left.1", "last.1")),
    "last axis": Network(LastAxis, (3, 12, 14), ("norm", "act", "mix")),
    "tokens": Network(lambda: Tokens(first, prefix=2), (3, 8, 12), ("norms.0", "norms.1")),
    "tokens by hand": Network(lambda: Tokens(lambda x: x.mean(1), by_hand=True, prefix=0), (3, 8, 12), ("norms.1",)),
    "signal": Network(lambda: line(1, 6, 12), (3, 24), ("1", "3", "4")),
    "volume": Network(lambda: line(3, 2, 24), (3, 8, 8, 4), ("1", "4")),
}


@cache
def made(name: str) -> nn.Module:
    torch.manual_seed(1)
    model = NETWORKS[name].make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


@cache
def both(name: str, exporter: Any = "torchscript") -> tuple[TorchBackend, OnnxBackend]:
    return backends(made(name), NETWORKS[name].shape, exporter)


def backends(
    model: nn.Module, shape: tuple[int, ...], exporter: Any = "torchscript"
) -> tuple[TorchBackend, OnnxBackend]:
    here = TorchBackend(model)
    here.tap(example=images(shape))
    return here, OnnxBackend(to_onnx(model, (2, *shape), exporter=exporter), device="cpu", threads=1)


def images(shape: tuple[int, ...], *, count: int = 2, steps: int = 0) -> Floats:
    """Random, or of few different values, so that many neighbours tie."""
    numbers = np.random.default_rng(len(shape)).standard_normal((count, *shape)).astype(np.float32)
    return np.round(numbers * steps) / np.float32(steps) if steps else numbers


def agree(
    pair: tuple[TorchBackend, OnnxBackend], pixels: Floats, classes: Any, limit: float = LIMIT, **how: Any
) -> Floats:
    """Map by map; those of PyTorch are returned."""
    options = QUICK.get(how["method"])
    here, there = (Explainer(backend, options=options, **how)(pixels, classes) for backend in pair)
    assert there.maps.shape == here.maps.shape
    np.testing.assert_array_equal(there.classes, here.classes)
    axes = tuple(range(2, here.maps.ndim))
    error, size = np.abs(there.maps - here.maps).max(axis=axes), np.abs(here.maps).max(axis=axes)
    assert (error <= limit * size).all(), (how, (error / np.maximum(size, 1e-38)).max())
    return here.maps


def cases() -> list[Any]:
    found = []
    for name, network in NETWORKS.items():
        for layer in network.layers:
            for method in GRADIENT:
                slow = method in MANY and (name, layer) != ("residual", "left.1")
                found.append(pytest.param(name, layer, method, marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize(("name", "layer", "method"), cases())
def test_any_layer(name: str, layer: str, method: str) -> None:
    # Two singular values may be close; and of many noisy copies some lie at a kink.
    limit = 1e-3 if method in ("eigengradcam", "smoothgradcam++") else LIMIT
    maps = agree(both(name), images(NETWORKS[name].shape), [[1, 3], [0, 2]], limit, method=method, layer=layer)
    assert np.ptp(maps) > 0


@pytest.mark.parametrize("method", [m for m in GRADIENT if m not in MANY])
@pytest.mark.parametrize("fusion", ["max", "mean"])
def test_several_layers_at_once(method: str, fusion: str) -> None:
    for name in ("vgg", "residual", "signal"):
        layers, pixels = list(NETWORKS[name].layers), images(NETWORKS[name].shape)
        agree(both(name), pixels, "top2", 1e-3, method=method, layer=layers, fusion=fusion, fusion_size="input")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "shapleycam"])
def test_targets(target: str, method: str) -> None:
    for name in ("vgg", "residual", "last axis"):
        layer, pixels = NETWORKS[name].layers[1], images(NETWORKS[name].shape)
        agree(both(name), pixels, [[0, 4], [2, 3]], method=method, layer=layer, target=target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [m for m in GRADIENT if m not in MANY])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_targets_wide(target: str, method: str, name: str, exporter: Any) -> None:
    limit = 1e-2 if method == "gradcam++" else 1e-3  # whose weights have a pole, at 2 + g sum(A) = 0
    for layer in NETWORKS[name].layers:
        pixels = images(NETWORKS[name].shape)
        agree(both(name, exporter), pixels, "all", limit, method=method, layer=layer, target=target)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "xgradcam"])
@pytest.mark.parametrize("smoothing", ["flip", "flip+gains"])
def test_smoothing(method: str, smoothing: str) -> None:
    for target in ("logit", "difference", "finer"):
        pixels = images(NETWORKS["residual"].shape)
        agree(both("residual"), pixels, "top2", method=method, layer="left.1", smoothing=smoothing, target=target)


@pytest.mark.parametrize("method", [m for m in GRADIENT if m not in ("eigengradcam", *MANY)])
class TestKinks:
    def test_ties(self, method: str) -> None:
        """Images of three values: the first of equal numbers counts in a max pooling, and ReLU'(0) is 0."""
        model = vgg().eval()
        with torch.no_grad():
            model[0].weight.copy_(torch.round(model[0].weight * 4) / 4)
            model[0].bias.zero_()
        pair = backends(model, (3, 12, 12))
        for pixels in (images((3, 12, 12), steps=1), np.zeros((2, 3, 12, 12), np.float32)):
            for layer in ("0", "1", "3"):
                agree(pair, pixels, [[0, 1], [2, 3]], method=method, layer=layer)

    def test_dead_channels_and_a_dead_layer(self, method: str) -> None:
        """Gradients of zero give maps of zero."""
        torch.manual_seed(2)
        model = vgg().eval()
        with torch.no_grad():
            model[3].bias[:3] = -100
        agree(backends(model, (3, 12, 12)), images((3, 12, 12)), "top2", method=method, layer="4")
        with torch.no_grad():
            model[3].bias[:] = -100
        assert not agree(backends(model, (3, 12, 12)), images((3, 12, 12)), "top2", method=method, layer="1").any()


@pytest.mark.parametrize("ending", ["none", "softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_saturated_heads(classes: int, ending: str) -> None:
    """Scores up to 50 apart: a probability next to 0 or 1 has a slope that float32 still holds."""
    torch.manual_seed(3)
    last: list[nn.Module] = {"none": [], "softmax": [nn.Softmax(1)], "sigmoid": [nn.Sigmoid()]}[ending]
    model = nn.Sequential(*vgg(classes), *last).eval()
    pixels = images((3, 12, 12), count=4)
    with torch.no_grad():
        scores = model[:10](torch.from_numpy(pixels)) - model[9].bias
        model[9].weight *= 50 / scores.abs().max()
    pair = backends(model, (3, 12, 12))
    for target in [t for t in TARGETS if classes > 1 or not t.startswith("difference")]:
        agree(pair, pixels, "all", 1e-3, method="layercam", layer="1", target=target)


# The network for each of the weights.
WEIGHTS: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "squeezenet1_0_songhan_deepcompression_ts13.onnx": (
        "squeezenet1_0_songhan_deepcompression.pth",
        torchvision.models.squeezenet1_0,
        "features.7",
    ),
    "cifar10_resnet20_akamaster_ts13.onnx": ("cifar10_resnet20_akamaster.pth", CifarResNet20, "layer2.1"),
}
REALS = {real.file: real for real in (*data.WITH_CAM, *data.WITHOUT_CAM)}


def backend(real: Real) -> OnnxBackend:
    return OnnxBackend(real.path, device="cpu", threads=1)


def pictures(real: Real) -> Floats:
    explainer = Explainer(backend(real), method="activationmap", preprocess=real.preprocess)
    files = [data.folder() / "images" / name for name in ("chelsea.png", "coffee.png")]
    return explainer.prepare([load_picture(str(file)) for file in files])[0]


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "shapleycam"])
def test_real_weights(file: str, method: str) -> None:
    real, (weights, make, module) = REALS[file], WEIGHTS[file]
    model = make()
    model.load_state_dict(torch.load(data.folder() / "weights" / weights, weights_only=True))
    pixels, there = pictures(real), backend(real)
    here = TorchBackend(model.eval())
    last = here.tap(None, pixels).layer
    for layer in (module, last):
        seen = here.observe(pixels, needs=frozenset({"features"}), layers=[layer])[0].features
        assert seen is not None
        name = same(there, pixels, seen)
        expected = Explainer(here, method=method, layer=layer, target="probability")(pixels, "top2")
        found = Explainer(there, method=method, layer=name, target="probability")(pixels, expected.classes)
        assert np.abs(found.maps - expected.maps).max() <= 1e-3 * np.abs(expected.maps).max()


def same(there: OnnxBackend, pixels: Floats, wanted: Floats) -> str:
    """The layer whose features are those."""
    shape = wanted.shape[1:]
    for value in [v for node in there.graph for v in node.outputs]:
        if value.shape is not None and tuple(value.shape[1:]) == shape:
            seen = there.observe(pixels, needs=frozenset({"features"}), layers=[value.name])[0].features
            if seen is not None and np.abs(seen - wanted).max() <= 1e-3 * np.abs(wanted).max():
                return value.name or ""
    raise AssertionError(f"no tensor holds the features of shape {shape}")


def test_a_quantised_network_looks_where_the_float_network_looks() -> None:
    float_, qdq = (REALS[f"mobilenet_v1_0.25_128_{kind}.onnx"] for kind in ("fp32", "qdq"))
    pixels, near = pictures(float_), {}
    for method in ("gradcam", "layercam", "hirescam"):
        layers = [
            [layer for layer in backend(real).layers() if layer.shape[1:] == (8, 8)][-1] for real in (float_, qdq)
        ]
        maps = [
            Explainer(backend(real), method=method, layer=layer.name)(pixels, [283, 968]).maps
            for real, layer in zip((float_, qdq), layers, strict=True)
        ]
        near[method] = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*maps, strict=True)]
    assert min(min(numbers) for numbers in near.values()) > 0.9, near


@pytest.mark.parametrize("file", REALS)
def test_gradients_of_real_models_are_the_slopes_of_their_tails(file: str) -> None:
    """Central differences of the network behind a convolution, along the gradient itself; noise keeps off the kinks."""
    real = REALS[file]
    there, pixels = backend(real), pictures(real)[:1]
    pixels = pixels + 0.1 * pixels.std() * np.random.default_rng(0).standard_normal(pixels.shape).astype(np.float32)
    convolutions = [node.outputs[0].name for node in there.graph if node.op_type == "Conv"]
    layer = convolutions[2 * len(convolutions) // 3]
    needs = frozenset({"features", "gradients"})
    seen = there.observe(pixels, needs=needs, layers=[layer])[0]
    assert seen.features is not None
    assert seen.gradients is not None
    features, gradient = seen.features[0].astype(np.float64), seen.gradients[0, 0].astype(np.float64)
    tail = there.tails(pixels, layer)[0]
    limit = 0.5 if "qdq" in file else 0.2 if real.tolerance > 1e-3 else 0.05  # of steps, of half precision
    step = (0.05 if limit > 0.05 else 1e-3) * np.abs(features).max() / np.abs(gradient).max()
    shown = np.stack([features + step * gradient, features - step * gradient]).astype(np.float32)
    ends = tail(shown)[:, seen.classes[0, 0]].astype(np.float64)
    slope, expected = (ends[0] - ends[1]) / (2 * step), (gradient**2).sum()
    assert abs(slope - expected) <= limit * expected, (slope, expected)
