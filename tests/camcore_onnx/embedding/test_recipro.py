"""Recipro-CAM in the graph against the library's, which runs the network behind the layer by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend, embed_cam
from camcore_onnx.embedding.choice import choose
from camcore_onnx.embedding.recipro import recipro_maps
from camcore_onnx.embedding.site import give, open_site
from camcore_onnx.embedding.wanted import Wanted
from camcore_onnx.gradients.facts import probes
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.reading.load import serialize
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx_graphs import Graph, classifier, images

from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible

Floats = NDArray[np.floating[Any]]
LIMIT = 1e-4


def flat(batch: int | str = "N", size: tuple[int | str, ...] = (8, 6), **options: Any) -> Any:
    """Every position has weights of its own, so there is no closed form; ``early`` also goes past what is behind it."""
    g = Graph(**options)
    early = g.add("Relu", g.conv(g.image([batch, 3, *size]), 3, 4, axes=len(size)), to="early")
    late = g.add("Add", g.add("Tanh", g.conv(early, 4, 4, axes=len(size))), early, to="late")
    hidden = g.add("Relu", g.add("Flatten", late), to="hidden")
    rows = 4 * int(np.prod([n for n in size if isinstance(n, int)]))
    g.out(g.add("Gemm", hidden, g.const(g.normal(rows, 5)), g.const(g.normal(5)), to="scores"), [batch, 5])
    return g.model()


def maximum(batch: int | str = "N", size: tuple[int | str, ...] = ("H", "W"), **options: Any) -> Any:
    """A maximum instead of the mean, so images may have any size; the stem crosses ``early``."""
    g = Graph(**options)
    stem = g.add("Sigmoid", g.conv(g.image([batch, 3, *size]), 3, 4), to="stem")
    early = g.add("Mul", g.add("Tanh", g.conv(stem, 4, 4)), stem, to="early")
    late = g.add("Mul", g.add("Relu", g.conv(early, 4, 4)), stem, to="late")
    pooled = g.add("Flatten", g.add("GlobalMaxPool", late))
    g.out(g.add("Gemm", pooled, g.const(g.normal(4, 5)), g.const(g.normal(5)), to="scores"), [batch, 5])
    return g.model()


def last(batch: int | str = "N") -> Any:
    """Channels last."""
    g = Graph()
    early = g.add("Relu", g.conv(g.image([batch, 3, "H", "W"]), 3, 4))
    turned = g.add("Transpose", early, perm=[0, 2, 3, 1], to="early")
    mixed = g.add("Tanh", g.add("MatMul", turned, g.const(g.normal(4, 4))), to="late")
    pooled = g.reduce("ReduceMean", g.add("Mul", mixed, mixed), [1, 2])
    g.out(g.add("MatMul", pooled, g.const(g.normal(4, 5)), to="scores"), [batch, 5])
    return g.model()


def tokens() -> Any:
    """A class token in front, of the image itself."""
    g = Graph()
    image = g.image(["N", 3, 8, 8])
    patches = g.add("Reshape", g.conv(image, 3, 6), g.ints(0, 6, 64))
    own = g.reduce("ReduceMean", patches, [2], keep=1)
    joined = g.add("Transpose", g.add("Concat", own, patches, axis=2), perm=[0, 2, 1], to="early")
    mixed = g.add("MatMul", g.add("Softmax", g.const(g.normal(65, 65)), axis=-1), joined)
    first = g.add("Gather", g.add("Tanh", mixed), g.const(0, form="initializer", dtype=np.int64), axis=1)
    g.out(g.add("Gemm", first, g.const(g.normal(6, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def stating(batch: int) -> Any:
    """Its shapes state its batch."""
    g = Graph()
    early = g.add("Tanh", g.conv(g.image([batch, 3, 8, 8]), 3, 4), to="early")
    hidden = g.add("MatMul", g.add("Reshape", early, g.ints(batch, -1)), g.const(g.normal(256, 7)))
    g.out(g.add("Gemm", g.add("Tanh", hidden), g.const(g.normal(7, 5)), g.const(g.normal(5)), to="scores"), [batch, 5])
    return g.model()


def holding(batch: int) -> Any:
    """Its weights do."""
    g = Graph()
    early = g.add("Tanh", g.conv(g.image([batch, 3, 4, 4]), 3, 4), to="early")
    rows = g.add("Flatten", g.add("Mul", early, g.const(g.normal(batch, 4, 4, 4))))
    g.out(g.add("MatMul", rows, g.const(g.normal(64, 5)), to="scores"), [batch, 5])
    return g.model()


MODELS: dict[str, Callable[[], Any]] = {
    "flat": flat,
    "any size": maximum,
    "channels last": last,
    "tokens": tokens,
    "one axis": lambda: flat(size=(9,)),
    "three axes": lambda: flat(size=(3, 4, 2)),
    "opset 7": lambda: flat(opset=7),
    "opset 9": lambda: maximum(opset=9),
    "opset 10": lambda: flat(opset=10),
    "opset 13": lambda: maximum(opset=13),
    "half precision": lambda: flat(dtype="float16"),
    "fixed batch of 1": lambda: maximum(1, (9, 9)),
    "fixed batch of 3": lambda: flat(3),
    "stating 1": lambda: stating(1),
    "stating 3": lambda: stating(3),
    "pooled": classifier,
}


def made(
    model: Any, layer: str, classes: str = "top3", kernel: str = "pixel", size: tuple[int, ...] | None = None
) -> tuple[OnnxBackend, Any]:
    """A session whose last output is ``cam``, (N, T, P)."""
    backend = OnnxBackend(model, device="cpu")
    loaded = raised(backend.loaded)
    site = open_site(backend, loaded, layer, size)
    site.classes = choose(site, Wanted(classes=classes))
    give(site, "cam", recipro_maps(site, probes(loaded, backend.input, size), kernel=kernel))
    return backend, make_session(serialize(site.loaded.model), device="cpu", optimization="basic")


def pixels(model: Any, batch: int = 3) -> NDArray[np.float32]:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or (batch if i == 0 else 6 + i) for i, d in enumerate(dims)]
    return images(*shape)


def run(session: Any, given: Floats, **more: Any) -> Floats:
    first = session.get_inputs()[0]
    feed = {first.name: given.astype(np.float16 if "float16" in first.type else np.float32), **more}
    found: Floats = session.run(["cam"], feed)[0]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_maps_of_the_library(name: str) -> None:
    model = MODELS[name]()
    layer = "features" if name == "pooled" else "early"
    backend, session = made(model, layer)
    given = pixels(model)
    expected = Explainer(backend, method="reciprocam", layer=layer)(given, "top3").maps
    found = run(session, given)
    assert found.shape == (*expected.shape[:2], np.prod(expected.shape[2:]))
    limit = 1e-2 if name == "half precision" else LIMIT
    assert np.abs(found.reshape(expected.shape) - expected).max() <= limit * np.abs(expected).max()


@pytest.mark.parametrize("name", ["flat", "any size", "channels last", "tokens", "three axes"])
def test_spread_over_neighbours(name: str) -> None:
    model = MODELS[name]()
    backend, session = made(model, "early", kernel="gaussian")
    given = pixels(model)
    expected = Explainer(backend, method="reciprocam", layer="early", options={"kernel": "gaussian"})(
        given, "top3"
    ).maps
    found = run(session, given).reshape(expected.shape)
    assert np.abs(found - expected).max() <= LIMIT * np.abs(expected).max()


@pytest.mark.parametrize("classes", ["all", "input"])
def test_other_classes(classes: str) -> None:
    backend, session = made(maximum(), "late", classes)
    given, own = pixels(maximum()), np.array([4, -1, 0], np.int32)
    best = backend.scores(given).argmax(axis=1)
    asked = np.tile(np.arange(5), (3, 1)) if classes == "all" else np.where(own < 0, best, own)[:, None]
    expected = Explainer(backend, method="reciprocam", layer="late")(given, asked).maps
    found = run(session, given, **({"cam_class": own} if classes == "input" else {}))
    assert np.abs(found.reshape(expected.shape) - expected).max() <= LIMIT * np.abs(expected).max()


def test_any_batch_and_any_size() -> None:
    backend, session = made(maximum(), "early")
    explainer = Explainer(backend, method="reciprocam", layer="early")
    for shape in ((1, 3, 5, 9), (4, 3, 8, 3)):
        given = images(*shape)
        expected = explainer(given, "top3").maps
        assert np.abs(run(session, given).reshape(expected.shape) - expected).max() <= LIMIT * np.abs(expected).max()


def test_weights_are_stored_once() -> None:
    model = flat(size=(32, 32))
    backend = OnnxBackend(model, device="cpu")
    site = open_site(backend, backend.loaded, "early")
    give(site, "cam", recipro_maps(site, probes(backend.loaded, backend.input)))
    assert len(serialize(site.loaded.model)) < 1.1 * len(serialize(backend.loaded.model)) + 8192


class TestRefusals:
    def test_shapes_that_hold_the_batch(self) -> None:
        text = r"reciprocam is not possible at 'early': .*hold the number of images.* export it again with a free batch"
        with pytest.raises(MethodNotPossible, match=text):
            made(holding(2), "early")

    def test_the_scores(self) -> None:
        g = Graph()
        scores = g.add("Relu", g.conv(g.image(["N", 3, 4, 4]), 3, 5, kernel=1), to="scores")
        aside = g.add("Tanh", g.conv("image", 3, 4), to="aside")
        g.out(g.add("Flatten", g.add("GlobalMaxPool", scores)), ["N", 5])
        g.out(aside, ["N", 4, 4, 4])
        with pytest.raises(MethodNotPossible, match="nothing lies behind the layer 'aside'"):
            made(g.model(), "aside")

    def test_a_kernel_that_is_not_known(self) -> None:
        with pytest.raises(InputError, match=r"kernel 'gauss' is not known. Did you mean 'gaussian'"):
            made(flat(), "early", kernel="gauss")
        with pytest.raises(InputError, match=r"kernel 'gauss' is not known. Did you mean 'gaussian'"):
            embed_cam(classifier(), method="reciprocam", options={"kernel": "gauss"})
