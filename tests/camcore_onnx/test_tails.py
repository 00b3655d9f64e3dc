"""The network behind a layer, cut off and run alone, against the whole model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from camcore_onnx import OnnxBackend, tails
from camcore_onnx.axes import is_map
from camcore_onnx.folded import may_be_maps
from camcore_onnx.reading.load import infer_shapes, load, serialize
from camcore_onnx.tails import split
from camcore_torch.exporting import to_onnx
from data import WITH_CAM, WITHOUT_CAM, Real
from onnx import TensorProto, helper
from onnx_graphs import FORMS, Graph, classifier, finish, images, run_plainly
from torch import nn
from torch_networks import network

from camcore.errors import InputError, MethodNotPossible


def residual(batch: Any = "N", **options: Any) -> onnx.ModelProto:
    """image -> Conv, Relu (``skip``) -> Conv (``inner``) -> Add -> Relu (``features``) -> the usual head."""
    g = Graph(**options)
    skip = g.add("Relu", g.conv(g.image([batch, 3, 8, 8]), 3, 6), to="skip")
    inner = g.add("Identity", g.conv(skip, 6, 6), to="inner")
    return finish(g, g.add("Relu", g.add("Add", skip, inner), to="features"), 6, batch=batch)


def joined(second: Any, **options: Any) -> onnx.ModelProto:
    """``features`` times what ``second`` makes of the image and of ``trunk``, and a head."""
    g = Graph(**options)
    image = g.image(["N", 3, 8, 8])
    trunk = g.add("Tanh", g.conv(image, 3, 6), to="trunk")
    features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
    return finish(g, g.add("Mul", features, second(g, image, trunk), to="last"), 6)


def cut(model: Any, layer: str = "features") -> tails.Split:
    loaded = load(model)
    infer_shapes(loaded.model)
    values = {v.name: v for node in loaded.model.graph for v in node.outputs}
    return split(loaded, values[layer], values["scores"])


def names(values: Any) -> set[str | None]:
    return {v.name for v in values}


def assert_reproduces(backend: OnnxBackend, pixels: Any, layer: str | None = None, limit: float = 1e-5) -> None:
    """The scores of every image, from three copies of its features."""
    seen = backend.observe(pixels, needs=frozenset({"features"}), layers=(layer,))[0]
    found = backend.tails(pixels, layer)
    assert len(found) == len(pixels)
    assert seen.features is not None
    assert np.abs(seen.scores).max() > 0
    for tail, features, scores in zip(found, seen.features, seen.scores, strict=True):
        again = tail(np.repeat(features[None], 3, axis=0))
        assert again.shape == (3, len(scores))
        assert again.dtype == np.float32
        assert np.abs(again - scores).max() <= limit * np.abs(scores).max()


class TestSplit:
    def test_only_what_lies_behind_is_kept(self):
        model = cut(classifier()).model
        assert [n.op_type for n in model.graph] == ["GlobalAveragePool", "Flatten", "Gemm"]
        assert [v.name for v in model.graph.inputs] == ["features"]
        assert [v.name for v in model.graph.outputs] == ["scores"]
        assert len(model.graph.initializers) == 2

    def test_the_batch_is_free(self):
        model = cut(residual(batch=4), "inner").model
        onnx.checker.check_model(serialize(model), full_check=True)
        assert [list(v.shape)[1:] for v in model.graph.inputs] == [[6, 8, 8]] * 2
        assert not any(isinstance(v.shape[0], int) for v in model.graph.inputs)

    def test_the_original_is_unchanged(self):
        loaded = load(residual(batch=4))
        infer_shapes(loaded.model)
        before = serialize(loaded.model)
        values = {v.name: v for node in loaded.model.graph for v in node.outputs}
        split(loaded, values["inner"], values["scores"])
        assert serialize(loaded.model) == before

    @pytest.mark.parametrize("form", FORMS)
    def test_weights_stay_inside(self, form):
        found = cut(residual(form=form), "inner")
        assert [v.name for v in found.model.graph.inputs] == ["inner", "skip"]

    def test_a_skip_connection_crosses_as_late_as_it_can(self):
        late = joined(lambda g, image, trunk: g.add("Sigmoid", g.conv(trunk, 6, 6), to="late"))
        assert names(cut(late).crossing) == {"late"}

    def test_tensors_without_a_batch_axis_in_front_do_not_cross(self):
        g = Graph()
        trunk = g.add("Tanh", g.conv(g.image(["N", 3, 8, 8]), 3, 6))
        features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
        turned = [g.add("Transpose", v, perm=[1, 0, 2, 3]) for v in (features, g.add("Exp", trunk, to="batched"))]
        model = finish(g, g.add("Transpose", g.add("Mul", *turned), perm=[1, 0, 2, 3]), 6)
        assert names(cut(model).crossing) == {"batched"}
        assert_reproduces(OnnxBackend(model, device="cpu"), images(2, 3, 8, 8), "features")

    @pytest.mark.parametrize("batch", ["N", None])
    def test_windows_do_not_cross_but_what_is_joined_of_them_does(self, batch):
        """Four windows an image: their leading axis is no batch, though its length is as free."""
        g = Graph()
        trunk = g.add("Tanh", g.conv(g.image([batch, 3, 8, 8]), 3, 6), to="trunk")
        features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
        windows = g.add("Exp", g.add("Reshape", trunk, g.ints(-1, 6, 4, 4)))
        joined = g.add("Reshape", windows, g.ints(-1, 6, 8, 8), to="joined")
        model = finish(g, g.add("Mul", features, joined), 6, batch=batch)
        assert names(cut(model).crossing) == {"joined"}
        assert_reproduces(OnnxBackend(model, device="cpu"), images(2, 3, 8, 8), "features")

    @pytest.mark.parametrize("of", ["trunk", "image"])
    def test_shapes_are_computed_inside(self, of):
        """As exporters write view(n, c, h * w): the sizes are read off a tensor, and joined."""
        g = Graph()
        image = g.image(["N", 3, "H", "W"])
        trunk = g.add("Tanh", g.conv(image, 3, 6), to="trunk")
        features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
        shape = g.add("Shape", {"trunk": trunk, "image": image}[of])
        sizes = [g.add("Gather", shape, g.ints(0)), g.ints(6, -1)]
        flat = g.add("Reshape", features, g.add("Concat", *sizes, axis=0))
        pooled = g.reduce("ReduceMean", flat, [2])
        g.out(g.add("Gemm", pooled, g.const(g.normal(6, 5)), to="scores"), ["N", 5])
        assert names(cut(g.model()).crossing) == {of}
        backend = OnnxBackend(g.model(), device="cpu")
        assert_reproduces(backend, images(2, 3, 8, 9), "features")
        assert backend._tails[backend.value("features")]._batch is None

    def test_masks_are_computed_inside(self):
        def masked(g: Graph, image: str, trunk: str) -> str:
            mask = g.add("Greater", trunk, g.const(0.0), to="mask")
            g.nodes.append(helper.make_node("Cast", [mask], ["numbers"], to=TensorProto.FLOAT))
            return "numbers"

        assert names(cut(joined(masked)).crossing) == {"numbers"}
        g = Graph()
        trunk = g.add("Tanh", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="trunk")
        mask = g.add("Greater", trunk, g.const(0.0))
        features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
        model = finish(g, g.add("Where", mask, features, g.const(0.0)), 6)
        assert names(cut(model).crossing) == {"trunk"}
        assert_reproduces(OnnxBackend(model, device="cpu"), images(2, 3, 8, 8), "features")

    def test_what_graphs_inside_nodes_read(self):
        g = Graph()
        trunk = g.add("Tanh", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="trunk")
        features = g.add("Relu", g.conv(trunk, 6, 6), to="features")
        out = helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)
        branches = [
            helper.make_graph([helper.make_node(op, [features, trunk], ["branch"])], op, [], [out])
            for op in ("Add", "Sub")
        ]
        at = g.add("Greater", g.add("ReduceMax", features, keepdims=0), g.const(0.0))
        model = finish(g, g.add("If", at, then_branch=branches[0], else_branch=branches[1]), 6)
        assert names(cut(model).crossing) == {"trunk"}
        assert_reproduces(OnnxBackend(model, device="cpu"), images(2, 3, 8, 8), "features")

    def test_layers_that_cannot_be_cut(self):
        g = Graph()
        image = g.image(["N", 3, 8, 8])
        features = g.add("Relu", g.conv(image, 3, 6), to="features")
        g.add("Tanh", features, to="aside")
        g.add("Shape", features, to="sizes")
        model = finish(g, features, 6)
        for layer, text in {
            "sizes": "the layer 'sizes' is of type int64; its features cannot be changed: take another",
            "aside": "nothing lies behind the layer 'aside': the scores do not depend on it; take another",
            "scores": "nothing lies behind the layer 'scores': the scores are that layer; take another",
        }.items():
            with pytest.raises(MethodNotPossible, match=text):
                OnnxBackend(model, device="cpu").tails(images(1, 3, 8, 8), layer)

    def test_weights_in_files_of_their_own(self, tmp_path):
        onnx.save(residual(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        assert_reproduces(OnnxBackend(tmp_path / "m.onnx", device="cpu"), images(2, 3, 8, 8), "inner")


class TestBatches:
    @pytest.mark.parametrize("batch", ["N", None, 1, 4])
    @pytest.mark.parametrize("layer", [None, "inner", "skip"])
    def test_the_batch_of_the_model_does_not_bind_its_tail(self, batch, layer):
        backend = OnnxBackend(residual(batch), device="cpu")
        assert_reproduces(backend, images(3, 3, 8, 8), layer)
        (session,) = backend._tails.values()
        assert session._batch is None

    @pytest.mark.parametrize("batch", [1, 4])
    @pytest.mark.parametrize("shape", ["pooled", "space"])
    def test_unless_it_is_written_into_shapes(self, batch, shape):
        g = Graph()
        features = g.add("Relu", g.conv(g.image([batch, 3, 8, 8]), 3, 6), to="features")
        if shape == "pooled":
            pooled = g.add("Reshape", g.add("GlobalAveragePool", features), g.ints(batch, 6))
        else:  # images of a larger batch would flow together
            pooled = g.reduce("ReduceMean", g.add("Reshape", features, g.ints(batch, 6, -1)), [2])
        g.out(g.add("Gemm", pooled, g.const(g.normal(6, 5)), to="scores"), [batch, 5])
        backend = OnnxBackend(g.model(), device="cpu")
        assert_reproduces(backend, images(5, 3, 8, 8))
        (session,) = backend._tails.values()
        assert session._batch == batch

    def test_features_that_would_change_each_other_run_alone(self):
        g = Graph()
        features = g.add("Exp", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
        largest = g.add("ReduceMax", features, axes=[0], keepdims=1)
        model = finish(g, g.add("Mul", features, largest), 6)
        backend = OnnxBackend(model, device="cpu")
        assert_reproduces(backend, images(1, 3, 8, 8), "features")
        (session,) = backend._tails.values()
        assert session._batch == 1

    def test_changed_features_of_one_image_beside_another(self):
        """Each row by itself, with the skip connection of its own image: against the graph with the features fed."""
        model, pixels = residual(), images(2, 3, 8, 8)
        backend = OnnxBackend(model, device="cpu")
        changed = images(7, 6, 8, 8, seed=5)
        fed = cut(residual(), "inner").model
        skips = run_plainly(_showing(residual(), "skip"), pixels, ["skip"])[0]
        for tail, skip in zip(backend.tails(pixels, "inner"), skips, strict=True):
            rows = [_run(fed, {"inner": c[None], "skip": skip[None]}) for c in changed]
            np.testing.assert_allclose(tail(changed), np.concatenate(rows), rtol=1e-5, atol=1e-6)


def _showing(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def _run(model: Any, feed: dict[str, Any]) -> Any:
    from camcore_onnx.running.runtime import make_session

    return make_session(serialize(model), device="cpu").run(None, feed)[0]


class TestNumbers:
    @pytest.mark.parametrize("layer", [None, "inner"])
    def test_half_precision(self, layer):
        assert_reproduces(OnnxBackend(residual(dtype="float16"), device="cpu"), images(2, 3, 8, 8), layer, 2e-3)

    def test_quantised(self):
        g = Graph()
        skip = g.quantized(g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6)), 1 / 32)
        inner = g.add("Relu", g.quantized(g.conv(skip, 6, 6), 1 / 16), to="inner")
        features = g.quantized(g.add("Add", skip, inner), 1 / 16)
        g.out(g.quantized(g.add("Gemm", _pooled(g, features), g.const(g.normal(6, 5)), to="raw")), ["N", 5])
        backend = OnnxBackend(g.model(), device="cpu")
        for layer in (None, "inner"):
            assert_reproduces(backend, images(2, 3, 8, 8), layer, 5e-2)

    def test_channels_last(self):
        g = Graph()
        value = g.add("Relu", g.conv(g.image(["N", 3, 8, 6]), 3, 5))
        value = g.add("Tanh", g.add("Transpose", value, perm=[0, 2, 3, 1]), to="last")
        g.out(g.add("MatMul", g.reduce("ReduceMean", value, [1, 2]), g.const(g.normal(5, 4))), ["N", 4])
        assert_reproduces(OnnxBackend(g.model(), device="cpu"), images(2, 3, 8, 6))

    def test_scores_before_a_softmax(self):
        assert_reproduces(OnnxBackend(classifier(ending="Softmax"), device="cpu"), images(2, 3, 8, 8))


def _pooled(g: Graph, features: str) -> str:
    return g.add("Flatten", g.add("GlobalAveragePool", features))


class TestChecks:
    def test_a_tail_that_gives_other_scores_is_refused(self):
        backend, pixels = OnnxBackend(residual(), device="cpu"), images(2, 3, 8, 8)
        session = tails.TailSession(backend.loaded, backend.input, backend.found, backend.value("inner"), device="cpu")
        scores, seen = backend._watch(session.watched).fetch(pixels, ["inner", "skip"])
        with pytest.raises(MethodNotPossible, match="the tail behind 'inner' does not reproduce the model's scores"):
            session.check(seen["inner"], {"skip": seen["skip"][::-1]}, scores)
        assert not session.checked
        session.check(seen["inner"], {"skip": seen["skip"]}, scores)
        assert session.checked

    def test_zeros_prove_nothing(self):
        backend = OnnxBackend(classifier(), device="cpu")
        value = backend.value(None)
        session = tails.TailSession(backend.loaded, backend.input, backend.found, value, device="cpu")
        nothing = np.zeros((1, 6, 8, 8), np.float32)
        session.check(nothing, {}, session(nothing, {}))
        assert (session.checked, session._batch) == (False, 1)

    def test_layers_without_a_batch_axis(self):
        g = Graph()
        trunk = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6))
        turned = g.add("Exp", g.add("Transpose", trunk, perm=[1, 0, 2, 3]), to="turned")
        model = finish(g, g.add("Transpose", turned, perm=[1, 0, 2, 3]), 6)
        text = r"'turned' has shape \(6, 2, 8, 8\) for 2 images: it has no batch axis in front"
        with pytest.raises(MethodNotPossible, match=text):
            OnnxBackend(model, device="cpu").tails(images(2, 3, 8, 8), "turned")

    def test_features_of_another_shape(self):
        tail = OnnxBackend(classifier(), device="cpu").tails(images(1, 3, 8, 8))[0]
        with pytest.raises(InputError, match=r"ONNX Runtime could not run features of shape \(1, 7, 8, 8\)"):
            tail(images(1, 7, 8, 8))

    def test_the_model_runs_only_where_it_must(self):
        backend, pixels = OnnxBackend(residual(), device="cpu"), images(2, 3, 8, 8)
        asked: list[tuple[str, ...]] = []

        def note(layer: str) -> None:
            backend.tails(pixels, layer)
            runner = backend._watch(backend._tails[backend.value(layer)].watched).runner
            run = runner.call
            runner.call = lambda names, feed: asked.append(tuple(names)) or run(names, feed)  # type: ignore[method-assign,func-returns-value]
            backend.tails(pixels, layer)

        note("skip")
        assert asked == []
        note("inner")
        assert asked == [("scores", "inner", "skip")]


def test_threads_that_race_make_one_session(monkeypatch):
    made = []
    real = tails.TailSession

    def counted(*words: Any, **options: Any) -> Any:
        made.append(options)
        return real(*words, **options)

    monkeypatch.setattr("camcore_onnx.backend.TailSession", counted)
    backend, pixels, changed = OnnxBackend(residual(), device="cpu", threads=1), images(2, 3, 8, 8), images(4, 6, 8, 8)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: backend.tails(pixels, "inner")[1](changed), range(16)))
    for scores in found:
        np.testing.assert_array_equal(scores, found[0])
    assert [{n: o[n] for n in ("device", "threads", "optimization")} for o in made] == [
        {"device": "cpu", "threads": 1, "optimization": "all"}
    ]


def test_changed_features_as_in_pytorch():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).eval()
    backend = OnnxBackend(to_onnx(model, (2, 3, 14, 14)), device="cpu")
    pixels = images(2, 3, 14, 14)
    for index in (1, 3, 4):
        tail = backend.tails(pixels, str(index))[0]
        with torch.no_grad():
            changed = model[: index + 1](torch.from_numpy(images(9, 3, 14, 14, seed=1)))
            changed[:, 2] = 0
            expected = model[index + 1 :](changed).numpy()
        np.testing.assert_allclose(tail(changed.numpy()), expected, rtol=1e-5, atol=1e-5)


def _vgg() -> nn.Module:
    model = torchvision.models.vgg11(weights=None)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(), nn.Linear(16, 5))
    return model.eval()


def _vit() -> nn.Module:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": 5}
    model = torchvision.models.VisionTransformer(image_size=32, patch_size=16, **sizes)
    nn.init.normal_(model.heads.head.weight)
    nn.init.normal_(model.class_token)
    return model.eval()


ARCHITECTURES = {
    "resnet18": (lambda: network("resnet18"), ("layer3", "layer4.0")),
    "mobilenet_v2": (lambda: network("mobilenet_v2"), ("features.10",)),
    "densenet121": (lambda: network("densenet121"), ("features.denseblock3", "features.transition2")),
    "vgg11": (_vgg, ("features.10", "features.20")),
    "vit": (_vit, ("encoder.layers.encoder_layer_0", "conv_proj")),
}


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("resnet18", "torchscript"),
        ("resnet18", "dynamo"),
        ("mobilenet_v2", "torchscript"),
        pytest.param("densenet121", "torchscript", marks=pytest.mark.slow),
        ("vgg11", "dynamo"),
        ("vit", "dynamo"),
    ],
)
def test_architectures(name, exporter):
    make, layers = ARCHITECTURES[name]
    torch.manual_seed(0)
    size = 32 if name in ("vgg11", "vit") else 64
    backend = OnnxBackend(to_onnx(make(), (2, 3, size, size), exporter=exporter), device="cpu", threads=1)
    crossed = list(islice(with_crossing(backend), 2))
    assert bool(crossed) == (name != "vgg11")
    for layer in [*layers, *crossed, *([None] if backend.found.features is not None else [])]:
        assert_reproduces(backend, images(2, 3, size, size), layer, 1e-4)


def maps_of(backend: OnnxBackend) -> list[Any]:
    floats = may_be_maps(backend.graph, backend.input.shape[0], backend.found.features)
    floats = [v for v in floats if not backend.constants.is_constant(v)]
    return [v for v in floats if is_map(backend.axes.shape(v))]


def with_crossing(backend: OnnxBackend) -> Any:
    """Layers around which other tensors reach the scores, from the middle of the network on."""
    maps = maps_of(backend)
    for value in maps[len(maps) // 2 :]:
        try:
            if split(backend.loaded, value, backend.found.logits).crossing:
                yield value.name
        except MethodNotPossible:
            continue


@pytest.mark.parametrize("real", [*WITH_CAM, *WITHOUT_CAM], ids=lambda real: real.file)
def test_real_models(real: Real):
    backend = OnnxBackend(real.path, device="cpu", threads=1)
    shape = [n or 224 for n in backend.input.shape[1:]]
    pixels = images(2, *shape) * 50
    limit = 5e-2 if "qdq" in real.file else 2e-3 if "fp16" in real.file else 1e-4
    for layer in [None, maps_of(backend)[0].name, *islice(with_crossing(backend), 2)]:
        assert_reproduces(backend, pixels, layer, limit)


def test_computed_pads_do_not_hide_the_batch():
    """The shortcuts of this network are padded by amounts that its graph computes."""
    backend = OnnxBackend(WITH_CAM[6].path, device="cpu")
    found = split(backend.loaded, backend.value("/layer3/layer3.2/conv1/Conv_output_0"), backend.found.logits)
    assert names(found.crossing) == {"/layer3/layer3.1/Relu_1_output_0"}
