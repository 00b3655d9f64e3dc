"""Maps of two models, and a map inside a model against the library's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend, embed_cam
from camcore_onnx.checking.comparing import LIMITS
from camcore_onnx.checking.comparing_maps import Maps, compare_embedded, compare_maps
from camcore_onnx.checking.sides import open_side
from camcore_onnx.reading.load import load
from onnx import numpy_helper
from onnx_graphs import classifier, images

import camcore
from camcore.errors import HeadNotFound, InputError

BATCHES = [images(1, 3, 8, 8), images(3, 3, 8, 8, seed=1)]
LIMIT = LIMITS["float32"]


def explain(model: Any) -> Any:
    return camcore.explainer(model, device="cpu")


def scaled(model: onnx.ModelProto, index: int, factor: float) -> onnx.ModelProto:
    tensor = model.graph.initializer[index]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model


class TestCompareMaps:
    def test_the_same(self):
        found = compare_maps(explain(classifier()), explain(classifier()), BATCHES, limits=LIMIT)
        assert found.passed
        assert found.images == 4
        assert found.correlation == pytest.approx(1)
        assert found.how == "cam at features, the best 5 classes"
        assert found.parts[0].relative < 1e-6
        assert found.parts[0].shape == (5, 8, 8)

    def test_another_head(self):
        """A head of half the size has maps of half the size, and of the same pattern."""
        found = compare_maps(explain(classifier()), explain(scaled(classifier(), 2, 0.5)), BATCHES, limits=LIMIT)
        assert not found.passed
        assert found.parts[0].relative == pytest.approx(0.5)
        assert found.correlation == pytest.approx(1)

    def test_the_classes_are_those_of_the_first(self):
        a, b = explain(classifier(seed=0)), explain(classifier(seed=1))
        found = compare_maps(a, b, BATCHES, limits=(1.0, 0.0), top=1)
        assert found.how == "cam at features, the best class"
        expected = b(BATCHES[1], classes=a(BATCHES[1]).classes).maps
        assert found.correlation is not None
        pairs = zip(a(BATCHES[1]).maps[:, 0], expected[:, 0], strict=True)
        lowest = min(np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in pairs)
        first = [m(BATCHES[0], classes=a(BATCHES[0]).classes).maps.ravel() for m in (a, b)]
        assert found.correlation == pytest.approx(min(lowest, np.corrcoef(*first)[0, 1]))

    def test_no_head(self):
        flat = classifier()
        flat.graph.node[2].op_type = "GlobalMaxPool"
        with pytest.raises(HeadNotFound):
            compare_maps(camcore.explainer(flat, method="cam"), explain(flat), BATCHES, limits=LIMIT)

    def test_constant_maps_have_no_correlation(self):
        found = Maps()
        found.correlate(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)))
        assert found.correlation is None


class TestCompareEmbedded:
    def compared(self, model: Any, plain: Any = None) -> Maps:
        loaded = load(model)
        card = json.loads(loaded.model.metadata_props["camcore.cam"])
        given = classifier() if plain is None else plain
        return compare_embedded(
            lambda **words: camcore.Explainer(OnnxBackend(given, device="cpu"), **words),
            open_side(loaded).side,
            card,
            BATCHES,
            limits=LIMIT,
        )

    @pytest.mark.parametrize("classes", ["all", "top3", "input"])
    @pytest.mark.parametrize("method", ["cam", "layercam"])
    def test_what_embed_cam_writes(self, classes, method):
        found = self.compared(embed_cam(classifier(), method=method, classes=classes, heatmap=(12, 9)))
        assert found.passed
        names = ["cam", "heatmap"] if classes == "all" else ["cam", "cam_scores", "heatmap"]
        assert [part.name for part in found.parts] == names
        assert found.correlation == pytest.approx(1, abs=1e-6)

    def test_another_name(self):
        found = self.compared(embed_cam(classifier(), name="where", heatmap="input"))
        assert [part.name for part in found.parts] == ["where", "where_scores", "where_heatmap"]
        assert found.passed

    def test_options_of_the_method(self):
        model = embed_cam(classifier(), method="fem", options={"z": 1.0})
        assert json.loads(load(model).model.metadata_props["camcore.cam"])["options"] == {"z": 1.0}
        assert self.compared(model).passed

    def test_of_another_model(self):
        found = self.compared(embed_cam(scaled(classifier(), 0, 1.01)))
        assert not found.passed
        assert {part.name for part in found.parts if not part.passed} == {"cam", "cam_scores"}

    def test_metadata_that_name_no_output(self):
        model = embed_cam(classifier())
        held = next(p for p in model.metadata_props if p.key == "camcore.cam")
        held.value = json.dumps(json.loads(held.value) | {"name": "nowhere"})
        with pytest.raises(InputError, match="its metadata tell of an output 'nowhere', which it does not have"):
            self.compared(model)
