"""Half precision: valid files at every opset, the numbers that they give, and what is refused."""

from __future__ import annotations

from typing import Any

import data
import numpy as np
import onnx
import pytest
from camcore_onnx import float16
from camcore_onnx.float16 import HalfError, half_error, to_float16
from onnx import numpy_helper
from onnx_graphs import Graph, classifier, images, newest_opset, onnx_bytes, run_plainly

import camcore

KINDS = ("plain", "resize", "cast", "norm", "clip", "topk", "exposed", "input", "branch")
OPSETS = (7, 9, 10, 11, 13, 17, 21)


def network(opset: int, kind: str) -> onnx.ModelProto:
    """A classifier with what converters stumble over."""
    g = Graph(opset, form="input" if kind == "input" else "initializer", named=False)
    features = g.add("Relu", g.conv(g.image(["N", 3, 16, 16]), 3, 8))
    if kind == "exposed":
        g.out(features, ["N", 8, 16, 16])
    make: Any = {"resize": _resize, "cast": _cast, "clip": _clip}.get(kind, lambda g, x: x)
    features = g.batch_norm(features, 8) if kind == "norm" else make(g, features)
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
    scores = g.add("MatMul", pooled, g.const(g.normal(8, 5)), to="inner" if kind == "branch" else "scores")
    if kind == "branch":
        scores = _branch(g, scores)
    g.out(scores, ["N", 5])
    if kind == "topk":
        k = {"k": 2} if opset < 10 else {}
        g.add("TopK", scores, *([] if k else [g.ints(2)]), to=["best", "which"], **k)
        g.out("best", ["N", 2])
        g.out("which", ["N", 2], onnx.TensorProto.INT64)
    return g.model()


def _resize(g: Graph, x: str) -> str:
    if g.opset < 9:
        return g.add("Upsample", x, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
    scales = g.const(np.array([1, 1, 2, 2]))
    if g.opset < 11:
        return g.add("Upsample" if g.opset < 10 else "Resize", x, scales, mode="nearest")
    return g.add("Resize", x, g.const(np.zeros(0)), scales, mode="linear")


def _cast(g: Graph, x: str) -> str:
    """Divided by a length that the graph computes."""
    return g.add("Div", x, g.add("Cast", g.add("Size", x), to="length"))


def _clip(g: Graph, x: str) -> str:
    if g.opset < 11:
        return g.add("Clip", x, min=0.0, max=6.0)
    return g.add("Clip", x, g.const(np.array(0.0)), g.const(np.array(6.0)))


def _branch(g: Graph, x: str) -> str:
    value = onnx.helper.make_tensor_value_info
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    mul = onnx.helper.make_node("Mul", [x, "two"], ["doubled"])
    copy = onnx.helper.make_node("Identity", [x], ["copied"])
    then = onnx.helper.make_graph([mul], "then", [], [value("doubled", 1, None)], [two])
    other = onnx.helper.make_graph([copy], "else", [], [value("copied", 1, None)])
    return g.add("If", g.const(np.array(True), dtype=bool), then_branch=then, else_branch=other, to="scores")


def types(model: onnx.ModelProto) -> set[str]:
    """Of the stored tensors."""
    return {onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [*OPSETS, newest_opset()])
def test_every_opset(opset: int, kind: str) -> None:
    model, pixels = network(opset, kind), images(3, 3, 16, 16)
    if kind == "cast":
        node = next(n for n in model.graph.node if n.op_type == "Cast")
        node.ClearField("attribute")
        node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    before, plain = onnx_bytes(model), run_plainly(model, pixels)
    half = to_float16(model)
    assert onnx_bytes(model) == before
    onnx.checker.check_model(half, full_check=True)
    assert "FLOAT16" in types(half)
    for kept in ("input", "output"):
        for old, new in zip(getattr(model.graph, kept), getattr(half.graph, kept), strict=False):
            assert (new.name, new.type.tensor_type.elem_type) == (old.name, old.type.tensor_type.elem_type)
    for found, expected in zip(run_plainly(half, pixels), plain, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())


def test_half_as_large_and_weights_are_rounded() -> None:
    g = Graph()
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 64), to="features")
    pooled = g.add("Flatten", g.add("GlobalAveragePool", features))
    weight = g.normal(64, 500)
    weight[0, :4] = [1e-9, -1e-9, 1e6, -1e6]
    g.out(g.add("MatMul", pooled, g.const(weight), to="scores"), ["N", 500])
    model = g.model()
    half = to_float16(model)
    assert half.ByteSize() < 0.52 * model.ByteSize()
    stored = next(numpy_helper.to_array(t) for t in half.graph.initializer if t.dims[-1] == 500)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored[0, :4], np.array([6e-8, -6e-8, 65504, -65504], np.float16))
    np.testing.assert_array_equal(stored[1:], weight[1:].astype(np.float16))


def test_inputs_and_outputs_in_half_precision() -> None:
    half = to_float16(classifier(), keep_io=False)
    kinds = [v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT16] * 2
    assert not any(n.op_type == "Cast" for n in half.graph.node)
    pixels = images(2, 3, 8, 8)
    found, expected = run_plainly(half, pixels)[0], run_plainly(classifier(), pixels)[0]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("keep", ["Pow", "square"])
