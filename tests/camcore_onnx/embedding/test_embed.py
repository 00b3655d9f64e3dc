"""A model that returns its own map: inputs, outputs, classes, metadata, refusals; numbers are the explainer's."""

from __future__ import annotations

import json
from importlib import import_module

import camcore_onnx
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import embed_cam
from camcore_onnx.embedding.closed import class_maps
from camcore_onnx.reading.load import load
from camcore_onnx.running.runtime import make_session
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import Graph, classifier, finish, images, onnx_bytes, run_plainly

import camcore
from camcore.errors import HeadNotFound, InputError, MethodNotPossible
from camcore.preprocess import preprocess

PIXELS = images(3, 3, 8, 8)
CLOSED = ("cam", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-elementwise", "finercam")


def deep(*, batch="N", classes=5, **options):
    """Two blocks and a hidden layer in the head, so that nothing is closed."""
    g = Graph(**options)
    first = g.add("Relu", g.conv(g.image([batch, 3, 8, 8]), 3, 4), to="first")
    last = g.add("Relu", g.conv(first, 4, 6), to="features")
    flat = g.add("Flatten", g.add("GlobalAveragePool", last), axis=1)
    hidden = g.add("Relu", g.add("Gemm", flat, g.const(g.normal(6, 7)), g.const(g.normal(7))))
    scores = g.add("Gemm", hidden, g.const(g.normal(7, classes)), g.const(g.normal(classes)), to="scores")
    g.out(scores, [batch, classes])
    return g.model()


def ended(ending):
    """One block and a head, and an activation without attributes behind it."""
    g = Graph()
    model = finish(g, g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features"), 6)
    if ending:
        model.graph.node.append(helper.make_node(ending, ["scores"], ["ending"]))
        model.graph.output[0].name = "ending"
    return model


def shown(model):
    """Names, types and shapes of the outputs."""
    return [
        (
            v.name,
            v.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value or None for d in v.type.tensor_type.shape.dim],
        )
        for v in model.graph.output
    ]


def run(model, pixels=PIXELS, **more):
    session = make_session(onnx_bytes(model), device="cpu", threads=1)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels, **more}), strict=True))


def close(found, wanted, limit=1e-5):
    np.testing.assert_allclose(found, wanted, atol=limit * np.abs(wanted).max())


