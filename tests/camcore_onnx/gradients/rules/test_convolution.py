"""Conv and ConvTranspose against autograd and against differences, with every attribute that they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from onnx_vjp import agrees_with_differences, by_nodes, node_model
from torch_vjp import DRAWS, MANY_DRAWS, noise, torch_error

from camcore.errors import MethodNotPossible

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@st.composite
def _convolutions(draw: Any) -> dict[str, Any]:
    axes = draw(st.sampled_from((1, 2, 2, 2, 3)))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))  # noqa: E731
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    kernel, dilations = each(1, 3), each(1, 2)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return {
        "groups": groups,
        "inner": draw(st.integers(1, 3)),
        "outer": draw(st.integers(1, 3)),
        "kernel": kernel,
        "dilations": dilations,
        "strides": each(1, 3) if draw(st.booleans()) else [1] * axes,
        "pads": each(0, 3) + each(0, 3),
        "lengths": [r + n for r, n in zip(reach, each(0, 5), strict=True)],
        "opset": draw(st.sampled_from((9, 10, 11, 13, 18, 20, 22))),
        "free": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }


def _padded(x: torch.Tensor, pads: list[int]) -> torch.Tensor:
    axes = len(pads) // 2
    return F.pad(x, [n for a in reversed(range(axes)) for n in (pads[a], pads[a + axes])])


def _conv_error(case: dict[str, Any]) -> float:
    axes, groups = len(case["kernel"]), case["groups"]
    inputs = {
        "x": noise(2, groups * case["inner"], *case["lengths"]),
        "w": noise(groups * case["outer"], case["inner"], *case["kernel"], seed=1),
        "b": noise(groups * case["outer"], seed=2) if case["bias"] else None,
    }
    w, b = (None if inputs[n] is None else torch.tensor(inputs[n]).double() for n in "wb")
    free = case["free"] and case["opset"] >= 10
    longer = [n + 2 + a for a, n in enumerate(case["lengths"])]

    def function(x: torch.Tensor) -> torch.Tensor:
        about = {"stride": case["strides"], "dilation": case["dilations"], "groups": groups}
        return _CONV[axes](_padded(x, case["pads"]), w, b, **about)

    return torch_error(
        function,
        "Conv",
        {n: a for n, a in inputs.items() if a is not None},
        probe={"x": noise(3, groups * case["inner"], *longer), **{n: inputs[n] for n in "wb"}} if free else None,
        opset=case["opset"],
        strides=case["strides"],
        dilations=case["dilations"],
        pads=case["pads"],
        group=groups,
    )


@given(_convolutions())
@DRAWS
def test_conv_is_differentiated_as_autograd_does(case: dict[str, Any]) -> None:
    assert _conv_error(case) < 1e-5


@pytest.mark.slow
@given(_convolutions())
@MANY_DRAWS
def test_any_conv_is_differentiated_as_autograd_does(case: dict[str, Any]) -> None:
    assert _conv_error(case) < 1e-5


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length", [6, 7, 8])
def test_padding_chosen_by_the_runtime(auto_pad: str, stride: int, length: int) -> None:
    inputs = {"x": noise(2, 2, length, length + 1), "w": noise(3, 2, 3, 2, seed=1)}
    model = node_model("Conv", inputs, wanted=["x"], auto_pad=auto_pad, strides=[stride, stride])
    assert agrees_with_differences(model, {"x": inputs["x"]}) < 1e-5


@pytest.mark.parametrize("opset", [10, 11, 20])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_chosen_by_the_runtime_for_images_of_any_size(auto_pad: str, opset: int) -> None:
    inputs = {"x": noise(2, 2, 9, 8), "w": noise(3, 2, 3, 2, seed=1)}
    model = node_model("Conv", inputs, wanted=["x"], free=True, auto_pad=auto_pad, strides=[2, 2], opset=opset)
    fixed = node_model("Conv", inputs, wanted=["x"], auto_pad=auto_pad, strides=[2, 2], opset=opset)
    for lengths in ((8, 9), (7, 7), (12, 6)):
        feed = {"x": noise(1, 2, *lengths)}
        at = node_model("Conv", inputs | feed, wanted=["x"], auto_pad=auto_pad, strides=[2, 2], opset=opset)
        expected = by_nodes(at, feed)[1]["x"]
        probed = {"x": inputs["x"]}
        found = by_nodes(model, feed, probes=[probed])[1]["x"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert agrees_with_differences(fixed, {"x": inputs["x"]}) < 1e-5


def test_padding_beyond_the_windows_is_cut_off() -> None:
    inputs = {"x": noise(1, 2, 5, 5), "w": noise(2, 2, 2, 2, seed=1)}
    for strides in ([1, 1], [2, 1]):
        model = node_model("Conv", inputs, wanted=["x"], pads=[3, 0, 4, 2], strides=strides)
        assert agrees_with_differences(model, {"x": inputs["x"]}) < 1e-5


def test_weights_that_depend_on_the_layer_are_refused() -> None:
    inputs = {"x": noise(1, 2, 5, 5), "w": noise(2, 2, 2, 2, seed=1)}
    with pytest.raises(MethodNotPossible, match="Conv 'node' cannot be differentiated: its input 1, 'w', depends on"):
        by_nodes(node_model("Conv", inputs), inputs)


def test_half_precision_weights() -> None:
    inputs = {"x": noise(1, 2, 5, 5, dtype=np.float16), "w": noise(3, 2, 3, 3, seed=1, dtype=np.float16)}
    _, gradients = by_nodes(node_model("Conv", inputs, wanted=["x"], pads=[1] * 4), {"x": inputs["x"]})
    single = {n: a.astype(np.float32) for n, a in inputs.items()}
    _, expected = by_nodes(node_model("Conv", single, wanted=["x"], pads=[1] * 4), {"x": single["x"]})
    np.testing.assert_allclose(gradients["x"], expected["x"], rtol=1e-5, atol=1e-5)


@st.composite
def _transposed(draw: Any) -> dict[str, Any]:
    axes = draw(st.sampled_from((1, 2, 2, 3)))
    each = lambda low, high: draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))  # noqa: E731
    strides, dilations, kernel = each(1, 3), each(1, 2), each(1, 3)
    return {
        "groups": draw(st.sampled_from((1, 1, 2))),
        "inner": draw(st.integers(1, 3)),
        "outer": draw(st.integers(1, 3)),
        "kernel": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": [draw(st.integers(0, (k - 1) * d)) for k, d in zip(kernel, dilations, strict=True)],
        "extra": [draw(st.integers(0, s - 1)) for s in strides],
        "lengths": [n + 2 * k * d for n, k, d in zip(each(1, 4), kernel, dilations, strict=True)],
        "opset": draw(st.sampled_from((9, 11, 20))),
        "free": draw(st.booleans()),
    }


def _transposed_error(case: dict[str, Any]) -> float:
    axes, groups = len(case["kernel"]), case["groups"]
    x = noise(2, groups * case["inner"], *case["lengths"])
    w = noise(groups * case["inner"], case["outer"], *case["kernel"], seed=1)
    double = torch.tensor(w).double()

    def function(x: torch.Tensor) -> torch.Tensor:
        about = {"stride": case["strides"], "dilation": case["dilations"], "groups": groups, "padding": case["pads"]}
        return _TRANSPOSED[axes](x, double, output_padding=case["extra"], **about)

    probe = {"x": noise(3, groups * case["inner"], *(n + 1 for n in case["lengths"])), "w": w}
    return torch_error(
        function,
        "ConvTranspose",
        {"x": x, "w": w},
        probe=probe if case["free"] else None,
        opset=case["opset"],
        strides=case["strides"],
        dilations=case["dilations"],
        pads=case["pads"] * 2,
        output_padding=case["extra"],
        group=groups,
    )


@given(_transposed())
@DRAWS
def test_conv_transpose_is_differentiated_as_autograd_does(case: dict[str, Any]) -> None:
    assert _transposed_error(case) < 1e-5


@pytest.mark.slow
@given(_transposed())
@MANY_DRAWS
def test_any_conv_transpose_is_differentiated_as_autograd_does(case: dict[str, Any]) -> None:
    assert _transposed_error(case) < 1e-5


@pytest.mark.parametrize("shape", [[10, 8], [11, 8], [10, 9]])
def test_conv_transpose_to_a_given_shape(shape: list[int]) -> None:
    inputs = {"x": noise(1, 2, 5, 4), "w": noise(2, 3, 3, 3, seed=1)}
    for auto_pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER"):
        model = node_model("ConvTranspose", inputs, wanted=["x"], strides=[2, 2], output_shape=shape, auto_pad=auto_pad)
        seed = noise(1, 3, *shape, seed=3)
        outputs, gradients = by_nodes(model, {"x": inputs["x"]}, seed=seed)
        moved = by_nodes(model, {"x": inputs["x"] + gradients["x"]}, seed=seed)[0]  # it is linear in x
        change = float(((moved["y"] - outputs["y"]) * seed).sum())
        assert change == pytest.approx(float((gradients["x"] ** 2).sum()), rel=1e-4)


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("opset", [9, 11, 13, 20])
@pytest.mark.parametrize("length", [8, 9])
def test_depthwise_with_steps(kernel: int, stride: int, opset: int, length: int) -> None:
    x, w = noise(2, 4, length, length + 1), noise(4, 1, kernel, kernel, seed=1)
    pads = [kernel // 2] * 4

    def function(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(_padded(x, pads), torch.tensor(w).double(), stride=stride, groups=4)

    about = {"opset": opset, "pads": pads, "strides": [stride, stride], "group": 4}
    assert torch_error(function, "Conv", {"x": x, "w": w}, **about) < 1e-5


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1), st.booleans())
@DRAWS
def test_columns(size: int, stride: int, dilation: int, pad: int, free: bool) -> None:
    options = {"dilation": dilation, "padding": pad, "stride": stride}
    count = F.unfold(torch.zeros(1, 1, 6, 7), (2, size), **options).shape[2]
    x, sizes = noise(2, 3 * 2 * size, count), {"image": np.array([6, 7]), "block": np.array([2, size])}
    found = torch_error(
        lambda x: F.fold(x, (6, 7), (2, size), **options),
        "Col2Im",
        {"x": x, **sizes},
        probe={"x": np.repeat(x, 2, 0)} if free else None,
        opset=18,
        dilations=[dilation] * 2,
        pads=[pad] * 4,
        strides=[stride] * 2,
    )
    assert found <= 1e-5
