"""Same weights, same maps: every method in PyTorch and, on an export of either exporter, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from camcore_onnx import OnnxBackend
from camcore_torch import TorchBackend
from camcore_torch.exporting import EXPORTERS, to_onnx
from numpy.typing import NDArray
from token_networks import Tokens, convnext, first, swin, vit
from torch import nn
from torch_networks import TAILS, Small, network

from camcore import METHODS
from camcore.engine import Explainer
from camcore.plan import possible

Floats = NDArray[np.floating[Any]]

LIMIT = 1e-4
LIMITS = dict.fromkeys(("eigencam", "eigengradcam", "kpcacam"), 1e-3)  # two eigenvalues may be close
QUICK = {"sscam": {"samples": 1}, "iscam": {"samples": 2}, "groupcam": {"groups": 4}}
CLASSES = [[1, 3], [0, 2]]
TORCH_ONLY = {"contributions"}
# What these have inside is normalised next, which forgets its length: the products of a position's gradient and
# features sum to zero, so that HiResCAM is rounding there, and so is the sign that EigenGradCAM takes from that sum.
NORMALISED = ("vit", "swin", "convnext")


@dataclass(frozen=True)
class Network:
    """How to make one, an image for it, a module inside that no exporter melts into the next one, and which exports
    are in the small form.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    inner: str | None
    quick: tuple[str, ...] = ("torchscript",)


def line(axes: int) -> nn.Module:
    """Convolutions over any number of axes."""
    conv, norm = getattr(nn, f"Conv{axes}d"), getattr(nn, f"BatchNorm{axes}d")
    pool = getattr(nn, f"AdaptiveAvgPool{axes}d")(1)
    trunk = [conv(3, 8, 3), norm(8), nn.ReLU(), conv(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*trunk, pool, nn.Flatten(), nn.Linear(6, 5))


NETWORKS = {
    "mean of two axes": Network(lambda: Small(TAILS["mean of two axes"]), (3, 17, 15), None),
    "channels last": Network(lambda: Small(TAILS["channels last"]), (3, 17, 15), None),
    "softmax": Network(lambda: Small(TAILS["softmax"]), (3, 17, 15), None),
    "sigmoid": Network(lambda: Small(TAILS["sigmoid"]), (3, 17, 15), None),
    "class maps": Network(lambda: Small(TAILS["1x1 convolution before the pooling"]), (3, 17, 15), None),
    "scaled features": Network(lambda: Small(TAILS["scaled features"]), (3, 17, 15), None),
    "plain": Network(lambda: line(2), (3, 12, 10), "2", EXPORTERS),
    "signal": Network(lambda: line(1), (3, 24), "2"),
    "volume": Network(lambda: line(3), (3, 7, 8, 9), "2"),
    "vit": Network(vit, (3, 32, 32), "encoder.layers.encoder_layer_0", EXPORTERS),
    "swin": Network(swin, (3, 32, 64), "features.3"),
    "convnext": Network(convnext, (3, 32, 32), "features.1"),
    "patches": Network(lambda: Tokens(lambda x: x[:, 1:].mean(1)), (3, 12, 20), "norms.1", EXPORTERS),
    "registers": Network(lambda: Tokens(first, prefix=5, by_hand=True), (3, 12, 20), "norms.0"),
    "signal of tokens": Network(lambda: Tokens(first, axes=1), (3, 16), "norms.0"),
    "volume of tokens": Network(lambda: Tokens(first, axes=3), (3, 4, 6, 8), "norms.0"),
}
WIDE = {
    "resnet18": Network(lambda: network("resnet18"), (3, 96, 96), "layer3"),
    "squeezenet1_1": Network(lambda: network("squeezenet1_1"), (3, 96, 96), "features.10"),
    "mobilenet_v2": Network(lambda: network("mobilenet_v2"), (3, 96, 96), "features.14"),
    "densenet121": Network(lambda: network("densenet121"), (3, 96, 96), "features.transition3"),
    "efficientnet_b0": Network(lambda: network("efficientnet_b0"), (3, 96, 96), "features.6"),
}


def cases(names: Any) -> list[Any]:
    return [
        pytest.param(n, e, m, marks=[] if n in NETWORKS and e in NETWORKS[n].quick else [pytest.mark.slow])
        for n in names
        for e in EXPORTERS
        for m in METHODS
        if m != "groupcam" or n in NETWORKS  # large networks of random weights answer to masks by rounding alone
    ]


@cache
def made(name: str) -> nn.Module:
    """Weights that make all scores and channels differ; torchvision's large networks have some of their own."""
    torch.manual_seed(0)
    if name in WIDE:
        return WIDE[name].make().eval()
    model = NETWORKS[name].make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.ones_(module.weight)
    return model


@cache
def both(name: str, exporter: Any) -> tuple[TorchBackend, OnnxBackend]:
    shape = (NETWORKS | WIDE)[name].shape
    data = to_onnx(made(name), (2, *shape), exporter=exporter)
    here = TorchBackend(made(name))
    here.tap(example=images(name))  # what is no picture must be shown
    return here, OnnxBackend(data, device="cpu", threads=1)


def images(name: str) -> Floats:
    return np.random.default_rng(1).standard_normal((2, *(NETWORKS | WIDE)[name].shape)).astype(np.float32)


def agree(name: str, exporter: Any, method: str, layer: str | None) -> None:
    torch_backend, onnx_backend = both(name, exporter)
    why = possible(onnx_backend, layer)[method]
    if possible(torch_backend, layer)[method]:
        assert why
        return
    if why:  # nothing but what a graph cannot give
        assert METHODS[method].needs & TORCH_ONLY
        assert "which onnx models do not give" in why
        return
    here, there = (
        Explainer(b, method=method, layer=layer, options=QUICK.get(method))(images(name), CLASSES)
        for b in (torch_backend, onnx_backend)
    )
    # What one of many channels inside takes away is a small difference of float32 scores.
    limit = 1e-3 if name in WIDE and layer and method == "ablationcam" else LIMITS.get(method, LIMIT)
    assert there.maps.shape == here.maps.shape
    assert np.ptp(here.maps) > 0 or method == "fem"  # which may find nothing unusual
    if name in NORMALISED and layer and method == "hirescam":
        scale = np.abs(Explainer(torch_backend, method="gradcam-elementwise", layer=layer)(images(name)).maps).max()
        assert max(np.abs(out.maps).max() for out in (here, there)) <= LIMIT * scale
        return
    maps = (
        there.maps * signs(there.maps, here.maps)
        if name in NORMALISED and layer and "eigengrad" in method
        else there.maps
    )
    for found, expected in zip(maps, here.maps, strict=True):
        assert np.abs(found - expected).max() <= limit * np.abs(expected).max()
    assert np.abs(there.scores - here.scores).max() <= LIMIT * np.abs(here.scores).max()


def signs(found: Floats, expected: Floats) -> Floats:
    """Of each map, whether it is the other one or its negative."""
    return np.sign((found * expected).sum(axis=tuple(range(2, found.ndim)), keepdims=True))


@pytest.mark.parametrize(("name", "exporter", "method"), cases([*NETWORKS, *WIDE]))
def test_where_no_layer_is_named(name: str, exporter: Any, method: str) -> None:
    agree(name, exporter, method, None)


@pytest.mark.parametrize(
    ("name", "exporter", "method"), cases([n for n, net in (NETWORKS | WIDE).items() if net.inner is not None])
)
def test_inside(name: str, exporter: Any, method: str) -> None:
    agree(name, exporter, method, (NETWORKS | WIDE)[name].inner)
