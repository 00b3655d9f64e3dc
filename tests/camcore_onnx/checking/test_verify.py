"""The checks of an export: they pass on a good file, and each fails on a file that is wrong in its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import expose_features
from camcore_onnx.checking.verify import Check, check_against, check_model, relative, sample_inputs
from camcore_onnx.reading.load import load
from onnx import numpy_helper
from onnx_graphs import Graph, classifier, images, onnx_bytes

import camcore
from camcore.evidence import InputSpec
from camcore.head import LinearHead

BATCHES = [images(1, 3, 8, 8), images(3, 3, 8, 8, seed=1)]


def write(path: Path, model: Any) -> Path:
    path.write_bytes(onnx_bytes(model))
    return path


def changed(model: Any, name: int, factor: float) -> Any:
    """The same model, one of its weights scaled."""
    tensor = model.graph.initializer[name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model


def checks(path: Path, original: Any, features: str = "features") -> dict[str, Check]:
    loaded = None if original is None else load(original)
    return {c.name: c for c in check_model(path, loaded, features=features, batches=BATCHES)}


class TestCheckModel:
    def test_a_good_file(self, tmp_path):
        found = checks(write(tmp_path / "m.onnx", expose_features(classifier(), "features")), classifier())
        assert all(c.passed for c in found.values())
        assert found["outputs"].detail == "original outputs bit-identical"
        assert found["outputs"].difference == 0
        complete = found["mean(CAM) + bias = scores"]
        assert complete.difference is not None
        assert 0 < complete.difference < 1e-5
        assert complete.limit == 1e-3

    def test_without_an_original_there_is_nothing_to_compare(self, tmp_path):
        path = write(tmp_path / "m.onnx", expose_features(classifier(), "features"))
        assert list(checks(path, None)) == ["ONNX checker", "ONNX Runtime", "mean(CAM) + bias = scores"]

    @pytest.mark.parametrize("weight", [0, 2, 3])
    def test_another_original(self, tmp_path, weight):
        path = write(tmp_path / "m.onnx", expose_features(classifier(), "features"))
        found = checks(path, changed(classifier(), weight, 1.001))
        assert not found["outputs"].passed
        assert found["outputs"].difference is not None
        assert found["outputs"].difference > 1e-5
        assert found["mean(CAM) + bias = scores"].passed

    def test_a_file_without_the_features(self, tmp_path):
        found = checks(write(tmp_path / "m.onnx", classifier()), classifier())["outputs"]
        assert not found.passed
        assert found.detail == "expected ['scores'] and then 'features', the file gives ['scores']"

    def test_outputs_in_another_order(self, tmp_path):
        model = expose_features(classifier(), "features")
        model.graph.output.insert(0, model.graph.output.pop())
        found = checks(write(tmp_path / "m.onnx", model), classifier())["outputs"]
        assert not found.passed
        assert "the file gives ['features', 'scores']" in found.detail

    def test_an_output_that_is_missing(self, tmp_path):
        model = expose_features(classifier(), ["features"])
        del model.graph.output[0]
        model.graph.output.extend(expose_features(classifier(), "pooled").graph.output[1:])
        assert not checks(write(tmp_path / "m.onnx", model), classifier())["outputs"].passed

    def test_a_file_that_is_invalid(self, tmp_path):
        model = classifier()
        model.graph.node[1].op_type = "NoSuchOperator"
        path = write(tmp_path / "m.onnx", model)
        found = checks(path, classifier())
        assert list(found) == ["ONNX checker"]
        assert not found["ONNX checker"].passed
        assert "NoSuchOperator" in found["ONNX checker"].detail

    def test_a_file_that_onnx_runtime_cannot_run(self, tmp_path):
        path = write(tmp_path / "m.onnx", classifier(size=(9, 9)))
        found = checks(path, None)
        assert list(found) == ["ONNX checker", "ONNX Runtime"]
        assert "ONNX Runtime could not run images of shape (1, 3, 8, 8)" in found["ONNX Runtime"].detail

    def test_an_original_that_cannot_run_the_batches(self, tmp_path):
        path = write(tmp_path / "m.onnx", expose_features(classifier(), "features"))
        found = checks(path, classifier(size=(9, 9)))["outputs"]
        assert not found.passed
        assert "Got invalid dimensions" in found.detail

    def test_a_head_that_is_not_linear(self, tmp_path):
        found = checks(write(tmp_path / "m.onnx", bent()), None)["mean(CAM) + bias = scores"]
        assert not found.passed
        assert "Tanh 'bend' stands in front of the scores, and it is not linear" in found.detail

    def test_a_head_that_does_not_give_the_scores(self, tmp_path, monkeypatch):
        """As if the walk had misread a weight."""

        def misread(weight: Any, bias: Any = None) -> LinearHead:
            return LinearHead(weight * np.float32(1.01), bias)

        monkeypatch.setattr("camcore.walk.LinearHead", misread)
        found = checks(write(tmp_path / "m.onnx", classifier()), None)["mean(CAM) + bias = scores"]
        assert not found.passed
        assert found.difference is not None
        assert found.limit is not None
        assert found.difference > found.limit


def bent() -> onnx.ModelProto:
    g = Graph()
    value = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6))
    value = g.add("Tanh", g.add("Flatten", g.add("GlobalAveragePool", value)), name="bend")
    g.out(g.add("Gemm", value, g.const(g.normal(6, 5))), ["N", 5])
    return g.model()


class TestCheckAgainst:
    def run(self, tmp_path: Path, change: Any) -> list[Check]:
        path = write(tmp_path / "m.onnx", classifier())
        explained = camcore.explainer(path, device="cpu")

        def reference(pixels: Any) -> tuple[Any, Any]:
            out = explained(pixels, classes="all")
            return change(out.scores, out.maps)

        return check_against(path, reference, BATCHES)

    def test_the_same(self, tmp_path):
        found = self.run(tmp_path, lambda scores, maps: (scores, maps))
        assert [c.passed for c in found] == [True, True]
        assert found[0].detail == "best class agrees"

    def test_other_scores(self, tmp_path):
        found = self.run(tmp_path, lambda scores, maps: (-scores, maps))
        assert [c.passed for c in found] == [False, True]
        assert found[0].detail == "best class differs"

    def test_other_maps(self, tmp_path):
        found = self.run(tmp_path, lambda scores, maps: (scores, maps * np.float32(1.001)))
        assert [c.passed for c in found] == [True, False]
        assert found[1].difference == pytest.approx(0.001, rel=0.01)

    def test_one_pixel_of_one_class(self, tmp_path):
        def change(scores: Any, maps: Any) -> tuple[Any, Any]:
            maps = maps.copy()
            maps[0, 3, 7, 7] += np.float32(0.01) * abs(maps).max()
            return scores, maps

        assert [c.passed for c in self.run(tmp_path, change)] == [True, False]


class TestRelative:
    def test_the_largest_difference_by_the_largest_value(self):
        assert relative(np.array([1.0, 4.0]), np.array([1.0, 5.0])) == pytest.approx(0.2)

    def test_nothing_expected(self):
        assert relative(np.zeros(3), np.zeros(3)) == 0
        assert relative(np.full(3, 0.5), np.zeros(3)) == 0.5

    @pytest.mark.parametrize(
        ("found", "expected"), [([1.0], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [1.0])]
    )
    def test_what_cannot_be_compared_is_infinitely_far(self, found, expected):
        assert relative(np.array(found), np.array(expected)) == np.inf

    def test_nan_in_the_same_places(self):
        assert relative(np.array([np.nan, 1.0]), np.array([np.nan, 1.0])) == 0

    def test_nothing_at_all(self):
        assert relative(np.zeros((0, 3)), np.zeros((0, 3))) == 0


class TestSampleInputs:
    def test_free(self):
        shapes = [b.shape for b in sample_inputs(InputSpec("x", (None, None, None, None)))]
        assert shapes == [(1, 3, 224, 224), (3, 3, 224, 224)]

    def test_fixed(self):
        (batch,) = sample_inputs(InputSpec("x", (4, 1, 8, 6)))
        assert (batch.shape, batch.dtype) == ((4, 1, 8, 6), np.float32)

    def test_size_and_seed(self):
        spec = InputSpec("x", (None, 2, None))
        first, again, other = (sample_inputs(spec, seed=s, size=[9])[1] for s in (1, 1, 2))
        assert first.shape == (3, 2, 9)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
