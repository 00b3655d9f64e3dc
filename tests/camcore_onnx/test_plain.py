"""A model without its map has what it had before, and nothing more."""

from __future__ import annotations

import pytest
from camcore_onnx import embed_cam
from camcore_onnx.plain import output_names, without_map
from camcore_onnx.reading.load import load
from onnx_graphs import Graph, finish


def two_outputs(second):
    """A classifier with an output of another kind beside its scores."""
    g = Graph()
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    g.out(g.add("Sigmoid", features, to=second), ["N", 6, 8, 8])
    return finish(g, features, 6)


def names(model):
    return [v.name for v in model.graph.outputs], [v.name for v in model.graph.inputs], [n.op_type for n in model.graph]


@pytest.mark.parametrize(
    ("second", "given"),
    [
        ("other", {"classes": "input", "heatmap": "input"}),
        ("heatmap", {"classes": "top2"}),
        ("cam_classes", {"classes": "all", "heatmap": "input"}),
        ("why_heatmap", {"classes": "input", "name": "why"}),
    ],
)
def test_own_outputs_stay_whatever_they_are_called(second, given):
    plain, full = load(two_outputs(second)), load(embed_cam(two_outputs(second), **given))
    card = {"name": given.get("name", "cam"), "classes": given["classes"], "heatmap": given.get("heatmap")}
    assert names(without_map(full, card).model) == names(plain.model)
    assert len(full.model.graph.outputs) > 2


def test_names_of_outputs():
    assert output_names({}) == ("cam", "cam_classes", "cam_scores", "heatmap")
    assert output_names({"name": "why"}) == ("why", "why_classes", "why_scores", "why_heatmap")
