"""An ONNX file as it is: run, in batches of its size; and what it computes with."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from camcore_onnx.checking.sides import open_side, precision
from camcore_onnx.reading.load import load
from onnx_graphs import Graph, classifier, finish, images, onnx_bytes, run_plainly


def test_a_file_gives_what_it_gives(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(classifier()))
    opened = open_side(path)
    assert opened.outputs == ["scores"]
    assert opened.side.name == str(path)
    found = opened.side.run(images(3, 3, 8, 8))
    np.testing.assert_array_equal(found["scores"], run_plainly(classifier(), images(3, 3, 8, 8))[0])


def test_weights_beside_it(tmp_path):
    onnx.save(classifier(), tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="w.bin")
    expected = run_plainly(classifier(), images(2, 3, 8, 8))[0]
    for source in (tmp_path / "model.onnx", load(tmp_path / "model.onnx")):
        np.testing.assert_array_equal(open_side(source).side.run(images(2, 3, 8, 8))["scores"], expected)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_fixed_batch_is_filled_up(count):
    pixels = images(count, 3, 8, 8)
    found = open_side(load(classifier(batch=2))).side.run(pixels)["scores"]
    np.testing.assert_allclose(found, run_plainly(classifier(), pixels)[0], rtol=1e-5)


def test_half_precision_takes_half_precision():
    side = open_side(load(classifier(dtype="float16"))).side
    assert side.run(images(1, 3, 8, 8))["scores"].dtype == np.float16


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_by_numbers(self, dtype):
        assert precision(load(classifier(dtype=dtype)).model) == dtype

    def test_half_precision_inside(self):
        g = Graph()
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6))
        model = finish(g, value, 6)
        model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float16), "half"))
        assert precision(load(model).model) == "float16"

    def test_quantised(self):
        g = Graph()
        value = g.quantized(g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6)))
        assert precision(load(finish(g, value, 6)).model) == "quantised"
