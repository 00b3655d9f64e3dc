"""Graphs that mean harm: too many of anything, too deep, in circles, with shapes that lie and operators of others."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.reading import limits
from camcore_onnx.reading.load import load
from hostile import answer, cheaply, field, model_of
from onnx import TensorProto, helper
from onnx_graphs import Graph, classifier, onnx_bytes

from camcore.errors import InputError

NODE = field(1, b"x") + field(2, b"y") + field(4, b"Relu")
OUTPUT = field(12, field(1, b"y"))


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source)
    return str(caught.value)


class TestTooMany:
    """Counted in the bytes, before they become objects of a hundred times their size."""

    @pytest.mark.parametrize(
        ("part", "count", "text"),
        [
            (field(1, NODE), 10**6, "more than 200000 nodes; the limit is 200000"),
            (OUTPUT, 10**6, "more than 500000 inputs, outputs and stated shapes"),
            (field(1, b""), 210_000, "more than 200000 nodes"),
            (field(5, b""), 210_000, "more than 200000 stored tensors"),
            (field(13, b""), 510_000, "more than 500000 inputs, outputs and stated shapes"),
        ],
    )
    def test_in_the_graph(self, part, count, text):
        data = model_of(field(1, NODE) + OUTPUT + part * count)
        with cheaply():
            found = refusal(data)
        assert f"the bytes given: {text}" in found
        assert "if you trust the file, raise camcore_onnx.reading.limits.MAX_" in found

    def test_in_constant_memory(self):
        data = model_of(field(1, NODE) * 210_000 + OUTPUT)
        with cheaply(seconds=30, megabytes=40):
            assert "more than 200000 nodes" in refusal(data)

    def test_outputs(self):
        model = classifier()
        for _ in range(limits.MAX_OUTPUTS):
            model.graph.output.add().CopyFrom(model.graph.output[0])
        assert "1001 outputs; the limit is 1000" in refusal(model)
        del model.graph.output[-1]
        assert load(model).name == "model in memory"

    def test_names_in_a_node(self, monkeypatch):
        monkeypatch.setattr(limits, "MAX_ENTRIES", 1000)
        data = model_of(field(1, field(1, b"") * 1001) + OUTPUT)
        assert "more than 1000 names and texts; the limit is 1000" in refusal(data)

    def test_in_a_graph_inside(self):
        inner = field(1, NODE) * 300_000
        data = model_of(field(1, field(4, b"If") + field(5, field(6, inner))) + OUTPUT)
        assert "more than 200000 nodes" in refusal(data)

    def test_functions(self):
        assert "more than 20000 functions" in refusal(model_of(field(1, NODE) + OUTPUT, field(25, b"") * 20_001))

    def test_nodes_hidden_behind_a_group(self):
        """What the wire format still allows, and no model has: the count must not end there."""
        data = model_of(b"\xf3\x01\xf4\x01" + (field(1, NODE) + OUTPUT) + field(1, b"") * 300_000)
        with cheaply():
            assert "cannot be parsed" in refusal(data)

    def test_a_file_that_no_protobuf_can_be(self, tmp_path):
        path = tmp_path / "huge.onnx"
        path.touch()
        os.truncate(path, 5 << 30)  # takes no room
        with cheaply(megabytes=1):
            assert "has 5368709120 bytes, and no ONNX model is larger than 2 GiB" in refusal(path)


class TestTooDeep:
    def nested(self, levels: int) -> bytes:
        graph = field(1, NODE)
        for _ in range(levels):
            graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
        return model_of(graph + OUTPUT)

    @pytest.mark.parametrize("levels", [30, 10_000])
    def test_graphs_inside_graphs(self, levels):
        with cheaply():
            assert "more than 24 graphs inside each other; the limit is 24" in refusal(self.nested(levels))

    def test_a_model_in_memory(self):
        body = helper.make_graph(
            [helper.make_node("Relu", ["image"], ["y"])], "body", [], [helper.make_tensor_value_info("y", 1, None)]
        )
        for _ in range(27):
            node = helper.make_node("If", ["c"], ["y"], then_branch=body)
            body = helper.make_graph([node], "body", [], [])
        g = Graph()
        g.image(["N", 3, 6, 6])
        g.out(g.add("If", g.const(np.array(True), dtype=bool), then_branch=body, else_branch=body), ["N", 3])
        assert "more than 24 graphs inside each other" in refusal(g.model())

    def test_a_long_chain_is_no_depth(self):
        model = classifier(size=(6, 6))
        names = ["features", *(f"t{i}" for i in range(3000))]
        model.graph.node.extend(helper.make_node("Relu", [a], [b]) for a, b in pairwise(names))
        assert len(load(onnx_bytes(model)).model.graph) == 3005


def function(name: str, *calls: str, domain: str = "own", overload: str = "") -> onnx.FunctionProto:
    """One that calls others in a row."""
    names = ["x", *(f"t{i}" for i in range(len(calls) - 1)), "y"]
    nodes = [
        helper.make_node(call, [a], [b], domain="" if call == "Relu" else "own")
        for call, (a, b) in zip(calls, pairwise(names), strict=True)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, opsets, overload=overload)


def calling(name: str, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    g = Graph()
    g.out(g.add(name, g.image(["N", 3, 6, 6]), domain="own"), ["N", 3])
    return g.model(functions=functions, domains=["own"])


class TestFunctions:
    def test_one_that_calls_itself(self):
        text = refusal(calling("F", function("F", "Relu", "F")))
        assert text.endswith("the graph is damaged: the function own::F calls itself (own::F -> own::F)")

    def test_two_that_call_each_other(self):
        text = refusal(calling("F", function("F", "G"), function("G", "Relu", "F")))
        assert text.endswith("the function own::F calls itself (own::F -> own::G -> own::F)")

    def test_a_circle_that_nobody_calls(self):
        model = calling("Fine", function("Fine", "Relu"), function("F", "G"), function("G", "F"))
        assert "calls itself" in refusal(model)

    def test_a_circle_through_a_graph_inside(self):
        body = helper.make_graph(
            [helper.make_node("F", ["x"], ["z"], domain="own")], "b", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        looped = function("F", "Relu")
        looped.node.append(helper.make_node("If", ["x"], ["w"], then_branch=body, else_branch=body))
        assert "the function own::F calls itself" in refusal(calling("F", looped))

    @pytest.mark.parametrize("levels", [9, 20])
    def test_those_that_multiply(self, levels):
        """Some kilobytes that would be 10^9, or 10^20 nodes once written out."""
        functions = [function("F0", "Relu"), *(function(f"F{i}", *[f"F{i - 1}"] * 10) for i in range(1, levels + 1))]
        with cheaply():
            text = refusal(calling(f"F{levels}", *functions))
        assert "1000000 nodes once its functions are written out; the limit is 200000" in text

    def test_those_that_multiply_at_once(self):
        """Numbers of thousands of digits are not made."""
        wide = function("F0", *["Relu"] * 1000)
        functions = [wide, *(function(f"F{i}", *[f"F{i - 1}"] * 100) for i in range(1, 23))]
        with cheaply():
            assert "nodes once its functions are written out" in refusal(calling("F22", *functions))

    def test_a_long_row(self):
        """Each calls the next: to write it out would be a recursion as deep."""
        functions = [function("F0", "Relu"), *(function(f"F{i}", f"F{i - 1}") for i in range(1, 5000))]
        with cheaply():
            assert "more than 24 functions that call each other in a row" in refusal(calling("F4999", *functions))

    def test_one_that_is_defined_twice(self):
        model = calling("F", function("F", "Relu"), function("F", *["Relu"] * 9))
        assert refusal(model).endswith("the graph is damaged: the function own::F is defined twice")

    def test_overloads_are_told_apart(self, monkeypatch):
        """As one they would hide the larger."""
        monkeypatch.setattr(limits, "MAX_NODES", 20)
        model = calling("F", function("F", *["Relu"] * 15, overload="a"), function("F", "Relu", overload="b"))
        model.ir_version = 10
        model.graph.node[0].overload = "a"
        model.graph.node.extend([helper.make_node("F", ["image"], ["second"], domain="own", overload="a")])
        assert "30 nodes once its functions are written out" in refusal(model)

    @pytest.mark.parametrize("domain", ["", "ai.onnx"])
    def test_one_in_the_place_of_an_operator(self, domain):
        """A function called as a standard operator is one all the same."""
        model = calling("F", function("F", "Relu"), function("Relu", "F", domain=domain))
        assert "calls itself" in refusal(model)


class TestOperators:
    @pytest.mark.parametrize("domain", ["evil.corp", "ai.onnx.training", "com.microsoft.nchwc", "\x1b[31m"])
    def test_custom(self, domain):
        model = classifier()
        model.graph.node[1].domain = domain
        assert f"uses the custom operator {domain}::Relu; custom operators are refused" in refusal(model)

    def test_in_a_graph_in_a_function(self):
        inner = helper.make_node("Mystery", ["x"], ["z"], domain="evil.corp")
        body = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("z", 1, None)])
        outer = function("F", "Relu")
        outer.node.append(helper.make_node("If", ["x"], ["w"], then_branch=body, else_branch=body))
        assert "custom operator evil.corp::Mystery" in refusal(calling("F", outer))

    @pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml"])
    def test_unknown_ones_of_known_domains(self, domain):
        model = classifier(size=(6, 6))
        model.graph.node[1].domain = domain
        assert "ONNX Runtime" in answer(model)


class TestNames:
    @pytest.mark.parametrize("kind", ["node", "initializer", "input", "initializer and node"])
    def test_two_tensors_of_one_name(self, kind):
        model = classifier()
        if kind == "node":
            model.graph.node.extend([helper.make_node("Relu", ["image"], ["scores"])])
        elif kind == "initializer and node":
            model.graph.node.extend([helper.make_node("Relu", ["image"], [model.graph.initializer[0].name])])
        else:
            held = getattr(model.graph, kind)
            held.add().CopyFrom(held[0])
        assert "the graph is damaged: 2 tensors are called " in refusal(model)

    def test_outputs_that_nothing_makes(self, capsys):
        model = classifier()
        model.graph.output[0].name = "nowhere"
        assert refusal(model).endswith("the graph is damaged: nothing makes its output 'nowhere'")
        assert capsys.readouterr().err == ""

    def test_outputs_of_one_name(self):
        model = classifier(size=(6, 6))
        model.graph.output.add().CopyFrom(model.graph.output[0])
        assert answer(model) == ""

    def test_no_name_at_all(self):
        model = classifier(size=(6, 6))
        model.graph.output[0].name = ""
        assert "is damaged" in answer(model)


class TestShapes:
    @pytest.mark.parametrize(
        ("dims", "text"),
        [
            ([1 << 62, 1 << 62], "means some 10^37 elements"),
            ([1 << 32, 1 << 32], "means some 10^19 elements"),
            ([-6, -5], "the shape -6x-5 of 'weight_7' means a length below 0"),
            ([6, 1 << 30], "means 25769803776 bytes, and 120 are there"),
            ([6, 4], "the shape 6x4 of 'weight_7' means 96 bytes, and 120 are there"),
            ([], "the shape a single number of 'weight_7' means 4 bytes, and 120 are there"),
            ([0], "means 0 bytes, and 120 are there"),
            ([1] * 64, "means 4 bytes"),
        ],
    )
    def test_stored_tensors(self, dims, text):
        model = classifier()
        model.graph.initializer[2].dims[:] = dims
        assert f"the graph is damaged: the shape {'x'.join(map(str, dims[:8])) or 'a single number'}" in refusal(model)
        assert text in refusal(model)

    @pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.STRING])
    def test_numbers_that_are_no_raw_bytes(self, kind):
        model = classifier()
        values = [b"x"] * 30 if kind == TensorProto.STRING else [1] * 30
        tensor = helper.make_tensor("weight_7", kind, [6, 5], values)
        tensor.dims[:] = [6, 7]
        model.graph.initializer[2].CopyFrom(tensor)
        assert "the shape 6x7 of 'weight_7' means 42 numbers, and 30 are there" in refusal(model)

    def test_in_attributes(self):
        g = Graph(form="constant")
        model = finished(g)
        constant = next(n for n in model.graph.node if n.op_type == "Constant")
        constant.attribute[0].t.dims[:] = [1 << 62, 1 << 62]
        assert "the graph is damaged: the shape" in refusal(model)

    def test_no_classes(self):
        model = classifier(size=(6, 6))
        model.graph.initializer[2].CopyFrom(helper.make_tensor("weight_7", 1, [6, 0], []))
        assert "adds (5,) to 0 scores" in answer(model)

    @pytest.mark.parametrize("index", [0, 2])
    def test_texts_as_weights(self, index):
        model = classifier(size=(6, 6))
        stored = model.graph.initializer[index]
        count = int(np.prod(stored.dims))
        stored.CopyFrom(helper.make_tensor(stored.name, TensorProto.STRING, list(stored.dims), [b"x"] * count))
        assert any(word in answer(model) for word in ("tensor(string)", "not as its operator is defined"))

    @pytest.mark.parametrize(
        ("dims", "text"),
        [
            ((1 << 62, 3, 1 << 62, 1 << 62), "some 10^56 numbers in a batch of images; the limit is 268435456"),
            ((1, 3, 1 << 20, 1 << 20), "some 10^12 numbers in a batch of images"),
            ((1 << 40, 3, 6, 6), "some 10^14 numbers in a batch of images"),
            ((1, 3, 0, 6), "ONNX Runtime could not run images of shape (1, 3, 6, 6)"),
            ((-1, -3, -6, -6), ""),
        ],
    )
    def test_of_the_input(self, dims, text):
        model = classifier(size=(6, 6))
        for dim, value in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
            dim.dim_value = value
        with cheaply():
            found = answer(model)
        assert text in found
        assert bool(text) == bool(found)

    def test_that_are_only_stated(self):
        """ONNX Runtime warns of them and goes on; so may we, if nothing is made of them."""
        model = classifier(size=(6, 6))
        stated = helper.make_tensor_value_info("features", 1, [-1, 1 << 62, 1 << 62, 1 << 62])
        model.graph.value_info.extend([stated])
        with cheaply():
            answer(model)


def finished(g: Graph) -> onnx.ModelProto:
    from onnx_graphs import finish

    return finish(g, g.add("Relu", g.conv(g.image(["N", 3, 6, 6]), 3, 6)), 6)
