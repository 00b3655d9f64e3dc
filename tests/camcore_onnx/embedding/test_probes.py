"""Methods that need no gradient, in the graph, against the library's maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from camcore_onnx import OnnxBackend, embed_cam
from camcore_onnx.embedding.probes import can_write, obstacle_to
from camcore_onnx.metadata import Card, write_card
from camcore_onnx.reading.load import load
from camcore_onnx.second import add_second_weight
from numpy.typing import NDArray
from onnx_graphs import Graph, classifier, images, run_plainly

from camcore.engine import Explainer
from camcore.errors import MethodNotPossible
from camcore.head import LinearHead, NormHead
from camcore.methods import METHODS, method
from camcore.targets import target

Floats = NDArray[np.floating[Any]]
LIMIT = 1e-5
WRITTEN = {
    "ablationcam": [{}, {"relative": True}],
    "liftcam": [{}],
    "reciprocam": [{}, {"kernel": "gaussian"}],
    "smoothgradcam++": [{}],
    "recam": [{"variant": "self", "normalization": kind} for kind in ("relu-max", "minmax", "tanh", "sigmoid")],
    "activationmap": [{}],
    "fem": [{}, {"z": 1.0}],
}
CASES = [(name, options) for name, all_options in WRITTEN.items() for options in all_options]


def normed() -> Any:
    """A layer normalisation behind the pooling, as in ConvNeXt."""
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="features")
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
    normal = g.add("LayerNormalization", pooled, g.const(g.normal(6)), g.const(g.normal(6)), axis=-1, epsilon=1e-3)
    g.out(g.add("Gemm", normal, g.const(g.normal(6, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def bare(**options: Any) -> Any:
    """The features are the class maps."""
    g = Graph(**options)
    features = g.conv(g.image(["N", 3, "H", "W"]), 3, 5)
    g.out(g.add("Flatten", g.add("GlobalAveragePool", features), to="scores"), ["N", 5])
    return g.model()


def last() -> Any:
    g = Graph(13)
    turned = g.add("Transpose", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), perm=[0, 2, 3, 1])
    pooled = g.reduce("ReduceMean", g.add("Relu", turned), [1, 2])
    g.out(g.add("MatMul", pooled, g.const(g.normal(6, 5)), to="scores"), ["N", 5])
    return g.model()


MODELS = {
    "usual": classifier,
    "opset 9": lambda: classifier(opset=9),
    "opset 13": lambda: classifier(opset=13, size=(8, 6)),
    "newer": lambda: classifier(opset=20),
    "one axis": lambda: classifier(size=(9,)),
    "three axes": lambda: classifier(size=(3, 4, "D")),
    "class maps": bare,
    "channels last": last,
}


def check(model: Any, name: str, options: dict[str, Any], classes: str = "top3") -> None:
    backend = OnnxBackend(model, device="cpu")
    dims = [n or 6 + i for i, n in enumerate(backend.input.shape[2:])]
    given = images(3, 3, *dims)
    explainer = Explainer(backend, method=name, options=options)
    expected = explainer(given, np.tile(np.arange(5), (3, 1)) if classes == "all" else classes).maps
    found = run_plainly(embed_cam(model, method=name, classes=classes, options=options), given, ["cam"])[0]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LIMIT * np.abs(expected).max()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_maps_of_the_library(model: str, name: str, options: dict[str, Any]) -> None:
    check(MODELS[model](), name, options)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_of_all_classes(name: str, options: dict[str, Any]) -> None:
    check(classifier(), name, options, "all")
    check(bare(), name, options, "all")


@pytest.mark.parametrize("classes", ["top3", "all"])
@pytest.mark.parametrize(("name", "options"), [c for c in CASES if c[0] not in ("liftcam", "smoothgradcam++", "recam")])
def test_behind_a_layer_normalisation(name: str, options: dict[str, Any], classes: str) -> None:
    check(normed(), name, options, classes)


@pytest.mark.parametrize("name", ["activationmap", "fem"])
def test_what_asks_for_no_head_is_made_at_any_layer(name: str) -> None:
    g = Graph()
    early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="early")
    g.out(g.add("Gemm", g.add("Flatten", early), g.const(g.normal(256, 5)), g.const(g.normal(5))), ["N", 5])
    given = images(2, 3, 8, 8)
    expected = Explainer(OnnxBackend(g.model(), device="cpu"), method=name, layer="early")(given, "top2").maps
    found = run_plainly(embed_cam(g.model(), method=name, layer="early", classes="top2"), given, ["cam"])[0]
    assert np.abs(found - expected).max() <= LIMIT * np.abs(expected).max()


@pytest.mark.parametrize("make", [lambda: classifier(opset=17), lambda: bare(opset=17)])
def test_a_second_classifier(make: Any) -> None:
    loaded = load(make())
    classes = 5
    channels = OnnxBackend(make(), device="cpu").tap().need_head().channels
    second = np.random.default_rng(1).normal(size=(classes, channels)).astype(np.float32)
    name = add_second_weight(loaded.model, second)
    loaded.model.metadata_props.update(write_card(Card(second_weight=name)))
    check(ir.to_proto(loaded.model), "recam", {})


class TestObstacles:
    def test_every_method_has_its_nodes_or_a_reason(self) -> None:
        for row in METHODS.values():
            if not can_write(row):
                told = obstacle_to(row, LinearHead.identity(3), target("logit"))
                others = ("cam", *(n for n, r in METHODS.items() if r.needs & {"gradients"}))
                assert not told.startswith("its formula") or row.name in others

    def test_heads(self) -> None:
        norm = NormHead(np.ones((2, 3)))
        assert obstacle_to(method("liftcam"), norm, target("logit")) == "it has no closed form at this layer"
        assert obstacle_to(method("ablationcam"), None, target("logit")) == "it has no closed form at this layer"
        assert not obstacle_to(method("ablationcam"), norm, target("logit"))
        assert not obstacle_to(method("fem"), None, target("logit"))

    def test_targets(self) -> None:
        text = r"ablationcam cannot be made in the graph: the target 'probability' is not made there, only 'logit'"
        with pytest.raises(MethodNotPossible, match=text):
            embed_cam(classifier(), method="ablationcam", target="probability")

    def test_eigenvectors(self) -> None:
        with pytest.raises(MethodNotPossible, match="eigencam cannot be made in the graph: it needs a singular value"):
            embed_cam(classifier(), method="eigencam")
