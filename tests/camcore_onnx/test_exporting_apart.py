"""An export in another process: the same file and report as here, whatever is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import export
from camcore_onnx.exporting_apart import can_be_sent, export_sent
from onnx_graphs import classifier, images, onnx_bytes

import camcore
from camcore.errors import InputError
from camcore.preprocess import preprocess

ORDER: dict[str, Any] = dict.fromkeys(("labels", "preprocess", "reference", "batches", "second_weight"))


def both(tmp_path: Path, source: Any, **order: Any) -> Any:
    """The report of the export apart, which is that of the export here but for the name of the file."""
    here = export(source, tmp_path / "here.onnx", sandbox=False, **order)
    apart = export(source, tmp_path / "apart.onnx", sandbox=True, **order)
    assert apart.path == tmp_path / "apart.onnx"
    assert apart.to_json() | {"path": ""} == here.to_json() | {"path": ""}
    assert (tmp_path / "apart.onnx").read_bytes() == (tmp_path / "here.onnx").read_bytes()
    assert apart.passed
    return apart


def test_a_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(classifier()))
    words = {"labels": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}, "preprocess": preprocess("tf", size=(9, 8))}
    report = both(tmp_path, tmp_path / "model.onnx", embed=True, classes="top2", heatmap=(12, 12), **words)
    assert report.source == str(tmp_path / "model.onnx")
    explainer = camcore.explainer(report.path, device="cpu")
    assert explainer.labels == tuple("abcde")
    assert explainer.preprocess == words["preprocess"]


@pytest.mark.parametrize("kind", ["bytes", "ir"])
def test_a_model_in_memory(kind, tmp_path):
    model = classifier()
    sources = {"bytes": onnx_bytes(model), "ir": ir.from_proto(model)}
    weight = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    batches = [images(2, 3, 8, 8), images(1, 3, 8, 8)]
    explainer, calls = camcore.explainer(model, device="cpu"), []

    def reference(pixels: Any) -> Any:
        calls.append(len(pixels))
        out = explainer(pixels, classes="all")
        return out.scores, out.maps

    report = both(tmp_path, sources[kind], second_weight=weight, batches=batches, reference=reference)
    assert report.source == "model in memory"
    assert "maps, PyTorch against ONNX Runtime" in [check.name for check in report.checks]
    assert calls == [2, 1, 2, 1]


def test_errors_are_the_same(tmp_path):
    model = classifier()
    model.graph.node[2].op_type = "GlobalMaxPool"
    texts = []
    for sandbox in (False, True):
        with pytest.raises(camcore.HeadNotFound) as caught:
            export(model, tmp_path / "out.onnx", sandbox=sandbox)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert not list(tmp_path.iterdir())


class TestWhatCannotBeSent:
    def test_a_function_of_inputs_that_are_not_known(self, tmp_path, monkeypatch):
        assert not can_be_sent(ORDER | {"reference": len})
        assert can_be_sent(ORDER | {"reference": len, "batches": []})
        monkeypatch.delenv("CAMCORE_SANDBOX")
        explainer = camcore.explainer(classifier(), device="cpu")

        def reference(pixels: Any) -> Any:
            out = explainer(pixels, classes="all")
            return out.scores, out.maps

        with pytest.raises(InputError, match=r"cannot be sent to another process; sandbox=False"):
            export(classifier(size=(8, 8)), tmp_path / "out.onnx", reference=reference, sandbox=True)
        assert export(classifier(size=(8, 8)), tmp_path / "out.onnx", reference=reference).passed

    def test_objects(self):
        assert not can_be_sent(ORDER | {"options": {"z": object()}})
        assert not can_be_sent(ORDER | {"target": len})
        assert can_be_sent(ORDER | {"options": {"z": 1.0}, "labels": ["a"]})


def test_what_the_other_process_is_told(tmp_path):
    """All that goes there lies in a folder and in texts; nothing is pickled."""
    np.savez(tmp_path / "arrays.npz", batch0=images(2, 3, 8, 8))
    onnx.save(classifier(), tmp_path / "model.onnx")
    words = {"source": None, "path": str(tmp_path / "out.onnx"), "rule": None, "labels": None, "preprocess": "tf"}
    report = export_sent(str(tmp_path), words)
    assert report["path"] == str(tmp_path / "out.onnx")
    assert [check["name"] for check in report["checks"]][:2] == ["ONNX checker", "ONNX Runtime"]
    np.savez(tmp_path / "arrays.npz", batch0=np.array([print], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        export_sent(str(tmp_path), dict(words, source=None, rule=None))
