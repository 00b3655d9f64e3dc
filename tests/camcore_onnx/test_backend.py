"""The ONNX backend: batches, sizes, layers, outputs, threads and devices."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from camcore_onnx import OnnxBackend, expose_features
from camcore_onnx.running import sessions
from camcore_torch.exporting import to_onnx
from onnx import TensorProto
from onnx.helper import make_attribute
from onnx_graphs import Graph, classifier, finish, images, run_plainly
from token_networks import Tokens, first

import camcore
from camcore.errors import HeadNotFound, InputError


def explain(model, pixels, **options):
    return camcore.explainer(model, device="cpu", threads=1, **options)(pixels, classes="all")


class TestBatches:
    @pytest.mark.parametrize("batch", ["N", 1, 4])
    @pytest.mark.parametrize("count", [1, 4, 5])
    def test_any_number_of_images_on_any_batch_size(self, batch, count):
        pixels = images(count, 3, 8, 8)
        expected = explain(classifier(), pixels)
        found = explain(classifier(batch=batch), pixels)
        assert found.maps.shape == (count, 5, 8, 8)
        np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)

    def test_each_image_of_a_fixed_batch_is_its_own(self):
        """Not the neighbour's: every image gives what it gives alone."""
        pixels = images(5, 3, 8, 8)
        together = explain(classifier(batch=4), pixels)
        for n in range(5):
            np.testing.assert_allclose(together.maps[n], explain(classifier(), pixels[n : n + 1]).maps[0], atol=1e-5)

    def test_batches_cut_by_the_engine(self):
        pixels = images(5, 3, 8, 8)
        np.testing.assert_allclose(
            explain(classifier(batch=2), pixels, batch_size=3).maps, explain(classifier(), pixels).maps, atol=1e-5
        )


class TestSizes:
    @pytest.mark.parametrize("size", [(8, 8), (13, 5), (1, 9), (32, 40)])
    def test_free_size(self, size):
        out = explain(classifier(), images(2, 3, *size))
        assert out.maps.shape == (2, 5, *size)
        assert out.heatmaps().shape == (2, 5, *size)

    @pytest.mark.parametrize("size", [(8,), (5, 4, 6)])
    def test_other_numbers_of_spatial_axes(self, size):
        assert explain(classifier(size=size), images(2, 3, *size)).maps.shape == (2, 5, *size)

    def test_what_the_input_says(self):
        fixed, free = OnnxBackend(classifier(batch=2, size=(8, 6))), OnnxBackend(classifier())
        assert (fixed.input.name, fixed.input.shape, fixed.input.size) == ("image", (2, 3, 8, 6), (8, 6))
        assert (free.input.shape, free.input.size, free.input.channels) == ((None, 3, None, None), None, 3)

    @pytest.mark.parametrize(
        ("shape", "text"),
        [
            ((1, 4, 8, 8), "images have 4 channels, the model takes 3: got (1, 4, 8, 8), expected (N, 3, 8, 8)"),
            ((1, 3, 9, 8), "images have length 9 on axis 2, the model takes 8"),
            ((1, 8, 8, 3), "images have 8 channels, the model takes 3"),
            ((3, 8, 8), "images have shape (3, 8, 8); the model takes (N, 3, 8, 8). Add a batch axis: images[None]."),
            ((0, 3, 8, 8), "images have shape (0, 3, 8, 8); expected at least one image"),
        ],
    )
    def test_images_that_do_not_fit(self, shape, text):
        with pytest.raises(InputError, match=re.escape(text)):
            explain(classifier(size=(8, 8)), np.zeros(shape, np.float32))

    def test_a_size_that_onnx_runtime_refuses(self):
        g = Graph()
        value = g.add("Relu", g.image(["N", 3, "H", "W"]))
        g.add("AveragePool", value, kernel_shape=[8, 8], to="pooled", name="window")
        value = g.add("Reshape", "pooled", g.ints(-1, 3))
        g.out(g.add("Gemm", value, g.const(g.normal(3, 5))), ["N", 5])
        with pytest.raises(InputError, match=r"ONNX Runtime could not run images of shape \(1, 3, 4, 4\): .*window"):
            OnnxBackend(g.model(), device="cpu").scores(images(1, 3, 4, 4))

    def test_not_a_number(self):
        pixels = images(2, 3, 8, 8)
        pixels[1, 0, 0, 0] = np.nan
        with pytest.raises(InputError, match="image 1 has 1 pixels that are NaN or infinite"):
            explain(classifier(), pixels)


