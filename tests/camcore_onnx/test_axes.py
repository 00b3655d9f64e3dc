"""What is known of the axes of tensors: by the graph, by the head, by the user, or by a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend, expose_features
from camcore_onnx.axes import Axes, is_map
from onnx_graphs import Graph, classifier, finish, images, run_plainly

import camcore
from camcore import HeadNotFound, InputError
from camcore.layout import Layout


def tokens(*, stated: Any = "T", front: int = 0, pool: str = "mean", size: Any = (6, 10)) -> Any:
    """Patches of 2x2 as tokens (``rows``), ``front`` tokens before them (``joined``), a pooling or the first token."""
    g = Graph(17)
    image = g.image(["N", 3, *size])
    conv = g.add("Conv", image, g.const(g.normal(8, 3, 2, 2)), kernel_shape=[2, 2], strides=[2, 2], to="conv")
    count = g.add("Gather", g.add("Shape", conv), g.ints(0))  # a computed batch hides the length of -1
    form = g.add("Concat", count, g.ints(8, -1), axis=0) if stated == "T" else g.ints(0, 8, stated - front)
    flat = g.add("Reshape", conv, form)
    rows = g.add("MatMul", g.add("Transpose", flat, perm=[0, 2, 1]), g.const(g.normal(8, 8)), to="rows")
    if front:
        cells = g.add("Slice", rows, g.ints(0), g.ints(front), g.ints(1))
        rows = g.add("Concat", cells, rows, axis=1)
    end = g.add("Add", rows, g.const(g.normal(8)), to="joined")
    if pool == "mean":
        pooled = g.reduce("ReduceMean", end, [1])
    elif pool == "max":
        pooled = g.reduce("ReduceMax", end, [1])
    else:
        pooled = g.add("Gather", end, g.const(np.array(0), dtype=np.int64), axis=1)
    g.out(g.add("Gemm", pooled, g.const(g.normal(8, 5)), to="scores"), ["N", 5])
    return g.model()


def backend(model: Any, **options: Any) -> OnnxBackend:
    return OnnxBackend(model, device="cpu", threads=1, **options)


def value(found: OnnxBackend, name: str) -> Any:
    return next(v for node in found.graph for v in node.outputs if v.name == name)


def tensor(model: Any, name: str, pixels: Any) -> Any:
    return run_plainly(expose_features(model, name), pixels, [name])[0]


class TestOf:
    @pytest.mark.parametrize("stated", ["T", 15])
    def test_pooled_tokens_lie_on_their_grid(self, stated: Any) -> None:
        model, pixels = tokens(stated=stated), images(2, 3, 6, 10)
        found = backend(model)
        assert found.tap(example=pixels).shape == (8, 3, 5)
        assert found.tap().shape == (8, 3, 5)  # the image size is known, so an empty one will do
        out = camcore.explainer(model, device="cpu", method="cam")(pixels, [1, 4])
        rows = tensor(model, "joined", pixels)
        expected = np.stack([r @ w for r, w in zip(rows, found.tap().need_head().weight[[1, 4]], strict=True)])
        np.testing.assert_allclose(out.maps[:, 0], expected.reshape(2, 3, 5), rtol=1e-5, atol=1e-5)

    def test_what_is_pooled_with_tokens_in_front_has_no_linear_head(self) -> None:
        """The mean runs over a token that has no place on the map."""
        model, pixels = tokens(front=1), images(2, 3, 6, 10)
        found = backend(model)
        assert found.axes.of(value(found, "joined"), 16, (6, 10)) == Layout("tokens", 1, (3, 5))
        assert found.tap().shape == (8, 3, 5)
        assert found.tap().head is None
        with pytest.raises(HeadNotFound, match="the pooling averages class or register tokens too"):
            camcore.explainer(model, device="cpu", method="cam")(pixels)
        out = camcore.explainer(model, device="cpu", method="activationmap")(pixels)
        np.testing.assert_allclose(
            out.maps[:, 0], tensor(model, "joined", pixels)[:, 1:].mean(2).reshape(2, 3, 5), rtol=1e-5, atol=1e-6
        )
        assert found.axes.of(value(found, "rows"), 15, (6, 10)) == Layout("tokens", 0, (3, 5))

    def test_a_pooled_number_of_tokens_that_makes_no_grid_is_a_line(self) -> None:
        found = backend(tokens(size=("H", "W"), stated=47))
        assert found.axes.of(value(found, "joined"), 47, (7, 13)) == Layout("last")
        assert found.tap().shape == (8, 47)

    def test_the_users_grid_is_not_passed_over(self) -> None:
        found = backend(tokens(stated=15), grid=(4, 4))
        with pytest.raises(InputError, match=r"grid=\(4, 4\) was given for 15 tokens"):
            found.observe(images(1, 3, 6, 10), needs=frozenset({"features"}))
        assert found.tap().shape == ()
        assert backend(tokens(stated=15), grid=(5, 3)).tap().shape == (8, 5, 3)

    def test_the_users_prefix(self) -> None:
        model, pixels = tokens(front=2, pool="first"), images(2, 3, 6, 10)
        found = camcore.explainer(model, device="cpu", layer="joined", method="activationmap", grid=(3, 5), prefix=2)
        expected = tensor(model, "joined", pixels)[:, 2:].mean(axis=2).reshape(2, 1, 3, 5)
        np.testing.assert_allclose(found(pixels).maps, expected, rtol=1e-5, atol=1e-6)
        plain = camcore.explainer(model, device="cpu", layer="joined", method="activationmap")
        np.testing.assert_array_equal(plain(pixels).maps, found(pixels).maps)

    def test_every_size_of_image_has_its_grid(self) -> None:
        model = tokens(size=("H", "W"))
        found = camcore.explainer(model, device="cpu", method="cam")
        assert found.backend.tap().shape == ()  # no run without a size
        for height, width in ((6, 10), (4, 14), (6, 10)):
            out = found(images(2, 3, height, width))
            assert out.maps.shape[2:] == (height // 2, width // 2)
        assert found.backend.tap(example=images(1, 3, 4, 6)).shape == (8, 2, 3)

    def test_tokens_of_a_grid_that_cannot_be_told(self) -> None:
        found = camcore.explainer(tokens(size=("H", "W"), front=1, pool="max"), device="cpu", layer="joined")
        with pytest.raises(InputError, match=r"99 tokens make no grid that is known.* grid=\(h, w\), prefix=p"):
            found.backend.observe(images(1, 3, 15, 29), needs=frozenset({"features"}), layers=("joined",))
        assert found.backend.tap("joined", images(1, 3, 15, 29)).shape == ()

    def test_copies_of_what_is_pooled_lie_as_that(self) -> None:
        g = Graph()
        early = g.add("Tanh", g.image(["N", 6, 6, 6]), to="early")
        found = backend(finish(g, g.add("Identity", early, to="read"), 6))
        assert found.axes.of(value(found, "early")) == found.axes.of(value(found, "read")) == Layout()

    def test_found_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = backend(tokens())
        asked: list[Any] = []
        real = Axes._layout
        monkeypatch.setattr(Axes, "_layout", lambda self, *words: asked.append(words) or real(self, *words))
        for _ in range(3):
            found.observe(images(1, 3, 6, 10), needs=frozenset({"features"}))
        assert len(asked) == 1


class TestShape:
    def test_as_far_as_the_graph_states_it(self) -> None:
        found = backend(tokens(stated=15))
        shapes = {name: found.axes.shape(value(found, name)) for name in ("conv", "rows", "scores")}
        assert shapes == {"conv": (8, 3, 5), "rows": (8, 3, 5), "scores": ()}
        found = backend(tokens())
        assert found.axes.shape(value(found, "rows")) == ()
        found = backend(classifier())
        assert found.axes.shape(value(found, "features")) == (6, None, None)

    def test_what_no_operator_tells_of_is_empty(self) -> None:
        g = Graph()
        g.add("Tanh", g.image(["N", 6, 6, 6]), to="tanh")
        flat = g.add("Flatten", "tanh")
        g.out(g.add("Tanh", flat), ["N", 216])
        found = backend(g.model())
        assert found.axes.shape(value(found, "tanh")) == ()

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((), False), ((5,), False), ((5, 1, 1), False), ((5, 1, 2), True), ((5, None, 1), True), ((5, 7), True)],
    )
    def test_is_map(self, shape: tuple[int | None, ...], expected: bool) -> None:
        assert is_map(shape) is expected


def test_is_row() -> None:
    found = backend(tokens(front=1))
    assert [found.axes.is_row(value(found, name)) for name in ("conv", "rows", "joined")] == [False, True, True]
    signal = backend(classifier(size=(8,)))
    assert not signal.axes.is_row(value(signal, "features"))
