"""`camcore verify A B`: what is told of two models, and when it is no."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from camcore_onnx import embed_cam
from camcore_tools.cli import main
from camcore_torch.exporting import to_onnx
from onnx import numpy_helper
from onnx_graphs import Graph, classifier, finish
from PIL import Image
from safetensors.torch import save_file

Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``a.onnx``, ``same.onnx`` with outputs of another name, ``other.onnx`` and ``a.cam.onnx``; two pictures."""
    monkeypatch.chdir(tmp_path)
    model = classifier(size=(16, 16))
    onnx.save(model, "a.onnx")
    onnx.save(embed_cam(model, heatmap="input", preprocess="tf"), "a.cam.onnx")
    renamed = classifier(size=(16, 16))
    renamed.graph.node[-1].output[0] = renamed.graph.output[0].name = "logits"
    onnx.save(renamed, "same.onnx")
    onnx.save(changed(classifier(size=(16, 16)), 3, 1.5), "other.onnx")
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def changed(model: onnx.ModelProto, index: int, factor: float) -> onnx.ModelProto:
    tensor = model.graph.initializer[index]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model


@pytest.fixture
def verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(["verify", *words])
        streams = capsys.readouterr()
        if "--json" not in words:
            assert all(len(line) <= 80 for line in streams.out.splitlines()), streams.out
        return status, streams.out, streams.err

    return run


def test_an_embedded_map(verify):
    status, out, err = verify("a.onnx", "a.cam.onnx", "--images", "in")
    assert (status, err) == (0, "")
    assert re.search(r"^  \[ok\]  scores +0 +0 +0 +bit-identical$", out, re.MULTILINE)
    for name in ("cam", "cam_scores", "heatmap"):
        assert re.search(rf"^  \[ok\]  {name} ", out, re.MULTILINE)
    words = " ".join(out.split())
    assert "on: 8 images of 3x16x16, random ones uniform pixels 0..255, preprocessed, seed 0" in words
    assert "only in B cam, cam_classes, cam_scores, heatmap" in words
    assert "best class the same for 8 of 8 (scores)" in words
    assert "maps inside B against camcore's of A: cam at features, top5; least correlation 1.000000" in words


def test_outputs_of_another_name(verify):
    status, out, _ = verify("a.onnx", "same.onnx")
    assert status == 0
    words = " ".join(out.split())
    assert "matched by position scores is logits in B" in words
    assert "on: 6 images of 3x16x16, random ones normal, mean 0, deviation 1, seed 0" in words
    assert "maps cam at features, the best 5 classes; least correlation 1.000000" in words


def test_another_bias(verify):
    """The scores are others, the maps are not."""
    status, out, _ = verify("a.onnx", "other.onnx")
    assert status == 1
    assert re.search(
        r"^  \[FAILED\]  scores +\d\.\de[+-]\d\d +\d\.\de[+-]\d\d +\d\.\de[+-]\d\d +random \d \[\d\]: ", out, re.M
    )
    assert re.search(r"^  \[ok\] +maps ", out, re.M)
    assert out.endswith("verification failed\n")
    status, _, _ = verify("a.onnx", "other.onnx", "--rtol", "1")
    assert status == 0
    status, _, _ = verify("a.onnx", "other.onnx", "--atol", "10")
    assert status == 0


def test_json(verify):
    status, out, _ = verify("a.onnx", "other.onnx", "--images", "in/cat.png", "--preprocess", "imagenet", "--json")
    assert status == 1
    found = json.loads(out)
    (scores,) = found["outputs"]
    bias = numpy_helper.to_array(onnx.load("a.onnx").graph.initializer[3])
    assert scores["absolute"] == pytest.approx(abs(bias).max() / 2, rel=1e-4)
    assert scores["mean"] == pytest.approx(abs(bias).mean() / 2, rel=1e-4)
    assert scores["worst"]["a"] - scores["worst"]["b"] == pytest.approx(
        -bias[scores["worst"]["index"][0]] / 2, rel=1e-3
    )
    assert (found["rtol"], found["atol"], found["passed"]) == (1e-4, 1e-6, False)
    assert found["a"] == {"name": "a.onnx", "precision": "float32"}
    assert found["inputs"]["images"] == 7
    assert found["top1"]["of"] == 7
    assert found["maps"]["passed"]
    assert found["left_out"] == {}
    assert all(d["input"].startswith(("random ", "in")) for d in found["top1"]["differ"])


def test_it_is_the_same_each_time_and_another_with_another_seed(verify):
    first, again, other = (verify("a.onnx", "other.onnx", "--seed", seed, "--json")[1] for seed in "001")
    assert first == again
    assert json.loads(first)["outputs"][0]["worst"] != json.loads(other)["outputs"][0]["worst"]


def test_bad_pictures_are_left_out_and_told(verify, folder):
    (folder / "in" / "bad.png").write_bytes(b"no picture")
    status, out, err = verify("a.onnx", "a.cam.onnx", "--images", "in")
    assert status == 2
    assert "left out in/bad.png: in/bad.png: not a picture that can be read" in err
    assert "verification failed" not in out