class TestTypes:
    @pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-3), ("float16", 2e-2)])
    def test_tolerance_is_that_of_the_arithmetic(self, dtype, limit):
        assert OnnxBackend(classifier(dtype=dtype)).tap().tolerance == limit

    @pytest.mark.parametrize("given", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_any_float_is_taken(self, dtype, given):
        model = classifier(dtype=dtype)
        out = explain(model, images(2, 3, 8, 8).astype(given))
        assert out.maps.dtype == out.scores.dtype == np.float32
        expected = run_plainly(model, images(2, 3, 8, 8).astype(given))[0]
        np.testing.assert_allclose(out.scores, expected, rtol=2e-2, atol=2e-2)

    def test_a_model_of_bytes_takes_whole_numbers_in_floats(self):
        g = Graph()
        image = g.image(["N", 3, 8, 8], type=TensorProto.UINT8)
        g.add("Cast", image, to="floats")
        g.nodes[-1].attribute.append(make_attribute("to", TensorProto.FLOAT))
        features = g.add("Relu", g.conv(g.add("Div", "floats", g.const([255.0])), 3, 6), to="features")
        model = finish(g, features, 6)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.float32)
        np.testing.assert_allclose(explain(model, pixels).scores, run_plainly(model, pixels)[0], rtol=1e-6)


class TestScores:
    def test_before_a_softmax(self):
        pixels = images(2, 3, 8, 8)
        backend = OnnxBackend(classifier(ending="Softmax"), device="cpu")
        np.testing.assert_array_equal(backend.scores(pixels), run_plainly(classifier(), pixels)[0])

    def test_the_features_are_not_fetched_for_scores_alone(self):
        backend = OnnxBackend(classifier(), device="cpu")
        asked: list[Any] = []
        watcher = backend._watcher((None,))
        run = watcher.runner.call
        watcher.runner.call = lambda names, feed: asked.append(names) or run(names, feed)  # type: ignore[method-assign,func-returns-value]
        backend.scores(images(1, 3, 8, 8))
        assert asked == [["scores"]]

    def test_an_output_of_two(self):
        g = Graph()
        features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
        pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
        g.out(g.add("Gemm", pooled, g.const(g.normal(6, 3)), to="coarse"), ["N", 3])
        g.out(g.add("Gemm", pooled, g.const(g.normal(6, 7)), to="fine"), ["N", 7])
        model, pixels = g.model(), images(2, 3, 8, 8)
        coarse, fine = run_plainly(model, pixels)
        np.testing.assert_allclose(explain(model, pixels).scores, coarse, rtol=1e-6)
        np.testing.assert_allclose(explain(model, pixels, output="fine").scores, fine, rtol=1e-6)
        with pytest.raises(InputError, match="model in memory: no output 'both'; it has 'coarse', 'fine'"):
            explain(model, pixels, output="both")

    def test_what_is_no_score_is_passed_over(self):
        exposed = expose_features(classifier(size=(8, 8)), "features")
        exposed.graph.output.insert(0, exposed.graph.output.pop())
        assert [o.name for o in exposed.graph.output] == ["features", "scores"]
        assert explain(exposed, images(1, 3, 8, 8)).scores.shape == (1, 5)


def deep(seed: int = 0):
    """Two convolutions; ``early`` is not what the head reads, ``features`` is, through an Identity."""
    g = Graph(seed=seed)
    early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="early", name="/stem/Relu")
    small = g.add("MaxPool", early, kernel_shape=[2, 2], strides=[2, 2], to="small", name="/pool/MaxPool")
    features = g.add("Relu", g.conv(small, 4, 6), to="features", name="/trunk/Relu")
    return finish(g, g.add("Identity", features, to="read"), 6)


