from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients import double
from camcore_onnx.gradients.check import against_differences, against_reference
from camcore_onnx.gradients.differences import Probe
from camcore_onnx.gradients.double import DoubleTail
from camcore_onnx.gradients.table import RULES, rule_of
from onnx_graphs import Graph, images

from camcore.errors import InputError, MethodNotPossible

X = images(3, 3, 12, 12, seed=5)


def network(
    end: Callable[[Graph, str], str], *, opset: int = 20, batch: int | str = "N", dtype: str = "float32"
) -> OnnxBackend:
    """image -> Conv -> Sigmoid (``layer``) -> Conv -> what is tried -> mean -> Gemm (``scores``)."""
    g = Graph(opset, dtype=dtype)
    layer = g.add("Sigmoid", g.conv(g.image([batch, 3, 12, 12]), 3, 4), to="layer")
    flat = g.add("Flatten", g.add("GlobalAveragePool", end(g, g.conv(layer, 4, 6))))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 6)), to="scores", transB=1), [batch, 5])
    return OnnxBackend(g.model(), device="cpu")


def through(op: str, **attributes: Any) -> Callable[[Graph, str], str]:
    return lambda g, x: g.add(op, x, **attributes)


def residual(g: Graph, x: str) -> str:
    """What skips the layer crosses into the tail."""
    aside = g.conv("image", 3, 6)
    return g.add("Mul", x, g.add("Tanh", aside))


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize(
    "end",
    [through("Sigmoid"), through("Relu"), through("Erf"), through("MaxPool", kernel_shape=[2, 2]), residual],
    ids=["smooth", "kinks", "erf", "maxima", "crossing"],
)
def test_right_gradients(end: Any, opset: int) -> None:
    found = against_differences(network(end, opset=opset), "layer", X)
    assert found.passed
    assert found.difference < 2e-5
    assert found.layer == "layer"
    assert found.how == "central differences in float64: 3 images, 5 directions"


def test_gelu_in_double_precision() -> None:
    for kind in ("none", "tanh"):
        assert against_differences(network(through("Gelu", approximate=kind)), "layer", X).difference < 2e-5


def test_a_fixed_batch() -> None:
    assert against_differences(network(residual, batch=2), "layer", X).difference < 2e-5


def test_half_precision_has_a_wider_limit() -> None:
    found = against_differences(network(through("Sigmoid"), dtype="float16"), "layer", X.astype(np.float16))
    assert found.passed
    assert found.limit >= 0.05


@pytest.mark.parametrize("factor", [1.01, 1.2, -1.0])
def test_the_estimate_is_the_size_of_the_error(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = rule_of("", "Tanh")
    assert entry is not None
    wrong = replace(entry, pull=lambda at, g, i: entry.pull(at, g, i) * factor)
    monkeypatch.setitem(RULES, ("", "Tanh"), wrong)
    found = against_differences(network(through("Tanh")), "layer", X, directions=30)
    assert not found.passed
    assert found.difference == pytest.approx(abs(factor - 1), rel=0.35)
    assert against_differences(network(through("Tanh")), "layer", X, rtol=3.0).passed


def test_a_wrong_rule_is_found_behind_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = rule_of("", "Relu")
    assert entry is not None
    monkeypatch.setitem(RULES, ("", "Relu"), replace(entry, pull=lambda at, g, i: g))
    found = against_differences(network(through("Relu")), "layer", X)
    assert not found.passed
    assert found.difference > 0.1


def test_features_that_tie_in_a_maximum_are_kept_still() -> None:
    """Behind a ReLU windows are full of zeros, where the maximum has no derivative."""
    g = Graph(17)
    layer = g.add("Relu", g.conv(g.image(["N", 3, 12, 12]), 3, 4), to="layer")
    flat = g.add("Flatten", g.add("GlobalAveragePool", g.add("MaxPool", layer, kernel_shape=[3, 3])))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 4)), to="scores", transB=1), ["N", 5])
    found = against_differences(OnnxBackend(g.model(), device="cpu"), "layer", X)
    assert found.passed
    assert found.how.endswith("; but for features of equal value, which may tie in a maximum")


def test_nothing_is_proved_where_all_that_matter_tie() -> None:
    g = Graph(17)
    layer = g.add("Floor", g.conv(g.image(["N", 3, 12, 12]), 3, 4), to="layer")
    flat = g.add("Flatten", g.add("GlobalMaxPool", layer))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 4)), to="scores", transB=1), ["N", 5])
    with pytest.raises(MethodNotPossible, match="features at 'layer' that matter share their values with others"):
        against_differences(OnnxBackend(g.model(), device="cpu"), "layer", X)


def test_an_approximation_is_no_derivative() -> None:
    with pytest.raises(
        MethodNotPossible, match=r"gradient at 'layer' is an approximation by design \(QuantizeLinear: a"
    ):
        against_differences(network(Graph.quantized), "layer", X)


def test_no_gradient() -> None:
    def det(g: Graph, x: str) -> str:
        return g.add("Add", x, g.add("Unsqueeze", g.add("Det", x, name="volume"), g.ints(2, 3)))

    with pytest.raises(MethodNotPossible, match=r"no gradient at 'layer': no derivative is known of Det \('volume'\)"):
        against_differences(network(det), "layer", X)


def test_an_evaluator_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    call = DoubleTail.__call__
    monkeypatch.setattr(DoubleTail, "__call__", lambda self, *given: call(self, *given) * 1.1)
    with pytest.raises(
        MethodNotPossible, match=r"gives other scores in onnx.reference than in ONNX Runtime: .*1.0e-01"
    ):
        against_differences(network(through("Relu")), "layer", X)


def test_an_operator_that_the_evaluator_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no operator Relu")

    monkeypatch.setattr(double, "ReferenceEvaluator", refuse)
    with pytest.raises(MethodNotPossible, match=r"onnx.reference cannot run what is behind 'layer': no operator Relu"):
        against_differences(network(through("Relu")), "layer", X)


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    found = against_differences(network(through("Relu")), "layer", X, directions=50, seconds=0.0)
    assert "3 directions" in found.how


def test_absolute_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Probe, "error", lambda *_: 0.01 * 0.6745)
    backend = network(through("Relu"))
    assert not against_differences(backend, "layer", X).passed
    assert against_differences(backend, "layer", X, atol=1.0).passed


class TestReference:
    def reference(self, backend: OnnxBackend, factor: float = 1.0, shift: float = 0.0) -> Any:
        def reference(images: Any, layer: str, classes: Any) -> Any:
            needs = frozenset({"features", "gradients"})
            seen = backend.observe(images, needs=needs, layers=[layer], classes=classes[:, None])[0]
            assert seen.gradients is not None
            return seen.need_features() + shift, seen.gradients[:, 0] * factor

        return reference

    def test_the_same(self) -> None:
        backend = network(through("Relu"))
        found = against_reference(backend, "layer", X, self.reference(backend))
        assert found.passed
        assert (found.difference, found.worst, found.maps) == (0, 0, 0)
        assert found.how == "the other model, 3 images"

    def test_others(self) -> None:
        backend = network(through("Relu"))
        found = against_reference(backend, "layer", X, self.reference(backend, 0.5))
        assert not found.passed
        assert found.difference == pytest.approx(1)
        assert found.maps == pytest.approx(1)

    def test_other_features(self) -> None:
        backend = network(through("Relu"))
        with pytest.raises(InputError, match=r"features at 'layer' differ by .*another tensor, or the weights are not"):
            against_reference(backend, "layer", X, self.reference(backend, shift=0.5))