def test_two_that_are_both_embedded(verify):
    status, out, _ = verify("a.cam.onnx", "a.cam.onnx")
    assert status == 0
    assert len(re.findall("bit-identical", out)) >= 5


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a.onnx", "small.onnx"], "A takes images ?x3x16x16 and B ?x3x8x8; no image fits both"),
        (["a.onnx", "nowhere.onnx"], "nowhere.onnx: no such file; expected an .onnx file"),
        (["a.onnx", "net.pth"], "PyTorch checkpoints are pickles"),
        (["a.onnx", "same.onnx", "--torch", "x:y"], "three models were given: two files and --torch; expected two"),
        (["a.onnx", "same.onnx", "--weights", "w"], "--weights goes with --torch"),
        (["a.onnx", "--images", "in"], "--images compares two models; give a second file or --torch MODULE:FACTORY"),
        (["a.onnx", "--method", "cam"], "--method compares two models"),
        (["a.onnx", "--no-gradient"], "--no-gradient leaves nothing to check"),
        (["a.onnx", "same.onnx", "--rtol", "-1"], "--rtol -1.0: expected a number of at least 0"),
        (["a.onnx", "same.onnx", "--atol", "nan"], "--atol nan: expected a number of at least 0"),
        (["a.onnx", "same.onnx", "--seed", "-1"], "--seed -1: expected a number of at least 0"),
        (["a.onnx", "same.onnx", "--images", "nowhere"], "left out nowhere: nowhere: no such file"),
        (["a.onnx", "same.onnx", "--method", "nothing"], "nothing"),
        (["a.onnx", "same.onnx", "--layer", "nowhere"], "no layer is called 'nowhere'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_unusable_input_is_status_2(words, text, verify):
    onnx.save(classifier(size=(8, 8)), "small.onnx")
    status, _, err = verify(*words)
    assert status == 2
    assert text in err


def test_models_without_a_head(verify):
    """Outputs are compared all the same; maps where a method is named that does without."""
    g = Graph()
    value = g.add("Relu", g.conv(g.image(["N", 3, 16, 16]), 3, 6))
    g.out(g.add("Gemm", g.add("Flatten", g.add("GlobalMaxPool", value)), g.const(g.normal(6, 5))), ["N", 5])
    onnx.save(g.model(), "flat.onnx")
    status, out, _ = verify("flat.onnx", "flat.onnx")
    assert status == 0
    assert "maps not compared" in out
    assert "takes the maximum over the map" in " ".join(out.split())
    status, out, _ = verify("flat.onnx", "flat.onnx", "--method", "gradcam")
    assert status == 0
    assert "maps gradcam at " in " ".join(out.split())


def test_gradients_of_two_files(verify):
    status, out, _ = verify("a.onnx", "same.onnx", "--gradient")
    assert status == 0
    assert re.search(r"^  features +\d\.\de[+-]\d\d +1\.0e-03 .* ok$", out, re.M)
    assert "Relative difference of gradients" not in verify("a.onnx", "same.onnx")[1]


@pytest.mark.parametrize(
    ("build", "precision", "limits"),
    [
        (lambda: classifier(size=(16, 16), dtype="float16"), "float16", (1e-2, 1e-3)),
        (lambda: quantised(), "quantised", (0.15, 1e-2)),
    ],
    ids=["float16", "quantised"],
)
def test_limits_by_the_coarser_model(build, precision, limits, verify):
    onnx.save(build(), "coarse.onnx")
    found = json.loads(verify("a.onnx", "coarse.onnx", "--json")[1])
    assert found["b"]["precision"] == precision
    assert (found["rtol"], found["atol"]) == limits
    assert found["passed"]


def quantised() -> onnx.ModelProto:
    g = Graph()
    conv = g.conv(g.image(["N", 3, 16, 16], "image"), 3, 6, axes=2)
    return finish(g, g.add("Relu", g.quantized(conv, 1 / 16), to="features"), 6)


FACTORY = """
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3, stride=2), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 5),
    ).eval()
"""


class TestTorch:
    @pytest.fixture
    def words(self, folder: Path) -> list[str]:
        Path("compared_network.py").write_text(FACTORY)
        scope: dict[str, Any] = {}
        exec(FACTORY, scope)
        torch.manual_seed(0)
        network = scope["network"]()
        Path("net.onnx").write_bytes(to_onnx(network, (1, 3, 16, 16), exporter="torchscript"))
        save_file(network.state_dict(), "net.safetensors")
        return ["net.onnx", "--torch", "compared_network:network", "--weights", "net.safetensors"]

    def test_outputs_maps_and_gradients(self, words, verify):
        status, out, err = verify(*words, "--images", "in")
        assert status == 0
        assert "A: compared_network:network (float32)" in " ".join(out.split())
        assert "matched by position output 0 is logits in B" in " ".join(out.split())
        assert re.search(r"^  \[ok\]  maps ", out, re.M)
        assert "Relative difference of gradients" in out
        assert "taking --preprocess imagenet" in err

    def test_without_gradients(self, words, verify):
        status, out, _ = verify(*words, "--no-gradient", "--json")
        found: dict[str, Any] = json.loads(out)
        assert status == 0
        assert "layers" not in found
        assert found["outputs"][0]["relative"] < 1e-4

    def test_other_weights(self, words, verify):
        status, out, _ = verify(*words[:3], "--no-gradient")
        assert status == 1
        assert "[FAILED]" in out
