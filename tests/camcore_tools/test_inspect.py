from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from camcore_tools.cli import main


def test_facts(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert "x (?, 3, 16, 16) float32" in text
    assert "GlobalAveragePool -> Flatten -> Gemm" in text
    assert "relu  (N, 5, 14, 14)" in text
    assert re.search(r"^  cam +works, one forward pass$", text, re.MULTILINE)
    assert re.search(r"the same map, up to scale: +cam, gradcam, hirescam, reciprocam,\s+xgradcam", text)
    assert all(len(line) <= 80 for line in text.splitlines() if str(model) not in line)


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["opset"] == {"": 17}
    assert document["layer"] == {"name": "relu", "shape": [5, 14, 14]}
    assert document["methods"]["cam"]["possible"]


def test_obstacle_is_named(tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = tiny()  # type: ignore[operator]
    proto.graph.node[2].op_type = "GlobalMaxPool"
    path = tmp_path / "max.onnx"
    onnx.save(proto, path)
    assert main(["inspect", str(path), "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert "takes the maximum over the map, not the mean" in methods["cam"]["why not"]
    assert methods["activationmap"]["possible"]


def test_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--torch", "torchvision.models:resnet18"]) == 0
    text = capsys.readouterr().out
    assert "features    layer4 (N, 512, 7, 7)" in text
    assert "mean -> view -> addmm" in text


def test_hostile_names_do_not_reach_the_terminal(
    tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = tiny()  # type: ignore[operator]
    proto.producer_name = "\x1b]0;owned\x07"
    proto.graph.node[1].output[0] = proto.graph.node[2].input[0] = "relu\x1b[2J"
    path = tmp_path / "hostile.onnx"
    onnx.save(proto, path)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr()
    assert "\x1b" not in text.out + text.err