class TestOutputs:
    def test_of_the_best_classes(self):
        model = classifier(size=(8, 8))
        found = embed_cam(model, classes="top3")
        assert [v.name for v in found.graph.input] == ["image"]
        assert shown(found)[1:] == [
            ("cam", TensorProto.FLOAT, ["N", 3, 8, 8]),
            ("cam_classes", TensorProto.INT32, ["N", 3]),
            ("cam_scores", TensorProto.FLOAT, ["N", 3]),
        ]
        out, plain = run(found), camcore.explainer(model, method="cam")(PIXELS, "top3")
        close(out["cam"], plain.maps)
        np.testing.assert_array_equal(out["cam_classes"], plain.classes)
        close(out["cam_scores"], np.take_along_axis(plain.scores, plain.classes, 1))

    def test_of_all_classes_there_are_neither_numbers_nor_scores_beside_them(self):
        found = embed_cam(classifier(size=(8, 8)), classes="all")
        assert [name for name, _, _ in shown(found)] == ["scores", "cam"]
        close(run(found)["cam"], camcore.explainer(classifier(size=(8, 8)))(PIXELS, "all").maps)

    def test_there_are_never_more_classes_than_the_model_has(self):
        assert run(embed_cam(classifier(classes=3), classes="top5"))["cam_classes"].shape == (3, 3)

    @pytest.mark.parametrize("ending", ["", "Softmax"])
    def test_own_outputs_come_first_and_stay_the_same_to_the_last_bit(self, ending):
        model = classifier(ending=ending)
        out = run(embed_cam(model))
        np.testing.assert_array_equal(next(iter(out.values())), run_plainly(model, PIXELS)[0])

    def test_scores_are_those_before_the_softmax(self):
        model = classifier(ending="Softmax")
        out = run(embed_cam(model, classes="top1"))
        assert out["cam_scores"][0] == pytest.approx(camcore.explainer(model)(PIXELS).scores.max(1)[0], rel=1e-5)

    def test_the_mean_of_a_map_and_the_bias_is_the_score(self):
        model = classifier()
        out = run(embed_cam(model, classes="all"))
        bias = numpy_helper.to_array(model.graph.initializer[-1])
        close(out["cam"].mean(axis=(2, 3)) + bias, out["scores"])

    def test_another_name(self):
        found = embed_cam(classifier(), name="why", classes="input", heatmap="4x4")
        assert [name for name, _, _ in shown(found)] == ["scores", "why", "why_classes", "why_scores", "why_heatmap"]
        assert [v.name for v in found.graph.input] == ["image", "why_class"]

    def test_a_name_that_is_taken(self):
        with pytest.raises(InputError, match="has a tensor called 'features' already; choose another name"):
            embed_cam(classifier(), name="features")

    @pytest.mark.parametrize("model", [classifier, deep])
    def test_the_name_of_the_new_input_is_taken(self, model):
        model = model()
        for node in model.graph.node:
            node.input[:] = ["why_class" if n == "features" else n for n in node.input]
            node.output[:] = ["why_class" if n == "features" else n for n in node.output]
        with pytest.raises(InputError, match="has a tensor called 'why_class' already; choose another name"):
            embed_cam(model, name="why", classes="input")

    @pytest.mark.parametrize("name", ["", None, 3])
    def test_a_name_that_is_none(self, name):
        with pytest.raises(InputError, match="expected a text, such as 'cam'"):
            embed_cam(classifier(), name=name)

    def test_the_model_given_is_not_changed(self):
        model = classifier()
        before = onnx_bytes(model)
        embed_cam(model, heatmap="input", classes="input")
        assert onnx_bytes(model) == before

    def test_nothing_is_written_that_nobody_reads(self):
        for kind in ("all", "top2", "input"):
            for method in CLOSED[:-1]:
                graph = load(embed_cam(classifier(), method=method, classes=kind)).model.graph
                added = [n for n in graph if (n.name or "").startswith("cam/")]
                assert added
                assert all(any(v.uses() or v.is_graph_output() for v in n.outputs) for n in added)
                assert all(v.uses() for v in graph.initializers.values())

    def test_the_matrix_of_the_head_is_not_stored_twice(self):
        model = classifier(classes=50)
        more = len(onnx_bytes(embed_cam(model))) - len(onnx_bytes(model))
        assert more < 50 * 6 * 4 + 2000  # the graph itself takes about that; the matrix would be 1,200 more
        stored = [tuple(t.dims) for t in embed_cam(model).graph.initializer]
        assert stored.count((6, 50)) == 1
        assert (50, 6) not in stored

    def test_it_is_valid(self):
        for kind in ("all", "top2", "input"):
            onnx.checker.check_model(embed_cam(classifier(), classes=kind, heatmap="input"), full_check=True)


class TestClassByInput:
    def test_the_best_class_where_nothing_is_said(self):
        found = embed_cam(classifier(), classes="input")
        assert [(v.name, v.type.tensor_type.elem_type) for v in found.graph.input][1:] == [
            ("cam_class", TensorProto.INT32)
        ]
        out, plain = run(found), camcore.explainer(classifier())(PIXELS)
        close(out["cam"], plain.maps)
        np.testing.assert_array_equal(out["cam_classes"], plain.classes)

    @pytest.mark.parametrize("model", [classifier(), deep()])
    @pytest.mark.parametrize("asked", [[2], [2, -1, 0]])
    def test_one_for_all_images_or_one_for_each(self, model, asked):
        out = run(embed_cam(model, classes="input"), cam_class=np.array(asked, np.int32))
        plain = camcore.explainer(model)(PIXELS)
        wanted = [plain.classes[n, 0] if c < 0 else c for n, c in enumerate(asked * 3 if len(asked) == 1 else asked)]
        np.testing.assert_array_equal(out["cam_classes"][:, 0], wanted)
        close(out["cam"], camcore.explainer(model)(PIXELS, [[c] for c in wanted]).maps)
        assert out["cam_scores"][0, 0] == pytest.approx(plain.scores[0, wanted[0]], rel=1e-5)

    def test_a_class_that_there_is_not(self):
        with pytest.raises(Exception, match=r"(?i)out of"):
            run(embed_cam(classifier(), classes="input"), cam_class=np.array([99], np.int32))


