"""The model for the browser, run by ONNX Runtime as the page runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import camcore_onnx
import numpy as np
import onnx
import onnxruntime
import pytest
from camcore_onnx.float16 import to_float16
from camcore_tools.web.model import web_model
from onnx import TensorProto, helper

import camcore
from camcore.errors import InputError
from camcore.preprocess import preprocess

X = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


def embedded(proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    made: onnx.ModelProto = camcore_onnx.embed_cam(proto, classes="input", preprocess="tf", **options)
    return made


def answers(data: bytes, told: dict[str, Any], index: int, x: np.ndarray = X) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    # ONNX Runtime Web gives no value to an input that has a default.
    assert [i.name for i in session.get_inputs()] == [told["input"], told["classInput"]]
    assert not session.get_overridable_initializers()
    feeds = {told["input"]: x, told["classInput"]: np.array([index], np.int32)}
    names = [told["scores"], told["cam"], f"{told['cam']}_classes"]
    return [np.asarray(value) for value in session.run(names, feeds)]


@pytest.mark.parametrize("index", [-1, 0, 3])
def test_any_class_can_be_asked_for(tiny: Callable[..., onnx.ModelProto], index: int) -> None:
    made = web_model(embedded(tiny()))
    scores, maps, classes = answers(made.data, made.description, index)
    out = camcore.explainer(tiny())(X, None if index < 0 else index)
    assert classes.tolist() == out.classes.tolist()
    np.testing.assert_allclose(maps, out.maps, atol=1e-5)
    np.testing.assert_allclose(scores, out.scores, atol=1e-5)


def test_what_the_page_is_told(tiny: Callable[..., onnx.ModelProto]) -> None:
    made = web_model(embedded(tiny(), labels=["a", "b", "c", "d"]))
    rule = camcore.PRESETS["tf"].to_json() | {"size": [16, 16]}
    assert made.description == {
        "bytes": len(made.data),
        "input": "x",
        "type": "float32",
        "batch": 1,
        "channels": 3,
        "preprocess": rule,
        "cam": "cam",
        "classInput": "cam_class",
        "scores": "scores",
        "scoresAre": "logit",
        "classes": 4,
        "quantised": False,
        "half": False,
        "method": "cam",
        "layer": "relu",
        "rectifies": False,
    }
    assert made.labels == ("a", "b", "c", "d")


def test_scores_before_a_softmax_become_an_output(tiny: Callable[..., onnx.ModelProto]) -> None:
    proto = tiny()
    proto.graph.node.append(helper.make_node("Softmax", ["scores"], ["probabilities"]))
    proto.graph.output[0].name = "probabilities"
    made = web_model(embedded(proto, name="map"))
    told = made.description
    assert (told["scores"], told["cam"], told["classInput"]) == ("map_all_scores", "map", "map_class")
    np.testing.assert_allclose(answers(made.data, told, -1)[0], camcore.explainer(tiny())(X).scores, atol=1e-5)


def test_a_fixed_batch_and_half_precision(tiny: Callable[..., onnx.ModelProto]) -> None:
    told = web_model(embedded(tiny(shape=(2, 3, 16, 16)))).description
    assert told["batch"] == 2
    half = web_model(embedded(to_float16(tiny()))).description
    assert (half["half"], half["type"]) == (True, "float32")


def test_gradients_where_there_is_no_closed_form(tiny: Callable[..., onnx.ModelProto]) -> None:
    made = web_model(embedded(tiny(), method="layercam"))
    assert (made.description["method"], made.description["rectifies"]) == ("layercam", True)
    np.testing.assert_allclose(
        answers(made.data, made.description, 1)[1], camcore.explainer(tiny(), method="layercam")(X, 1).maps, atol=1e-5
    )


def test_weights_in_files_of_their_own_are_taken_in(tiny: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save(embedded(tiny()), path, save_as_external_data=True, size_threshold=0, location="big.data")
    made = web_model(path)
    assert answers(made.data, made.description, 2)[2].tolist() == [[2]]


def test_imagenet_is_taken_where_nothing_is_known(
    tiny: Callable[..., onnx.ModelProto], capsys: pytest.CaptureFixture[str]
) -> None:
    made = web_model(camcore_onnx.embed_cam(tiny(), classes="input"))
    assert made.description["preprocess"]["mean"] == list(camcore.PRESETS["imagenet"].mean)
    assert "taking --preprocess imagenet" in capsys.readouterr().err


def test_what_the_page_cannot_show(tiny: Callable[..., onnx.ModelProto]) -> None:
    with pytest.raises(InputError, match="has no map inside; the page needs one made with classes='input'"):
        web_model(tiny())
    with pytest.raises(InputError, match="has a map of classes 'top4' inside"):
        web_model(camcore_onnx.embed_cam(tiny()))
    wide = tiny(shape=("N", 3, 16, 16))
    wide.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((5, 6, 3, 3), np.float32), "w"))
    wide.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    with pytest.raises(InputError, match="takes 6 channels; a picture has 3, or 1 as grey"):
        web_model(embedded(wide))
    other = preprocess("tf", size=(32, 32))
    with pytest.raises(InputError, match=r"its preprocessing makes \(32, 32\), its input takes \(16, 16\)"):
        web_model(camcore_onnx.embed_cam(tiny(), classes="input", preprocess=other))


def test_too_large_for_a_browser(tiny: Callable[..., onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camcore_tools.web.model._MOST", 100)
    with pytest.raises(InputError, match="MB of weights are too much for a browser; try --fp16"):
        web_model(embedded(tiny()))


def test_a_line_instead_of_a_picture() -> None:
    weights = {"w": np.ones((2, 3, 3), np.float32), "v": np.eye(2, dtype=np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 20])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    line = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(InputError, match="its input has 1 spatial axes; the page shows pictures"):
        web_model(embedded(line))