def test_operators_that_are_kept_in_float32(keep: str) -> None:
    g = Graph()
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6))
    large = g.add("Pow", features, g.const(np.array(2.0)), name="square")
    pooled = g.add("Flatten", g.add("GlobalAveragePool", g.add("Sqrt", large)))
    g.out(g.add("MatMul", pooled, g.const(g.normal(6, 5)), to="scores"), ["N", 5])
    for names, expected in ((set(), False), ({keep}, True)):
        half = to_float16(g.model(), keep=names)
        onnx.checker.check_model(half, full_check=True)
        makers = {o: n for n in half.graph.node for o in n.output}
        node = next(n for n in half.graph.node if n.op_type == "Pow")
        before = makers[node.input[0]]
        assert (before.op_type == "Cast" and before.attribute[0].i == onnx.TensorProto.FLOAT) is expected
        exponent = next(t for t in half.graph.initializer if t.name == node.input[1])
        assert exponent.data_type == (onnx.TensorProto.FLOAT if expected else onnx.TensorProto.FLOAT16)


def test_what_is_kept_must_be_there() -> None:
    with pytest.raises(camcore.InputError, match=r"keep='Gem': the model has no operator .* Did you mean 'Gemm'\?"):
        to_float16(classifier(), keep=["Gem"])


def test_metadata_and_weights_in_files_of_their_own(tmp_path: Any) -> None:
    model = classifier()
    onnx.helper.set_model_props(model, {"camcore.labels": '["a", "b", "c", "d", "e"]'})
    expected = to_float16(model)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    half = to_float16(tmp_path / "m.onnx")
    assert onnx_bytes(half) == onnx_bytes(expected)
    assert camcore.explainer(half, device="cpu").labels == ("a", "b", "c", "d", "e")


class TestRefused:
    def test_quantised(self) -> None:
        g = Graph()
        features = g.quantized(g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6)))
        g.out(g.add("Flatten", g.add("GlobalAveragePool", features)), ["N", 6])
        with pytest.raises(camcore.InputError, match=r"is quantised \(QuantizeLinear\); float16 would undo that"):
            to_float16(g.model())

    def test_twice(self) -> None:
        with pytest.raises(camcore.InputError, match="holds no float32 weights; there is nothing to convert"):
            to_float16(to_float16(classifier(), keep_io=False))

    def test_a_map_inside(self) -> None:
        model = classifier()
        onnx.helper.set_model_props(model, {"camcore.cam": "{}"})
        with pytest.raises(camcore.InputError, match="convert the model to float16 first, then embed"):
            to_float16(model)

    def test_too_large(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(float16, "_LIMIT", 100)
        with pytest.raises(camcore.InputError, match=r"of weights do not fit into one message .*model\.half\(\)"):
            to_float16(classifier())

    def test_what_the_converter_cannot(self, monkeypatch: Any) -> None:
        from onnxruntime.transformers import float16 as converter

        def fail(*words: Any, **options: Any) -> Any:
            raise AssertionError("no such thing\nmore")

        monkeypatch.setattr(converter, "convert_float_to_float16", fail)
        with pytest.raises(camcore.InputError, match=r"cannot be converted to float16: no such thing$"):
            to_float16(classifier())


class TestHalfError:
    def test_nothing_changed(self) -> None:
        found = half_error(classifier(), classifier(), images(3, 3, 8, 8), threads=1)
        assert found == HalfError(3, 0.0, 0.0, 1.0, 0.0, "cam")

    def test_against_numbers_by_hand(self) -> None:
        before, after, pixels = classifier(), classifier(seed=1), images(6, 3, 8, 8)
        found = half_error(before, after, pixels, threads=1)
        first, second = (camcore.explainer(m, device="cpu", threads=1) for m in (before, after))
        a, b = (e.backend.scores(pixels).astype(np.float64) for e in (first, second))
        assert found.largest == np.abs(a - b).max()
        assert found.scores == max(np.abs(x - y).max() / np.abs(x).max() for x, y in zip(a, b, strict=True))
        assert found.agreement == np.mean([x.argmax() == y.argmax() for x, y in zip(a, b, strict=True)])
        out = first(pixels)
        maps = zip(out.maps.astype(np.float64), second(pixels, out.classes).maps.astype(np.float64), strict=True)
        assert found.maps == max(np.abs(x - y).max() / np.abs(x).max() for x, y in maps)

    def test_in_words(self) -> None:
        text = str(half_error(classifier(), to_float16(classifier()), images(2, 3, 8, 8), threads=1))
        assert text.startswith("float16 on 2 images: scores differ by up to 0.")
        assert text.endswith("same best class in 100 %")
        assert "cam maps by up to 0." in text
        assert "no maps" in str(HalfError(1, 0.0, 0.0, 1.0, float("nan")))

    def test_another_method_and_layer(self) -> None:
        found = half_error(
            classifier(), to_float16(classifier()), images(2, 3, 8, 8), method="layercam", layer="features", threads=1
        )
        assert found.method == "layercam"
        assert 0 < found.maps < 5e-3

    def test_other_classes(self) -> None:
        with pytest.raises(camcore.InputError, match=r"scores of shape \(1, 5\) and \(1, 4\); expected the same"):
            half_error(classifier(), classifier(classes=4), images(1, 3, 8, 8), threads=1)


@pytest.mark.parametrize(
    "real", [r for r in data.WITH_CAM if "qdq" not in r.file and "fp16" not in r.file], ids=lambda r: r.file
)
def test_real_models(real: data.Real) -> None:
    explainer = camcore.explainer(real.path, preprocess=real.preprocess, device="cpu", threads=1)
    pictures = [str(data.folder() / "images" / f"{name}.png") for name in ("chelsea", "coffee", "astronaut")]
    pixels, _ = explainer.prepare([camcore.pictures.load_picture(p) for p in pictures])
    half = to_float16(real.path)
    found = half_error(real.path, half, pixels, threads=1)
    assert found.agreement == 1
    assert found.scores < 1e-2
    assert found.maps < 1e-2
    tap = camcore.explainer(half, device="cpu", threads=1).backend.tap()
    assert tap.head is not None
    assert tap.tolerance == 2e-2
