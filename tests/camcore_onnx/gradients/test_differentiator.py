"""Gradients of a loaded model: sessions that are shared, sizes, targets, layers, refusals."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend
from numpy.typing import NDArray
from onnx_graphs import Graph, finish, images

from camcore import METHODS, MethodNotPossible
from camcore.engine import Explainer
from camcore.targets import finer

Floats = NDArray[np.floating[Any]]
GRADIENT = tuple(n for n, row in METHODS.items() if row.needs & {"gradients", "curvature", "moments"})
LIMIT = 1e-5


def network(size: tuple[int | str, int | str] = ("H", "W"), *, flat: bool = False, opset: int = 17) -> Any:
    g = Graph(opset)
    early = g.add("Relu", g.conv(g.image(["N", 3, *size]), 3, 6), to="early")
    middle = g.add("Tanh", g.conv(early, 6, 6), to="middle")
    late = g.add("Relu", g.conv(middle, 6, 6), to="late")
    if not flat:
        return finish(g, late, 6)
    pooled = g.add("Flatten", g.add("AveragePool", late, kernel_shape=[4, 4], strides=[4, 4]))
    hidden = g.add("Tanh", g.add("MatMul", pooled, g.const(g.normal(24, 7))))
    g.out(g.add("Gemm", hidden, g.const(g.normal(7, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def wide_windows(size: tuple[int | str, int | str] = ("H", "W")) -> Any:
    g = Graph()
    early = g.add("Relu", g.conv(g.image(["N", 3, *size]), 3, 6), to="early")
    pooled = g.add("AveragePool", early, kernel_shape=[32, 32], strides=[64, 64])
    return finish(g, g.add("Tanh", g.conv(pooled, 6, 6, kernel=1)), 6)


def backend(model: Any) -> OnnxBackend:
    return OnnxBackend(model, device="cpu", threads=1)


def close(found: Floats, expected: Floats, limit: float = LIMIT) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


class TestSessions:
    def test_one_serves_all_sizes_and_batches(self) -> None:
        there = backend(network())
        explainer = Explainer(there, method="layercam", layer="early")
        for n, *size in ((1, 8, 8), (3, 9, 12), (2, 31, 17)):
            pixels = images(n, 3, *size)
            alone = Explainer(backend(network(tuple(size))), method="layercam", layer="early")
            close(explainer(pixels).maps, alone(pixels).maps)
        assert len(there.differentiator._sessions) == 1

    @pytest.mark.parametrize("classes", [1, np.array([[0, 2]])])
    def test_lengths_that_agreed_by_chance_are_learned_anew(self, classes: Any) -> None:
        """One window lies in 32, 69 and 73 pixels; two lie in 96 and more."""
        there = backend(wide_windows())
        explainer = Explainer(there, method="layercam", layer="early")
        for size in ((32, 32), (96, 128), (32, 32), (128, 96)):
            pixels = images(1, 3, *size)
            alone = Explainer(backend(wide_windows(size)), method="layercam", layer="early")
            close(explainer(pixels, classes=classes).maps, alone(pixels, classes=classes).maps)
        assert len(there.differentiator._sessions) == 1

    def test_what_takes_one_size_only_is_learned_from_images_of_that(self) -> None:
        """The graph says that it takes any; what is flattened has as many weights as one size makes numbers."""
        there = backend(network(flat=True))
        explainer = Explainer(there, method="layercam", layer="early")
        for size in ((8, 8), (9, 10)):
            alone = Explainer(backend(network(size, flat=True)), method="layercam", layer="early")
            close(explainer(images(2, 3, *size)).maps, alone(images(2, 3, *size)).maps)

    def test_threads_share_them(self) -> None:
        """All call for the first time at once."""
        pixels, names = images(2, 3, 9, 8), GRADIENT[:8]
        jobs = [(name, layer, t) for name in names for layer in ("early", "late") for t in (1, 2)]
        there, start = backend(network()), Barrier(len(jobs))

        def work(job: tuple[str, str, int]) -> Floats:
            name, layer, count = job
            explainer = Explainer(there, method=name, layer=layer, target="probability")
            start.wait()
            return explainer(pixels, f"top{count}").maps

        with ThreadPoolExecutor(len(jobs)) as pool:
            found = list(pool.map(work, jobs))
        for (name, layer, count), maps in zip(jobs, found, strict=True):
            alone = Explainer(backend(network()), method=name, layer=layer, target="probability")
            close(maps, alone(pixels, f"top{count}").maps)

    def test_threads_share_one_explainer(self) -> None:
        explainer, start = Explainer(backend(network()), method="gradcam", layer="early"), Barrier(8)
        pixels = [images(2, 3, 8, 8, seed=i) for i in range(8)]

        def work(i: int) -> Floats:
            start.wait()
            return explainer(pixels[i], "top2").maps

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(work, range(8)))
        for batch, maps in zip(pixels, found, strict=True):
            np.testing.assert_array_equal(maps, explainer(batch, "top2").maps)


class TestTargets:
    @pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "eigengradcam"])
    @pytest.mark.parametrize(
        ("name", "function"),
        [
            ("logit", lambda s: s[:, 2]),
            ("difference:1", lambda s: s[:, 2] - s[:, 1]),
            ("log-probability", lambda s: s[:, 2] - np.log(np.exp(s).sum(axis=1))),
        ],
    )
    def test_a_function_is_as_good_as_a_name(self, name: str, function: Any, method: str) -> None:
        pixels = images(2, 3, 9, 8)
        by_name, by_hand = (
            Explainer(backend(network()), method=method, layer="early", target=aim)(pixels, [2, 2]).maps
            for aim in (name, function)
        )
        close(by_hand, by_name, 1e-4)

    def test_one_that_compares_with_other_classes_than_usual(self) -> None:
        pixels = images(2, 3, 9, 8)
        found = Explainer(backend(network()), method="gradcam", layer="early", target=finer(1.0, 1))(pixels, [1, 3])
        order = np.argsort(np.abs(found.scores - found.scores[[0, 1], [1, 3]][:, None]), axis=1)
        maps = [
            Explainer(backend(network()), method="gradcam", layer="early", target=f"difference:{order[i, 1]}")(
                pixels[i : i + 1], [c]
            ).maps
            for i, c in enumerate((1, 3))
        ]
        close(found.maps, np.concatenate(maps))

    def test_a_function_has_no_second_derivative(self) -> None:
        explainer = Explainer(backend(network()), method="shapleycam", layer="early", target=lambda s: s[:, 0] ** 2)
        with pytest.raises(
            MethodNotPossible, match="of which the graph has no second derivative: take a target by name"
        ):
            explainer(images(1, 3, 8, 8))

    @pytest.mark.parametrize("target", ["logit", "difference", "finer", "rest"])
    def test_copies_compare_with_what_the_image_itself_compares_with(self, target: str) -> None:
        pixels = images(2, 3, 9, 8)
        smooth = Explainer(backend(network()), method="layercam", layer="early", target=target, smoothing="flip")
        found = smooth(pixels, "top2")
        held = Explainer(backend(network()), method="layercam", layer="early", target=target)
        plain = held(pixels, "top2")
        goal = smooth.plan.target.aim(plain.scores, plain.classes).held()
        turned = Explainer(backend(network()), method="layercam", layer="early", target=goal)
        other = turned(np.ascontiguousarray(pixels[..., ::-1]), found.classes)
        close(found.maps, (plain.maps + other.maps[..., ::-1]) / 2)


class TestSameAllAlong:
    """Gradients are kept short along axes where they are the same, in maps and in arrays."""

    @pytest.mark.parametrize("axes", [(1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)])
    @pytest.mark.parametrize("free", [False, True])
    def test_along_some_axes(self, axes: tuple[int, ...], free: bool) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, *(("H", "W") if free else (6, 5))]), 3, 4), to="early")
        bent = g.add("Tanh", g.add("ReduceMean", early, axes=axes, keepdims=1))
        rows = g.add("ReduceMean", bent, axes=[2, 3], keepdims=0)
        width = 1 if 1 in axes else 4
        g.out(g.add("Gemm", rows, g.const(g.normal(width, 5)), to="scores"), ["N", 5])
        model, pixels = g.model(), images(2, 3, 6, 5)
        there = backend(model)
        seen = there.observe(
            pixels, needs=frozenset({"features", "gradients"}), layers=["early"], classes=np.array([[1], [2]])
        )[0]
        for name in ("gradcam", "gradcam++", "layercam", "xgradcam"):
            row = METHODS[name]
            expected = row.formula(
                features=seen.features, gradients=seen.gradients, classes=seen.classes, **row.options
            )
            close(Explainer(there, method=name, layer="early")(pixels, classes=np.array([[1], [2]])).maps, expected)

    def test_of_what_a_matrix_makes_of_a_whole_map(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 4, 4]), 3, 4), to="early")
        read = g.add("Gemm", g.add("Flatten", early), g.const(g.normal(64, 7)))
        mean = g.add("ReduceMean", read, axes=[1], keepdims=1)
        g.out(g.add("Gemm", mean, g.const(g.normal(1, 5)), to="scores"), ["N", 5])
        there, pixels = backend(g.model()), images(2, 3, 4, 4)
        seen = there.observe(
            pixels, needs=frozenset({"features", "gradients"}), layers=["early"], classes=np.array([[1], [2]])
        )[0]
        assert seen.gradients is not None
        expected = np.einsum("ntc,nchw->nthw", seen.gradients.mean((3, 4)), seen.need_features())
        close(Explainer(there, method="gradcam", layer="early")(pixels, classes=np.array([[1], [2]])).maps, expected)


def test_a_method_of_the_same_name_with_another_formula() -> None:
    there, pixels = backend(network()), images(2, 3, 8, 8)
    other = replace(METHODS["gradcam"], formula=METHODS["hirescam"].formula)
    found = [Explainer(there, method=row, layer="early")(pixels).maps for row in ("gradcam", other, "hirescam")]
    close(found[1], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_tensors_called_as_the_nodes_of_a_second_tail() -> None:
    g = Graph(named=False)
    first = g.add("Relu", g.conv(g.image(["N", 3, 6, 6]), 3, 4), to="Gather")
    rows = g.add("Flatten", g.add("GlobalAveragePool", g.add("Tanh", first, to="Shape"), to="first"), to="zero")
    g.out(g.add("Gemm", rows, g.const(g.normal(4, 5)), to="scores"), ["N", 5])
    explainer, pixels = Explainer(backend(g.model()), method="gradcam", layer="Gather"), images(2, 3, 6, 6)
    both = explainer(pixels, classes=np.array([[1, 4], [1, 4]])).maps
    close(both[:, :1], explainer(pixels, classes=np.array([[1], [1]])).maps)


class TestLayers:
    def test_one_backward_pass_gives_the_gradients_of_all(self) -> None:
        there, names = backend(network()), ("early", "middle", "late")
        needs, pixels = frozenset({"features", "gradients"}), images(2, 3, 9, 8)
        for order in (names, names[::-1], ("middle", "late", "early")):
            seen = there.observe(pixels, needs=needs, layers=order, classes=[[1, 2], [3, 0]])
            for name, evidence in zip(order, seen, strict=True):
                alone = there.observe(pixels, needs=needs, layers=[name], classes=[[1, 2], [3, 0]])[0]
                assert evidence.features is not None
                assert evidence.gradients is not None
                assert alone.features is not None
                assert alone.gradients is not None
                close(evidence.features, alone.features)
                close(evidence.gradients, alone.gradients)

    @pytest.mark.parametrize("method", ["gradcam", "eigengradcam", "shapleycam"])
    def test_the_same_layer_twice(self, method: str) -> None:
        pixels = images(2, 3, 9, 8)
        for classes in ("top1", "top2"):
            twice = Explainer(backend(network()), method=method, layer=["early", "late", "early"])(pixels, classes)
            once = Explainer(backend(network()), method=method, layer=["early", "late"])(pixels, classes)
            close(twice.maps, once.maps)

    @pytest.mark.parametrize("method", ["ablationcam", "reciprocam", "eigencam", "activationmap"])
    def test_methods_without_gradients_do_without(self, method: str) -> None:
        there = backend(network())
        Explainer(there, method=method, layer="early")(images(1, 3, 8, 8), "top2")
        assert not there.differentiator._sessions

    @pytest.mark.parametrize("target", ["logit", "difference"])
    def test_what_does_not_bend_has_no_curvature(self, target: str) -> None:
        """A ReLU network is linear around each image: ShapleyCAM of its logits is Grad-CAM."""
        g, pixels = Graph(), images(2, 3, 9, 8)
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="early")
        model = finish(g, g.add("Relu", g.conv(early, 6, 6)), 6)
        found, expected = (
            Explainer(backend(model), method=method, layer="early", target=target)(pixels, "top2").maps
            for method in ("shapleycam", "gradcam")
        )
        close(found, expected)


class TestRefusals:
    def test_an_operator_without_a_derivative(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 6, 6]), 3, 6), to="early")
        g.out(g.add("Gemm", g.add("Det", early, name="volume"), g.const(g.normal(6, 5)), to="scores"), ["N", 5])
        text = "gradcam is not possible at 'early': no derivative is known of Det ('volume')"
        with pytest.raises(MethodNotPossible, match=re.escape(text)) as caught:
            Explainer(backend(g.model()), method="gradcam", layer="early")(images(1, 3, 6, 6))
        works = str(caught.value).partition("Methods that work here: ")[2]
        assert "ablationcam" in works
        assert "layercam" not in works

    def test_a_layer_that_the_scores_do_not_read(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 6, 6]), 3, 6), to="early")
        g.out(g.add("Tanh", early, to="aside"), ["N", 6, 6, 6])
        model = finish(g, early, 6)
        del model.graph.output[0]
        text = "the scores 'scores' do not depend on the layer 'aside'; choose another"
        with pytest.raises(MethodNotPossible, match=re.escape(text)):
            Explainer(backend(model), method="gradcam", layer="aside")(images(1, 3, 6, 6))
