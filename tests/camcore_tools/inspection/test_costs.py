from __future__ import annotations

import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_tools.inspection.costs import methods_of, passes
from onnx_graphs import Graph, classifier

from camcore.evidence import Tap
from camcore.head import LinearHead
from camcore.methods import METHODS
from camcore.plan import Route, is_closed

SHAPE = (8, 5, 5)


def factor(name: str, *, pooled: bool, share: float | None = 0.1) -> float | None:
    tap = Tap("layer", LinearHead.identity(8) if pooled else None, shape=SHAPE)
    row = METHODS[name]
    return passes(row, Route(None, tap, "", is_closed(row, tap)), share)


@pytest.mark.parametrize(
    ("name", "pooled", "other"),
    [
        ("cam", 1, None),
        ("activationmap", 1, 1),
        ("gradcam", 1, 1.1),
        ("shapleycam", 1, 1.3),  # a gradient of a gradient
        ("liftcam", 1, 1.2),
        ("smoothgradcam++", 1, 1 + 4 * 1.1),  # four noisy copies, forward and backward
        ("ablationcam", 1, 1 + 9 * 0.1),  # the features as they are, and without each of 8 channels
        ("reciprocam", 1, 1 + 25 * 0.1),  # each of 25 positions alone
        ("scorecam", 9, 9),  # an image for each channel
        ("sscam", 81, 81),
    ],
)
def test_forward_passes(name: str, pooled: float, other: float | None) -> None:
    assert factor(name, pooled=True) == pytest.approx(pooled)
    if other is not None:
        assert factor(name, pooled=False) == pytest.approx(other)


def test_what_is_not_known() -> None:
    """Without the share only what needs it is not known; without the shape, only what runs once a channel."""
    assert factor("gradcam", pooled=False, share=None) is None
    assert factor("scorecam", pooled=False, share=None) == 9
    tap = Tap("layer", None, shape=(8, None, None))
    assert passes(METHODS["scorecam"], Route(None, tap, "", False), 0.1) is None
    assert passes(METHODS["gradcam"], Route(None, tap, "", False), 0.1) == pytest.approx(1.1)


def test_methods_of_a_model() -> None:
    methods = methods_of(OnnxBackend(classifier(size=(8, 8)), device="cpu"), None, 0.01)
    assert set(methods) == set(METHODS)
    assert methods["cam"]["forward passes"] == 1
    assert "gradcam" in methods["cam"]["same map as"]
    refused = methods["recam"]
    assert (refused["possible"], refused["forward passes"], refused["cost"]) == (False, None, None)
    assert "second classifier" in refused["why not"]


def test_every_method_has_a_cost_where_it_is_possible() -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    flat = g.add("Flatten", g.add("GlobalMaxPool", features))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 6)), to="scores", transB=1), ["N", 5])
    model: onnx.ModelProto = g.model()
    methods = methods_of(OnnxBackend(model, device="cpu"), None, 0.5)
    possible = {n: m for n, m in methods.items() if m["possible"]}
    assert all(m["forward passes"] >= 1 for m in possible.values())
    assert methods["gradcam"]["forward passes"] == 1.5
