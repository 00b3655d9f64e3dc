"""The networks inside the onnx package: weights are a ConstantOfShape each, so the architecture is real and small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from onnx import numpy_helper
from onnx_graphs import images, run_plainly

import camcore
from camcore.errors import HeadNotFound

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# name -> channels and size of the features, operations between them and the scores
LINEAR = {
    "densenet121": ((1024, 7, 7), "GlobalAveragePool -> Conv 1x1"),
    "inception_v1": ((1024, 6, 6), "AveragePool 7x7 -> Dropout -> Reshape -> Gemm -> Softmax"),
    "inception_v2": ((1024, 7, 7), "AveragePool 7x7 -> Reshape -> Gemm -> Softmax"),
    "resnet50": ((2048, 7, 7), "AveragePool 7x7 -> Reshape -> Gemm -> Softmax"),
    "shufflenet": ((544, 7, 7), "AveragePool 7x7 -> Reshape -> Gemm -> Softmax"),
    "squeezenet": ((1000, 13, 13), "GlobalAveragePool -> Softmax"),
}
REFUSED = {
    "bvlc_alexnet": "Relu .*stands in front of the scores, and it is not linear",
    "vgg19": "Relu .*stands in front of the scores, and it is not linear",
    "zfnet512": "Relu .*stands in front of the scores, and it is not linear",
}


def path(name: str) -> Path:
    return FOLDER / f"light_{name}.onnx"


def with_random_weights(name: str) -> onnx.ModelProto:
    """The fills make all channels and classes alike, so that a wrong head could pass: noise in their place."""
    model = onnx.load(path(name))
    random = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    fills = {n.output[0]: shapes[n.input[0]] for n in model.graph.node if n.op_type == "ConstantOfShape"}
    for name, shape in fills.items():
        noise = random.standard_normal(shape, dtype=np.float32)
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        array = noise * np.float32(spread) if len(shape) > 1 else 1 + np.float32(spread) * abs(noise)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    kept = [n for n in model.graph.node if n.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.ir_version = 8  # before 4, initialisers had to be inputs
    return model


def test_the_list_is_complete():
    assert {p.stem.removeprefix("light_") for p in FOLDER.glob("*.onnx")} == {*LINEAR, *REFUSED}


@pytest.mark.parametrize("name", LINEAR)
def test_the_head_is_found_and_holds(name):
    assert_holds(path(name), *LINEAR[name])


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_the_head_holds_with_weights_that_differ(name):
    assert_holds(with_random_weights(name), *LINEAR[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
def test_the_head_holds_with_weights_that_differ_widely(name):
    assert_holds(with_random_weights(name), *LINEAR[name])


def assert_holds(model: Any, shape: tuple[int, ...], how: str) -> None:
    explained = camcore.explainer(model, device="cpu", method="cam")
    tap = explained.plan.tap
    assert (tap.shape, tap.how) == (shape, how)
    pixels = images(1, 3, 224, 224)
    out = explained(pixels, classes="all")
    head = tap.need_head()
    assert head.classes == 1000
    rebuilt = out.maps.mean(axis=(2, 3), dtype=np.float64) + head.bias
    assert np.abs(rebuilt - out.scores).max() <= 1e-3 * np.abs(out.scores).max()
    expected = run_plainly(model.read_bytes() if isinstance(model, Path) else model, pixels)[0].reshape(1, -1)
    shown = camcore.softmax(out.scores) if "Softmax" in how else out.scores
    np.testing.assert_allclose(shown, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_in_the_way_is_named(name):
    with pytest.raises(HeadNotFound, match=REFUSED[name]):
        OnnxBackend(path(name), device="cpu").tap().need_head()
