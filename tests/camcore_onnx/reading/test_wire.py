"""What is counted in the bytes is what is in the model; what is too much of it, and hostile, is in tests/attacks."""

from __future__ import annotations

import onnx
import pytest
from camcore_onnx.reading.wire import Unreadable, survey
from onnx import helper
from onnx_graphs import FORMS, Graph, classifier, onnx_bytes


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_model(form):
    model = classifier(form=form)
    model.metadata_props.add(key="a", value="b")
    counts = survey(onnx_bytes(model), "it")
    graph = model.graph
    attributes = [a for node in graph.node for a in node.attribute]
    assert counts["graph"] == 1
    assert counts["node"] == len(graph.node)
    assert counts["tensor"] == len(graph.initializer) + sum(a.HasField("t") for a in attributes)
    assert counts["value"] == len(graph.input) + len(graph.output)
    assert counts["attribute"] == len(attributes)
    assert counts["entry"] == sum(len(node.input) + len(node.output) for node in graph.node)
    assert counts["metadata"] == 1


def test_graphs_inside_and_functions():
    value = helper.make_tensor_value_info("y", 1, None)
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "body", [], [value])
    g = Graph()
    g.image(["N", 3, 6, 6])
    g.out(g.add("If", g.const(True, dtype=bool), then_branch=body, else_branch=body), ["N", 3])
    inner = [helper.make_node("Relu", ["x"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    own = helper.make_function("own", "Own", ["x"], ["y"], inner, [helper.make_opsetid("", 17)])
    counts = survey(onnx_bytes(g.model(functions=[own], domains=["own"])), "it")
    assert (counts["graph"], counts["function"], counts["node"]) == (3, 1, 5)


def test_long_numbers():
    """Lengths of several bytes."""
    model = onnx.ModelProto()
    model.graph.node.add(op_type="x" * 300, name="y" * 70_000)
    model.graph.doc_string = "z" * 3_000_000
    model.graph.node.add()
    assert survey(onnx_bytes(model), "it")["node"] == 2


def test_a_group():
    with pytest.raises(Unreadable):
        survey(b"\x0b\x0c", "it")


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x3a", b"\x3a\xff", b"\x3a\x05\x0a"])
def test_what_is_cut_off_ends_the_count(data):
    assert survey(data, "it")["node"] == 0