class TestMethods:
    @pytest.mark.parametrize("method", CLOSED)
    @pytest.mark.parametrize("classes", ["top2", "input"])
    def test_closed_forms(self, method, classes):
        found = embed_cam(classifier(), method=method, classes=classes)
        plain = camcore.explainer(classifier(), method=method)(PIXELS, None if classes == "input" else classes)
        close(run(found)["cam"], plain.maps)
        assert not any(node.name.startswith("grad/") for node in found.graph.node)

    @pytest.mark.parametrize("method", CLOSED[:-1])
    def test_closed_forms_of_all_classes(self, method):
        close(
            run(embed_cam(classifier(), method=method, classes="all"))["cam"],
            camcore.explainer(classifier(), method=method)(PIXELS, "all").maps,
        )

    @pytest.mark.parametrize("method", ["auto", *CLOSED[1:], "shapleycam"])
    @pytest.mark.parametrize("classes", ["top2", "input", "all"])
    def test_gradients(self, method, classes):
        found = embed_cam(deep(), method=method, classes=classes, heatmap="input")
        plain = camcore.explainer(deep(), method=method)(PIXELS, None if classes == "input" else classes)
        out = run(found)
        close(out["cam"], plain.maps)
        close(out["heatmap"], plain.heatmaps(), 1e-4)
        assert ("cam_classes" in out) == (classes != "all")

    @pytest.mark.parametrize("ending", ["", "Sigmoid"])
    @pytest.mark.parametrize("classes", ["top2", "input", "all"])
    def test_a_target_that_bends_over_the_scores_of_a_linear_head(self, ending, classes):
        model = ended(ending)
        found = embed_cam(model, method="shapleycam", classes=classes)
        plain = camcore.explainer(model, method="shapleycam")(PIXELS, None if classes == "input" else classes)
        close(run(found)["cam"], plain.maps)
        assert json.loads(found.metadata_props[0].value)["way"] == "gradient"

    @pytest.mark.parametrize("method", ["gradcam", "shapleycam", "reciprocam"])
    @pytest.mark.parametrize(("count", "classes"), [(1, "all"), (1, "top5"), (2, "top5")])
    def test_fewer_classes_than_are_asked_for(self, method, count, classes):
        model = deep(classes=count)
        found = embed_cam(model, method=method, classes=classes)
        out = camcore.explainer(model, method=method)(PIXELS, "all" if classes == "all" else f"top{count}")
        close(run(found)["cam"], out.maps)
        told = json.loads(found.metadata_props[0].value)["classes"]
        assert told == ("all" if classes == "all" else f"top{count}")

    def test_another_layer_and_target(self):
        asked = {"method": "gradcam", "layer": "first", "target": "probability"}
        close(run(embed_cam(deep(), **asked))["cam"], camcore.explainer(deep(), **asked)(PIXELS, "top5").maps)

    @pytest.mark.parametrize("target", ["probability", "difference", "finer", "difference:1"])
    @pytest.mark.parametrize("ending", ["", "Sigmoid"])
    def test_targets_by_closed_form(self, target, ending):
        model = ended(ending)
        asked = {"method": "gradcam", "target": target}
        close(
            run(embed_cam(model, classes="top3", **asked))["cam"],
            camcore.explainer(model, **asked)(PIXELS, "top3").maps,
        )

    def test_a_target_of_all_classes_is_not_made(self):
        with pytest.raises(MethodNotPossible, match="of all classes at once is not made in the graph"):
            embed_cam(classifier(), method="gradcam", target="probability", classes="all")

    @pytest.mark.parametrize("method", ["eigencam", "scorecam", "random"])
    def test_what_cannot_be_made_says_what_can(self, method):
        with pytest.raises(
            MethodNotPossible, match=f"the map of {method} cannot be made in the graph.*take cam, gradcam"
        ):
            embed_cam(classifier(), method=method)


