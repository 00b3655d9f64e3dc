"""Gradients of whole networks at their layers: by nodes in ONNX Runtime, and by autograd on the module."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_autograd
import torchvision
from camcore_onnx.gradients.vjp import SEED, add_vjp
from camcore_onnx.layers import find_layer
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from camcore_torch.exporting import to_onnx
from numpy.typing import NDArray
from torch import nn

CLASSES = (1, 2)  # of the two images
OPSETS = {"torchscript": 17, "dynamo": 20}
LIMIT = 1e-4

# name -> size of the images, layers from the last feature map towards the image
TORCHVISION: dict[str, tuple[int, tuple[str, str, str]]] = {
    "alexnet": (224, ("features", "features.7", "features.2")),
    "convnext_tiny": (64, ("features", "features.5", "features.3")),
    "densenet121": (64, ("features", "features.transition2", "features.denseblock1")),
    "efficientnet_b0": (64, ("features", "features.5", "features.3")),
    "efficientnet_v2_s": (64, ("features", "features.4", "features.2")),
    "googlenet": (64, ("inception5b", "inception4c", "maxpool2")),
    "inception_v3": (128, ("Mixed_7c", "Mixed_6e", "Mixed_5d")),
    "maxvit_t": (224, ("blocks.3", "blocks.2", "blocks.1")),
    "mnasnet0_5": (64, ("layers", "layers.10", "layers.8")),
    "mobilenet_v2": (64, ("features", "features.13", "features.6")),
    "mobilenet_v3_large": (64, ("features", "features.12", "features.6")),
    "mobilenet_v3_small": (64, ("features", "features.8", "features.3")),
    "regnet_x_400mf": (64, ("trunk_output", "trunk_output.block3", "trunk_output.block2")),
    "regnet_y_400mf": (64, ("trunk_output", "trunk_output.block3", "trunk_output.block2")),
    "resnet18": (64, ("layer4", "layer3", "layer2")),
    "resnet50": (64, ("layer4", "layer3", "layer2")),
    "resnext50_32x4d": (64, ("layer4", "layer3", "layer2")),
    "shufflenet_v2_x0_5": (64, ("conv5", "stage3", "stage2")),
    "squeezenet1_0": (64, ("features", "features.7", "features.3")),
    "swin_t": (64, ("features", "features.5", "features.3")),
    "swin_v2_t": (64, ("features", "features.5", "features.3")),
    "vgg11": (224, ("features", "features.15", "features.10")),
    "vgg11_bn": (224, ("features", "features.21", "features.14")),
    "vgg16": (224, ("features", "features.23", "features.16")),
    "vit_b_16": (64, ("encoder.layers.encoder_layer_10", "encoder.layers.encoder_layer_5", "conv_proj")),
    "wide_resnet50_2": (64, ("layer4", "layer3", "layer2")),
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": True, "init_weights": False},
    "vit_b_16": {"image_size": 64},
}


@dataclass(frozen=True)
class Found:
    """How far the gradient at a layer is from that of autograd in float64, and how far float32 autograd is."""

    network: str
    exporter: str
    layer: str
    error: float
    rounding: float
    seconds: float
    nodes: int

    @property
    def agrees(self) -> bool:
        """ReLU and max pooling have kinks: a rounding error there turns whole entries of a gradient on or off."""
        return self.error <= max(LIMIT, 2 * self.rounding)

    def __str__(self) -> str:
        return (
            f"{self.network:28} {self.exporter:12} {self.layer:36} {self.error:9.1e} {self.rounding:9.1e} "
            f"{self.seconds:7.1f} {self.nodes:6d}{'' if self.agrees else '  WRONG'}"
        )


SMALL: dict[str, tuple[int, tuple[str, ...]]] = {
    "vit": (32, ("encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_0", "conv_proj")),
    "swin": (32, ("features", "features.2", "features.1")),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """Of random weights: a small transformer, or one of torchvision's networks; ``vit_b_16`` for 64 pixels."""
    torch.manual_seed(seed)
    models = torchvision.models
    if name == "vit":
        return randomised(models.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=10))
    if name == "swin":
        return randomised(models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=10))
    return randomised(getattr(models, name)(weights=None, **_OPTIONS.get(name, {})))


