"""Every method on every real model: at the features of the head, inside, and against plain runs and known formulas."""

from __future__ import annotations

from functools import cache
from typing import Any

import data
import numpy as np
import onnx
import pytest
import torch
from camcore_onnx import OnnxBackend, expose_features
from data import Real
from numpy.typing import NDArray
from onnx_graphs import run_plainly
from torch.nn.functional import interpolate

import camcore
from camcore import METHODS, MethodNotPossible
from camcore.engine import Explainer
from camcore.methods import method
from camcore.plan import make_plan

Floats = NDArray[np.floating[Any]]

QUICK: dict[str, dict[str, Any]] = {"sscam": {"samples": 1}, "iscam": {"samples": 2}, "groupcam": {"groups": 8}}
QUICK |= {"recam": {"variant": "self", "normalization": "minmax"}}  # a map without a positive value is masked else
SMALL = ("mobilenet_v1_0.25_128_fp32", "cifar10_resnet20", "mlperftiny_vww_96", "winml_mnist")
RUNS = {"contributions"}  # what no graph gives
HALF, QUANTISED = "fp16", "qdq"


def reals(*quick: str, models: tuple[Real, ...] = data.WITH_CAM) -> list[Any]:
    """Those whose names hold one of ``quick`` are in the small form; all of them where none is named."""
    marks = [[] if not quick or any(word in real.file for word in quick) else [pytest.mark.slow] for real in models]
    return [pytest.param(real, id=real.file, marks=m) for real, m in zip(models, marks, strict=True)]


def cases(*costly: str) -> list[Any]:
    """Every method on every model; on large ones, of those that run the whole model, only ``costly``."""
    return [
        pytest.param(*param.values, name, id=f"{param.id}-{name}", marks=param.marks)
        for param in reals(*SMALL, models=(*data.WITH_CAM, *data.WITHOUT_CAM))
        for name, row in METHODS.items()
        if not param.marks or "model" not in row.needs or name in costly
    ]


pooled = pytest.mark.parametrize("real", reals())


@cache
def backend(real: Real) -> OnnxBackend:
    return OnnxBackend(real.path, device="cpu", threads=1)


@cache
def pixels(real: Real) -> Floats:
    """Two pictures, as the model takes them."""
    explainer = Explainer(backend(real), method="activationmap", preprocess=real.preprocess)
    files = [str(data.folder() / "images" / name) for name in ("chelsea.png", "coffee.png")]
    return explainer.prepare([camcore.pictures.load_picture(file) for file in files])[0]


def explained(real: Real, name: str, classes: Any = "top2", count: int = 2, **options: Any) -> camcore.Explanation:
    layer, target = options.pop("layer", None), options.pop("target", None)
    given = QUICK.get(name, {}) | options
    return Explainer(backend(real), method=name, layer=layer, target=target, options=given)(
        pixels(real)[:count], classes
    )


@cache
def evidence(real: Real) -> tuple[Floats, Floats, Floats, Floats]:
    """Features, scores, weights and biases, all in float64."""
    seen = backend(real).observe(pixels(real), needs=frozenset({"features", "head"}))[0]
    assert seen.features is not None
    head = backend(real).tap().need_head()
    return (seen.features.astype(float), seen.scores.astype(float), head.weight.astype(float), head.bias.astype(float))


def inner(real: Real) -> str:
    """The last end of a block with larger maps than the features."""
    return backend(real).layers()[-2].name


def possible(name: str, at_head: bool) -> bool:
    needs = METHODS[name].needs
    return at_head or not needs & (RUNS | {"head"})


class TestEveryMethod:
    @pytest.mark.parametrize(("real", "name"), cases("scorecam", "groupcam"))
    def test_at_the_features_of_the_head(self, real: Real, name: str) -> None:
        if possible(name, real in data.WITH_CAM):
            shown(real, name, None, explained(real, name, count=1 if "model" in METHODS[name].needs else 2))
        else:
            refused(real, name, None)

    @pytest.mark.parametrize(("real", "name"), cases("groupcam"))
    def test_inside(self, real: Real, name: str) -> None:
        layer = inner(real)
        if possible(name, False):
            shown(real, name, layer, explained(real, name, count=1, layer=layer))
        else:
            refused(real, name, layer)


