"""Models with gradients, or the maps made of them, as ordinary outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import data
import numpy as np
import onnx
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.gradients.add import add_tail_gradients
from camcore_onnx.running.runtime import make_session
from data import Real
from numpy.typing import NDArray
from onnx_graphs import Graph, finish, images, newest_opset

from camcore import METHODS, InputError, MethodNotPossible
from camcore.engine import Explainer
from camcore.targets import target as target_of

Floats = NDArray[np.floating[Any]]

FINISHED = (
    "gradcam",
    "gradcam++",
    "xgradcam",
    "hirescam",
    "layercam",
    "gradcam-elementwise",
    "finercam",
    "shapleycam",
)
OPSETS = (7, 8, 9, 11, 13, 18)


def network(
    batch: int | str = "N", size: tuple[int | str, ...] = ("H", "W"), *, ending: str = "", **options: Any
) -> Any:
    """A normalisation, a ReLU that is dead in places, a pooling and a bend behind them."""
    g = Graph(**options)
    axes = len(size)
    early = g.add("Relu", g.batch_norm(g.conv(g.image([batch, 3, *size]), 3, 6, axes=axes), 6), to="early")
    pool = g.add("MaxPool", early, kernel_shape=[3] * axes, strides=[2] * axes, pads=[1] * (2 * axes), to="middle")
    late = g.add("Relu", g.conv(g.add("Tanh", pool), 6, 6, axes=axes), to="late")
    return finish(g, late, 6, batch=batch, ending=ending)


def channels_last(size: tuple[int | str, int | str] = ("H", "W")) -> Any:
    """The network of ``channels_first``, whose maps lie with channels last between the convolutions."""
    g = Graph()
    first = g.conv(g.image(["N", 3, *size]), 3, 6)
    early = g.add("Relu", g.add("Transpose", first, perm=[0, 2, 3, 1]), to="early")
    second = g.conv(g.add("Transpose", g.add("Tanh", early), perm=[0, 3, 1, 2]), 6, 6)
    late = g.add("Relu", g.add("Transpose", second, perm=[0, 2, 3, 1]), to="late")
    pooled = g.reduce("ReduceMean", g.add("Tanh", late), [1, 2])
    g.out(g.add("Gemm", pooled, g.const(g.normal(6, 5)), g.const(g.normal(5)), to="scores"), ["N", 5])
    return g.model()


def channels_first() -> Any:
    g = Graph()
    early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="early")
    late = g.add("Relu", g.conv(g.add("Tanh", early), 6, 6), to="late")
    return finish(g, g.add("Tanh", late), 6)


def run(model: Any, pixels: Floats, classes: Any = None, *, folder: Path | None = None) -> dict[str, NDArray[Any]]:
    source = model.SerializeToString()
    session = make_session(source, device="cpu", threads=1, folder=folder)
    feed = {session.get_inputs()[0].name: pixels}
    if classes is not None:
        feed["cam_class"] = np.asarray(classes, np.int32)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def explained(model: Any, layer: str | None, name: str, pixels: Floats, classes: Any, *, target: Any = None) -> Floats:
    """The formula of the core, of features and gradients that a backend gives."""
    backend, row = OnnxBackend(model, device="cpu", threads=1), METHODS[name]
    needs = frozenset({"features", "gradients"}) | (row.needs & {"curvature"})
    aim = target_of(row.target if target is None else target)
    seen = backend.observe(pixels, needs=needs, layers=[layer], classes=np.array(classes), target=aim)[0]
    given = {need: getattr(seen, need) for need in row.needs - {"head"}}
    maps: Floats = row.formula(**given, classes=seen.classes, **row.options)
    return maps


def close(found: Floats, expected: Floats, limit: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


def lengths(value: Any) -> list[int | str]:
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


class TestTheModel:
    @pytest.mark.parametrize("opset", sorted({*OPSETS, newest_opset()}))
    @pytest.mark.parametrize("maps", [None, "gradcam"])
    @pytest.mark.parametrize("classes", ["input", "inputs", "top1", "top3", 2])
    def test_it_is_sound_and_its_own_outputs_stay(self, opset: int, maps: str | None, classes: str | int) -> None:
        model = network(opset=opset)
        added = add_tail_gradients(model, "middle", classes=classes, maps=maps)
        onnx.checker.check_model(added, full_check=True)
        assert added.opset_import[0].version == (opset if opset >= 9 else 11)
        assert [o.name for o in added.graph.output] == [
            "scores",
            "cam_classes",
            *(["middle", "gradient"] if maps is None else ["cam"]),
        ]
        pixels = images(2, 3, 9, 10)
        given = {"input": [2, -1], "inputs": [[2, -1], [0, 1]]}.get(str(classes))
        found = run(added, pixels, given)
        np.testing.assert_array_equal(found["scores"], run(model, pixels)["scores"])
        assert "scores" in run(model, pixels)

    def test_all_that_is_added_says_so(self) -> None:
        model = network()
        before = {node.name for node in model.graph.node} | {t.name for t in model.graph.initializer}
        for options in ({"maps": "shapleycam", "classes": "top2"}, {"classes": "inputs", "target": "finer"}):
            added = add_tail_gradients(model, ["early", "late"], **options)
            new = {node.name for node in added.graph.node} | {t.name for t in added.graph.initializer}
            assert before <= new
            assert {name.partition("/")[0] for name in new - before} == {"grad", "again"}
            names = [node.name for node in added.graph.node]
            assert len(set(names)) == len(names)

    def test_lengths_that_are_free_stay_free(self) -> None:
        added = add_tail_gradients(network(), "early")
        shapes = {v.name: lengths(v) for v in (*added.graph.input, *added.graph.output)}
        assert shapes["image"] == ["N", 3, "H", "W"]
        assert shapes["cam_class"] == ["N"]
        assert shapes["scores"] == ["N", 5]
        assert [isinstance(n, int) and n > 0 for n in shapes["gradient"]] == [False, True, True, False, False]

    def test_the_model_that_is_given_does_not_change(self) -> None:
        model = network()
        data = model.SerializeToString()
        add_tail_gradients(model, "early", classes="top2", maps="gradcam")
        assert model.SerializeToString() == data

    def test_features_that_the_head_reads_are_the_default(self) -> None:
        assert [o.name for o in add_tail_gradients(network()).graph.output] == [
            "scores",
            "cam_classes",
            "late",
            "gradient",
        ]


@pytest.mark.parametrize("size", [(9, 10), (16, 16), (23, 17), (65, 40)])
@pytest.mark.parametrize("layer", ["early", "middle", "late"])
def test_another_size_than_it_was_learned_from(layer: str, size: tuple[int, int]) -> None:
    model = network()
    added = add_tail_gradients(model, layer, maps="layercam", size=(32, 48))
    fixed = network(3, size)
    pixels = images(3, 3, *size)
    close(
        run(added, pixels, [1, 2, 3])["cam"][:, 0], explained(fixed, layer, "layercam", pixels, [[1], [2], [3]])[:, 0]
    )


def test_lengths_that_agree_by_chance_are_learned_from_a_larger_image() -> None:
    """One window of 32 places, 64 apart, lies in images of 48 and of 89 pixels; two lie in those of 96."""

    def windows(size: tuple[int | str, int | str]) -> Any:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, *size]), 3, 6), to="early")
        pooled = g.add("AveragePool", early, kernel_shape=[32, 32], strides=[64, 64])
        return finish(g, g.add("Tanh", g.conv(pooled, 6, 6, kernel=1)), 6)

    added, pixels = (
        add_tail_gradients(windows(("H", "W")), "early", maps="layercam", size=(48, 48)),
        images(2, 3, 96, 160),
    )
    expected = explained(windows((96, 160)), "early", "layercam", pixels, [[1], [2]])
    close(run(added, pixels, [1, 2])["cam"], expected)


class TestClasses:
    def test_an_index_or_the_best(self) -> None:
        model, pixels = network(), images(3, 3, 9, 10)
        found = run(add_tail_gradients(model, "early"), pixels, [1, -1, 4])
        best = found["scores"].argmax(axis=1)
        np.testing.assert_array_equal(found["cam_classes"], [[1], [best[1]], [4]])
        again = run(add_tail_gradients(model, "early"), pixels, [1, best[1], 4])
        np.testing.assert_array_equal(found["gradient"], again["gradient"])

    def test_several(self) -> None:
        model, pixels = network(), images(2, 3, 9, 10)
        single = add_tail_gradients(model, "early")
        many = run(add_tail_gradients(model, "early", classes="inputs"), pixels, [[1, -1, 0], [3, 3, -1]])
        ranks = np.argsort(-many["scores"], axis=1, kind="stable")
        np.testing.assert_array_equal(many["cam_classes"], [[1, ranks[0, 1], 0], [3, 3, ranks[1, 2]]])
        for t in range(3):
            close(many["gradient"][:, t], run(single, pixels, many["cam_classes"][:, t])["gradient"][:, 0])

    def test_the_best_few(self) -> None:
        model, pixels = network(), images(2, 3, 9, 10)
        few = run(add_tail_gradients(model, "early", classes="top3"), pixels)
        np.testing.assert_array_equal(few["cam_classes"], np.argsort(-few["scores"], axis=1)[:, :3])
        named = run(add_tail_gradients(model, "early", classes="inputs"), pixels, few["cam_classes"])
        close(few["gradient"], named["gradient"])
        best = run(add_tail_gradients(model, "early", classes="top1"), pixels)
        np.testing.assert_array_equal(best["cam_classes"], few["cam_classes"][:, :1])

    def test_one_that_is_fixed(self) -> None:
        model, pixels = network(), images(2, 3, 9, 10)
        fixed = run(add_tail_gradients(model, "early", classes=3), pixels)
        np.testing.assert_array_equal(fixed["cam_classes"], [[3], [3]])
        close(fixed["gradient"], run(add_tail_gradients(model, "early"), pixels, [3, 3])["gradient"])

    @pytest.mark.parametrize("target", ["logit", "probability", "log-probability", "rest", "difference", "finer"])
    def test_one_that_is_not_there_gives_zeros(self, target: str) -> None:
        found = run(add_tail_gradients(network(), "early", target=target), images(2, 3, 9, 10), [5, 1])
        assert not found["gradient"][0].any()
        assert found["gradient"][1].any()

    def test_no_more_of_the_best_than_there_are(self) -> None:
        found = run(add_tail_gradients(network(), "early", classes="top9"), images(2, 3, 9, 10))
        assert found["gradient"].shape[:2] == (2, 5)

    def test_which_there_may_be(self) -> None:
        for wrong in ("best", -1, 2.5, None, "top0"):
            text = f"classes is {wrong!r}; expected 'input', 'inputs', 'all', 'top1', 'top5' or a class index"
            with pytest.raises(InputError, match=re.escape(text)):
                add_tail_gradients(network(), "early", classes=wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="there is no class 5: the model has 5 classes, 0 to 4"):
            add_tail_gradients(network(), "early", classes=5)


class TestMaps:
    @pytest.mark.parametrize("layer", ["early", "middle", "late"])
    @pytest.mark.parametrize("method", FINISHED)
    def test_they_are_those_of_the_explainer(self, method: str, layer: str) -> None:
        model, pixels = network(), images(2, 3, 12, 9)
        classes = np.array([[1, 3], [0, 2]])
        for free in (model, network(2, (12, 9))):
            found = run(add_tail_gradients(free, layer, classes="inputs", maps=method), pixels, classes)
            assert found["cam"].dtype == np.float32
            close(found["cam"], explained(free, layer, method, pixels, classes))

    @pytest.mark.parametrize("method", FINISHED)
    @pytest.mark.parametrize("layer", ["early", "late"])
    def test_channels_last(self, method: str, layer: str) -> None:
        pixels = images(2, 3, 9, 12)
        expected = explained(channels_first(), layer, method, pixels, [[1], [4]])
        for model in (channels_last(), channels_last((9, 12))):
            close(run(add_tail_gradients(model, layer, maps=method), pixels, [1, 4])["cam"], expected)
            close(explained(model, layer, method, pixels, [[1], [4]]), expected)

    @pytest.mark.parametrize("size", [("L",), ("D", "H", "W"), (11,), (5, 6, 7)])
    def test_other_ranks(self, size: tuple[int | str, ...]) -> None:
        model = network(size=size)
        pixels = images(2, 3, *[n if isinstance(n, int) else 6 + i for i, n in enumerate(size)])
        for layer in ("early", "late"):
            added = add_tail_gradients(model, layer, maps="layercam", size=pixels.shape[2:])
            onnx.checker.check_model(added, full_check=True)
            close(run(added, pixels, [1, 2])["cam"], explained(model, layer, "layercam", pixels, [[1], [2]]))

    def test_several_layers(self) -> None:
        model, pixels = network(), images(2, 3, 9, 10)
        added = add_tail_gradients(model, ["early", "late"], maps="layercam")
        assert [o.name for o in added.graph.output] == ["scores", "cam_classes", "cam/early", "cam/late"]
        found = run(added, pixels, [1, 2])
        for layer in ("early", "late"):
            close(found[f"cam/{layer}"], explained(model, layer, "layercam", pixels, [[1], [2]]))
        both = add_tail_gradients(model, ["late", "early"], classes="top2")
        names = ["scores", "cam_classes", "late", "gradient/late", "early", "gradient/early"]
        assert [o.name for o in both.graph.output] == names
        alone = run(add_tail_gradients(model, "early", classes="top2"), pixels)
        close(run(both, pixels)["gradient/early"], alone["gradient"])

    def test_gradients_are_as_long_as_the_features(self) -> None:
        for classes in ("input", "top2"):
            found = run(
                add_tail_gradients(network(), "late", classes=classes),
                images(2, 3, 9, 10),
                [1, 2] if classes == "input" else None,
            )
            assert found["gradient"].shape == (2, len(found["cam_classes"][0]), *found["late"].shape[1:])

    @pytest.mark.parametrize("ending", ["Softmax", "Sigmoid", "LogSoftmax"])
    @pytest.mark.parametrize("target", ["logit", "probability", "difference:2"])
    def test_logits_are_found_behind_an_ending(self, ending: str, target: str) -> None:
        g, pixels = Graph(), images(2, 3, 9, 10)
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="early")
        pooled = g.add("Flatten", g.add("GlobalAveragePool", g.add("Tanh", early)))
        scores = g.add("Gemm", pooled, g.const(g.normal(6, 5)), to="scores")
        g.out(g.add(ending, scores, to="ending"), ["N", 5])
        found = run(add_tail_gradients(g.model(), "early", target=target, maps="hirescam"), pixels, [1, 3])
        close(found["cam"], explained(g.model(), "early", "hirescam", pixels, [[1], [3]], target=target))


class TestFormats:
    def test_half_precision(self) -> None:
        model, pixels = network(dtype="float16"), images(2, 3, 9, 10).astype(np.float16)
        added = add_tail_gradients(model, "early", maps="layercam", classes="inputs")
        onnx.checker.check_model(added, full_check=True)
        found = run(added, pixels, [[1, 2], [0, -1]])
        assert found["cam"].dtype == np.float32
        np.testing.assert_array_equal(found["scores"], run(model, pixels)["scores"])
        single = network()
        close(found["cam"][:1], explained(single, "early", "layercam", pixels.astype(np.float32)[:1], [[1, 2]]), 2e-2)
        gradients = run(add_tail_gradients(model, "early"), pixels, [1, 2])
        assert gradients["gradient"].dtype == np.float32
        assert gradients["early"].dtype == np.float16

    @pytest.mark.parametrize("form", ["dequantized", "constant", "filled", "reshaped", "input"])
    def test_weights_that_are_stored_in_other_ways(self, form: str) -> None:
        model, pixels = network(form=form), images(2, 3, 9, 10)
        added = add_tail_gradients(model, "early", maps="layercam")
        onnx.checker.check_model(added, full_check=True)
        close(run(added, pixels, [1, 2])["cam"], explained(model, "early", "layercam", pixels, [[1], [2]]))
        if form != "dequantized":
            close(run(added, pixels, [1, 2])["cam"], explained(network(), "early", "layercam", pixels, [[1], [2]]))

    def test_quantised_activations(self) -> None:
        def model(quantised: bool) -> Any:
            g = Graph()
            early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="early")
            middle = g.add("Relu", g.conv(g.quantized(early, 1 / 32) if quantised else early, 6, 6), to="middle")
            return finish(g, g.quantized(middle) if quantised else middle, 6)

        pixels = 0.3 * images(2, 3, 9, 10)
        found = run(add_tail_gradients(model(True), "early", maps="layercam"), pixels, [1, 2])["cam"]
        plain = run(add_tail_gradients(model(False), "early", maps="layercam"), pixels, [1, 2])["cam"]
        assert np.corrcoef(found.ravel(), plain.ravel())[0, 1] > 0.99

    @pytest.mark.parametrize("opset", [8, 17])
    def test_weights_in_a_file_stay_there(self, opset: int, tmp_path: Path) -> None:
        model, pixels = network(opset=opset), images(2, 3, 9, 10)
        expected = run(add_tail_gradients(model, "early", classes="top2"), pixels)
        options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
        onnx.save_model(model, str(tmp_path / "model.onnx"), **options)
        size = (tmp_path / "weights.bin").stat().st_size
        added = add_tail_gradients(tmp_path / "model.onnx", "early", classes="top2")
        outside = [t for t in added.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert {t.name for t in outside} >= {t.name for t in model.graph.initializer}
        assert len(added.SerializeToString()) < 40_000
        (tmp_path / "added.onnx").write_bytes(added.SerializeToString())
        assert (tmp_path / "weights.bin").stat().st_size == size
        assert sorted(p.name for p in tmp_path.iterdir()) == ["added.onnx", "model.onnx", "weights.bin"]
        session = make_session(str(tmp_path / "added.onnx"), device="cpu")
        found = session.run(None, {"image": pixels})
        for array, name in zip(found, [o.name for o in added.graph.output], strict=True):
            np.testing.assert_array_equal(array, expected[name])


class TestErrors:
    @pytest.mark.parametrize("options", [{"classes": "top1"}, {"maps": "gradcam", "classes": 1}, {"classes": "top2"}])
    def test_gradients_that_are_there_already(self, options: dict[str, Any]) -> None:
        once = add_tail_gradients(network(), "early", **options)
        text = "the model has a tensor called 'cam_classes' already: were gradients added before?"
        for layer in ("early", "late"):
            with pytest.raises(InputError, match=re.escape(text)):
                add_tail_gradients(once, layer, **options)

    def test_a_model_with_gradients_that_takes_the_class(self) -> None:
        once = add_tail_gradients(network(), "early")
        with pytest.raises(
            InputError, match=r"has gradients in it already \(input 'cam_class'\); give the file that they"
        ):
            add_tail_gradients(once, "late")

    @pytest.mark.parametrize(("name", "options"), [("cam_class", {}), ("gradient", {}), ("cam", {"maps": "gradcam"})])
    def test_a_name_that_is_taken(self, name: str, options: dict[str, Any]) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to=name)
        model = finish(g, g.add("Tanh", early), 6)
        with pytest.raises(InputError, match=f"the model has a tensor called '{name}' already"):
            add_tail_gradients(model, name, **options)

    @pytest.mark.parametrize(
        ("layers", "kind", "text"),
        [
            ("lat", InputError, "no layer is called 'lat'"),
            (
                ["early", "early"],
                InputError,
                "layers ['early', 'early'] are not all different, or none; give each layer",
            ),
            ([], InputError, "layers [] are not all different, or none; give each layer once"),
            (
                "scores",
                MethodNotPossible,
                "the layer 'scores' is the scores themselves; choose a layer in front of them",
            ),
            ("ending", MethodNotPossible, "the scores 'scores' do not depend on the layer 'ending'; choose another"),
            ("aside", MethodNotPossible, "the scores 'scores' do not depend on the layer 'aside'; choose another"),
            ("counted", MethodNotPossible, "the layer 'counted' holds int64, not floats; choose another layer"),
            (["early", "aside"], MethodNotPossible, "do not depend on the layer 'aside'; choose another"),
        ],
    )
    def test_layers(self, layers: Any, kind: type[Exception], text: str) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="early")
        aside = g.add("Tanh", early, to="aside")
        counted = g.add("Shape", early, to="counted")
        g.out(aside)
        g.out(counted, type=onnx.TensorProto.INT64)
        pooled = g.add("Flatten", g.add("GlobalAveragePool", early))
        g.out(g.add("Softmax", g.add("Gemm", pooled, g.const(g.normal(6, 5)), to="scores"), to="ending"), ["N", 5])
        with pytest.raises(kind, match=re.escape(text)):
            add_tail_gradients(g.model(), layers, output="ending")

    def test_targets(self) -> None:
        with pytest.raises(
            InputError, match="target 'function <lambda>' is a function; the graph takes targets by name"
        ):
            add_tail_gradients(network(), "early", target=lambda s: s[:, 0])  # type: ignore[arg-type]
        with pytest.raises(InputError, match="target 'logits' is not known"):
            add_tail_gradients(network(), "early", target="logits")
        with pytest.raises(InputError, match="target difference:7: the model has 5 classes, 0 to 4"):
            add_tail_gradients(network(), "early", target="difference:7")

    @pytest.mark.parametrize("name", [n for n in METHODS if n not in FINISHED])
    def test_maps_that_cannot_be_finished(self, name: str) -> None:
        text = f"the map of {name} cannot be made in the graph; take gradcam, gradcam++, "
        with pytest.raises(InputError, match=re.escape(text)):
            add_tail_gradients(network(), "early", maps=name)

    def test_an_operator_without_a_derivative(self) -> None:
        g = Graph()
        early = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="early")
        boxes = g.const(np.array([[0, 0, 0, 1, 1]]), form="initializer")
        g.add("Det", g.add("Reshape", early, g.ints(0, 6, 8, 8)), to="value", name="volume")
        pooled = g.add("Gemm", "value", g.const(g.normal(6, 5)), to="scores")
        g.out(pooled, ["N", 5])
        assert boxes
        text = "no derivative is known of Det ('volume'), which stands between the layer and the scores"
        with pytest.raises(MethodNotPossible, match=re.escape(text)):
            add_tail_gradients(g.model(), "early")


@pytest.mark.parametrize("real", [*data.WITH_CAM, *data.WITHOUT_CAM], ids=lambda r: r.file)
def test_real_models(real: Real) -> None:
    """Sound, with their own outputs, and maps of the best class that are those of the explainer."""
    model = onnx.load(real.path)
    backend = OnnxBackend(real.path, device="cpu", threads=1)
    layer = backend.layers()[-2].name
    added = add_tail_gradients(real.path, layer, maps="gradcam", classes="top1")
    onnx.checker.check_model(added, full_check=True)
    spec = backend.input
    pixels = images(spec.shape[0] or 2, spec.channels or 3, *[n or 32 for n in spec.shape[2:]]).astype(spec.dtype)
    found, plain = run(added, pixels), run(model, pixels)
    steps = 2e-2 if "qdq" in real.file else real.tolerance  # what is fused differently rounds differently
    for name, array in plain.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=steps * np.abs(array).max())
    expected = Explainer(backend, method="gradcam", layer=layer)(pixels.astype(np.float32), found["cam_classes"]).maps
    close(found["cam"], expected, real.tolerance)
