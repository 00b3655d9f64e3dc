"""Heatmaps in the graph are those of the core, whatever the sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx.constants import Constants
from camcore_onnx.embedding.heatmap import heatmap
from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.reading.load import load
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import Graph, images, run_plainly

import camcore
from camcore.errors import MethodNotPossible

LENGTHS = st.integers(1, 9)


def model_of(shape, size, *, opset=17, rectifies=False, free=False):
    """maps -> heatmap, the maps as an input."""
    g = Graph(opset)
    g.out(g.add("Identity", g.image(["N", *shape]), to="copied"), ["N", *shape])
    loaded = load(g.model())
    graph = loaded.model.graph
    pen = Pen(graph, Facts(Constants(loaded)))
    known = (None, shape[0], *(None if free else n for n in shape[1:]))
    maps = Tensor(pen, graph.inputs[0], ir.DataType.FLOAT, known)
    found = heatmap(maps, size, rectifies=rectifies)
    found.value.type, found.value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", shape[0], *size])
    graph.outputs[:] = [found.value]
    return ir.to_proto(loaded.model)


def expected(maps, size, rectifies):
    small = np.maximum(maps, 0) if rectifies else maps
    return camcore.normalize(camcore.resize(small, size), spatial=len(size))


class TestHeatmap:
    @settings(max_examples=25, deadline=None)
    @given(
        space=st.lists(LENGTHS, min_size=1, max_size=3),
        more=st.data(),
        rectifies=st.booleans(),
        seed=st.integers(0, 99),
    )
    def test_fixed_sizes_at_any_number_of_axes(self, space, more, rectifies, seed):
        size = tuple(more.draw(LENGTHS) for _ in space)
        maps = images(2, 3, *space, seed=seed)
        (found,) = run_plainly(model_of((3, *space), size, rectifies=rectifies), maps)
        np.testing.assert_allclose(found, expected(maps, size, rectifies), atol=2e-6)

    @pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
    def test_every_opset(self, opset):
        maps = images(2, 3, 4, 5)
        (found,) = run_plainly(model_of((3, 4, 5), (8, 7), opset=opset), maps)
        np.testing.assert_allclose(found, expected(maps, (8, 7), False), atol=2e-6)

    @pytest.mark.parametrize("opset", [11, 13, 18, 21])
    def test_free_maps_are_resized_by_the_operator(self, opset):
        maps = images(2, 3, 4, 5)
        model = model_of((3, 4, 5), (9, 3), opset=opset, free=True)
        assert "Resize" in {node.op_type for node in model.graph.node}
        (found,) = run_plainly(model, maps)
        np.testing.assert_allclose(found, expected(maps, (9, 3), False), atol=2e-6)

    def test_free_maps_need_an_operator_that_knows_half_pixels(self):
        with pytest.raises(MethodNotPossible, match="needs opset 11, the model has 9"):
            model_of((3, 4, 5), (9, 3), opset=9, free=True)

    @pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e-30])
    @pytest.mark.parametrize("rectifies", [False, True])
    def test_a_constant_map_is_no_picture_of_rounding(self, value, rectifies):
        maps = np.full((1, 1, 7, 7), value, np.float32)
        (found,) = run_plainly(model_of((1, 7, 7), (100, 99), rectifies=rectifies), maps)
        assert not found.any()

    def test_a_map_without_a_positive_value_is_zero_once_rectified(self):
        (found,) = run_plainly(model_of((1, 4, 4), (8, 8), rectifies=True), -np.abs(images(1, 1, 4, 4)))
        assert not found.any()

    def test_the_model_is_valid(self):
        onnx.checker.check_model(model_of((3, 4, 5), (8, 7)), full_check=True)