class TestLayers:
    def test_the_layer_that_the_head_reads_gives_the_same(self):
        pixels = images(2, 3, 8, 8)
        found = explain(deep(), pixels)
        assert found.layer == "read"
        for layer in ("read", "features", "/trunk/Relu", "trunk"):
            out = explain(deep(), pixels, layer=layer)
            np.testing.assert_array_equal(out.maps, found.maps)
            assert out.layer == ("read" if layer == "read" else "features")

    @pytest.mark.parametrize("layer", ["early", "/stem/Relu", "stem", "small"])
    def test_another_layer_has_no_head(self, layer):
        with pytest.raises(HeadNotFound) as caught:
            explain(deep(), images(1, 3, 8, 8), layer=layer, method="cam")
        text = str(caught.value)
        assert f"the head does not read '{layer}' but 'read'; CAM is defined only there: leave layer out" in text
        assert re.search("Methods that work .*: .*activationmap", text)

    @pytest.mark.parametrize(("layer", "size"), [("early", 8), ("stem", 8), ("small", 4), (None, 4)])
    def test_activation_map_at_any_layer(self, layer, size):
        pixels = images(2, 3, 8, 8)
        out = camcore.explainer(deep(), device="cpu", method="activationmap", layer=layer)(pixels)
        assert out.maps.shape == (2, 1, size, size)
        exposed = expose_features(deep(), layer or "features", names=["shown"])
        expected = run_plainly(exposed, pixels, ["shown"])[0].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(out.maps, expected, rtol=1e-5, atol=1e-6)

    def test_unknown_layer(self):
        with pytest.raises(InputError, match=r"no layer is called 'trank'.* Did you mean 'trunk'"):
            explain(deep(), images(1, 3, 8, 8), layer="trank")

    def test_the_listed_layers_can_be_asked_for(self):
        backend = OnnxBackend(deep(), device="cpu")
        listed = {layer.name: layer for layer in backend.layers()}
        assert {"small", "early"} & set(listed)
        assert "read" in listed
        assert listed["read"].shape == (6, 4, 4)
        for name in listed:
            assert backend.tap(name).layer == name
            assert backend.tap(name).shape == listed[name].shape

    def test_one_session_a_layer(self):
        backend = OnnxBackend(deep(), device="cpu")
        wanted = frozenset({"features"})
        for _ in range(3):
            for layer in (None, "early"):
                backend.observe(images(1, 3, 8, 8), needs=wanted, layers=(layer,))
        assert len(backend._watchers) == 2

    def test_several_layers_in_one_pass(self):
        backend, pixels = OnnxBackend(deep(), device="cpu"), images(2, 3, 8, 8)
        wanted, layers = frozenset({"features", "head"}), ("early", None, "stem")
        alone = [backend.observe(pixels, needs=wanted, layers=(layer,))[0] for layer in layers]
        backend._watchers.clear()
        together = backend.observe(pixels, needs=wanted, layers=layers, classes="top2")
        assert len(backend._watchers) == 1
        for seen, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(seen.features, expected.features, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(seen.scores, expected.scores, rtol=1e-5, atol=1e-6)
            assert seen.classes is together[0].classes
        assert together[0].classes.shape == (2, 2)

    def test_several_layers_of_which_only_scores_are_needed(self):
        seen = OnnxBackend(deep(), device="cpu").observe(
            images(1, 3, 8, 8), needs=frozenset(), layers=("early", "stem")
        )
        assert [s.features for s in seen] == [None, None]

    def test_class_maps_where_another_layer_is_watched_too(self):
        backend, pixels = OnnxBackend(deep(), device="cpu"), images(2, 3, 8, 8)
        expected = backend.observe(pixels, needs=frozenset({"class_maps"}), classes=[1, 3])[0].class_maps
        layers = (None, "read")
        seen = backend.observe(pixels, needs=frozenset({"class_maps"}), layers=layers, classes=[1, 3])
        for evidence in seen:
            np.testing.assert_allclose(evidence.class_maps, expected, rtol=1e-5, atol=1e-6)

    def test_only_what_is_needed_is_filled(self):
        backend = OnnxBackend(deep(), device="cpu")
        seen = backend.observe(images(1, 3, 8, 8), needs=frozenset())[0]
        assert (seen.features, seen.head) == (None, None)
        seen = backend.observe(images(1, 3, 8, 8), needs=frozenset({"features", "head"}))[0]
        assert seen.features is not None
        assert seen.features.shape == (1, 6, 4, 4)
        assert seen.head is not None

    def test_channels_last_features_are_given_channels_first(self):
        g = Graph()
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 6]), 3, 5))
        value = g.add("Tanh", g.add("Transpose", value, perm=[0, 2, 3, 1]), to="last")
        g.out(g.add("MatMul", g.reduce("ReduceMean", value, [1, 2]), g.const(g.normal(5, 4))), ["N", 4])
        backend = OnnxBackend(g.model(), device="cpu")
        assert backend.tap().shape == (5, 8, 6)
        seen = backend.observe(images(2, 3, 8, 6), needs=frozenset({"features"}))[0]
        expected = run_plainly(expose_features(g.model(), "last"), images(2, 3, 8, 6), ["last"])[0]
        assert seen.features is not None
        np.testing.assert_array_equal(seen.features, expected.transpose(0, 3, 1, 2))


