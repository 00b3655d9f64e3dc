"""The weight of a second classifier in a file: where it lies, that it survives, and files that lie about it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend, export, expose_features
from onnx_graphs import FORMS, Graph, classifier, finish, images, onnx_bytes, run_plainly

import camcore
from camcore import InputError, LinearHead, MethodNotPossible
from camcore.methods import recam

PIXELS = images(2, 3, 8, 8)
WEIGHT = images(5, 6, seed=3)


def network(**options: Any) -> Any:
    g = Graph(**options)
    value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="inner", name="/trunk/Relu")
    return finish(g, value, 6)


def made(path: Path, source: Any = None, **options: Any) -> Path:
    """A file with the weight inside."""
    given = {"second_weight": WEIGHT, "batches": [PIXELS]} | options
    report = export(network() if source is None else source, path, **given)
    assert report.passed, report.checks
    return path


def says(name: Any, **others: str) -> Any:
    """A model whose metadata name a second weight that nobody put there."""
    model = classifier()
    model.metadata_props.add(key="camcore.second_weight", value=json.dumps(name))
    return model


def asked(model: Any, **options: Any) -> camcore.Explanation:
    return camcore.explainer(model, method="recam", device="cpu", **options)(PIXELS, "all")


def by_hand(model: Any, weight: Any = WEIGHT) -> np.ndarray:
    out = asked(model)
    seen = OnnxBackend(model).observe(PIXELS, needs=frozenset({"features", "head"}))[0]
    assert seen.features is not None
    assert isinstance(seen.head, LinearHead)
    np.testing.assert_allclose(out.maps, recam(seen.features, seen.head, weight, out.classes), rtol=1e-5, atol=1e-6)
    return out.maps


class TestFile:
    def test_the_weight_is_the_last_output(self, tmp_path: Path) -> None:
        model, source = onnx.load(made(tmp_path / "m.onnx")), network()
        assert [o.name for o in model.graph.output] == ["scores", "features", "recam_weight"]
        scores, _, weight = run_plainly(model, PIXELS)
        np.testing.assert_array_equal(scores, run_plainly(source, PIXELS)[0])
        np.testing.assert_array_equal(weight, WEIGHT)
        by_hand(onnx_bytes(model))
        assert OnnxBackend(model).card.second_weight == "recam_weight"

    def test_a_name_that_is_taken(self, tmp_path: Path) -> None:
        g = Graph()
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="recam_weight")
        model = onnx.load(made(tmp_path / "m.onnx", finish(g, value, 6)))
        assert [o.name for o in model.graph.output] == ["scores", "features", "recam_weight_1"]
        by_hand(onnx_bytes(model))

    @pytest.mark.parametrize("level", ["basic", "extended", "all"])
    def test_what_the_runtime_optimises_keeps_it(self, level: str, tmp_path: Path) -> None:
        import onnxruntime

        path, levels = made(tmp_path / "m.onnx"), onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "fast.onnx")
        options.graph_optimization_level = getattr(levels, f"ORT_ENABLE_{level.upper()}")
        options.log_severity_level = 3  # that it is for this machine
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if level == "all":  # in a layout of the runtime's own, which cannot be read back
            assert run_plainly(onnx.load(tmp_path / "fast.onnx"), PIXELS)[2].tolist() == WEIGHT.tolist()
        else:
            np.testing.assert_allclose(asked(tmp_path / "fast.onnx").maps, by_hand(path), rtol=1e-5, atol=1e-6)

    def test_weights_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        path = made(tmp_path / "m.onnx")
        onnx.save(onnx.load(path), tmp_path / "thin.onnx", save_as_external_data=True, location="w", size_threshold=100)
        assert (tmp_path / "w").stat().st_size >= WEIGHT.nbytes
        np.testing.assert_array_equal(asked(tmp_path / "thin.onnx").maps, by_hand(path))

    @pytest.mark.parametrize("opset", [13, 18])
    def test_exported_again(self, opset: int, tmp_path: Path) -> None:
        path = made(tmp_path / "m.onnx", network(opset=13))
        again = made(tmp_path / "n.onnx", path, opset=opset, features="more", second_weight=None)
        names = [o.name for o in onnx.load(again).graph.output]
        assert names == ["scores", "features", "recam_weight", "more"]
        np.testing.assert_allclose(asked(again).maps, by_hand(path), rtol=1e-5, atol=1e-6)
        newer = made(tmp_path / "o.onnx", path, features="more", second_weight=2 * WEIGHT)
        by_hand(newer, 2 * WEIGHT)

    def test_edited_by_others(self, tmp_path: Path) -> None:
        path = made(tmp_path / "m.onnx")
        np.testing.assert_array_equal(asked(expose_features(path, "pooled")).maps, by_hand(path))

    @pytest.mark.parametrize("form", [form for form in FORMS if form != "dequantized"])
    def test_however_it_is_stored(self, form: str) -> None:
        g = Graph(form=form)
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="inner")
        array = np.full((5, 6), 0.5, np.float32) if form == "filled" else WEIGHT
        g.out(g.add("Identity", g.const(array), to="beside"), [5, 6])
        model = finish(g, value, 6)
        model.metadata_props.add(key="camcore.second_weight", value='"beside"')
        by_hand(model, array)

    def test_the_runtime_does_not_complain(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Of an initialiser that nothing reads it would, and drop it."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(made(tmp_path / "m.onnx")), providers=["CPUExecutionProvider"])
        assert [list(o.shape) for o in session.get_outputs()][-1] == [5, 6]
        assert "recam_weight" not in capfd.readouterr().err


class TestExport:
    def test_checks_tell_of_it(self, tmp_path: Path) -> None:
        report = export(network(), tmp_path / "m.onnx", second_weight=WEIGHT, batches=[PIXELS])
        (check,) = [c for c in report.checks if c.name == "weight of the second classifier"]
        assert (check.passed, check.detail, check.difference) == (True, "5 x 6, for recam", 0.0)

    def test_a_weight_of_another_shape(self, tmp_path: Path) -> None:
        text = "the weight of the second classifier has shape (6, 5); expected that of the head, (5, 6)"
        with pytest.raises(InputError, match=re.escape(text)):
            export(network(), tmp_path / "m.onnx", second_weight=WEIGHT.T)
        assert not list(tmp_path.iterdir())


class TestFilesThatLie:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("nothing", "model in memory: its metadata names 'nothing' as the weight of a second classifier, and it"),
            ("features", "has no such output ('scores'); export it again"),
            ("scores", "'scores', the weight of its second classifier, changes with the images; expected constant"),
            ("\x1b[2J", r"names '\x1b[2J' as the weight"),
        ],
    )  # fmt: skip
    def test_no_such_constant(self, name: str, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            asked(says(name))

    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (WEIGHT.T, "the weight of the second classifier has shape (6, 5); expected that of the first one, (5, 6)"),
            (WEIGHT[0], "'beside', the weight of its second classifier, is float32 (6,); expected constant floats"),
            (np.ones((5, 6), np.int64), "is int64 (5, 6); expected constant floats"),
            (np.full((5, 6), np.inf, np.float32), "of the second classifier (float32) is not all finite floats; train"),
        ],
    )  # fmt: skip
    def test_another_constant(self, array: Any, text: str) -> None:
        g = Graph(form="initializer")
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="inner")
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        g.out(g.add("Identity", g.const(array, dtype=array.dtype), to="beside"), array.shape, kind)
        model = finish(g, value, 6)
        model.metadata_props.add(key="camcore.second_weight", value='"beside"')
        with pytest.raises(InputError, match=re.escape(text)):
            asked(model)
        assert camcore.explainer(model, device="cpu")(PIXELS).maps.shape == (2, 1, 8, 8)  # all else works

    def test_a_name_of_another_kind_is_no_name(self) -> None:
        with pytest.raises(
            MethodNotPossible, match="it needs the weight of a second classifier, and this model has none"
        ):
            asked(says(["scores"]))

    def test_a_model_without_one(self) -> None:
        with pytest.raises(MethodNotPossible, match=r"and this model has none\. Train one with the network"):
            asked(network())
        assert asked(network(), variant="self").maps.shape == (2, 5, 8, 8)
