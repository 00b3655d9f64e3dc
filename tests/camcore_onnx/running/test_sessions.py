"""Sessions: batches, several layers at once, and the maps that the graph sums against those that NumPy sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.class_maps import CLASSES, COUNT, MAPS
from camcore_onnx.layers import find_layer
from camcore_onnx.running.sessions import Runner, Watcher
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import Graph, finish, images

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
    seen = explainer.backend.observe(pixels, needs=frozenset({"features", "head"}))[0]
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
        watcher = OnnxBackend(model(opset, identity=identity), device="cpu")._watcher((None,))
        names = {o.name for o in watcher.session.get_outputs()}
        assert watcher.gives_maps is expected
        assert ({CLASSES, MAPS} <= names) is expected
        assert (COUNT in {i.name for i in watcher.session.get_inputs()}) is expected


def test_features_stay_inside_once_the_size_is_known() -> None:
    backend = OnnxBackend(model(), device="cpu")
    watcher, asked = backend._watcher((None,)), []
    run = watcher.runner.call

    def note(names: Sequence[str], feed: Any) -> Any:
        asked.append(names)
        return run(names, feed)

    watcher.runner.call = note  # type: ignore[method-assign]
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


def watcher_of(backend: OnnxBackend, *layers: str) -> Watcher:
    return Watcher(backend.loaded, backend.input, backend.found, [find_layer(backend.graph, n) for n in layers])


def two_layers() -> onnx.ModelProto:
    g = Graph()
    early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 4), to="early")
    return finish(g, g.add("Relu", g.conv(early, 4, 6), to="features"), 6)


def test_layers_come_in_the_order_watched() -> None:
    backend, pixels = OnnxBackend(two_layers(), device="cpu"), images(2, 3, 8, 8)
    expected = {name: watcher_of(backend, name)(pixels, features=True).features for name in ("early", "features")}
    for order in (("early", "features"), ("features", "early"), ("early", "features", "early")):
        seen = watcher_of(backend, *order)(pixels, features=True)
        assert seen.features is not None
        assert len(seen.features) == len(order)
        for name, found in zip(order, seen.features, strict=True):
            alone = expected[name]
            assert alone is not None
            np.testing.assert_allclose(found, alone[0], rtol=1e-5, atol=1e-6)
    assert watcher_of(backend, "early", "features")(pixels).features is None


def test_maps_are_summed_in_the_graph_for_the_features_of_the_head_alone() -> None:
    backend = OnnxBackend(two_layers(), device="cpu")
    assert watcher_of(backend, "features").gives_maps
    for layers in ((), ("early",), ("early", "features"), ("features", "early")):
        assert not watcher_of(backend, *layers).gives_maps


@given(count=st.integers(1, 9), batch=st.none() | st.integers(1, 4))
def test_parts_are_filled_up_and_joined_again(count: int, batch: int | None) -> None:
    def doubled(names: Sequence[str], feed: Any) -> Any:
        sizes.append({len(feed["x"]), len(feed["y"])})
        assert feed["z"] == 10
        return [feed["x"] * 2, feed["x"] + feed["y"] * feed["z"]]

    sizes: list[set[int]] = []
    runner = Runner.__new__(Runner)
    runner.call = doubled  # type: ignore[method-assign]
    x, y = np.arange(count), np.arange(count) ** 2
    first, second = runner(["a", "b"], {"x": x, "y": y}, batch=batch, constant={"z": np.array(10)})
    np.testing.assert_array_equal(first, x * 2)
    np.testing.assert_array_equal(second, x + y * 10)
    assert sizes == ([{count}] if batch is None else [{batch}] * -(-count // batch))
