from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from camcore_onnx.gradients.table import RULES, rule_of
from camcore_tools.cli import main
from camcore_torch.exporting import to_onnx
from onnx_graphs import Graph
from safetensors.torch import save_file

FACTORY = """
import torch
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2), nn.Sigmoid(), nn.AdaptiveMaxPool2d(1),
        nn.Flatten(), nn.Linear(6, 5),
    ).eval()
"""


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``net.onnx``, the factory ``verified_network:network`` and ``net.safetensors``."""
    (tmp_path / "verified_network.py").write_text(FACTORY)
    scope: dict[str, Any] = {}
    exec(FACTORY, scope)
    torch.manual_seed(0)
    network = scope["network"]()
    (tmp_path / "net.onnx").write_bytes(to_onnx(network, (1, 3, 16, 16)))
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "net.onnx"


def break_rule(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = rule_of("", op)
    assert entry is not None
    monkeypatch.setitem(RULES, ("", op), replace(entry, pull=lambda at, g, i: entry.pull(at, g, i) * 1.05))


def test_by_differences(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "net.onnx", "--gradient"]) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"^  \S+ +\d\.\de-\d\d +1.0e-03 +\d\.\de-\d\d +ok$", text, re.MULTILINE)) == 2
    assert "central differences in float64: 3 images, 5 directions" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())


def test_json(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "net.onnx", "--layer", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["torch"] is None
    (entry,) = document["layers"]
    assert entry["passed"]
    assert entry["difference"] <= entry["limit"] <= 1.1e-3
    assert entry["difference of Grad-CAM maps"] is None


def test_by_pytorch(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "net.onnx", "--torch", "verified_network:network", "--weights", "net.safetensors"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    layers = {entry["layer"]: entry for entry in document["layers"]}
    assert set(layers) == {"1", "3"}
    assert all(e["difference"] < 1e-5 and e["difference of Grad-CAM maps"] < 1e-5 for e in layers.values())
    assert main([*words, "--layer", "1"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  layer +gradient +limit +worst image +maps$", text, re.MULTILINE)
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("torch_too", [False, True])
def test_beyond_the_limit_is_status_1(
    torch_too: bool, exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_rule("Sigmoid", monkeypatch)
    words = ["verify", "net.onnx", "--layer", "1"]
    words += ["--torch", "verified_network:network", "--weights", "net.safetensors"] if torch_too else []
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "FAILED" in text
    assert "verification failed" in text
    assert main([*words, "--rtol", "0.2"]) == 0
    assert main([*words, "--atol", "100"]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["net.onnx", "--layer", "nowhere"], "no layer is called 'nowhere'"),
        (["net.onnx", "--weights", "net.safetensors"], "--weights goes with --torch"),
        (["net.onnx", "--size", "0x16"], "--size 0x16: expected two numbers above 0"),
        (
            ["net.onnx", "--torch", "verified_network:network"],
            "another tensor, or the weights are not those of the file",
        ),
        (["net.onnx", "--torch", "verified_network"], "expected MODULE:FACTORY"),
        (["net.safetensors"], "not an ONNX model"),
        (["absent.onnx"], "absent.onnx: no such file"),
        (["net.pth"], "PyTorch checkpoints are pickles"),
    ],
)
def test_unusable_input_is_status_2(
    words: list[str], text: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *words]) == 2
    assert text in capsys.readouterr().err


def save(path: Path, *, quantised: bool) -> Path:
    """Of images of any size, or of one."""
    g = Graph(17)
    size = [16, 16] if quantised else ["H", "W"]
    first = g.add("Relu", g.conv(g.image(["N", 3, *size]), 3, 4), to="first")
    half = g.add("Conv", first, g.const(g.normal(4, 4, 3, 3)), strides=[2, 2], pads=[1, 1, 1, 1])
    last = g.add("Tanh", g.quantized(half) if quantised else half, to="last")
    flat = g.add("Flatten", g.add("GlobalAveragePool", g.add("Sigmoid", last)))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 4)), to="scores", transB=1), ["N", 5])
    onnx.save(g.model(), path)
    return path


def test_a_layer_that_cannot_be_checked_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "m.onnx", quantised=True)
    assert main(["verify", str(path)]) == 0
    streams = capsys.readouterr()
    assert "left out first: the gradient at 'first' is an approximation by design" in streams.err
    assert re.search(r"^  sigmoid_\d+ .* ok$", streams.out, re.MULTILINE)
    assert main(["verify", str(path), "--layer", "first"]) == 2
    assert "camcore verify: the gradient at 'first' is an approximation by design" in capsys.readouterr().err


def test_free_sizes(tmp_path: Path) -> None:
    assert main(["verify", str(save(tmp_path / "m.onnx", quantised=False)), "--size", "20x24"]) == 0
