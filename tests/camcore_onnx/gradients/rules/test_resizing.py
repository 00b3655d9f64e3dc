"""Resizing in all modes, against what ONNX Runtime makes of single pixels, and against torch's autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from camcore_onnx.gradients.vjp import add_vjp
from camcore_onnx.reading.load import load
from camcore_onnx.running.runtime import make_session
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_vjp import SEED, agrees_with_differences, by_nodes, node_model
from torch_vjp import DRAWS, MANY_DRAWS, error, noise, torch_error

from camcore.errors import MethodNotPossible

LIMIT = 1e-5
COORDINATES = {
    11: [
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    ],
    13: [
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
    ],
    18: ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"],
    19: [
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
    ],
}
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def expected_gradient(model: onnx.ModelProto, x: NDArray[Any], seed: NDArray[Any]) -> NDArray[Any]:
    """Each pixel by itself through the operator, in one batch; its gradient is what comes out, times the seed."""
    *_, h, w = x.shape
    pixels = np.eye(h * w, dtype=np.float32).reshape(h * w, 1, h, w)
    session = make_session(model.SerializeToString(), device="cpu", optimization="disabled")
    spread = session.run(None, {"x": np.repeat(pixels, x.shape[1], 1)})[0][:, 0]
    return np.einsum("nchw,khw->nck", seed.astype(np.float64), spread.astype(np.float64)).reshape(x.shape)


@st.composite
def resizes(draw: st.DrawFn) -> dict[str, Any]:
    opset = draw(st.sampled_from([9, 10, 11, 13, 18, 19]))
    mode = draw(st.sampled_from(["nearest", "linear"] if opset < 11 else ["nearest", "linear", "cubic"]))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)))
    whole_scales = draw(st.booleans())
    scale = st.integers(1, 4).map(float) if whole_scales else st.floats(0.4, 3.3)
    if opset == 9:
        scale = st.integers(1, 4).map(float) if whole_scales else st.floats(1.0, 3.3)
    case: dict[str, Any] = {
        "opset": opset,
        "shape": shape,
        "scales": draw(st.tuples(scale, scale)),
        "by_sizes": opset >= 11 and draw(st.booleans()),
        "free": draw(st.booleans()),
        "about": {"mode": mode},
    }
    if opset >= 11:
        coordinates = draw(st.sampled_from(COORDINATES[opset]))
        case["about"]["coordinate_transformation_mode"] = coordinates
        if coordinates == "tf_crop_and_resize":
            starts, ends = draw(st.tuples(*[st.floats(0, 0.3)] * 2)), draw(st.tuples(*[st.floats(0.6, 1.1)] * 2))
            case["roi"] = [0, 0, *starts, 1, 1, *ends]
        if mode == "nearest":
            case["about"]["nearest_mode"] = draw(st.sampled_from(ROUNDINGS))
        if mode == "cubic":
            case["about"] |= {
                "cubic_coeff_a": draw(st.sampled_from([-0.5, -0.75])),
                "exclude_outside": draw(st.integers(0, 1)),
            }
    return case


def built(case: dict[str, Any]) -> tuple[onnx.ModelProto, NDArray[Any], NDArray[Any] | None]:
    """The model, an image, and an image of another size where sizes are free."""
    x, opset, free = noise(*case["shape"]), case["opset"], case["free"]
    op = "Upsample" if opset == 9 else "Resize"
    inputs: dict[str, Any] = {"x": x}
    if opset >= 11:
        inputs["roi"] = floats(*case.get("roi", []))
    scales = floats(1, 1, *case["scales"])
    if case["by_sizes"]:
        sizes = [max(1, int(n * s)) for n, s in zip(x.shape[2:], case["scales"], strict=True)]
        inputs |= {"scales": floats(), "sizes": whole(*x.shape[:2], *sizes)}
        if opset >= 18:
            inputs["sizes"] = whole(*sizes)
            case["about"]["axes"] = [2, 3]
            inputs["roi"] = floats(*(case["roi"][k] for k in (2, 3, 6, 7))) if "roi" in case else floats()
    else:
        inputs["scales"] = scales
    model = node_model(op, inputs, wanted=["x"], opset=opset, free=True, **case["about"])
    grows = (0, 2, 3) if free and (not case["by_sizes"] or opset >= 18) else ()
    probe = noise(*(n + 2 * (a in grows) for a, n in enumerate(x.shape)), seed=1)
    return model, x, probe


def prove(case: dict[str, Any]) -> None:
    assume(all(int(n * s) > 0 for n, s in zip(case["shape"][2:], case["scales"], strict=True)))
    model, x, probe = built(case)
    if case["by_sizes"] and case["opset"] < 18:  # the sizes are those of this batch
        x = x[:1].repeat(case["shape"][0], 0)
    outputs, gradients = by_nodes(model, {"x": x}, probes=[{"x": probe}])
    found = gradients["x"]
    if case["by_sizes"] and case["opset"] < 18:
        case = case | {"by_sizes": True, "shape": (x.shape[2] * x.shape[3], 1, *x.shape[2:]), "free": False}
        model, _, _ = built(case)
        found, x = found[:, :1], x[:, :1]
        seed = outputs[SEED][:, :1]
    else:
        seed = outputs[SEED]
    assert error(found, expected_gradient(model, x, seed)) < LIMIT


class TestResize:
    @DRAWS
    @given(case=resizes())
    def test_all_modes(self, case):
        prove(case)

    @pytest.mark.slow
    @MANY_DRAWS
    @given(case=resizes())
    def test_all_modes_widely(self, case):
        prove(case)

    @pytest.mark.parametrize("antialias", [0, 1])
    @pytest.mark.parametrize("mode", ["linear", "cubic"])
    @pytest.mark.parametrize("scale", [0.4, 0.5, 1.7])
    def test_antialias(self, mode, scale, antialias):
        inputs = {"x": noise(2, 2, 9, 7), "roi": None, "scales": floats(1, 1, scale, scale)}
        model = node_model("Resize", inputs, wanted=["x"], opset=18, free=True, mode=mode, antialias=antialias)
        outputs, gradients = by_nodes(model, {"x": inputs["x"]})
        assert error(gradients["x"], expected_gradient(model, inputs["x"], outputs[SEED])) < LIMIT

    @pytest.mark.parametrize(("rank", "mode"), [(3, "nearest"), (3, "linear"), (5, "nearest"), (5, "linear")])
    def test_other_ranks_as_torch_does(self, rank, mode):
        x = noise(2, 3, 4, 5, 3)[(..., *[0] * (5 - rank))]
        name = mode if mode == "nearest" else "linear" if rank == 3 else "trilinear"
        found = torch_error(
            lambda t: torch.nn.functional.interpolate(t, scale_factor=2, mode=name),
            "Resize",
            {"x": x, "roi": None, "scales": floats(1, 1, *[2] * (rank - 2))},
            probe={"x": noise(*(n + 1 for n in x.shape))[:, : x.shape[1]]},
            opset=13,
            mode=mode,
            coordinate_transformation_mode="asymmetric" if mode == "nearest" else "half_pixel",
            nearest_mode="floor",
        )
        assert found < LIMIT

    def test_all_axes_of_a_matrix(self):
        x = noise(3, 4)
        inputs = {"x": x, "roi": None, "scales": floats(2, 3)}
        found = torch_error(
            lambda t: torch.nn.functional.interpolate(t[None, None], scale_factor=(2, 3), mode="bilinear")[0, 0],
            "Resize",
            inputs,
            opset=13,
            mode="linear",
        )
        assert found < LIMIT

    @pytest.mark.parametrize("opset", [9, 13])
    @pytest.mark.parametrize("free", [False, True])
    def test_repeated_pixels_are_summed_block_by_block(self, opset, free):
        x, scales = noise(2, 3, 4, 5), floats(1, 1, 2, 3)
        inputs = {"x": x, "scales": scales} if opset == 9 else {"x": x, "roi": None, "scales": scales}
        about = {} if opset == 9 else {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        op, probe = "Upsample" if opset == 9 else "Resize", {"x": noise(3, 3, 6, 8) if free else x}
        found = torch_error(
            lambda t: torch.nn.functional.interpolate(t, scale_factor=(2, 3)),
            op,
            inputs,
            probe=probe,
            opset=opset,
            **about,
        )
        assert found < LIMIT
        model = node_model(op, inputs, wanted=["x"], opset=opset, free=True, **about)
        loaded = load(model)
        add_vjp(loaded, loaded.model.graph.outputs[0], loaded.model.graph.inputs[:1], [{"x": x}, probe])
        assert "MatMul" not in [node.op_type for node in loaded.model.graph]

    @pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
    def test_to_the_size_of_another_map(self, mode):
        """As a decoder does; the sizes are known only when the model runs."""
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> graph (float[n, c, h, w] x, float[n, d, p, q] like)'
            " => (float[n, c, p, q] y) <int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}>"
            "{ s = Shape(like)  hw = Slice(s, two, four)  t = Shape(x)  nc = Slice(t, zero, two)"
            f'  sizes = Concat<axis = 0>(nc, hw)  y = Resize<mode = "{mode}">(x, , , sizes) }}'
        )
        feeds = [
            {"x": noise(2, 3, 4, 5), "like": noise(2, 1, 7, 9)},
            {"x": noise(1, 3, 6, 4), "like": noise(1, 1, 8, 3)},
        ]
        for k, feed in enumerate(feeds):
            outputs, gradients = by_nodes(model, feed, probes=[feeds[1 - k]], wanted=["x"])
            n, c, h, w = feed["x"].shape
            pixels = {"x": np.eye(h * w, dtype=np.float32).reshape(-1, 1, h, w), "like": feed["like"][:1]}
            spread = make_session(model.SerializeToString(), device="cpu").run(None, pixels)[0][:, 0]
            expected = np.einsum("nchw,khw->nck", outputs[SEED].astype(np.float64), spread).reshape(n, c, h, w)
            assert error(gradients["x"], expected) < LIMIT

    @pytest.mark.parametrize("opset", [10, 13])
    def test_by_scales_that_follow_the_images(self, opset):
        inputs = "x, scales" if opset == 10 else "x, , scales"
        model = onnx.parser.parse_model(
            f'<ir_version: 8, opset_import: ["" : {opset}]> graph (float[n, c, h, w] x, float[4] scales)'
            f' => (float[n, c, p, q] y) {{ y = Resize<mode = "linear">({inputs}) }}'
        )
        feed = {"x": noise(2, 3, 4, 5), "scales": floats(1, 1, 1.5, 2.3)}
        probe = {"x": noise(3, 3, 6, 6), "scales": floats(1, 1, 1.2, 2)}
        outputs, gradients = by_nodes(model, feed, probes=[probe], wanted=["x"])
        pixels = {"x": np.eye(20, dtype=np.float32).reshape(20, 1, 4, 5), "scales": feed["scales"]}
        spread = make_session(model.SerializeToString(), device="cpu").run(None, pixels)[0][:, 0]
        expected = np.einsum("nchw,khw->nck", outputs[SEED].astype(np.float64), spread).reshape(2, 3, 4, 5)
        assert error(gradients["x"], expected) < LIMIT

    def test_half_precision(self):
        x = noise(2, 3, 4, 5, dtype=np.float16)
        inputs = {"x": x, "roi": None, "scales": floats(1, 1, 2, 3)}
        model = node_model("Resize", inputs, wanted=["x"], opset=13, mode="linear")
        outputs, gradients = by_nodes(model, {"x": x})
        t = torch.tensor(x.astype(np.float64), requires_grad=True)
        y = torch.nn.functional.interpolate(t, scale_factor=(2, 3), mode="bilinear")
        (expected,) = torch.autograd.grad(y, t, torch.tensor(outputs[SEED]).double())
        assert error(gradients["x"], expected.numpy()) < LIMIT

    def test_what_keeps_the_aspect_ratio_is_refused(self):
        inputs = {"x": noise(1, 1, 4, 5), "roi": None, "scales": None, "sizes": whole(8, 8)}
        about = {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}
        model = node_model("Resize", inputs, wanted=["x"], opset=18, **about)
        with pytest.raises(
            MethodNotPossible, match="it keeps the aspect ratio; expected keep_aspect_ratio_policy 'str"
        ):
            by_nodes(model, {"x": inputs["x"]})

    @pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
    def test_differences_of_the_reference(self, mode):
        inputs = {"x": noise(1, 2, 4, 5), "roi": None, "scales": None, "sizes": whole(1, 2, 6, 8)}
        model = node_model("Resize", inputs, wanted=["x"], opset=19, mode=mode)
        assert agrees_with_differences(model, {"x": inputs["x"]}) < 1e-4