def shown(real: Real, name: str, layer: str | None, out: camcore.Explanation) -> None:
    """Maps of the size of the features, of use, and for classes of their own where the method knows any."""
    shape = backend(real).tap(layer).shape
    assert out.maps.shape == (len(out.scores), 2, *shape[1:])
    assert np.isfinite(out.maps).all()
    for maps in out.maps:
        assert np.ptp(maps, axis=tuple(range(1, maps.ndim))).min() > 0
        alike = np.array_equal(*maps)
        assert alike == (not METHODS[name].needs - {"features"}), "maps of two classes"
    heat = out.heatmaps()
    assert heat.shape[2:] == pixels(real).shape[2:]
    assert (heat.min(), heat.max()) == (0, 1)
    plain = run_plainly(onnx.load(real.path), pixels(real)[:1])[0].reshape(1, -1)
    ours = camcore.softmax(out.scores) if "Softmax" in backend(real).tap().how else out.scores
    np.testing.assert_allclose(ours[:1], plain, rtol=real.tolerance, atol=real.tolerance * np.abs(plain).max())


def refused(real: Real, name: str, layer: str | None) -> None:
    """The error names the method, the layer, what is missing and why, and what works instead."""
    with pytest.raises(MethodNotPossible) as caught:
        explained(real, name, layer=layer)
    text, needs = str(caught.value), METHODS[name].needs
    assert text.startswith(f"{name} is not possible at {backend(real).tap(layer).layer!r}: ")
    if "head" in needs:
        why = f"the head does not read {layer!r}" if real in data.WITH_CAM else "is flattened, so that every position"
        assert why in text
    else:
        assert "it needs DeepLIFT passes through the network behind the layer" in text
        assert "which onnx models do not give. Nor is there a closed form: " in text
    works = text.partition("Methods that work here: ")[2].rstrip(".").split(", ")
    assert works == [n for n in METHODS if possible(n, False)]


def relative(found: Floats, expected: Floats) -> float:
    """Of the worst map: the largest difference over the largest value."""
    axes = tuple(range(2, expected.ndim))
    return float((np.abs(found - expected).max(axes) / np.abs(expected).max(axes)).max())


def scaled(maps: Floats) -> Floats:
    """Each map from 0 to 1, so that a positive factor and a constant do not count."""
    axes = tuple(range(2, maps.ndim))
    low, high = maps.min(axes, keepdims=True), maps.max(axes, keepdims=True)
    return (maps - low) / (high - low)


def closeness(real: Real) -> float:
    """Of maps by a closed form. Half precision: the runtime sums features that it has not rounded yet."""
    return 5e-3 if HALF in real.file else 1e-4


def weighted(features: Floats, weights: Floats) -> Floats:
    """(N, C, *S) and (N, T, C) to (N, T, *S)."""
    return np.einsum("nchw,ntc->nthw", features, weights)


# What each group of methods that are the same on a pooled linear head weighs the channels with.
GROUPS = {
    "E1": lambda w, pooled: w,
    "E2": lambda w, pooled: np.maximum(w, 0),
    "E3": lambda w, pooled: np.maximum(w, 0) / (2 + np.maximum(w, 0) * pooled),
    "E4": lambda w, pooled: w * pooled,
}