class TestThreads:
    def test_eight_threads_on_one_explainer_give_what_one_gives(self):
        explained = camcore.explainer(deep(), device="cpu")
        batches = [images(2, 3, 8, 8, seed=seed) for seed in range(32)]
        serial = [camcore.explainer(deep(), device="cpu")(b, classes="all") for b in batches[:1]]
        with ThreadPoolExecutor(8) as pool:  # the first calls race for the session
            found = list(pool.map(lambda b: explained(b, classes="all"), batches))
        serial += [explained(b, classes="all") for b in batches[1:]]
        for one, other in zip(found, serial, strict=True):
            np.testing.assert_array_equal(one.maps, other.maps)
            np.testing.assert_array_equal(one.scores, other.scores)
        assert len(explained.backend._watchers) == 1

    def test_threads_that_race_for_a_session_make_one(self, monkeypatch):
        made = []
        real = sessions.make_session

        def slowly(*words: Any, **options: Any) -> Any:
            made.append(options)
            time.sleep(0.05)
            return real(*words, **options)

        monkeypatch.setattr(sessions, "make_session", slowly)
        backend = OnnxBackend(deep(), device="cpu")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(backend.scores, [images(1, 3, 8, 8)] * 8))
        assert len(made) == 1

    def test_threads_reach_the_session(self):
        backend = OnnxBackend(deep(), device="cpu", threads=3)
        backend.scores(images(1, 3, 8, 8))
        (watcher,) = backend._watchers.values()
        assert watcher.session.get_session_options().intra_op_num_threads == 3

    @pytest.mark.parametrize("level", ["disabled", "basic", "extended", "layout", "all"])
    def test_maps_are_the_same_at_every_level_of_optimisation(self, level):
        pixels = images(2, 3, 8, 8)
        found, plain = (explain(deep(), pixels, optimization=o).maps for o in (level, "disabled"))
        assert np.abs(found - plain).max() <= 1e-4 * np.abs(plain).max()

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"threads": 0}, "threads is 0; expected at least 1"),
            ({"device": "tpu"}, "device is 'tpu'; expected"),
            ({"optimization": "x"}, "optimization is 'x'; expected one of"),
        ],
    )
    def test_wrong_options(self, options, text):
        with pytest.raises(InputError, match=text):
            camcore.explainer(deep(), **({"device": "cpu"} | options))(images(1, 3, 8, 8))


def test_the_device_that_is_used():
    assert OnnxBackend(deep(), device="cpu").device == "cpu"


def test_scores_that_are_infinite():
    g = Graph()
    features = g.add("Exp", g.add("Mul", g.image(["N", 3, 8, 8]), g.const([200.0])), to="features")
    with pytest.raises(InputError, match="the model's scores are NaN or infinite for this input"):
        explain(finish(g, features, 3), np.full((1, 3, 8, 8), 5.0, np.float32))


