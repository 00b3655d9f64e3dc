"""Heads of models on integers: QLinearConv and its kin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend, embed_cam
from camcore_onnx.running.runtime import make_session
from data import folder
from numpy.typing import NDArray
from onnx_graphs import Graph, finish, images, onnx_bytes, run_plainly
from quantised_files import on_integers

from camcore.engine import Explainer
from camcore.head import global_mean

Floats = NDArray[np.floating[Any]]


def net(**options: Any) -> Any:
    """Two blocks, the second with a skip connection."""
    g = Graph(**options)
    early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 8), to="early")
    late = g.add("Relu", g.add("Add", g.conv(early, 8, 8), early), to="late")
    return finish(g, late, 8)


def convolution(**options: Any) -> Any:
    """The head is a convolution of 1x1."""
    g = Graph(**options)
    late = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 8), to="late")
    scores = g.conv(g.add("GlobalAveragePool", late), 8, 5, kernel=1)
    g.out(g.add("Flatten", scores, to="scores"), ["N", 5])
    return g.model()


def product(**options: Any) -> Any:
    """A matrix and a bias of their own, and probabilities at the end."""
    g = Graph(**options)
    late = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 8), to="late")
    pooled = g.add("Flatten", g.add("GlobalAveragePool", late))
    scores = g.add("Add", g.add("MatMul", pooled, g.const(g.normal(8, 5))), g.const(g.normal(5)))
    g.out(g.add("Softmax", scores, axis=1, to="ending"), ["N", 5])
    return g.model()


MODELS: dict[str, Callable[..., Any]] = {"gemm": net, "convolution": convolution, "product": product}
BATCHES = [images(4, 3, 8, 8, seed=i) for i in range(3)]


def kinds(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    model = MODELS[request.param]()
    return model, on_integers(model, tmp_path, BATCHES)


class TestHead:
    def test_maps_are_nearly_those_of_the_float_model(self, pair: tuple[Any, Path]) -> None:
        model, path = pair
        assert any(op.startswith("QLinear") for op in kinds(onnx.load(path)))
        classes = np.tile(np.arange(5), (4, 1))
        expected = Explainer(OnnxBackend(model, device="cpu"), method="cam")(BATCHES[0], classes).maps
        found = Explainer(OnnxBackend(path, device="cpu"), method="cam")(BATCHES[0], classes).maps
        assert np.abs(found - expected).max() <= 0.06 * np.abs(expected).max()

    def test_the_head_gives_the_scores_within_the_steps_of_quantisation(self, pair: tuple[Any, Path]) -> None:
        backend = OnnxBackend(pair[1], device="cpu")
        tap = backend.tap()
        seen = backend.observe(BATCHES[1], needs=frozenset({"features"}))[0]
        assert tap.head is not None
        assert seen.features is not None
        off = np.abs(tap.head(global_mean(seen.features)) - seen.scores)
        assert (off <= tap.slack + tap.tolerance * np.abs(seen.scores).max()).all()
        assert off.max() > 0
        assert (tap.slack < 0.3 * np.abs(seen.scores).max()).all()

    def test_features_are_what_the_integers_stand_for(self, pair: tuple[Any, Path]) -> None:
        backend = OnnxBackend(pair[1], device="cpu")
        value = backend.found.features
        assert value is not None
        assert value.name is not None
        node = value.producer()
        assert node is not None
        assert node.op_type == "DequantizeLinear"
        assert node.inputs[0] is not None
        model = onnx.load(pair[1])
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.inputs[0].name))
        whole = make_session(onnx_bytes(model), device="cpu").run(None, {"image": BATCHES[1]})[-1]
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        scale, zero = (stored[v.name] for v in node.inputs[1:] if v is not None)
        expected = (whole.astype(np.float32) - zero.astype(np.float32)) * scale
        seen = backend.observe(BATCHES[1], needs=frozenset({"features"}))[0]
        np.testing.assert_array_equal(seen.features, expected)

    @pytest.mark.parametrize("form", ["QOperator", "QDQ"])
    def test_scores_that_are_cut_off_are_no_reason_for_doubt(self, form: str, tmp_path: Path) -> None:
        """Pictures much brighter than those that the scales were chosen by."""
        path = on_integers(convolution(), tmp_path, [b / 8 for b in BATCHES], form=form)
        backend = OnnxBackend(path, device="cpu")
        low, high = backend.tap().span
        given = BATCHES[0] / 4
        scores = backend.scores(given)
        assert ((scores == np.float32(low)) | (scores == np.float32(high))).any()
        assert Explainer(backend, method="cam")(given, "all").maps.shape == (4, 5, 8, 8)

    def test_the_plan_says_so(self, pair: tuple[Any, Path]) -> None:
        plan = str(Explainer(OnnxBackend(pair[1], device="cpu"), method="auto").plan)
        assert plan.startswith("cam at ")
        assert "/dequantized, head dequantised features -> GlobalAveragePool" in plan
        assert "closed form" in plan

    def test_a_form_with_pairs_of_operators_says_so_too(self, tmp_path: Path) -> None:
        path = on_integers(net(), tmp_path, BATCHES, form="QDQ")
        assert OnnxBackend(path, device="cpu").tap().how.startswith("dequantised features -> GlobalAveragePool")

    @pytest.mark.parametrize("opset", [11, 13, 17])
    @pytest.mark.parametrize("per_channel", [False, True])
    def test_opsets_and_scales(self, opset: int, per_channel: bool, tmp_path: Path) -> None:
        path = on_integers(convolution(opset=opset), tmp_path, BATCHES, per_channel=per_channel)
        assert OnnxBackend(path, device="cpu").tap().head is not None

    def test_a_part_that_stays_in_floats(self, tmp_path: Path) -> None:
        path = on_integers(net(), tmp_path, BATCHES, nodes_to_exclude=["head"])
        tap = OnnxBackend(path, device="cpu").tap()
        assert tap.how.startswith("dequantised features -> GlobalAveragePool")
        assert tap.how.endswith("Gemm")

    def test_the_file_is_left_as_it_was(self, pair: tuple[Any, Path]) -> None:
        before = pair[1].read_bytes()
        backend = OnnxBackend(pair[1], device="cpu")
        expected = run_plainly(before, BATCHES[2])[0]
        if "ending" not in {o.name for o in backend.graph.outputs}:
            np.testing.assert_array_equal(backend.scores(BATCHES[2]), expected)
        assert [o.name for o in backend.graph.outputs] == [o.name for o in onnx.load_from_string(before).graph.output]

    def test_flattened_maps_still_have_no_head(self, tmp_path: Path) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="early")
        flat = g.add("Flatten", early)
        g.out(g.add("Gemm", flat, g.const(g.normal(256, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
        backend = OnnxBackend(on_integers(g.model(), tmp_path, BATCHES), device="cpu")
        assert "CAM needs a global average pooling" in backend.tap().obstacle
        assert backend.tap().layer.endswith("/dequantized")


class TestLayers:
    def test_integers_are_listed_and_named(self, pair: tuple[Any, Path]) -> None:
        backend = OnnxBackend(pair[1], device="cpu")
        listed = [layer.name for layer in backend.layers()]
        assert listed
        assert backend.found.features is not None
        assert listed[-1] == backend.found.features.name
        for layer in listed:
            maps = Explainer(backend, method="activationmap", layer=layer)(BATCHES[0]).maps
            assert maps.shape == (4, 1, 8, 8)
            assert np.ptp(maps) > 0
        assert [layer.name for layer in backend.layers()] == listed

    @pytest.mark.parametrize("method", ["layercam", "reciprocam", "ablationcam", "gradcam"])
    def test_methods_inside_the_network(self, method: str, tmp_path: Path) -> None:
        backend = OnnxBackend(on_integers(net(), tmp_path, BATCHES), device="cpu")
        plain = OnnxBackend(net(), device="cpu")
        classes = np.tile(np.arange(5), (4, 1))
        expected = Explainer(plain, method=method, layer="early")(BATCHES[0], classes).maps
        early = next(n.outputs[0].name for n in backend.graph if n.op_type == "QLinearConv")
        found = Explainer(backend, method=method, layer=early)(BATCHES[0], classes).maps
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


class TestEmbedded:
    @pytest.mark.parametrize("method", ["cam", "layercam", "reciprocam"])
    def test_outputs_are_bit_identical(self, pair: tuple[Any, Path], method: str) -> None:
        expected = Explainer(OnnxBackend(pair[1], device="cpu"), method=method)(BATCHES[2], "top3")
        embedded = embed_cam(pair[1], method=method, classes="top3")
        for level in ("disabled", "basic", "extended", "all"):
            session = make_session(onnx_bytes(embedded), device="cpu", optimization=level)
            first, maps, *_ = session.run(None, {"image": BATCHES[2]})
            plain = make_session(pair[1].read_bytes(), device="cpu", optimization=level)
            np.testing.assert_array_equal(first, plain.run(None, {"image": BATCHES[2]})[0])
            assert np.abs(maps - expected.maps).max() <= 1e-4 * np.abs(expected.maps).max()

    def test_recipro_by_runs_of_the_tail(self, tmp_path: Path) -> None:
        path = on_integers(net(), tmp_path, BATCHES)
        backend = OnnxBackend(path, device="cpu")
        early = next(n.outputs[0].name for n in backend.graph if n.op_type == "QLinearConv")
        expected = Explainer(backend, method="reciprocam", layer=early)(BATCHES[2], "top3").maps
        embedded = embed_cam(path, method="reciprocam", layer=early, classes="top3")
        first, found, *_ = run_plainly(embedded, BATCHES[2])
        np.testing.assert_array_equal(first, run_plainly(path.read_bytes(), BATCHES[2])[0])
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("per_channel", [False, True])
def test_mobilenet(per_channel: bool, tmp_path: Path) -> None:
    plain = folder() / "models" / "mobilenet_v1_0.25_128_fp32.onnx"
    batches = [images(2, 3, 128, 128, seed=i).clip(-1, 1) for i in range(2)]
    path = on_integers(plain, tmp_path, batches, per_channel=per_channel)
    backend = OnnxBackend(path, device="cpu")
    found = Explainer(backend, method="cam")(batches[0], "top5")
    assert found.maps.shape == (2, 5, 4, 4)
    first, maps, classes, _scores = run_plainly(embed_cam(path), batches[0])
    np.testing.assert_array_equal(first, run_plainly(path.read_bytes(), batches[0])[0])
    np.testing.assert_array_equal(classes, found.classes)
    assert np.abs(maps - found.maps).max() <= 1e-4 * np.abs(found.maps).max()
