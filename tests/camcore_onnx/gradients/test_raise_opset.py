"""Models of opset 7 and 8, which gradients cannot be written in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.reading.load import load
from onnx_graphs import Graph, classifier, finish, images, run_plainly

from camcore import MethodNotPossible
from camcore.engine import Explainer


def network(
    opset: int, *, batch: int | str = "N", upsampled: bool = False, masked: bool = False, **options: Any
) -> Any:
    g = Graph(opset, **options)
    early = g.add("Relu", g.batch_norm(g.conv(g.image([batch, 3, "H", "W"]), 3, 6), 6), to="early")
    pool = g.add("MaxPool", g.add("Clip", early, min=0.0, max=2.0), kernel_shape=[2, 2], strides=[2, 2], to="middle")
    if masked:
        pool = g.add("Dropout", pool, to=["dropped", "mask"])
    if upsampled:
        pool = g.add("Upsample", pool, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    return finish(g, g.add("Tanh", g.conv(pool, 6, 6), to="late"), 6)


@pytest.mark.parametrize("upsampled", [False, True])
@pytest.mark.parametrize("form", ["initializer", "input", "transposed"])
@pytest.mark.parametrize("opset", [7, 8])
def test_they_compute_what_they_computed(opset: int, form: str, upsampled: bool) -> None:
    model, pixels = network(opset, form=form, upsampled=upsampled), images(2, 3, 9, 10)
    found = raised(load(model)).model
    assert found.opset_imports[""] == 11
    assert found.graph.outputs[0].name == "scores"
    assert {"early", "middle", "late"} <= {v.name for node in found.graph for v in node.outputs}
    np.testing.assert_array_equal(run_plainly(ir.to_proto(found), pixels)[0], run_plainly(model, pixels)[0])


@pytest.mark.parametrize("opset", [7, 8])
def test_weights_that_are_no_inputs_in_the_oldest_format(opset: int) -> None:
    model, pixels = network(opset), images(2, 3, 9, 10)
    model.ir_version = 3
    stored = {weight.name for weight in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    found = raised(load(model)).model
    np.testing.assert_array_equal(run_plainly(ir.to_proto(found), pixels)[0], run_plainly(model, pixels)[0])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_masks_became_booleans(dtype: str) -> None:
    pixels = images(2, 3, 9, 10)
    for model in (network(8, masked=True, dtype=dtype), network(8, batch=2, masked=True, dtype=dtype)):
        found = raised(load(model)).model
        np.testing.assert_array_equal(run_plainly(ir.to_proto(found), pixels)[0], run_plainly(model, pixels)[0])
        assert found.opset_imports[""] == (11 if dtype == "float32" else 9)  # where onnx writes a Clip of mixed types
        assert Explainer(OnnxBackend(model, device="cpu"), method="gradcam", layer="late")(pixels).maps.any()


@pytest.mark.parametrize("opset", [9, 11, 17])
def test_later_ones_stay_as_they_are(opset: int) -> None:
    loaded = load(classifier(opset=opset))
    assert raised(loaded) is loaded


@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("layer", ["early", "middle", "late"])
def test_maps_are_those_of_a_later_opset(opset: int, layer: str) -> None:
    pixels = images(2, 3, 9, 10)
    g = Graph(17)
    early = g.add("Relu", g.batch_norm(g.conv(g.image(["N", 3, "H", "W"]), 3, 6), 6), to="early")
    low, high = (g.const(np.array(n, np.float32), form="initializer") for n in (0.0, 2.0))
    pool = g.add("MaxPool", g.add("Clip", early, low, high), kernel_shape=[2, 2], strides=[2, 2], to="middle")
    later = finish(g, g.add("Tanh", g.conv(pool, 6, 6), to="late"), 6)
    found, expected = (
        Explainer(OnnxBackend(model, device="cpu"), method="layercam", layer=layer)(pixels, "top2")
        for model in (network(opset), later)
    )
    np.testing.assert_array_equal(found.classes, expected.classes)
    assert np.abs(found.maps - expected.maps).max() <= 1e-5 * np.abs(expected.maps).max()


def test_what_onnx_cannot_convert() -> None:
    text = "the model has opset 6, gradients need 9 or later, and onnx cannot convert it: "
    with pytest.raises(MethodNotPossible, match=re.escape(text)) as caught:
        raised(load(network(6)))
    assert str(caught.value).endswith("Export it again with a later opset")


@pytest.mark.parametrize("opset", [7, 8])
def test_weights_in_a_file(opset: int, tmp_path: Path) -> None:
    model, pixels = network(opset), images(2, 3, 9, 10)
    expected = Explainer(OnnxBackend(model, device="cpu"), method="layercam", layer="early")(pixels)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save_model(model, str(tmp_path / "model.onnx"), **options)
    there = OnnxBackend(tmp_path / "model.onnx", device="cpu")
    found = Explainer(there, method="layercam", layer="early")(pixels)
    np.testing.assert_array_equal(found.maps, expected.maps)