class TestForms:
    @pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 17, 18, 21])
    @pytest.mark.parametrize("classes", ["all", "top2", "input"])
    def test_opsets(self, opset, classes):
        model = classifier(opset=opset)
        found = embed_cam(model, classes=classes)
        if classes != "input":
            assert found.opset_import[0].version == opset
        out, plain = run(found), camcore.explainer(model)(PIXELS, None if classes == "input" else classes)
        close(out["cam"], plain.maps)
        np.testing.assert_array_equal(out["scores"], run_plainly(model, PIXELS)[0])

    @pytest.mark.parametrize("classes", ["all", "top2", "input"])
    @pytest.mark.parametrize("opset", [7, 11, 17])
    def test_feature_maps_that_are_the_class_maps(self, classes, opset):
        g = Graph(opset)
        maps = g.conv(g.image(["N", 3, 8, 8]), 3, 5)
        g.out(g.add("Flatten", g.add("GlobalAveragePool", maps), to="scores"), ["N", 5])
        for method in ("cam", "layercam"):
            out = run(embed_cam(g.model(), method=method, classes=classes))
            close(
                out["cam"],
                camcore.explainer(g.model(), method=method)(PIXELS, None if classes == "input" else classes).maps,
            )

    @pytest.mark.parametrize("form", ["input", "constant", "transposed", "reshaped", "dequantized"])
    def test_weights_however_they_are_stored(self, form):
        model = classifier(form=form)
        close(run(embed_cam(model))["cam"], camcore.explainer(model)(PIXELS, "top5").maps)

    def test_half_precision_is_summed_in_single(self):
        model = classifier(dtype="float16")
        out = run(embed_cam(model), PIXELS.astype(np.float16))
        assert out["cam"].dtype == np.float32
        close(out["cam"], camcore.explainer(model)(PIXELS, "top5").maps, 1e-2)

    @pytest.mark.parametrize("size", [(12,), (4, 5, 6)])
    def test_other_numbers_of_axes(self, size):
        model = classifier(size=("D", "H", "W")[: len(size)])
        pixels = images(2, 3, *size)
        for kind in ("all", "top2"):
            close(run(embed_cam(model, classes=kind), pixels)["cam"], camcore.explainer(model)(pixels, kind).maps)

    @pytest.mark.parametrize("classes", ["all", "top2"])
    def test_channels_last(self, classes):
        g = Graph()
        last = g.add("Transpose", g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6)), perm=[0, 2, 3, 1], to="last")
        g.out(g.add("MatMul", g.reduce("ReduceMean", last, [1, 2]), g.const(g.normal(6, 5)), to="scores"), ["N", 5])
        close(run(embed_cam(g.model(), classes=classes))["cam"], camcore.explainer(g.model())(PIXELS, classes).maps)

    def test_a_fixed_batch_stays_fixed(self):
        found = embed_cam(classifier(batch=2))
        assert [shape[0] for _, _, shape in shown(found)] == [2, 2, 2, 2]
        close(run(found, PIXELS[:2])["cam"], camcore.explainer(classifier(batch=2))(PIXELS[:2], "top5").maps)

    def test_a_heatmap_follows_images_of_any_size(self):
        found = embed_cam(classifier(), classes="top1", heatmap="input")
        for pixels in (PIXELS, images(2, 3, 6, 11)):
            wanted = camcore.explainer(classifier())(pixels).heatmaps()
            np.testing.assert_allclose(run(found, pixels)["heatmap"], wanted, atol=1e-5)

    def test_external_weights_stay_where_they_are(self, tmp_path):
        g = Graph()
        model = finish(g, g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 600)), 600)
        onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=1024)
        found = embed_cam(tmp_path / "model.onnx")
        assert len(onnx_bytes(found)) < 20_000
        (tmp_path / "cam.onnx").write_bytes(onnx_bytes(found))
        session = make_session(str(tmp_path / "cam.onnx"), device="cpu")
        plain = camcore.explainer(tmp_path / "model.onnx")(PIXELS, "top5")
        close(session.run(["cam"], {"image": PIXELS})[0], plain.maps)


class TestMetadata:
    def test_it_says_what_is_inside(self):
        found = embed_cam(classifier(), method="layercam", labels=list("abcde"), preprocess="tf", heatmap=(8, 9))
        told = {p.key: json.loads(p.value) for p in found.metadata_props}
        assert told["camcore.cam"] == {
            "method": "layercam",
            "target": "logit",
            "layer": "features",
            "classes": "top5",
            "way": "closed form",
            "rectifies": True,
            "heatmap": [8, 9],
            "scores_are": "logit",
            "name": "cam",
        }
        assert told["camcore.labels"] == list("abcde")
        assert told["camcore.preprocess"] == preprocess("tf").to_json()

    def test_options_are_numbers_of_any_kind(self):
        found = embed_cam(classifier(), method="fem", options={"z": np.float32(1.5)})
        assert json.loads(found.metadata_props[0].value)["options"] == {"z": 1.5}

    def test_a_second_map_is_refused_with_what_is_said_of_the_first(self):
        first = embed_cam(classifier(), classes="top2")
        with pytest.raises(InputError, match=r"has a map inside already \(method cam,.*layer features, classes top2"):
            embed_cam(first)
        with pytest.raises(InputError, match="has a map inside already"):
            embed_cam(deep_twice(), name="again")

    def test_it_is_explained_like_any_other_file(self):
        for model in (classifier(), deep()):
            found = embed_cam(model, classes="input")
            np.testing.assert_array_equal(
                camcore.explainer(found)(PIXELS, "top2").maps, camcore.explainer(model)(PIXELS, "top2").maps
            )


def deep_twice():
    return embed_cam(deep(), method="gradcam")