def randomised(model: nn.Module) -> nn.Module:
    """In evaluation mode, with normalisations that are not those of a fresh network."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    for parameter in model.parameters():
        if not parameter.any():  # some networks start with a head of zeros
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


def compare(
    name: str,
    model: nn.Module,
    size: int,
    layers: Sequence[str],
    exporter: Any,
    *,
    opset: int | None = None,
    tries: int = 3,
) -> list[Found]:
    """Both gradients of the scores of two images, of a class each; of other images where a kink is hit."""
    data = to_onnx(model, (2, 3, size, size), exporter=exporter, opset=opset or OPSETS[exporter])
    double = copy.deepcopy(model).double()
    found: list[Found] = []
    for draw in range(tries):
        found = _compared(name, exporter, data, (model, double), layers, _images(2, size, draw))
        if all(f.agrees for f in found):
            break
    return found


def _compared(
    name: str,
    exporter: str,
    data: bytes,
    models: tuple[nn.Module, nn.Module],
    layers: Sequence[str],
    images: NDArray[np.float32],
) -> list[Found]:
    single, double = (by_autograd(model, layers, images) for model in models)
    seed = np.zeros(double.scores.shape, np.float32)
    seed[[0, 1], CLASSES] = 1
    size = images.shape[-1]
    nodes = by_nodes(data, layers, images, seed, [_images(1, size), _images(3, size)])
    for layer, value in double.values.items():
        assert nodes.seen.values[layer].shape == value.shape, f"{layer} is another tensor"
        assert distance(nodes.seen.values[layer], value) < 1e-3, f"{layer} is another tensor"
    errors = (
        [distance(seen.gradients[layer], double.gradients[layer]) for seen in (nodes.seen, single)] for layer in layers
    )
    return [
        Found(name, exporter, layer, *error, nodes.seconds, nodes.count)
        for layer, error in zip(layers, errors, strict=True)
    ]


@dataclass(frozen=True)
class Seen:
    """Scores, what layers are, and the gradients of the scores there."""

    scores: NDArray[Any]
    values: dict[str, NDArray[Any]]
    gradients: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Nodes:
    """What they say, how many seconds it took to write them, and how many they are."""

    seen: Seen
    seconds: float
    count: int


def by_autograd(model: nn.Module, layers: Sequence[str], images: NDArray[np.float32]) -> Seen:
    """Of one class of each of two images."""
    scores, seen = torch_autograd.forward(model, images, layers)
    score = scores[[0, 1], list(CLASSES)].sum()
    gradients = torch.autograd.grad(score, [seen[layer] for layer in layers])
    return Seen(
        scores.detach().numpy(),
        {layer: seen[layer].detach().numpy() for layer in layers},
        {layer: g.numpy() for layer, g in zip(layers, gradients, strict=True)},
    )


def by_nodes(
    data: bytes,
    layers: Sequence[str],
    images: NDArray[np.float32],
    seed: NDArray[np.float32],
    probes: Sequence[NDArray[np.float32]] = (),
) -> Nodes:
    """The same by nodes."""
    loaded = load(data)
    graph = loaded.model.graph
    name, scores = graph.inputs[0].name or "", graph.outputs[0]
    start, before = time.perf_counter(), len(graph)
    values = [find_layer(graph, layer) for layer in layers]
    gradients = [g.value for g in add_vjp(loaded, scores, values, [{name: x} for x in (images, *probes)])]
    seconds, nodes = time.perf_counter() - start, len(graph) - before
    outputs = set(graph.outputs)
    graph.outputs.extend(v for v in dict.fromkeys([*values, *gradients]) if v not in outputs)
    wanted = [v.name for v in (scores, *values, *gradients)]
    first, *rest = make_session(serialize(loaded.model), device="cpu").run(wanted, {name: images, SEED: seed})
    parts = rest[: len(layers)], rest[len(layers) :]
    values_, gradients_ = (dict(zip(layers, part, strict=True)) for part in parts)
    return Nodes(Seen(first, values_, gradients_), seconds, nodes)


def distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Of two arrays, where the length of the second is one."""
    length = np.linalg.norm(expected.astype(np.float64))
    assert length > 0, "nothing to compare with"
    return float(np.linalg.norm(found.astype(np.float64) - expected) / length)


def _images(count: int, size: int, draw: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([count, draw]).standard_normal((count, 3, size, size)).astype(np.float32)
