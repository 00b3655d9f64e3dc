"""Exported files: what is added, what is recorded, what is kept, and that a failure leaves nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend, exporting
from camcore_onnx.exporting import export
from onnx import TensorProto, numpy_helper
from onnx.helper import make_attribute
from onnx_graphs import Graph, classifier, finish, images, onnx_bytes, run_plainly

import camcore
from camcore.errors import HeadNotFound, InputError
from camcore.methods import cam
from camcore.preprocess import preprocess

PIXELS = images(2, 3, 8, 8)
NAMES = ["ant", "bee", "cat", "dog", "eel"]


def unlike_its_output(**options: Any) -> Any:
    """A classifier whose features are a tensor of another name than the output that export adds."""
    g = Graph(**options)
    value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="inner", name="/trunk/Relu")
    return finish(g, value, 6, ending="Softmax")


def small(source: Any, path: Path, **options: Any) -> exporting.Report:
    return export(source, path, batches=options.pop("batches", [PIXELS]), **options)


class TestFile:
    def test_features_come_behind_the_own_outputs(self, tmp_path):
        source = unlike_its_output()
        report = small(source, tmp_path / "out.onnx")
        written = onnx.load(tmp_path / "out.onnx")
        assert [o.name for o in written.graph.output] == report.outputs == ["ending", "features"]
        scores, features = run_plainly(written, PIXELS)
        np.testing.assert_array_equal(scores, run_plainly(source, PIXELS)[0])
        head = OnnxBackend(source).tap().need_head()
        out = camcore.explainer(source, device="cpu")(PIXELS, classes="all")
        np.testing.assert_allclose(cam(features, head), out.maps, atol=1e-6)

    def test_what_the_report_says(self, tmp_path):
        path = tmp_path / "out.onnx"
        report = small(unlike_its_output(opset=13), path)
        assert (report.path, report.layer, report.opset) == (path, "inner", 13)
        assert report.head == "GlobalAveragePool -> Flatten -> Gemm -> Softmax"
        assert report.size == path.stat().st_size
        assert report.source == "model in memory"
        assert json.loads(json.dumps(report.to_json()))["passed"] is True
        assert json.loads(json.dumps(report.to_json()))["path"] == str(path)

    def test_every_check_passes(self, tmp_path):
        report = small(unlike_its_output(), tmp_path / "out.onnx")
        names = ["ONNX checker", "ONNX Runtime", "outputs", "mean(CAM) + bias = scores"]
        assert [c.name for c in report.checks] == names
        assert all(c.passed for c in report.checks)
        assert report.passed

    def test_the_usual_inputs_where_none_are_given(self, tmp_path):
        report = export(classifier(size=(8, 8)), tmp_path / "out.onnx")
        assert [c.detail for c in report.checks][1] == "runs batches of 1 and 3"
        assert report.passed

    def test_without_verification(self, tmp_path):
        report = small(classifier(), tmp_path / "out.onnx", verify=False)
        assert report.checks == []
        assert (tmp_path / "out.onnx").is_file()

    def test_another_name_for_the_output(self, tmp_path):
        assert small(classifier(), tmp_path / "out.onnx", features="maps").outputs == ["scores", "maps"]

    def test_a_name_that_is_taken(self, tmp_path):
        with pytest.raises(InputError, match="already has a tensor called 'pooled'; choose another name"):
            small(classifier(), tmp_path / "out.onnx", features="pooled")
        assert list(tmp_path.iterdir()) == []

    def test_another_layer(self, tmp_path):
        report = small(unlike_its_output(), tmp_path / "out.onnx", layer="trunk")
        assert report.layer == "inner"

    def test_no_head(self, tmp_path):
        g = Graph()
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 2), to="inner")
        g.out(g.add("MatMul", g.add("Flatten", value), g.const(g.normal(128, 5))), ["N", 5])
        with pytest.raises(HeadNotFound, match="is flattened, so that every position has weights of its own"):
            small(g.model(), tmp_path / "out.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_the_model_given_is_not_changed(self, tmp_path):
        model = unlike_its_output()
        before = onnx_bytes(model)
        small(model, tmp_path / "out.onnx", labels=NAMES)
        assert onnx_bytes(model) == before

    def test_what_tells_of_the_authors_machine_is_taken_out(self, tmp_path):
        g = Graph()
        meta = {
            "pkg.torch.onnx.stack_trace": "/home/me/secret.py",
            "pkg.torch.onnx.name_scopes": "['', 'trunk', 'relu']",
        }
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="inner", meta=meta)
        model = finish(g, value, 6)
        model.graph.node[1].doc_string = "/home/me/secret.py"
        small(model, tmp_path / "out.onnx")
        assert b"secret" not in (tmp_path / "out.onnx").read_bytes()
        assert OnnxBackend(tmp_path / "out.onnx").tap("trunk").layer == "inner"

    def test_it_can_be_explained_and_exported_again_under_another_name(self, tmp_path):
        source = unlike_its_output()
        small(source, tmp_path / "a.onnx", labels=NAMES)
        report = small(tmp_path / "a.onnx", tmp_path / "b.onnx", features="again")
        assert report.outputs == ["ending", "features", "again"]
        first, second = (camcore.explainer(tmp_path / n, device="cpu")(PIXELS) for n in ("a.onnx", "b.onnx"))
        np.testing.assert_array_equal(first.maps, second.maps)
        assert second.labels == first.labels


class TestMetadata:
    def test_what_is_recorded_is_read_back(self, tmp_path):
        small(unlike_its_output(), tmp_path / "out.onnx", labels=NAMES, preprocess="imagenet")
        backend = OnnxBackend(tmp_path / "out.onnx")
        assert backend.labels == tuple(NAMES)
        assert backend.preprocess == preprocess("imagenet", size=(8, 8))
        assert backend.card.layer == "inner"
        assert backend.card.head == "GlobalAveragePool -> Flatten -> Gemm -> Softmax"
        assert backend.card.version == camcore.__version__
        assert backend.complaints == []

    def test_what_is_there_is_kept(self, tmp_path):
        model = unlike_its_output()
        model.metadata_props.add(key="author", value="me")
        model.metadata_props.add(key="names", value=repr(dict(enumerate(NAMES))))
        small(model, tmp_path / "out.onnx")
        written = {e.key: e.value for e in onnx.load(tmp_path / "out.onnx").metadata_props}
        assert written["author"] == "me"
        assert json.loads(written["camcore.labels"]) == NAMES
        assert "camcore.preprocess" not in written

    def test_a_file_of_labels(self, tmp_path):
        (tmp_path / "names.txt").write_text("\n".join(NAMES))
        small(classifier(), tmp_path / "out.onnx", labels=tmp_path / "names.txt")
        assert OnnxBackend(tmp_path / "out.onnx").labels == tuple(NAMES)

    def test_labels_that_do_not_fit(self, tmp_path):
        with pytest.raises(InputError, match="3 class names were given, the model has 5 classes"):
            small(classifier(), tmp_path / "out.onnx", labels=NAMES[:3])
        assert list(tmp_path.iterdir()) == []


class TestVersions:
    @pytest.mark.parametrize(("given", "written"), [(8, 8), (10, 10), (13, 10)])
    def test_the_ir_version_is_one_that_others_read(self, tmp_path, given, written):
        model = classifier(opset=17)
        model.ir_version = given
        assert small(model, tmp_path / "out.onnx").ir_version == written
        assert onnx.load(tmp_path / "out.onnx").ir_version == written

    def test_the_ir_version_that_the_opset_needs(self, tmp_path):
        model = classifier(opset=17)
        model.ir_version = 3
        report = small(model, tmp_path / "out.onnx")
        assert report.ir_version == 8
        assert report.passed

    @pytest.mark.parametrize(("given", "asked"), [(11, 13), (11, 17), (13, 18), (17, 21), (17, 17)])
    def test_to_another_opset(self, tmp_path, given, asked):
        source = unlike_its_output(opset=given)
        report = small(source, tmp_path / "out.onnx", opset=asked)
        assert report.opset == asked
        assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == asked
        assert report.passed
        np.testing.assert_allclose(
            run_plainly(onnx.load(tmp_path / "out.onnx"), PIXELS)[0], run_plainly(source, PIXELS)[0], rtol=1e-5
        )

    def test_what_is_converted_is_compared_with_what_was_given(self, tmp_path, monkeypatch):
        """A converter that damages a model must not be compared with its own work."""
        real = onnx.version_converter.convert_version

        def damage(model: Any, opset: int) -> Any:
            converted = real(model, opset)
            weight = converted.graph.initializer[-1]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
            return converted

        monkeypatch.setattr(onnx.version_converter, "convert_version", damage)
        report = small(classifier(opset=11), tmp_path / "out.onnx", opset=13)
        assert [c.name for c in report.checks if not c.passed] == ["outputs"]
        assert not report.passed

    @pytest.mark.parametrize("opset", [3, 999])
    def test_an_opset_that_is_not_possible(self, tmp_path, opset):
        with pytest.raises(InputError, match=f"the model cannot be converted to opset {opset}: "):
            small(classifier(), tmp_path / "out.onnx", opset=opset)
        assert list(tmp_path.iterdir()) == []


class TestSources:
    def test_weights_of_a_file_of_their_own_are_taken_in(self, tmp_path):
        (tmp_path / "from").mkdir()
        (tmp_path / "to").mkdir()
        path = tmp_path / "from" / "model.onnx"
        onnx.save(unlike_its_output(), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
        report = small(path, tmp_path / "to" / "out.onnx")
        assert report.passed
        assert [p.name for p in (tmp_path / "to").iterdir()] == ["out.onnx"]
        found = run_plainly(onnx.load(tmp_path / "to" / "out.onnx", load_external_data=False), PIXELS)[0]
        np.testing.assert_array_equal(found, run_plainly(unlike_its_output(), PIXELS)[0])

    def test_and_to_another_opset(self, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(unlike_its_output(opset=13), path, save_as_external_data=True, size_threshold=0, location="w.bin")
        report = small(path, tmp_path / "out.onnx", opset=17)
        assert (report.opset, report.passed) == (17, True)

    def test_half_precision(self, tmp_path):
        report = small(classifier(dtype="float16"), tmp_path / "out.onnx")
        assert report.passed
        assert report.checks[-1].limit == 2e-2

    def test_a_fixed_batch(self, tmp_path):
        report = export(classifier(batch=4, size=(8, 8)), tmp_path / "out.onnx")
        assert report.passed
        assert report.checks[1].detail == "runs batches of 4"

    def test_a_model_of_bytes(self, tmp_path):
        g = Graph()
        g.add("Cast", g.image(["N", 3, 8, 8], type=TensorProto.UINT8), to="floats")
        g.nodes[-1].attribute.append(make_attribute("to", TensorProto.FLOAT))
        model = finish(g, g.add("Relu", g.conv("floats", 3, 6)), 6)
        assert small(model, tmp_path / "out.onnx", batches=[abs(PIXELS) * 50]).passed

    def test_functions_of_the_model_are_written_out(self, tmp_path):
        path = tmp_path / "out.onnx"
        small(classifier(form="constant", named=False), path)
        assert OnnxBackend(path).tap().head is not None


class TestWriting:
    def test_a_failing_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match=r"cannot write 'out.onnx' in the folder .*: No space left on device"):
            small(classifier(), path)
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]

    def test_an_old_file_is_replaced(self, tmp_path):
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")
        assert small(classifier(), path).passed

    def test_or_kept(self, tmp_path):
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")
        with pytest.raises(InputError, match=r"out.onnx: exists already; choose another name or allow to overwrite it"):
            small(classifier(), path, overwrite=False)
        assert path.read_bytes() == b"old"

    def test_onto_the_source_itself(self, tmp_path):
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_bytes(unlike_its_output()))
        with pytest.raises(InputError, match=r"model\.onnx: is the model itself, which would be lost; choose another"):
            small(path, path)
        assert path.read_bytes() == onnx_bytes(unlike_its_output())

    def test_a_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"is a folder; expected the name of a file, such as .*model.onnx"):
            small(classifier(), tmp_path)

    def test_a_folder_that_is_missing(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere: no such folder; make it first"):
            small(classifier(), tmp_path / "nowhere" / "out.onnx")

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(InputError, match="cannot be written to; choose another folder"):
            small(classifier(), tmp_path / "out.onnx")

    def test_a_source_that_cannot_be_read(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere\.onnx: no such file"):
            small(tmp_path / "nowhere.onnx", tmp_path / "out.onnx")
        assert list(tmp_path.iterdir()) == []


class TestReference:
    def reference(self, scale: float) -> exporting.Reference:
        explained = camcore.explainer(classifier(), device="cpu")

        def run(pixels: Any) -> tuple[Any, Any]:
            out = explained(pixels, classes="all")
            return out.scores, out.maps * np.float32(scale)

        return run

    def test_that_agrees(self, tmp_path):
        report = small(classifier(), tmp_path / "out.onnx", reference=self.reference(1))
        assert [c.name for c in report.checks][-2:] == [
            "scores, PyTorch against ONNX Runtime",
            "maps, PyTorch against ONNX Runtime",
        ]
        assert report.passed

    def test_that_does_not(self, tmp_path):
        report = small(classifier(), tmp_path / "out.onnx", reference=self.reference(1.01))
        assert [c.passed for c in report.checks] == [True, True, True, True, True, False]
        assert not report.passed
        assert (tmp_path / "out.onnx").is_file()
