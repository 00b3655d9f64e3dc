from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.counting.compute import Compute, count_macs, look_up_lengths, state_lengths
from camcore_onnx.reading.load import infer_shapes, load
from data import WITH_CAM, Real
from onnx_graphs import Graph, classifier, finish


def counted(model: Any, **options: Any) -> Compute:
    loaded = load(model)
    infer_shapes(loaded.model)
    return count_macs(loaded, **options)


def small(height: int, width: int) -> int:
    """The classifier of the tests: a 3x3 convolution of 3 to 6 channels, padded, and a head of 6 to 5."""
    return height * width * 6 * 27 + 30


@pytest.mark.parametrize("size", [(), (20,), (20, 30)])
def test_free_sizes(size: tuple[int, ...]) -> None:
    compute = counted(classifier(), size=size)
    height, width = ([*size, *size[-1:]] or [224, 224])[:2]
    assert compute.shapes == {"image": (1, 3, height, width)}
    assert compute.total == small(height, width)
    assert compute.missing == ()


def test_a_fixed_batch_is_shared_out() -> None:
    compute = counted(classifier(batch=4, size=(8, 8)))
    assert (compute.shapes["image"], compute.batch, compute.total) == ((4, 3, 8, 8), 4, small(8, 8))


def test_a_size_does_not_change_what_is_fixed() -> None:
    assert counted(classifier(size=(8, 8)), size=(99,)).total == small(8, 8)


@pytest.mark.parametrize("form", ["initializer", "input", "constant", "transposed", "reshaped", "dequantized"])
def test_weights_however_they_are_hidden(form: str) -> None:
    """What is computed of weights alone is not counted."""
    assert counted(classifier(size=(8, 8), form=form)).total == small(8, 8)


def test_products_of_weights_alone_cost_nothing() -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    scale = g.add("MatMul", g.const(g.normal(6, 50)), g.const(g.normal(50, 1)))
    scaled = g.add("Mul", features, g.add("Reshape", scale, g.ints(1, 6, 1, 1)))
    assert counted(finish(g, scaled, 6)).total == small(8, 8)


def test_behind_a_layer() -> None:
    g = Graph(17)
    first = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="first")
    left = g.add("Relu", g.conv(first, 4, 6), to="left")
    right = g.add("Relu", g.conv(first, 4, 6, kernel=1), to="right")
    g.out(g.add("Relu", g.conv(right, 6, 100), to="beside"), ["N", 100, 8, 8])
    model = finish(g, g.add("Add", left, right, to="both"), 6)
    loaded = load(model)
    infer_shapes(loaded.model)
    compute = count_macs(loaded)
    graph = loaded.model.graph
    values = {v.name: v for node in graph for v in node.outputs}
    after, before = 64 * 6 * 36, 64 * 6 * 4
    assert compute.total == 64 * (4 * 27 + 100 * 54) + after + before + 30
    behind = {
        name: compute.behind(graph, values[name], values["scores"]) for name in ("first", "left", "both", "scores")
    }
    assert behind == {"first": after + before + 30, "left": 30, "both": 30, "scores": 0}
    assert compute.behind(graph, values["first"], values["beside"]) == before + 64 * 100 * 54


def test_shapes_from_a_run_where_onnx_cannot_tell_them() -> None:
    """Lengths that are counted, (48, 4) here: how many axes a shape has that are not zero."""
    g = Graph(17)
    image = g.image(["N", 3, 8, 8])
    axes = g.add("Unsqueeze", g.add("Size", g.add("NonZero", g.add("Shape", image))), g.ints(0))
    flat = g.add("Reshape", image, g.add("Concat", g.ints(-1), axes, axis=0))
    g.out(g.add("MatMul", flat, g.const(g.normal(4, 5)), to="scores"))
    data = g.model()
    assert counted(data).total == 48 * 4 * 5
    unseen = counted(data, run=False)
    assert unseen.total is None
    assert unseen.problem == "the shapes around MatMul are not stated"


def test_a_size_that_the_model_does_not_take() -> None:
    """It says that it takes any; its shapes say otherwise."""
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="features")
    flat = g.add("Flatten", features)
    g.out(g.add("Gemm", flat, g.const(g.normal(6 * 64, 5)), to="scores"), ["N", 5])
    model = g.model()
    assert counted(model, size=(8,)).total == 64 * 6 * 27 + 6 * 64 * 5
    compute = counted(model)
    assert compute.total is None
    assert compute.problem.startswith("it cannot be tried with image (1, 3, 224, 224): ")


