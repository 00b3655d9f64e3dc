"""The maps that the graph sums against those that NumPy sums of the same features."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.class_maps import CLASSES, COUNT, MAPS
from onnx_graphs import Graph, images

import camcore


def model(opset: int = 17, dtype: str = "float32", *, identity: bool = False, batch: Any = "N") -> onnx.ModelProto:
    """Six feature maps and nine classes, or six class maps."""
    g = Graph(opset, dtype=dtype)
    features = g.add("Relu", g.conv(g.image([batch, 3, "H", "W"]), 3, 6))
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
    if identity:
        g.out(g.add("Identity", pooled, to="scores"), [batch, 6])
    else:
        g.out(g.add("Gemm", pooled, g.const(g.normal(6, 9)), g.const(g.normal(9)), to="scores"), [batch, 9])
    return g.model()


def by_hand(explainer: camcore.Explainer, pixels: Any, out: camcore.Explanation) -> Any:
    seen = explainer.backend.observe(pixels, needs=frozenset({"features", "head"}))
    assert seen.features is not None
    assert seen.head is not None
    return camcore.cam(seen.features, seen.head, out.classes)


@pytest.mark.parametrize("identity", [False, True], ids=["matrix", "class maps"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 13, 18, 21])
def test_summed_in_the_graph_or_by_numpy(opset: int, dtype: str, identity: bool) -> None:
    explainer = camcore.explainer(model(opset, dtype, identity=identity), device="cpu", threads=1)
    for size in (8, 8, 11):  # the first call of a size learns the size of the maps
        pixels = images(3, 3, size, size + 2)
        for classes in (None, "top4", "top99", [0, 5, 3]):
            out = explainer(pixels, classes)
            expected = by_hand(explainer, pixels, out)
            assert out.maps.shape == expected.shape
            # in half precision the runtime may sum features that it has not rounded yet: closer to the truth
            limit = 1e-5 if dtype == "float32" else 2e-3
            assert np.abs(out.maps - expected).max() <= limit * np.abs(expected).max()
            if classes is None or isinstance(classes, str):
                k = {None: 1, "top4": 4}.get(classes, 99)
                np.testing.assert_array_equal(out.classes, camcore.top_k(out.scores, k))


def test_the_sum_is_in_the_graph_where_the_opset_allows() -> None:
    for opset, identity, expected in [(9, False, False), (10, False, True), (11, True, False), (12, True, True)]:
        watcher = OnnxBackend(model(opset, identity=identity), device="cpu")._watcher(None)
        names = {o.name for o in watcher.session.get_outputs()}
        assert watcher.gives_maps is expected
        assert ({CLASSES, MAPS} <= names) is expected
        assert (COUNT in {i.name for i in watcher.session.get_inputs()}) is expected


def test_features_stay_inside_once_the_size_is_known() -> None:
    backend = OnnxBackend(model(), device="cpu")
    watcher, asked = backend._watcher(None), []
    run = watcher._call

    def note(names: list[str], feed: Any) -> Any:
        asked.append(names)
        return run(names, feed)

    watcher._call = note  # type: ignore[method-assign]
    explainer = camcore.Explainer(backend)
    for _ in range(2):
        explainer(images(2, 3, 8, 8), "top2")
    assert len(asked[0]) == 4  # scores, features, classes, maps
    assert asked[1] == ["scores", CLASSES, MAPS]


def test_ties_go_to_the_lower_class_as_in_numpy() -> None:
    proto = model(identity=True)
    out = camcore.explainer(proto, device="cpu")
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    first, second = out(pixels, "top6"), out(pixels, "top6")
    for explanation in (first, second):
        np.testing.assert_array_equal(explanation.classes, camcore.top_k(explanation.scores, 6))


def test_fixed_batches() -> None:
    pixels = images(5, 3, 8, 8)
    expected = camcore.explainer(model(), device="cpu")(pixels, "top3")
    explainer = camcore.explainer(model(batch=2), device="cpu")
    for _ in range(2):
        found = explainer(pixels, "top3")
        np.testing.assert_array_equal(found.classes, expected.classes)
        np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-5, atol=1e-6)


def test_bytes_are_taken_as_bytes() -> None:
    g = Graph()
    pixels = g.add("Cast", g.image(["N", 3, 8, 8], type=onnx.TensorProto.UINT8), to="floats")
    g.nodes[-1].attribute.append(onnx.helper.make_attribute("to", 1))
    features = g.add("Relu", g.conv(pixels, 3, 6))
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
    g.out(g.add("Gemm", pooled, g.const(g.normal(6, 9)), g.const(g.normal(9)), to="scores"), ["N", 9])
    explainer = camcore.explainer(g.model(), device="cpu")
    whole = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    np.testing.assert_array_equal(explainer(whole).maps, explainer(whole.astype(np.float32)).maps)
    with pytest.raises(camcore.InputError, match="the model takes whole pixels, 0 to 255"):
        explainer(whole / np.float32(255))


def test_channels_last_inputs_are_refused_by_name() -> None:
    g = Graph()
    turned = g.add("Transpose", g.image(["N", 16, 12, 3]), perm=[0, 3, 1, 2])
    pooled = g.add("Flatten", g.add("GlobalAveragePool", g.add("Relu", g.conv(turned, 3, 6))))
    g.out(g.add("Gemm", pooled, g.const(g.normal(6, 9)), to="scores"), ["N", 9])
    with pytest.raises(camcore.InputError, match=r"has its channels last; expected \(N, C, H, W\)"):
        camcore.explainer(g.model(), device="cpu")
