"""ReCAM from training to shipping: the maps of a trained module in PyTorch are those of the file exported from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import camcore_torch
import numpy as np
import onnx
import pytest
import torch
from camcore_onnx import OnnxBackend
from camcore_tools.cli import main
from camcore_torch import ReCam, TorchBackend
from camcore_torch.exporting import EXPORTERS
from PIL import Image
from torch import nn
from torch_networks import TAILS, CifarResNet20, Small, network

import camcore
from camcore.engine import Explainer
from camcore.normalize import NORMALIZATIONS

LIMIT = 1e-4
MAPS: tuple[dict[str, str], ...] = ({}, *({"variant": "self", "normalization": kind} for kind in NORMALIZATIONS))
WIDE = {"resnet18": (3, 64, 64), "densenet121": (3, 64, 64), "mobilenet_v2": (3, 64, 64), "squeezenet1_1": (3, 64, 64)}
NETWORKS: dict[str, Any] = {
    "linear": (lambda: Small(TAILS["mean of two axes"]), (3, 17, 15)),
    "no bias": (lambda: Small(TAILS["no bias"]), (3, 17, 15)),
    "softmax": (lambda: Small(TAILS["softmax"]), (3, 17, 15)),
    "1x1 convolution": (lambda: Small(TAILS["1x1 convolution behind the pooling"]), (3, 17, 15)),
    "class maps": (lambda: Small(TAILS["1x1 convolution, ReLU, pooling"]), (3, 17, 15)),
    "channels last": (lambda: Small(TAILS["channels last"]), (3, 17, 15)),
    "residual": (CifarResNet20, (3, 32, 32)),
    **{name: (lambda name=name: network(name), shape) for name, shape in WIDE.items()},
}
QUICK, SLOW = ("linear", "class maps"), pytest.mark.slow
CASES = [
    pytest.param(name, exporter, marks=[] if name in QUICK or (name not in WIDE and exporter != "dynamo") else [SLOW])
    for name in NETWORKS
    for exporter in EXPORTERS
]


def images(shape: tuple[int, ...], count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)


@cache
def trained(name: str) -> ReCam:
    """One step makes both classifiers depend on pictures."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = ReCam(make(), example=(1, *shape)).train()
    scores, loss = module.scores_and_loss(torch.from_numpy(images(shape, 4)), torch.tensor([0, 1, 2, 3]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    (nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2, 3])) + loss).backward()
    optimizer.step()
    return module.eval()


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_maps_are_the_same(name: str, exporter: Any, tmp_path: Path) -> None:
    module, shape, path = trained(name), NETWORKS[name][1], tmp_path / "m.onnx"
    report = camcore_torch.export(module, (1, *shape), path, exporter=exporter)
    assert report.passed, report.checks
    assert report.outputs == ["logits", "features", "recam_weight"]
    here, there = TorchBackend(module), OnnxBackend(path, device="cpu", threads=1)
    here.tap(example=images(shape, 1))
    for options in MAPS:
        ours, theirs = (Explainer(b, method="recam", options=options) for b in (here, there))
        for count in (1, 5):
            x = images(shape, count)
            expected, found = ours(x, "top3").maps, theirs(x, "top3").maps
            limit = LIMIT * np.abs(expected).max() * (worse(here, x) if "minmax" in options.values() else 1)
            assert limit > 0
            assert np.abs(found - expected).max() <= limit
            again = theirs(x, "top3").maps  # from the class maps that the graph sums, once the head is checked
            assert np.abs(again - expected).max() <= limit


def worse(backend: TorchBackend, x: np.ndarray) -> float:
    """How much the rounding of a map grows where its mask is divided by its extent."""
    maps = Explainer(backend, method="cam")(x, "top3").maps
    return float((np.abs(maps).max((2, 3)) / np.ptp(maps, (2, 3))).max())


def test_what_was_trained_makes_the_difference(tmp_path: Path) -> None:
    """The second classifier is not that of another moment, and its map not the plain one."""
    module, shape = trained("linear"), NETWORKS["linear"][1]
    camcore_torch.export(module, (1, *shape), tmp_path / "m.onnx", exporter="torchscript")
    found = OnnxBackend(tmp_path / "m.onnx").second_weight
    np.testing.assert_array_equal(found, module.recam_weight.detach().numpy())  # type: ignore[union-attr]
    x = images(shape, 2)
    plain, both = (camcore.explainer(tmp_path / "m.onnx", method=m)(x).maps for m in ("cam", "recam"))
    assert np.abs(plain - both).max() > 0.1 * np.abs(plain).max()


def test_a_file_without_the_second_classifier(tmp_path: Path) -> None:
    """That of the other variant, and that of the model alone, are exported as ever."""
    module, shape = trained("linear"), NETWORKS["linear"][1]
    for model in (ReCam(module.model, variant="self", example=(1, *shape)), module.model):
        report = camcore_torch.export(model, (1, *shape), tmp_path / "m.onnx", exporter="torchscript")
        assert report.outputs == ["logits", "features"]
        assert "camcore.second_weight" not in {p.key for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    x = images(shape, 2)
    maps = [camcore.explainer(m, method="recam", variant="self")(x).maps for m in (module.model, tmp_path / "m.onnx")]
    assert np.abs(maps[0] - maps[1]).max() <= LIMIT * np.abs(maps[0]).max()


@pytest.mark.parametrize("words", [(), ("--option", "variant=self", "--option", "normalization=sigmoid")])
def test_on_the_command_line(words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, shape = trained("residual"), NETWORKS["residual"][1]
    camcore_torch.export(module, (1, *shape), tmp_path / "m.onnx", exporter="torchscript", preprocess="unit")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(picture)
    out = tmp_path / "out"
    assert main(["explain", str(tmp_path / "m.onnx"), str(picture), "--method", "recam", "-o", str(out), *words]) == 0
    rule = camcore.preprocess.preprocess("unit", size=(32, 32))
    options = dict(word.split("=") for word in words if "=" in word)
    expected = camcore.explainer(module, method="recam", preprocess=rule, **options)(str(picture)).maps
    maps = np.load(out / "maps.npz")["maps"]
    assert np.abs(maps - expected).max() <= LIMIT * np.abs(expected).max()
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    text = capsys.readouterr().out
    assert "second head  its weight (10, 64) is inside, for the method recam" in text
