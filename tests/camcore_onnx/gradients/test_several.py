"""Several classes of an image at once: a second tail with a row for each, or one class at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients.add import add_tail_gradients
from camcore_onnx.gradients.several import NotRepeatable, check_repeats, repeat_tail
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx import helper
from onnx_graphs import Graph, finish, images

from camcore.engine import Explainer

Floats = NDArray[np.floating[Any]]
LIMIT = 1e-5


def plain(batch: int | str = "N", size: tuple[int | str, int | str] = ("H", "W"), **options: Any) -> Any:
    """Behind ``early`` the answer bends, so that its gradient depends on the image."""
    g = Graph(**options)
    early = g.add("Relu", g.conv(g.image([batch, 3, *size]), 3, 6), to="early")
    middle = g.add("Tanh", g.conv(early, 6, 6), to="middle")
    return finish(g, g.add("Relu", g.conv(middle, 6, 6), to="late"), 6, batch=batch)


def skipping(**options: Any) -> Any:
    """What is in front of ``early``, and ``early`` itself, goes past the layers behind it."""
    g = Graph(**options)
    stem = g.add("Sigmoid", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="stem")
    early = g.add("Relu", g.conv(stem, 6, 6), to="early")
    middle = g.add("Tanh", g.conv(early, 6, 6), to="middle")
    late = g.add("Mul", g.add("Add", middle, early), stem, to="late")
    return finish(g, late, 6)


def tokens() -> Any:
    """A class token in front, which crosses the patches."""
    g = Graph()
    image = g.image(["N", 3, 8, 8])
    flat = g.add("Reshape", g.conv(image, 3, 6), g.ints(0, 6, 64))
    patches = g.add("Transpose", flat, perm=[0, 2, 1], to="early")
    ones = g.add("ConstantOfShape", g.add("Concat", rows(g, image), g.ints(1, 6), axis=0), value=one())
    joined = g.add("Concat", g.add("Mul", ones, g.const(g.normal(1, 1, 6))), patches, axis=1)
    mixed = g.add("MatMul", g.add("Softmax", g.const(g.normal(65, 65)), axis=-1), joined, to="middle")
    first = g.add("Gather", g.add("Tanh", mixed), g.const(0, form="initializer", dtype=np.int64), axis=1)
    g.out(g.add("Gemm", first, g.const(g.normal(6, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def rows(g: Graph, image: str) -> str:
    return g.add("Gather", g.add("Shape", image), g.ints(0), axis=0)


def one() -> Any:
    return helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])


def positions() -> Any:
    """What is added to the maps has a leading axis of one, and follows the size of the images."""
    g = Graph()
    image = g.image(["N", 3, "H", "W"])
    early = g.add("Relu", g.conv(image, 3, 6), to="early")
    sizes = g.add("Concat", g.ints(1, 6), g.add("Slice", g.add("Shape", image), g.ints(2), g.ints(4)), axis=0)
    table = g.add("Resize", g.const(g.normal(1, 6, 4, 4)), "", "", sizes, mode="linear")
    return finish(g, g.add("Tanh", g.add("Add", g.conv(early, 6, 6), table), to="middle"), 6)


def viewed() -> Any:
    """Exported as view(n, -1): the batch is read off the image."""
    g = Graph()
    image = g.image(["N", 3, 8, 8])
    early = g.add("Tanh", g.conv(image, 3, 6), to="early")
    shape = g.add("Concat", rows(g, image), g.ints(-1), axis=0)
    hidden = g.add("Tanh", g.add("MatMul", g.add("Reshape", early, shape), g.const(g.normal(384, 7))))
    g.out(g.add("Gemm", hidden, g.const(g.normal(7, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def holding(batch: int) -> Any:
    """Its shapes hold its batch."""
    g = Graph()
    early = g.add("Tanh", g.conv(g.image([batch, 3, 8, 8]), 3, 6), to="early")
    flat = g.add("Reshape", g.add("Reshape", early, g.ints(batch * 384)), g.ints(batch, 384))
    hidden = g.add("MatMul", flat, g.const(g.normal(384, 7)))
    g.out(g.add("Gemm", g.add("Tanh", hidden), g.const(g.normal(7, 5)), g.const(g.normal(5)), to="scores"), [batch, 5])
    return g.model()


def stating(batch: int, *lengths: int) -> Any:
    """Its shapes state its batch, and can do without."""
    g = Graph()
    early = g.add("Tanh", g.conv(g.image([batch, 3, 8, 8]), 3, 6), to="early")
    hidden = g.add("MatMul", g.add("Reshape", early, g.ints(batch, *lengths)), g.const(g.normal(384, 7)))
    g.out(g.add("Gemm", g.add("Tanh", hidden), g.const(g.normal(7, 5)), g.const(g.normal(5)), to="scores"), [batch, 5])
    return g.model()


MODELS: dict[str, Callable[[], Any]] = {
    "plain": plain,
    "skipping": skipping,
    "tokens": tokens,
    "positions": positions,
    "viewed": viewed,
    "opset 9": lambda: plain(opset=9),
    "opset 11": lambda: skipping(opset=11),
    "fixed batch of 1": lambda: plain(1),
    "fixed batch of 2": lambda: plain(2, (8, 8)),
    "states 1": lambda: stating(1, 384),
    "states 2": lambda: stating(2, -1),
    "fixed batch of 5": lambda: plain(5),
}
ALONE: dict[str, Callable[[], Any]] = {
    "holds 1": lambda: holding(1),
    "holds 2": lambda: holding(2),
    "holds 5": lambda: holding(5),
}
CLASSES = ([[1], [3]], [[0, 1], [3, 4]], [[4, 1, 0], [2, 2, 2]], "top3", "all", [[0, 1, 2, 3], [1, 0, 4, 2]])


def backend(model: Any) -> OnnxBackend:
    return OnnxBackend(model, device="cpu", threads=1)


def maps(explainer: Explainer, pixels: Floats, classes: Any) -> tuple[Floats, NDArray[np.int64]]:
    found = explainer(pixels, classes)
    return found.maps, found.classes


@pytest.mark.parametrize("name", [*MODELS, *ALONE])
@pytest.mark.parametrize("target", ["logit", "probability", "difference", lambda s: s[:, 0] * s[:, 1]])
def test_as_many_as_one_at_a_time(name: str, target: Any) -> None:
    there = backend((MODELS | ALONE)[name]())
    explainer = Explainer(there, method="layercam", layer="early", target=target)
    pixels = images(2, 3, 8, 8)
    for classes in CLASSES:
        together, chosen = maps(explainer, pixels, classes)
        apart = [maps(explainer, pixels, chosen[:, t : t + 1])[0] for t in range(chosen.shape[1])]
        expected = np.concatenate(apart, axis=1)
        assert together.shape == (2, chosen.shape[1], 8, 8)
        assert np.abs(together - expected).max() <= LIMIT * np.abs(expected).max()
    assert len(there.differentiator._apart) == (name in ALONE)


@pytest.mark.parametrize("name", [*MODELS, *ALONE])
def test_ranks_are_those_of_the_scores(name: str) -> None:
    explainer = Explainer(backend((MODELS | ALONE)[name]()), method="layercam", layer="early")
    found = explainer(images(2, 3, 8, 8), "top3")
    np.testing.assert_array_equal(found.classes, np.argsort(-found.scores, axis=1)[:, :3])


def test_a_first_batch_of_one_image_proves_nothing_about_others() -> None:
    for model in (positions(), tokens(), viewed()):
        explainer = Explainer(backend(model), method="layercam", layer="early")
        pixels = images(3, 3, 8, 8)
        one = explainer(pixels[1:2], "top2").maps
        np.testing.assert_allclose(explainer(pixels, "top2").maps[1:2], one, rtol=1e-5, atol=1e-6 * np.abs(one).max())


def test_classes_by_name() -> None:
    explainer = Explainer(backend(plain()), method="layercam", layer="early", labels=list("abcde"))
    pixels = images(2, 3, 8, 8)
    np.testing.assert_array_equal(explainer(pixels, "c").classes, [[2], [2]])
    assert np.array_equal(explainer(pixels, ["e", "b"]).maps, explainer(pixels, [4, 1]).maps)


def test_more_columns_than_classes() -> None:
    g = Graph()
    early = g.add("Tanh", g.conv(g.image(["N", 3, 8, 8]), 3, 4), to="early")
    explainer = Explainer(
        backend(finish(g, g.add("Relu", g.conv(early, 4, 4)), 4, 2)), method="layercam", layer="early"
    )
    found = explainer(images(2, 3, 8, 8), [[0, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(found.maps[0, 0], found.maps[0, 2])
    np.testing.assert_array_equal(found.maps[1, 0], found.maps[1, 1])
    assert explainer(images(2, 3, 8, 8), "top5").classes.shape == (2, 2)


class TestRepeatTail:
    def test_the_second_tail_gives_the_scores_of_the_first_in_turn(self) -> None:
        for name, make in MODELS.items():
            if name.startswith(("fixed", "states")):
                continue
            loaded = load(make())
            graph = loaded.model.graph
            values = {v.name: v for node in graph for v in node.outputs}
            shape = ir.Shape(["N", "T"])
            graph.inputs.append(ir.Value(name="classes", type=ir.TensorType(ir.DataType.INT64), shape=shape))
            layers = [values[n] for n in ("early", "middle") if n in values]
            again = repeat_tail(loaded, layers, values["scores"], graph.inputs[-1])
            graph.outputs.append(again.scores)
            session = make_session(serialize(loaded.model), device="cpu")
            feed = {graph.inputs[0].name: images(3, 3, 8, 8), "classes": np.zeros((3, 4), np.int64)}
            once, many = session.run(["scores", again.scores.name], feed)
            np.testing.assert_allclose(many, np.repeat(once, 4, axis=0), rtol=1e-5, atol=1e-6)

    def test_what_does_not_follow_the_layers_is_there_once(self) -> None:
        model = add_tail_gradients(skipping(), "middle", classes="top2")
        copied = [node.name for node in model.graph.node if node.name.startswith("again/node_")]
        assert not [name for name in copied if "Conv" in name or "Sigmoid" in name]
        assert {name.split("_")[1] for name in copied} == {"Add", "Mul"}


class TestRefusals:
    @pytest.mark.parametrize("classes", ["inputs", "top2"])
    def test_shapes_that_hold_the_batch(self, classes: str) -> None:
        text = (
            "the network behind the layer does not run with several rows for an image, so its shapes hold the number "
            "of images: "
        )
        with pytest.raises(NotRepeatable, match=text):
            add_tail_gradients(holding(1), "early", classes=classes)
        assert add_tail_gradients(holding(1), "early", classes="top1").graph.output[-1].name == "gradient"

    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("length", [384, -1])
    def test_a_batch_that_is_only_stated_is_no_obstacle(self, batch: int, length: int) -> None:
        loaded = load(stating(batch, length))
        values = {v.name: v for node in loaded.model.graph for v in node.outputs}
        before = serialize(loaded.model)
        check_repeats(loaded, [values["early"]], values["scores"], [{"image": images(batch, 3, 8, 8)}])
        assert serialize(loaded.model) == before

    def test_a_batch_that_is_held(self) -> None:
        loaded = load(holding(2))
        values = {v.name: v for node in loaded.model.graph for v in node.outputs}
        with pytest.raises(NotRepeatable, match="export it again with a free batch"):
            check_repeats(loaded, [values["early"]], values["scores"], [{"image": images(2, 3, 8, 8)}])