@pooled
class TestIdentities:
    """What holds on a linear head behind a global average pooling, for features that are not negative."""

    @pytest.mark.parametrize("name", [n for n, row in METHODS.items() if row.kin])
    def test_groups_that_share_one_map(self, real: Real, name: str) -> None:
        features, _, weight, _ = evidence(real)
        if features.min() < 0 and name == "gradcam-elementwise":
            pytest.skip("the features are negative somewhere, so that this method stands for itself")
        out = explained(real, name, target="logit" if METHODS[name].has_target else None)
        weights = GROUPS[METHODS[name].kin](weight[out.classes], features.mean((2, 3))[:, None])
        assert relative(scaled(out.maps), scaled(weighted(features, weights))) <= closeness(real)

    def test_the_official_variant_of_gradcampp_is_of_another_group(self, real: Real) -> None:
        features, _, weight, _ = evidence(real)
        assert method("gradcam++", variant="official").kin == "E2"
        out = explained(real, "gradcam++", variant="official")
        expected = weighted(features, np.maximum(weight[out.classes], 0))
        assert relative(scaled(out.maps), scaled(expected)) <= closeness(real)

    def test_the_plan_names_the_others_of_its_group(self, real: Real) -> None:
        plan = Explainer(backend(real), method="layercam").plan
        assert plan.alike == tuple(n for n, row in METHODS.items() if row.kin == "E2" and n != "layercam")

    def test_pixels_add_up_to_the_score(self, real: Real) -> None:
        """HiResCAM: the sum of the map and the bias is the score. Recipro-CAM: the score of each position alone."""
        features, scores, weight, bias = evidence(real)
        slack = np.broadcast_to(backend(real).tap().slack, bias.shape)
        for n, out in ((n, explained(real, n)) for n in ("hirescam", "reciprocam")):
            chosen = np.take_along_axis(scores, out.classes, axis=1)
            maps = out.maps if n == "hirescam" else out.maps - bias[out.classes][..., None, None]
            allowed = real.tolerance * np.abs(scores).max(axis=1, keepdims=True) + slack[out.classes]
            assert (np.abs(maps.sum((2, 3)) + bias[out.classes] - chosen) <= allowed).all()
            expected = weighted(features, weight[out.classes]) / features[0, 0].size
            assert relative(maps, expected) <= closeness(real) * np.abs(bias).max(initial=1)

    @pytest.mark.parametrize("target", ["probability", "log-probability"])
    def test_probabilities_take_the_others_away(self, real: Real, target: str) -> None:
        """E5: ``M_c - sum_j p_j M_j``."""
        features, scores, weight, _ = evidence(real)
        classes = np.argsort(-scores, axis=1)[:, :2]
        out = explained(real, "gradcam", classes, target=target)
        assert backend(real).tap().scores_are == "logit"
        others = camcore.softmax(scores) @ weight
        expected = weighted(features, weight[classes] - others[:, None])
        if target == "log-probability":
            expected /= features[0, 0].size
        assert relative(scaled(out.maps), scaled(expected)) <= 10 * closeness(real)  # differences of like weights


def closed_and_run(real: Real, name: str, **options: Any) -> tuple[Floats, Floats, Floats]:
    """Maps by the head, and by tail runs since the head is not to be relied on; and the classes."""
    explainer = Explainer(backend(real), method=name, options=options)
    assert explainer.plan.way == "closed form"
    closed = explainer(pixels(real)[:1], "top2")
    explainer._plan = make_plan(name, backend(real), options=options, distrust="asked for by a test.")
    assert explainer.plan.way == "tail runs"
    return closed.maps, explainer(pixels(real)[:1], "top2").maps, closed.classes


@pytest.mark.parametrize("real", reals("mobilenet_v1", "resnet20", "vww", HALF))
class TestTailRuns:
    @pytest.mark.parametrize("kernel", ["pixel", "gaussian"])
    def test_reciprocam(self, real: Real, kernel: str) -> None:
        closed, run, classes = closed_and_run(real, "reciprocam", kernel=kernel)
        slack = np.broadcast_to(backend(real).tap().slack, evidence(real)[3].shape)[classes][..., None, None]
        limit = 1e-2 if HALF in real.file else 1e-4
        assert (np.abs(run - closed) <= limit * np.abs(closed).max() + slack).all()

    def test_ablationcam(self, real: Real) -> None:
        """Drops are small differences of scores: what rounds these moves them all."""
        closed, run, _ = closed_and_run(real, "ablationcam")
        if real.file.endswith(("qdq.onnx", "fp16.onnx")):
            assert np.corrcoef(closed[0, 0].ravel(), run[0, 0].ravel())[0, 1] > 0.9
        else:
            assert relative(run, closed) <= 1e-3


