"""Edits of a graph: what is added is right, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import expose_features
from camcore_onnx.reading.load import load
from camcore_onnx.surgery import add_outputs, copy_outputs
from onnx_graphs import Graph, classifier, images, onnx_bytes, run_plainly

from camcore.errors import InputError

PIXELS = images(2, 3, 8, 8)


def outputs(model: onnx.ModelProto) -> list[str]:
    return [v.name for v in model.graph.output]


class TestExposeFeatures:
    def test_the_tensor_comes_behind_the_own_outputs(self):
        model = classifier(ending="Softmax")
        exposed = expose_features(model, "features")
        assert outputs(exposed) == ["ending", "features"]
        before, after = run_plainly(model, PIXELS), run_plainly(exposed, PIXELS)
        np.testing.assert_array_equal(after[0], before[0])
        weight, bias = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer[-2:])
        scores = np.log(before[0])
        rebuilt = after[1].mean(axis=(2, 3)) @ weight + bias
        np.testing.assert_allclose(rebuilt - rebuilt[:, :1], scores - scores[:, :1], atol=1e-4)

    @pytest.mark.parametrize("kind", ["proto", "bytes", "ir", "path"])
    def test_the_model_given_is_not_changed(self, tmp_path, kind):
        model = classifier()
        before = onnx_bytes(model)
        path = tmp_path / "model.onnx"
        path.write_bytes(before)
        source = {"proto": model, "bytes": before, "ir": ir.from_proto(model), "path": path}[kind]
        exposed = expose_features(source, ["features", "pooled"], names=["a", "b"])
        assert outputs(exposed) == ["scores", "a", "b"]
        assert onnx_bytes(model) == before
        assert path.read_bytes() == before
        if kind == "ir":
            assert onnx_bytes(ir.to_proto(source)) == onnx_bytes(ir.to_proto(ir.from_proto(model)))

    def test_several_layers_in_the_order_asked_for(self):
        exposed = expose_features(classifier(), ["pooled", "features"])
        assert outputs(exposed) == ["scores", "pooled", "features"]

    def test_other_names_go_through_an_identity(self):
        exposed = expose_features(classifier(), "features", names=["maps"])
        assert outputs(exposed) == ["scores", "maps"]
        added = exposed.graph.node[-1]
        assert (added.op_type, list(added.input), list(added.output)) == ("Identity", ["features"], ["maps"])
        plain = run_plainly(expose_features(classifier(), "features"), PIXELS)
        for found, expected in zip(run_plainly(exposed, PIXELS), plain, strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_an_output_that_is_one_already_is_not_doubled(self):
        assert outputs(expose_features(classifier(), "scores")) == ["scores"]

    def test_a_node_name(self):
        assert outputs(expose_features(classifier(), "last_relu")) == ["scores", "features"]

    def test_the_checker_accepts_the_result(self):
        onnx.checker.check_model(expose_features(classifier(), "features", names=["maps"]), full_check=True)

    @pytest.mark.parametrize("taken", ["scores", "image", "pooled", "weight_1"])
    def test_taken_names_are_refused(self, taken):
        with pytest.raises(InputError, match=f"already has a tensor called '{taken}'; choose another name"):
            expose_features(classifier(), "features", names=[taken])

    def test_two_new_outputs_of_one_name_are_refused(self):
        with pytest.raises(InputError, match="the names same, same are not all different; give each layer its own"):
            expose_features(classifier(), ["features", "pooled"], names=["same", "same"])

    def test_as_many_names_as_layers(self):
        with pytest.raises(InputError, match="2 names for 1 layers; give one a layer"):
            expose_features(classifier(), "features", names=["a", "b"])

    def test_unknown_layer(self):
        with pytest.raises(InputError, match=r"no layer is called 'feature'.* Did you mean 'features'"):
            expose_features(classifier(), "feature")

    def test_weights_in_a_file_of_their_own_stay_there(self, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(classifier(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
        exposed = expose_features(path, "features")
        places = {e.value for t in exposed.graph.initializer for e in t.external_data if e.key == "location"}
        assert places == {"weights.bin"}
        assert not any(t.raw_data for t in exposed.graph.initializer)
        (tmp_path / "exposed.onnx").write_bytes(onnx_bytes(exposed))
        onnx.checker.check_model(str(tmp_path / "exposed.onnx"), full_check=True)


class TestAddOutputs:
    def test_the_original_graph_keeps_its_outputs(self):
        loaded = load(classifier())
        value = next(v for n in loaded.model.graph for v in n.outputs if v.name == "features")
        edited = add_outputs(loaded, {"features": value, "again": value})
        assert [v.name for v in edited.graph.outputs] == ["scores", "features", "again"]
        assert [v.name for v in loaded.model.graph.outputs] == ["scores"]
        assert len(list(loaded.model.graph)) == len(list(edited.graph)) - 1

    def test_an_input_is_no_layer(self):
        loaded = load(classifier())
        with pytest.raises(InputError, match="the model gives 'image' as it came or was stored"):
            add_outputs(loaded, {"copy": loaded.model.graph.inputs[0]})

    def test_nodes_without_names(self):
        g = Graph(named=False)
        g.out(g.add("Relu", g.add("Tanh", g.image(["N", 3, 8, 8]), to="inner")), ["N", 3, 8, 8])
        assert outputs(expose_features(g.model(), "inner", names=["shown"]))[-1] == "shown"


class TestCopyOutputs:
    def test_only_what_is_read_inside_is_copied_and_nothing_else_changes(self):
        model = expose_features(classifier(ending="Softmax"), ["features", "scores"])
        loaded = load(model).model
        shielded = copy_outputs(loaded)
        assert [v.name for v in shielded.graph.outputs] == outputs(model) == ["ending", "features", "scores"]
        assert all(not v.uses() for v in shielded.graph.outputs)
        makers = [v.producer().op_type for v in shielded.graph.outputs]
        assert makers == ["Softmax", "Identity", "Identity"]
        assert len(loaded.graph) == len(shielded.graph) - 2
        for found, expected in zip(run_plainly(ir.to_proto(shielded), PIXELS), run_plainly(model, PIXELS), strict=True):
            np.testing.assert_array_equal(found, expected)
        onnx.checker.check_model(ir.to_proto(shielded), full_check=True)
