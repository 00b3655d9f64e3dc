from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from camcore_onnx import embed_cam
from camcore_tools.inspection.facts import describe, look_at
from data import WITH_CAM, WITHOUT_CAM, Real
from onnx_graphs import Graph, classifier, finish
from torch import nn

from camcore import InputError
from camcore.preprocess import preprocess


def facts(model: Any, folder: Path, **options: Any) -> dict[str, Any]:
    onnx.save(model, folder / "m.onnx")
    return describe(look_at(str(folder / "m.onnx"), **options))


def test_layers_that_no_score_depends_on_are_left_out(tmp_path: Path) -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 16, 16]), 3, 6), to="features")
    g.out(g.add("MaxPool", features, kernel_shape=[2, 2], strides=[2, 2], to="aside"), ["N", 6, 8, 8])
    d = facts(finish(g, features, 6), tmp_path)
    assert [e["name"] for e in d["layers"]] == ["features"]


def test_a_cam_in_the_file_changes_nothing_else(tmp_path: Path) -> None:
    plain = facts(classifier(size=(8, 8)), tmp_path)
    inside = facts(embed_cam(classifier(size=(8, 8)), classes="all"), tmp_path)
    assert plain["embedded"] is None
    assert inside["embedded"]["method"] == "cam"
    assert [o["name"] for o in inside["outputs"]] == ["scores", "cam"]
    for key in ("layer", "layers", "head", "methods", "inputs"):
        assert inside[key] == plain[key], key
    assert inside["compute"]["macs"] > plain["compute"]["macs"]  # the map costs something


def test_the_size_of_a_recorded_preprocessing(tmp_path: Path) -> None:
    model = classifier()
    rule = preprocess("imagenet", size=(20, 24)).to_json()
    model.metadata_props.add(key="camcore.preprocess", value=json.dumps(rule))
    d = facts(model, tmp_path)
    assert d["compute"]["for"] == {"image": [1, 3, 20, 24]}
    assert facts(model, tmp_path, size=(9,))["compute"]["for"] == {"image": [1, 3, 9, 9]}


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    onnx.save(classifier(size=(8, 8)), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no layer is called 'nothing'"):
        describe(look_at(str(tmp_path / "m.onnx")), "nothing")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(InputError, match="it is a text file"):
        look_at(str(tmp_path / "m.onnx"))


def test_pytorch_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    d = describe(look_at(model, size=(32, 40)))
    assert (d["kind"], d["class"], d["parameters"], d["trainable parameters"]) == ("torch", "Sequential", 122, 122)
    assert d["compute"] == {
        "macs": 30 * 38 * 4 * 27 + 8,
        "for": {"images": [1, 3, 32, 40]},
        "not counted": [],
        "problem": None,
    }
    assert (d["layer"]["shape"], d["layer"]["macs behind"]) == ([4, 30, 38], 8)
    json.dumps(d, allow_nan=False)


SOME = [r for r in (*WITH_CAM, *WITHOUT_CAM) if r.file.startswith(("mobilenet_v1", "winml_S", "winml_c"))]


@pytest.mark.parametrize("real", SOME, ids=lambda r: r.file)
def test_real_models(real: Real) -> None:
    d = describe(look_at(str(real.path)))
    shares = [e["share behind"] for e in d["layers"]]
    assert all(0 <= s <= 1 for s in shares)
    assert shares == sorted(shares, reverse=True)  # a later layer has less behind it
    assert d["compute"]["problem"] is None
    assert d["precision"].startswith(
        {"mobilenet_v1_0.25_128_qdq.onnx": "uint8", "winml_SqueezeNet_fp16.onnx": "float16"}.get(real.file, "float32")
    )
    json.dumps(d, allow_nan=False)