RESNET = next(real for real in data.WITH_CAM if "resnet20" in real.file)


class TestPlainLoops:
    """One run of a plain session for each input that a method shows."""

    @pytest.mark.parametrize("real", [r for r in data.WITH_CAM if r.file.startswith(SMALL)], ids=lambda r: r.file)
    @pytest.mark.parametrize("target", ["logit", "probability"])
    def test_scorecam(self, real: Real, target: str) -> None:
        image, name = pixels(real)[:1], backend(real).tap().layer
        model = expose_features(onnx.load(real.path), name)
        features = run_plainly(model, image, [name])[0][0].astype(np.float32)
        classes = explained(real, "cam", count=1).classes[0]
        session = onnx.load(real.path)
        answers = []
        for channel in torch.from_numpy(features):
            mask = interpolate(channel[None, None], image.shape[2:], mode="bilinear", align_corners=False)
            extent = mask.max() - mask.min()
            mask = (mask - mask.min()) / extent if extent > 0 else torch.zeros_like(mask)
            scores = run(session, image * mask.numpy()).reshape(-1).astype(float)
            answers.append((camcore.softmax(scores[None])[0] if target == "probability" else scores)[classes])
        weights = camcore.softmax(np.array(answers).T)
        expected = weighted(features[None].astype(float), weights[None])
        out = explained(real, "scorecam", count=1, target=target)
        assert relative(out.maps, expected) <= 1e-4
        if target == "logit":  # one step is the whole mask
            np.testing.assert_allclose(explained(real, "iscam", count=1, samples=1).maps, out.maps, rtol=1e-5)

    @pytest.mark.parametrize("name", ["ablationcam", "reciprocam"])
    def test_the_tail_behind_an_inner_layer(self, name: str) -> None:
        layer, image = inner(RESNET), pixels(RESNET)[:1]
        model = onnx.shape_inference.infer_shapes(onnx.load(RESNET.path))
        features = run_plainly(expose_features(onnx.load(RESNET.path), layer), image, [layer])[0][0]
        tail = onnx.utils.Extractor(model).extract_model([layer], [model.graph.output[0].name])
        out = explained(RESNET, name, count=1, layer=layer)
        answers = [run(tail, shown[None]).reshape(-1)[out.classes[0]] for shown in inputs(name, features)]
        if name == "ablationcam":
            expected = weighted(features[None], (out.scores[0, out.classes[0]] - np.array(answers)).T[None])
            assert relative(out.maps, expected) <= 1e-3
        else:
            expected = np.array(answers).T.reshape(out.maps.shape)
            assert relative(out.maps, expected) <= 1e-4


def inputs(name: str, features: Floats) -> list[Floats]:
    """Without each channel, or each position alone."""
    channels, *space = features.shape
    if name == "ablationcam":
        return [np.where((np.arange(channels) == k)[:, None, None], 0, features) for k in range(channels)]
    return [np.where(np.arange(np.prod(space)).reshape(space) == u, features, 0) for u in range(int(np.prod(space)))]


_SESSIONS: dict[int, Any] = {}


def run(model: Any, array: Floats) -> Floats:
    """The first output, of a plain session that is made once a model."""
    from camcore_onnx.running.runtime import make_session

    if id(model) not in _SESSIONS:
        _SESSIONS[id(model)] = model, make_session(model.SerializeToString(), device="cpu", threads=1)
    session = _SESSIONS[id(model)][1]
    found: Floats = session.run(None, {session.get_inputs()[0].name: array.astype(np.float32)})[0]
    return found
