"""BatchExplainer: a dict of arrays in, a dict of arrays out, in any process; the engines are in test_batch_engines."""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy_network import values
from onnx_graphs import Graph
from torch import nn

import camcore
from camcore import BatchExplainer, InputError
from camcore.half import from_half

NAMES = ["tench", "tabby", "lynx", "crane"]


def network() -> nn.Module:
    """What a factory makes: by its name this module's, in whatever process."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 5))
    flat = g.add("Flatten", g.add("GlobalAveragePool", features))
    g.out(g.add("Gemm", flat, g.const(g.normal(4, 5)), transB=1), ["N", 4])
    path = tmp_path_factory.mktemp("batch") / "model.onnx"
    onnx.save(g.model(), path)
    return path


def test_all_that_comes_out(model: Path) -> None:
    images = values(3, 3, 8, 8)
    images.flags.writeable = False
    numbers = np.arange(3)
    out = BatchExplainer(model, classes="top2", labels=NAMES)({"image": images, "id": numbers})
    expected = camcore.explainer(model)(images, "top2")
    names = ["id", "cam", "cam_scale", "cam_class", "cam_score", "cam_probability", "cam_label", "cam_error"]
    assert list(out) == names
    assert out["id"] is numbers
    assert out["cam"].dtype == np.float16
    maps = from_half(out["cam"], out["cam_scale"])
    np.testing.assert_allclose(maps, expected.maps, atol=2.0**-11 * np.abs(expected.maps).max())
    np.testing.assert_array_equal(out["cam_class"], expected.classes)
    np.testing.assert_array_equal(out["cam_score"], np.take_along_axis(expected.scores, expected.classes, 1))
    np.testing.assert_array_equal(out["cam_label"], np.array(NAMES)[expected.classes])
    np.testing.assert_array_equal(out["cam_error"], ["", "", ""])


def test_float32_is_the_map_itself(model: Path) -> None:
    images = values(2, 3, 8, 8)
    out = BatchExplainer(model, dtype="float32")({"image": images})
    np.testing.assert_array_equal(out["cam"], camcore.explainer(model)(images).maps)
    assert "cam_scale" not in out
    assert "cam_label" not in out


def test_large_and_small_maps_are_no_infinities_and_no_zeros(model: Path) -> None:
    for factor in (1e7, 1e-7):
        images = values(1, 3, 8, 8) * np.float32(factor)
        out = BatchExplainer(model, method="activationmap")({"image": images})
        expected = camcore.explainer(model, method="activationmap")(images).maps
        maps = from_half(out["cam"], out["cam_scale"])
        np.testing.assert_allclose(maps, expected, atol=2.0**-11 * np.abs(expected).max())


def test_a_bad_row_among_good_ones(model: Path) -> None:
    images = values(3, 3, 8, 8)
    images[1, 2, 3, 3] = np.nan
    out = BatchExplainer(model, labels=NAMES)({"image": images})
    assert out["cam_error"].tolist() == ["", "the image has 1 pixels that are NaN or infinite", ""]
    assert out["cam_class"][1] == -1
    assert out["cam_label"][1] == ""
    assert np.isnan(out["cam"][1]).all()
    assert np.isfinite(out["cam"][[0, 2]]).all()


def test_shapes_and_types_are_the_same_for_any_batch(model: Path) -> None:
    explain = BatchExplainer(model, labels=NAMES, preprocess="unit")
    pictures = np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), dtype=np.uint8)
    batches: list[Any] = [pictures, pictures[:0], np.array(["no.png"]), np.array([], object)]
    found = [explain({"image": batch}) for batch in batches]
    kinds = [{k: (v.dtype, v.shape[1:]) for k, v in out.items() if k != "cam_error"} for out in found]
    assert kinds[1:] == kinds[:1] * 3
    assert [len(out["cam"]) for out in found] == [2, 0, 1, 0]


def test_the_column_is_kept_where_asked(model: Path) -> None:
    images = values(1, 3, 8, 8)
    assert "image" not in BatchExplainer(model)({"image": images})
    assert BatchExplainer(model, column="x", keep=True)({"x": images})["x"] is images


def test_columns_of_the_same_name_are_refused(model: Path) -> None:
    with pytest.raises(InputError, match="columns of its own called cam, cam_error; rename them first"):
        BatchExplainer(model)({"image": values(1, 3, 8, 8), "cam": np.zeros(1), "cam_error": np.zeros(1)})


class TestPickling:
    @pytest.mark.parametrize("form", ["path", "relative", "bytes", "proto"])
    def test_before_and_after_use(self, model: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(model.parent)
        given = {"path": model, "relative": model.name, "bytes": model.read_bytes(), "proto": onnx.load(model)}[form]
        images = values(2, 3, 8, 8)
        explain = BatchExplainer(given)
        unused = pickle.dumps(explain)
        expected = explain({"image": images})
        assert len(pickle.dumps(explain)) == len(unused)  # no session in it
        monkeypatch.chdir("/")
        for data in (unused, pickle.dumps(explain)):
            np.testing.assert_array_equal(pickle.loads(data)({"image": images})["cam"], expected["cam"])

    def test_labels_and_preprocessing_travel(self, model: Path, tmp_path: Path) -> None:
        file = tmp_path / "names.txt"
        file.write_text("\n".join(NAMES))
        explain = BatchExplainer(model, labels=file, preprocess={"mean": (0.5,), "std": (0.5,)})
        file.unlink()
        out = pickle.loads(pickle.dumps(explain))([np.zeros((8, 8, 3), np.uint8)])
        assert out["cam_label"][0, 0] in NAMES

    def test_a_module_is_refused_with_the_cure(self) -> None:
        text = re.escape(
            "a model of type Sequential cannot be sent to other processes; give the path of an .onnx file, or"
        )
        with pytest.raises(InputError, match=text + ".* 'MODULE:FUNCTION'"):
            BatchExplainer(network())

    def test_a_factory_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "my_networks", sys.modules[__name__])
        explain = pickle.loads(pickle.dumps(BatchExplainer("my_networks:network", threads=1)))
        assert explain({"image": values(2, 3, 9, 9)})["cam"].shape == (2, 1, 7, 7)

    @pytest.mark.parametrize("name", ["no_such_module:network", "camcore:no_such_function"])
    def test_a_factory_that_fails(self, name: str) -> None:
        with pytest.raises(InputError, match=f"the model '{name}' could not be made in this process: "):
            BatchExplainer(name)({"image": values(1, 3, 9, 9)})


class TestSessions:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        open_one = camcore.batch.explainer

        def spy(model: Any, **options: Any) -> Any:
            calls.append(options)
            return open_one(model, **options)

        monkeypatch.setattr(camcore.batch, "explainer", spy)
        return calls

    def test_none_is_opened_before_the_first_batch_and_one_in_all(self, model: Path, opened: list[Any]) -> None:
        explain, barrier = BatchExplainer(model), threading.Barrier(4)

        def call(n: int) -> np.ndarray:
            barrier.wait()
            cam: np.ndarray = explain({"image": values(2, 3, 8, 8, seed=n)})["cam"]
            return cam

        assert opened == []
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, range(4)))
        assert len(opened) == 1
        for n, cam in enumerate(found):
            np.testing.assert_array_equal(cam, explain({"image": values(2, 3, 8, 8, seed=n)})["cam"])

    def test_another_process_opens_its_own(
        self, model: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        explain = BatchExplainer(model)
        explain({"image": values(1, 3, 8, 8)})
        monkeypatch.setattr(os, "getpid", lambda: -1)  # as behind a fork
        explain({"image": values(1, 3, 8, 8)})
        assert len(opened) == 2

    @pytest.mark.parametrize(
        ("variable", "given", "expected"),
        [("3", None, 3), ("4,2", None, 4), ("", None, None), ("no", None, None), ("3", 2, 2)],
    )
    def test_threads_as_the_engine_says(
        self, model: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch, variable: str, given: Any, expected: Any
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        BatchExplainer(model, threads=given)({"image": values(1, 3, 8, 8)})
        assert opened[0].get("threads") == expected


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda m: BatchExplainer(m, dtype="float64"), "dtype is 'float64'; expected one of float16, float32"),
        (lambda m: BatchExplainer(m, preprocess="imagenett"), "Did you mean 'imagenet'"),
        (lambda m: BatchExplainer(m, labels="no.txt"), "no such file"),
        (lambda m: BatchExplainer(m, classes=9)({"image": values(1, 3, 8, 8)}), "class 9 is out of range"),
        (lambda m: BatchExplainer(m)({"image": values(1, 1, 8, 8)}), "images have 1 channels, the model takes 3"),
        (lambda m: BatchExplainer(m)({"img": values(1, 3, 8, 8)}), "no column 'image'"),
        (lambda m: BatchExplainer("no.onnx")({"image": values(1, 3, 8, 8)}), "no such file"),
    ],
)
def test_what_is_wrong_with_all_is_raised(model: Path, make: Callable[[Path], Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        make(model)


def test_for_spark_maps_are_flat(model: Path) -> None:
    images = values(2, 3, 8, 8) * np.float32(1e6)
    explain = BatchExplainer(model, classes="top2")
    out = pickle.loads(pickle.dumps(explain.spark()))()(images)
    expected = camcore.explainer(model)(images, "top2")
    folded = out["cam"].reshape(2, *out["cam_shape"][0])
    np.testing.assert_allclose(folded, expected.maps, atol=2.0**-11 * np.abs(expected.maps).max())
    assert all(column.ndim <= 2 and column.dtype != np.float16 for column in out.values())
    assert {name.split()[0] for name in explain.spark_schema.split(", ")} == set(out)


def test_its_text(model: Path) -> None:
    assert repr(BatchExplainer(model)) == f"BatchExplainer({str(model)!r}, method='auto', classes='top1')"
    assert repr(BatchExplainer(b"x", method="fem")) == "BatchExplainer('bytes', method='fem', classes='top1')"