def test_noise_is_not_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 2^33 numbers is not made, however the model came by its size."""
    model = classifier(size=(1 << 16, 1 << 16))
    loaded = load(model)
    values = [v for node in loaded.model.graph for v in node.outputs]
    compute = Compute({"image": (1, 3, 1 << 16, 1 << 16)}, None)
    monkeypatch.setattr(np.random, "default_rng", None)
    assert look_up_lengths(loaded, compute, values) == {}


def test_weights_in_files_of_their_own_are_not_read(tmp_path: Path) -> None:
    """The file with the weights is cut to nothing but its length; reading it would show."""
    model = classifier(size=(8, 8))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    loaded = load(tmp_path / "m.onnx")
    infer_shapes(loaded.model)
    (tmp_path / "w.bin").unlink()
    assert count_macs(loaded).total == small(8, 8)


def test_loops_are_named() -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    body = onnx.parser.parse_graph("body (int64 i, bool go, float[n] a) => (bool go, float[n] b) { b = MatMul(a, a) }")
    g.out(g.add("Loop", g.ints(2), "", features, to="looped", body=body))
    compute = counted(finish(g, features, 6))
    assert (compute.missing, compute.total) == (("Loop",), small(8, 8))


def test_inputs_of_unknown_length() -> None:
    g = Graph(17)
    tokens = g.image(["N", "L"])
    g.out(g.add("MatMul", tokens, g.const(g.normal(4, 5)), to="scores"))
    compute = counted(g.model())
    assert (compute.total, compute.problem) == (None, "the length of the input 'image' is free")


def test_lengths_are_written_where_they_are_free() -> None:
    backend = OnnxBackend(classifier(), device="cpu")
    assert backend.tap().shape == (6, None, None)
    backend = OnnxBackend(classifier(), device="cpu")
    compute = count_macs(backend.loaded, size=(10, 12))
    state_lengths(backend.loaded, compute)
    assert backend.tap().shape == (6, 10, 12)
    assert [str(n) for n in backend.graph.inputs[0].shape or ()] == ["N", "3", "H", "W"]
    features = backend.found.features
    assert features is not None
    assert features.shape is not None
    assert str(features.shape[0]) == "N"
    assert backend.scores(np.zeros((2, 3, 5, 7), np.float32)).shape == (2, 5)  # it still takes any size


def test_lengths_from_a_run() -> None:
    loaded = load(classifier())
    compute = count_macs(loaded, size=(10, 12))
    values = [v for node in loaded.model.graph for v in node.outputs]
    found = look_up_lengths(loaded, compute, values)
    assert {v.name: found[v] for v in values if v.name in ("features", "pooled")} == {
        "features": (1, 6, 10, 12),
        "pooled": (1, 6),
    }


KNOWN = {"mobilenet_v2": 0.3008, "resnet18": 1.8141, "squeezenet1_0": 0.8189}
WIDE = {"resnet50": 4.0892, "vgg16": 15.4703, "densenet121": 2.8342, "swin_t": 4.4906, "vit_b_32": 4.4092}


def exported(name: str) -> bytes:
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(torchvision.models, name)(weights=None).eval()
        torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), file, dynamo=False, input_names=["input"])
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "giga"), [*KNOWN.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in WIDE.items())]
)
def test_known_networks(name: str, giga: float) -> None:
    """The figures of torchvision's tables, to more places, in 1e9 multiply-accumulates."""
    assert counted(exported(name)).total == pytest.approx(giga * 1e9, rel=2e-4)


@pytest.mark.parametrize(
    ("file", "millions"), [("mlperftiny_vww_96", 7.49), ("mobilenet_v2", 300.78), ("cifar10_res", 40.55)]
)
def test_real_models(file: str, millions: float) -> None:
    real: Real = next(m for m in WITH_CAM if m.file.startswith(file))
    assert counted(real.path).total == pytest.approx(millions * 1e6, rel=1e-3)


def test_quantised_models_cost_as_many_products() -> None:
    models = [m for m in WITH_CAM if m.file.startswith("mobilenet_v1")]
    plain, quantised = (counted(m.path) for m in models)
    assert plain.total == quantised.total