class TestLayouts:
    def test_inner_layers_of_a_graph_with_channels_last(self):
        """As TensorFlow writes it: a Transpose behind each convolution, and one in front of the next."""
        g = Graph()
        early = g.add("Transpose", g.conv(g.image(["N", 3, 8, 6]), 3, 5), perm=[0, 2, 3, 1])
        inner = g.add("Relu", early, to="inner")
        second = g.conv(g.add("Transpose", inner, perm=[0, 3, 1, 2]), 5, 4)
        last = g.add("Tanh", g.add("Transpose", second, perm=[0, 2, 3, 1]), to="last")
        g.out(g.add("MatMul", g.reduce("ReduceMax", last, [1, 2]), g.const(g.normal(4, 7)), to="scores"), ["N", 7])
        model, pixels = g.model(), images(2, 3, 8, 6)
        backend = OnnxBackend(model, device="cpu")
        assert [(layer.name, layer.shape) for layer in backend.layers()] == [("last", (4, 8, 6))]
        native = run_plainly(expose_features(model, "inner"), pixels, ["inner"])[0]
        seen = backend.observe(pixels, needs=frozenset({"features"}), layers=("inner",))[0]
        np.testing.assert_array_equal(seen.features, native.transpose(0, 3, 1, 2))
        out = camcore.explainer(model, device="cpu", layer="inner", method="ablationcam")(pixels, [1, 2])
        rest = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["inner"], ["scores"])
        for n, label in enumerate((1, 2)):
            without = [np.where(np.arange(5) == k, 0, native[n]) for k in range(5)]
            drops = out.scores[n, label] - run_plainly(rest, np.stack(without))[0][:, label]
            np.testing.assert_allclose(out.maps[n, 0], native[n] @ drops, rtol=1e-4, atol=1e-5)

    def test_a_size_that_the_graph_does_not_state_is_seen_in_a_run(self):
        def model(height: Any) -> Any:
            g = Graph()
            conv = g.conv(g.image(["N", 3, height, 6]), 3, 6)
            form = g.add("Concat", g.add("Gather", g.add("Shape", conv), g.ints(0)), g.ints(6, 4, -1), axis=0)
            return finish(g, g.add("Relu", g.add("Reshape", conv, form), to="features"), 6)

        assert OnnxBackend(model(8), device="cpu").tap().shape == (6, 4, 12)
        assert OnnxBackend(model("H"), device="cpu").tap().shape == (6, 4, None)

    def test_the_tokens_that_a_class_token_is_explained_by(self):
        torch.manual_seed(0)
        model = to_onnx(Tokens(first, prefix=2).eval(), (2, 3, 12, 20), exporter="torchscript")
        backend, pixels = OnnxBackend(model, device="cpu"), images(2, 3, 12, 20)
        tap = backend.tap(example=pixels)
        assert (tap.layer, tap.shape, tap.head) == ("/norms.1/LayerNormalization_output_0", (8, 6, 10), None)
        assert "Slice" in tap.obstacle or "Gather" in tap.obstacle
        native = run_plainly(expose_features(model, tap.layer), pixels, [tap.layer])[0]
        seen = backend.observe(pixels, needs=frozenset({"features"}))[0]
        assert seen.features is not None
        np.testing.assert_array_equal(seen.features.reshape(2, 8, 60), native[:, 2:].transpose(0, 2, 1))
        assert [(e.name, e.shape) for e in backend.layers()] == [(tap.layer, (8, 6, 10))]


class TestDevices:
    def test_what_runs_where(self):
        backend = OnnxBackend(classifier(), device="cpu")
        assert backend.device == "cpu"
        assert backend.placement == {}

    def test_options_reach_every_session_and_recordings_the_forward_pass_alone(self, monkeypatch):
        asked: list[dict[str, Any]] = []
        made = sessions.make_session

        def noted(model: Any, **options: Any) -> Any:
            asked.append(options)
            return made(model, device="cpu", folder=options["folder"])

        monkeypatch.setattr(sessions, "make_session", noted)
        given = {"provider_options": {"gpu_mem_limit": 7}, "strict": True, "tf32": False}
        backend = camcore.explainer(classifier(), device="cuda:1", cuda_graph=True, **given).backend
        backend.tails(images(1, 3, 8, 8), "features")
        backend.observe(images(1, 3, 8, 8), needs=frozenset({"gradients"}))
        for options in asked:
            assert {name: options[name] for name in given} == given
            assert options["device"] == "cuda:1"
        assert [options.get("cuda_graph", False) for options in asked] == [False, True, False]

    def test_what_does_not_fit_is_told(self):
        for options, text in (
            ({"strict": True}, "strict=True is for other devices than 'cpu'"),
            ({"cuda_graph": True}, "cuda_graph=True needs device='cuda'; it is 'cpu'"),
            ({"provider_options": {"a": 1}}, "provider_options is for other devices"),
        ):
            with pytest.raises(InputError, match=re.escape(text)):
                explain(classifier(), images(1, 3, 8, 8), **options)
