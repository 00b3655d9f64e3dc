from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from camcore_onnx import embed_cam, export
from camcore_tools import inspection
from camcore_tools.cli import main
from onnx_graphs import Graph


def test_facts(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert "x (N, 3, 16, 16) float32" in text
    assert "26.5 kMAC for an image, counted for (1, 3, 16, 16)" in text
    assert "159 parameters, float32; 3 initialisers of 636 B" in text
    assert "GlobalAveragePool -> Flatten -> Gemm" in text
    assert re.search(r"^  relu  \(N, 5, 14, 14\) +< 0.1 %  gradient  Relu$", text, re.MULTILINE)
    assert re.search(r"^  cam +works +1.00  one forward pass$", text, re.MULTILINE)
    assert re.search(r"the same map, up to scale: +cam, gradcam, hirescam, reciprocam,\s+xgradcam", text)
    assert all(len(line) <= 80 for line in text.splitlines() if str(model) not in line)


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["opset"] == {"": 17}
    assert {k: document["layer"][k] for k in ("name", "shape", "gradient")} == {
        "name": "relu",
        "shape": [5, 14, 14],
        "gradient": True,
    }
    assert document["methods"]["cam"]["possible"]
    assert document["methods"]["cam"]["forward passes"] == 1
    assert document["inputs"] == [{"name": "x", "type": "float32", "shape": ["N", 3, 16, 16], "optional": False}]
    assert document["compute"] == {
        "macs": 14 * 14 * 5 * 27 + 20,
        "for": {"x": [1, 3, 16, 16]},
        "not counted": [],
        "problem": None,
    }
    assert document["layer"]["macs behind"] == 20


def test_every_key_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documentation of the package names them all."""
    assert main(["inspect", str(model), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    keys = {
        *document,
        *document["layers"][0],
        *document["methods"]["cam"],
        *document["compute"],
        *document["inputs"][0],
    }
    told = set(re.findall(r"``([a-z ]+)``", inspection.__doc__ or ""))
    assert keys - told == set()


def test_a_file_that_is_no_classifier(tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in it is told all the same, and why there is no CAM."""
    onnx.save(tiny(inputs=2), tmp_path / "two.onnx")  # type: ignore[operator]
    assert main(["inspect", str(tmp_path / "two.onnx")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "input extra1 (N, 3, 16, 16) float32" in text
    assert "expected one image input: fix the others first" in text
    assert main(["inspect", str(tmp_path / "two.onnx"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["methods"] == {}
    assert document["compute"]["macs"] == 14 * 14 * 5 * 27 + 20


@pytest.mark.parametrize("text", ["", "0", "-1", "224x", "a", "1x2x3x4", "70000000"])
def test_sizes_that_are_none(text: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), f"--size={text}"]) == 2
    assert "expected a length of 1 to 65536, or several such as 224x320" in capsys.readouterr().err


def test_the_size_that_is_counted_for(tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(tiny(shape=("N", 3, "H", "W")), tmp_path / "m.onnx")  # type: ignore[operator]
    for words, (height, width) in (((), (224, 224)), (("--size", "20"), (20, 20)), (("--size", "20x30"), (20, 30))):
        assert main(["inspect", str(tmp_path / "m.onnx"), "--json", *words]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["compute"]["macs"] == (height - 2) * (width - 2) * 5 * 27 + 20
        assert document["layer"]["shape"] == [5, height - 2, width - 2]
        assert document["inputs"][0]["shape"] == ["N", 3, "H", "W"]
        assert document["methods"]["scorecam"]["forward passes"] == 6


def test_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--html", str(tmp_path / "m.html")]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "written: " in captured.err
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "GlobalAveragePool" in page
    assert main(["inspect", str(model), "--html", str(tmp_path)]) == 2
    assert "is a folder; expected the name of a file" in capsys.readouterr().err
    assert main(["inspect", str(model), "--html", str(tmp_path / "no" / "m.html")]) == 2
    assert "choose a folder that exists" in capsys.readouterr().err


def test_a_cam_in_the_file(tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(embed_cam(tiny(), classes="input", heatmap="input"), tmp_path / "m.onnx")  # type: ignore[operator]
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    text = capsys.readouterr().out
    told = " ".join(text.split())
    assert "cam inside cam of the class of the input cam_class, at relu, by closed form, and a heatmap (input)" in told
    assert re.search(r"^  input +cam_class \(.*\) int32, may be left out$", text, re.MULTILINE)
    assert re.search(r"^  output +heatmap \(N, 1, .*\) float32$", text, re.MULTILINE)
    assert "cam/" not in text.partition("layers that can be tapped")[2].partition("methods")[0]


def test_a_second_classifier(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(model, tmp_path / "two.onnx", second_weight=np.ones((4, 5), np.float32))
    for file, said in ((model, None), (tmp_path / "two.onnx", {"weight": [4, 5], "problem": None})):
        assert main(["inspect", str(file), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["second classifier"] == said
        assert document["methods"]["recam"]["possible"] == (said is not None)
        assert main(["inspect", str(file)]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert ("second head its weight (4, 5) is inside, for the method recam" in text) == (said is not None)
        assert ("recam: it needs the weight of a second classifier, and this model has none." in text) == (said is None)


def test_a_second_classifier_that_is_not_there(
    tiny: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = tiny()  # type: ignore[operator]
    proto.metadata_props.add(key="camcore.second_weight", value='"lost\\u001b[2J"')
    onnx.save(proto, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "as the weight of a second classifier, and it has no such output ('scores'); export it again" in text
    assert "\x1b" not in text


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


def two_sizes(path: Path, middle: Callable[[Graph, str], str]) -> Path:
    """Two sizes of maps, ``first`` and ``last``, and something between them."""
    g = Graph(17)
    first = g.add("Relu", g.conv(g.image(["N", 3, 16, 16]), 3, 4), to="first")
    half = g.add("Conv", first, g.const(g.normal(4, 4, 3, 3)), strides=[2, 2], pads=[1, 1, 1, 1])
    last = g.add("Relu", middle(g, half), to="last")
    flat = g.add("Flatten", g.add("GlobalMaxPool", last))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 4)), to="scores", transB=1), ["N", 5])
    onnx.save(g.model(), path)
    return path


def volume(g: Graph, x: str) -> str:
    return g.add("Add", x, g.add("Unsqueeze", g.add("Det", x, name="volume"), g.ints(2, 3)))


def test_layers_with_and_without_a_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_sizes(tmp_path / "m.onnx", volume)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  first +\(N, 4, 16, 16\) +25.0 %  +no gradient  Relu$", text, re.MULTILINE)
    assert re.search(r"^  last +\(N, 4, 8, 8\) +< 0.1 % +gradient +Relu$", text, re.MULTILINE)
    told = " ".join(text.split())
    assert "no gradient first: no derivative is known of Det ('volume'), which stands between the layer" in told
    assert all(len(line) <= 80 for line in text.splitlines() if str(path) not in line)


def test_methods_follow_the_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_sizes(tmp_path / "m.onnx", volume)
    assert main(["inspect", str(path), "--layer", "first", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    layers = {e["name"]: e for e in document["layers"]}
    assert [layers[n]["gradient"] for n in ("first", "last")] == [False, True]
    assert layers["first"]["no gradient"].startswith("no derivative is known of Det ('volume')")
    assert document["layer"]["no gradient"] == layers["first"]["no gradient"]
    assert document["methods"]["gradcam"]["why not"].startswith(layers["first"]["no gradient"])
    assert document["methods"]["eigencam"]["possible"]


def test_approximate_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two_sizes(tmp_path / "m.onnx", Graph.quantized)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  first +\(N, 4, 16, 16\) +25.0 % +approximate +Relu$", text, re.MULTILINE)
    assert re.search(r"^  last +\(N, 4, 8, 8\) +< 0.1 % +gradient +Relu$", text, re.MULTILINE)
    assert "approximate  QuantizeLinear: a straight-through estimate" in text
    assert main(["inspect", str(path), "--json"]) == 0
    layers = {e["name"]: e for e in json.loads(capsys.readouterr().out)["layers"]}
    assert [bool(layers[n]["approximate"]) for n in ("first", "last")] == [True, False]
