from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torchvision
from camcore_tools.cli import main
from safetensors.torch import save_file

import camcore


def test_export_of_an_onnx_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("cat\ndog\nhorse\ncow\n")
    target = tmp_path / "out.onnx"
    words = ["export", str(model), "-o", str(target), "--labels", str(labels), "--preprocess", "tf"]
    assert main(words) == 0
    text = capsys.readouterr().out
    for name in ("ONNX checker", "ONNX Runtime", "outputs", "mean(CAM) + bias = scores"):
        assert f"[ok] {name}" in text
    explainer = camcore.explainer(target)
    assert explainer.labels == ("cat", "dog", "horse", "cow")
    assert explainer.preprocess == camcore.PRESETS["tf"].__class__(scale=1 / 127.5, mean=(1.0,), size=(16, 16))
    assert [o.name for o in onnx.load(target).graph.output] == ["scores", "features"]
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)


def test_an_exported_file_can_be_exported_again_under_another_name(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    assert main(["export", str(model), "-o", str(first)]) == 0
    assert main(["export", str(first), "-o", str(second)]) == 2
    assert "already has a tensor called 'features'; choose another name" in capsys.readouterr().err
    assert not second.exists()
    assert main(["export", str(first), "-o", str(second), "--features", "maps"]) == 0
    assert [o.name for o in onnx.load(second).graph.output] == ["scores", "features", "maps"]


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_export_of_a_pytorch_factory_with_weights(
    exporter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1()
    weights = tmp_path / "w.safetensors"
    save_file(model.state_dict(), weights)
    target = tmp_path / "out.onnx"
    words = ["export", "--torch", "torchvision.models:squeezenet1_1", "--weights", str(weights), "-o", str(target)]
    assert main([*words, "--shape", "1x3x64x64", "--exporter", exporter, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert "maps, PyTorch against ONNX Runtime" in [check["name"] for check in report["checks"]]
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    expected = camcore.explainer(model)(x).maps
    assert np.abs(camcore.explainer(target)(x).maps - expected).max() <= 1e-4 * np.abs(expected).max()


def test_failed_verification_is_status_1(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from camcore_onnx.checking import verify

    monkeypatch.setattr(verify, "_IDENTICAL", -1.0)
    assert main(["export", str(model), "-o", str(tmp_path / "out.onnx")]) == 1
    text = capsys.readouterr().out
    assert "[FAILED] outputs" in text
    assert "verification failed" in text


def test_nothing_is_written_over_by_a_refused_export(
    tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"precious")
    flat = tmp_path / "flat.onnx"
    proto = tiny()  # type: ignore[operator]
    proto.graph.node[2].op_type = "GlobalMaxPool"
    onnx.save(proto, flat)
    assert main(["export", str(flat), "-o", str(target)]) == 2
    assert "takes the maximum over the map" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert main(["export", str(flat), "-o", str(target), "--no-overwrite"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--torch", "torchvision.models"], "expected MODULE:FACTORY"),
        (["--torch", "no_such_module:f"], "No module named 'no_such_module'"),
        (["--torch", "torchvision.models:resnet19"], "has no attribute 'resnet19'"),
        (["--torch", "math:gcd"], "--torch 'math:gcd' gives int"),
        (["--torch", "torchvision.models:resnet18", "--weights", "w.pth"], "PyTorch checkpoints are pickles"),
        (["--torch", "torchvision.models:resnet18", "--weights", "w.safetensors"], "no such file"),
        (["--torch", "torchvision.models:resnet18", "--shape", "big"], "--shape 'big': expected numbers"),
        ([], "no model was given"),
    ],
)
def test_wrong_sources(words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *words, "-o", str(tmp_path / "out.onnx")]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"nothing": torch.zeros(1)}, weights)
    words = [
        "export",
        "--torch",
        "torchvision.models:squeezenet1_1",
        "--weights",
        str(weights),
        "-o",
        str(tmp_path / "o.onnx"),
    ]
    assert main(words) == 2
    assert "Missing key(s) in state_dict" in capsys.readouterr().err


def test_a_map_goes_into_the_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.cam.onnx"
    words = ["export", str(model), "-o", str(target), "--embed", "--classes", "top2", "--heatmap", "input"]
    assert main([*words, "--method", "layercam"]) == 0
    text = capsys.readouterr().out
    assert "map       layercam of top2, closed form" in text
    for name in ("cam", "cam_scores", "heatmap"):
        assert f"[ok] {name}, graph against explainer" in text
    assert [o.name for o in onnx.load(target).graph.output] == ["scores", "cam", "cam_classes", "cam_scores", "heatmap"]
    assert main([*words[:3], str(tmp_path / "b.onnx"), "--embed"]) == 0
    assert main(["export", str(target), "-o", str(tmp_path / "again.onnx"), "--embed"]) == 2
    error = capsys.readouterr().err
    assert "it has a map inside already (method layercam" in error
    assert "classes top2" in error
    assert not (tmp_path / "again.onnx").exists()


def test_half_precision_shows_its_error(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "half.onnx"
    assert main(["export", str(model), "-o", str(target), "--embed", "--fp16", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert 0 < checks["float16 against float32"]["difference"] < 1e-2
    assert "same best class in 100 %" in checks["float16 against float32"]["detail"]


@pytest.mark.parametrize("words", [["--classes", "all"], ["--heatmap", "input"], ["--option", "samples=3"]])
def test_what_is_said_of_a_map_needs_a_map(
    words: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model), "-o", str(tmp_path / "out.onnx"), *words]) == 2
    assert f"{words[0]}: only of a map inside the file; add --embed" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_a_module_is_exported_with_its_map(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    words = ["export", "--torch", "torchvision.models:squeezenet1_1", "--shape", "1x3x64x64", "-o", str(target)]
    assert main([*words, "--exporter", "torchscript", "--embed", "--classes", "input"]) == 0
    assert "cam_class" in [v.name for v in onnx.load(target).graph.input]


@pytest.mark.parametrize("way", ["itself", "link"])
def test_the_model_itself_is_never_replaced(
    way: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "mine.onnx", tmp_path / "link.onnx"
    source.write_bytes(model.read_bytes())
    target.symlink_to(source)
    before = source.read_bytes()
    assert main(["export", str(source), "-o", str(source if way == "itself" else target), "--embed"]) == 2
    assert "is the model itself, which would be lost; choose another name" in capsys.readouterr().err
    assert source.read_bytes() == before
