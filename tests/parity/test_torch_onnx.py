"""One network, three roads: PyTorch, ONNX Runtime on an export of either exporter, and the file that camcore writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import camcore_torch
import numpy as np
import onnx
import pytest
from camcore_onnx.running.runtime import OPTIMIZATION, make_session
from camcore_torch.exporting import EXPORTERS
from torch_networks import TORCHVISION, network

import camcore

LIMIT = 1e-4
LARGE = ("vgg16_gap", "densenet121")  # in the wide form only
DYNAMO = {("resnet18", "dynamo"), ("squeezenet1_1", "dynamo")}


def pairs(quick: set[tuple[str, str]]) -> list[Any]:
    """Every pair of network and exporter; those that are not ``quick`` belong to the wide form."""
    return [
        pytest.param(name, exporter, marks=[] if (name, exporter) in quick else pytest.mark.slow)
        for name in TORCHVISION
        for exporter in EXPORTERS
    ]


def images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, height, width)).astype(np.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def agree(model: Any, path: Path, sizes: list[tuple[int, int]], levels: tuple[str, ...]) -> None:
    reference = camcore.explainer(model)
    expected = {(n, *size): reference(images(n, *size), "top5") for n in (1, 5) for size in sizes}
    for level in levels:
        explainer = camcore.explainer(path, device="cpu", optimization=level)
        for (n, *size), out in expected.items():
            found = explainer(images(n, *size), out.classes)
            assert relative(found.maps, out.maps) <= LIMIT, (level, n, size)
            assert relative(found.scores, out.scores) <= LIMIT, (level, n, size)


@pytest.mark.parametrize(
    ("name", "exporter"), pairs({(n, "torchscript") for n in TORCHVISION if n not in LARGE} | DYNAMO)
)
def test_maps_and_scores_agree(name: str, exporter: Any, tmp_path: Path) -> None:
    model = network(name)
    path = tmp_path / "model.onnx"
    report = camcore_torch.export(model, (1, 3, 224, 224), path, exporter=exporter, preprocess="imagenet", labels=None)
    assert report.passed, report.checks
    assert report.outputs == ["logits", "features"]
    assert all(module.training for module in model.modules())
    every = exporter == "dynamo" or name == "resnet18"  # the older exporter: the two ends, but for one network
    agree(model, path, [(224, 224)], OPTIMIZATION if every else ("disabled", "all"))
    features_output_is_what_the_map_is_made_of(path)


def features_output_is_what_the_map_is_made_of(path: Path) -> None:
    explainer = camcore.explainer(path, device="cpu")
    x = images(3, 224, 224)
    logits, features = make_session(str(path), device="cpu").run(["logits", "features"], {"images": x})
    head = explainer.backend.tap().need_head()
    np.testing.assert_allclose(logits, head(features.mean(axis=(2, 3))), rtol=1e-3, atol=1e-3 * np.abs(logits).max())
    out = explainer(x, "top2")
    np.testing.assert_allclose(
        camcore.cam(features, head, out.classes), out.maps, rtol=1e-3, atol=1e-4 * np.abs(out.maps).max()
    )


@pytest.mark.parametrize(("name", "exporter"), pairs({("resnet18", "torchscript")} | DYNAMO))
def test_free_image_size(name: str, exporter: Any, tmp_path: Path) -> None:
    model = network(name)
    path = tmp_path / "model.onnx"
    report = camcore_torch.export(model, (1, 3, 224, 224), path, exporter=exporter, free_size=True)
    assert report.passed, report.checks
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    assert [d.HasField("dim_value") for d in shape.dim] == [False, True, False, False]
    agree(model, path, [(224, 224), (224, 320)], ("all",))


@pytest.mark.parametrize(("layer", "exporter"), [("layer4", "dynamo"), ("layer4.1", "torchscript")])
def test_pytorch_module_paths_name_layers_of_the_export(layer: str, exporter: Any, tmp_path: Path) -> None:
    model = network("resnet18")
    path = tmp_path / "model.onnx"
    camcore_torch.export(model, (1, 3, 64, 64), path, exporter=exporter, verify=False)
    x = images(2, 64, 64)
    found = camcore.explainer(path, layer=layer)(x).maps
    assert relative(found, camcore.explainer(model, layer=layer)(x).maps) <= LIMIT
    for inner in ("layer2", "layer3.0", "maxpool"):
        inside = camcore.explainer(path, layer=inner, method="activationmap")(x).maps
        assert relative(inside, camcore.explainer(model, layer=inner, method="activationmap")(x).maps) <= LIMIT