class TestTrust:
    """A head that does not reproduce the scores is not relied on, as the explainer does not."""

    @pytest.fixture(autouse=True)
    def doubt(self, monkeypatch):
        def doubted(seen, tap):
            raise HeadNotFound("the head found does not reproduce the scores")

        monkeypatch.setattr(import_module("camcore_onnx.embedding.embed"), "check_evidence", doubted)

    def test_another_way_is_taken_where_there_is_one(self):
        found = embed_cam(classifier(size=(8, 8)))
        told = json.loads(next(p.value for p in found.metadata_props if p.key == "camcore.cam"))
        assert (told["method"], told["way"]) == ("gradcam", "gradient")
        close(run(found)["cam"], camcore.explainer(classifier(size=(8, 8)), method="gradcam")(PIXELS, "top5").maps)

    def test_what_needs_the_head_is_refused(self):
        with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
            embed_cam(classifier(size=(8, 8)), method="cam")


class TestExport:
    def test_the_report(self, tmp_path):
        report = camcore_onnx.export(
            classifier(), tmp_path / "cam.onnx", embed=True, heatmap="8x8", labels=list("abcde")
        )
        assert report.passed
        assert report.outputs == ["scores", "cam", "cam_classes", "cam_scores", "heatmap"]
        assert {c.name for c in report.checks if "explainer" in c.name} == {
            f"{name}, graph against explainer" for name in ("cam", "cam_scores", "heatmap")
        }
        assert report.to_json()["cam"]["method"] == "cam"
        assert camcore.explainer(tmp_path / "cam.onnx").labels == tuple("abcde")

    def test_a_map_that_is_wrong_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            import_module("camcore_onnx.embedding.embed"),
            "class_maps",
            lambda site, head: class_maps(site, head) * 1.01,
        )
        report = camcore_onnx.export(classifier(), tmp_path / "cam.onnx", embed=True)
        assert [c.name for c in report.checks if not c.passed] == ["cam, graph against explainer"]
        assert report.checks[-2].difference == pytest.approx(0.01, rel=0.01)

    def test_half_precision(self, tmp_path):
        report = camcore_onnx.export(classifier(), tmp_path / "half.onnx", embed=True, fp16=True)
        assert report.passed
        assert "same best class" in report.checks[-1].detail
        stored = [t.data_type for t in onnx.load(tmp_path / "half.onnx").graph.initializer if len(t.dims) > 1]
        assert set(stored) == {TensorProto.FLOAT16}

    def test_half_precision_of_weights_in_a_file_of_their_own(self, tmp_path):
        onnx.save(classifier(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        report = camcore_onnx.export(tmp_path / "m.onnx", tmp_path / "half.onnx", embed=True, fp16=True)
        assert report.passed
        assert report.checks[-1].name == "float16 against float32"

    def test_large_weights_stay_apart(self, tmp_path, monkeypatch):
        from camcore_onnx import writing

        monkeypatch.setattr(writing, "_ONE_FILE", 100)
        source, target = tmp_path / "plain", tmp_path / "shipped"
        source.mkdir(), target.mkdir()
        onnx.save(classifier(), source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        for _ in range(2):  # what is there already and the same is taken
            report = camcore_onnx.export(source / "m.onnx", target / "cam.onnx", embed=True)
            assert report.passed
        assert sorted(p.name for p in target.iterdir()) == ["cam.onnx", "m.data"]
        assert (target / "m.data").read_bytes() == (source / "m.data").read_bytes()
        (target / "m.data").write_bytes(b"another model's")
        with pytest.raises(InputError, match=r"m\.data: exists already, and the weights would be written there"):
            camcore_onnx.export(source / "m.onnx", target / "cam.onnx", embed=True)

    def test_small_ones_become_part_of_the_file(self, tmp_path):
        onnx.save(classifier(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        camcore_onnx.export(tmp_path / "m.onnx", tmp_path / "cam.onnx", embed=True)
        stored = ir.load(tmp_path / "cam.onnx").graph.initializers.values()
        assert not any(isinstance(v.const_value, ir.ExternalTensor) for v in stored)

    @pytest.mark.parametrize(("zero", "known"), [(np.int8(0), True), (np.uint8(128), False)])
    def test_where_integer_kernels_are_lost_the_cause_is_told(self, tmp_path, monkeypatch, zero, known):
        g = Graph()
        step, offset = g.const(np.array(1 / 64)), g.const(zero, dtype=zero.dtype)
        quantised = g.add("QuantizeLinear", g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6)), step, offset)
        model = finish(g, g.add("DequantizeLinear", quantised, step, offset), 6)
        module = import_module("camcore_onnx.exporting")
        failed = module.Check("outputs", False, "original outputs changed", 0.01, 1e-5)
        monkeypatch.setattr(module, "check_model", lambda *_, **__: [failed])
        report = camcore_onnx.export(model, tmp_path / "cam.onnx", embed=True)
        assert report.checks[0].detail.endswith("quantise activations to uint8") == known
