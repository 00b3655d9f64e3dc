"""The map inside the model against the library's, at every optimisation of ONNX Runtime; outputs stay as they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import data
import numpy as np
import onnx
import pytest
import torchvision
from camcore_onnx import OnnxBackend, embed_cam
from camcore_onnx.float16 import to_float16
from camcore_onnx.running.runtime import OPTIMIZATION, make_session
from camcore_torch.exporting import EXPORTERS, to_onnx
from numpy.typing import NDArray
from onnx_graphs import images, onnx_bytes
from quantised_files import on_integers
from torch_networks import network

from camcore.engine import Explainer

Floats = NDArray[np.floating[Any]]
METHODS = ("cam", "gradcam++", "layercam", "reciprocam")
CLASSES = ("top5", "all", "input")
PAIRS = list(product(METHODS, CLASSES))
SINGLE, HALF = 1e-4, 1e-2
FAMILIES = (
    *("resnet18", "resnext50_32x4d", "wide_resnet50_2", "regnet_y_400mf", "densenet121", "googlenet", "inception_v3"),
    *("squeezenet1_0", "squeezenet1_1", "mnasnet0_5", "mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0"),
    *("efficientnet_v2_s", "resnet50", "vgg16_gap", "swin_t"),
)


class File:
    """A model with its map inside beside the plain one.

    Parameters
    ----------
    plain : bytes
    method, classes : str
    """

    def __init__(self, plain: bytes, method: str, classes: str) -> None:
        self.plain, self.method, self.classes = plain, method, classes
        self.made = onnx_bytes(embed_cam(plain, method=method, classes=classes))

    def check(
        self, levels: Sequence[str], batches: Sequence[int], limit: float, size: Sequence[int] = (64, 64)
    ) -> None:
        for level in levels:
            backend = OnnxBackend(self.plain, device="cpu", threads=1, optimization=level)
            explainer = Explainer(backend, method=self.method)
            plain = make_session(self.plain, device="cpu", threads=1, optimization=level)
            made = make_session(self.made, device="cpu", threads=1, optimization=level)
            for batch in batches:
                shape = [n or m for n, m in zip(backend.input.shape, (batch, 3, *size), strict=False)]
                given = images(*shape, seed=batch).astype(backend.input.dtype)
                self._compare(given, plain, made, explainer, limit, (level, batch))

    def _compare(
        self, given: Floats, plain: Any, made: Any, explainer: Explainer, limit: float, where: tuple[str, int]
    ) -> None:
        feed = {plain.get_inputs()[0].name: given}
        expected, names = plain.run(None, feed), [o.name for o in made.get_outputs()]
        for asked in self._asked(len(given), explainer):
            found = dict(zip(names, made.run(None, {**feed, **asked}), strict=True))
            for before, after in zip(expected, list(found.values())[: len(expected)], strict=True):
                np.testing.assert_array_equal(after, before, err_msg=str((*where, asked)))
            classes = self._classes(found, asked, len(given))
            out = explainer(given, "all" if classes is None else classes)
            assert found["cam"].shape == out.maps.shape, where
            assert relative(found["cam"], out.maps) <= limit, where
            if classes is not None:
                chosen = np.take_along_axis(out.scores, classes, axis=1)
                assert relative(found["cam_scores"], chosen) <= limit, where

    def _asked(self, count: int, explainer: Explainer) -> Iterator[dict[str, NDArray[np.int32]]]:
        yield {}
        if self.classes == "input":
            last = len(explainer(images(1, *[n or 64 for n in explainer.backend.input.shape[1:]])).scores[0]) - 1
            yield {"cam_class": np.array([last], np.int32)}
            yield {"cam_class": np.where(np.arange(count) % 2, last, -1).astype(np.int32)}

    def _classes(self, found: dict[str, Any], asked: dict[str, Any], count: int) -> NDArray[np.int64] | None:
        if self.classes == "all":
            return None
        classes: NDArray[np.int64] = found["cam_classes"].astype(np.int64)
        given = np.broadcast_to(asked.get("cam_class", -1), (count,))
        assert (classes[given >= 0, 0] == given[given >= 0]).all()
        return classes


def relative(found: Floats, expected: Floats) -> float:
    scale = float(np.abs(expected).max())  # zero where a class has no weight of its own, and its map is all ReLU
    return float(np.abs(found.astype(np.float64) - expected).max()) / (scale or 1.0)


@cache
def exported(name: str, exporter: Any = "torchscript", size: int = 64) -> bytes:
    model = getattr(torchvision.models, name)(weights=None) if name.startswith("swin") else network(name)
    return to_onnx(model.eval(), (1, 3, size, size), exporter=exporter)


def size_of(name: str) -> int:
    return {"inception_v3": 128, "swin_t": 64}.get(name, 64)


class TestNetworks:
    @pytest.mark.parametrize(("method", "classes"), PAIRS)
    def test_a_small_one(self, method: str, classes: str) -> None:
        File(exported("squeezenet1_1"), method, classes).check(("disabled", "all"), (1, 3), SINGLE)

    @pytest.mark.parametrize("method", METHODS)
    def test_another_exporter(self, method: str) -> None:
        File(exported("mnasnet0_5", "dynamo"), method, "top5").check(("basic", "extended"), (2,), SINGLE)

    def test_half_precision(self) -> None:
        half = onnx_bytes(to_float16(onnx.load_from_string(exported("squeezenet1_1"))))
        File(half, "cam", "top5").check(("all",), (2,), HALF)

    @pytest.mark.slow
    @pytest.mark.parametrize("exporter", EXPORTERS)
    @pytest.mark.parametrize("name", FAMILIES)
    def test_all_families(self, name: str, exporter: Any) -> None:
        model = exported(name, exporter, size_of(name))
        for classes in CLASSES:
            File(model, "cam", classes).check(OPTIMIZATION, (1, 7), SINGLE)
        for method in METHODS[1:]:
            File(model, method, "top5").check(("disabled", "all"), (1, 7), SINGLE)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [n for n in FAMILIES if n != "inception_v3"])  # whose random scores overflow
    def test_all_families_in_half_precision(self, name: str) -> None:
        half = onnx_bytes(to_float16(onnx.load_from_string(exported(name, "torchscript", size_of(name)))))
        for method in METHODS:
            File(half, method, "top5").check(("all",), (1, 7), HALF)


def whole(real: data.Real) -> bytes:
    return real.path.read_bytes()


def limit_of(real: data.Real) -> float:
    return HALF if "fp16" in real.file else SINGLE


class TestRealModels:
    @pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda real: real.file)
    def test_best_classes(self, real: data.Real) -> None:
        File(whole(real), "cam", "top5").check(("all",), (2,), limit_of(real), (224, 224))

    @pytest.mark.slow
    @pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda real: real.file)
    @pytest.mark.parametrize(("method", "classes"), PAIRS)
    def test_everything(self, real: data.Real, method: str, classes: str) -> None:
        file = File(whole(real), method, classes)
        file.check(OPTIMIZATION, (1, 7), limit_of(real), (224, 224))

    @pytest.mark.slow
    @pytest.mark.parametrize("real", data.WITHOUT_CAM, ids=lambda real: real.file)
    @pytest.mark.parametrize("classes", CLASSES)
    def test_without_a_cam_positions_are_tried_one_by_one(self, real: data.Real, classes: str) -> None:
        File(whole(real), "reciprocam", classes).check(OPTIMIZATION, (1, 7), limit_of(real))

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "classes"), PAIRS)
    def test_on_integers(self, method: str, classes: str, tmp_path: Any) -> None:
        plain = data.folder() / "models" / "mobilenet_v1_0.25_128_fp32.onnx"
        path = on_integers(plain, tmp_path, [images(2, 3, 128, 128, seed=i).clip(-1, 1) for i in range(2)])
        File(path.read_bytes(), method, classes).check(OPTIMIZATION, (1, 7), SINGLE)


class TestSlimmed:
    @pytest.mark.parametrize("classes", ["top5", "input"])
    def test_a_small_network(self, classes: str) -> None:
        self.check(exported("squeezenet1_1"), "cam", classes)

    @pytest.mark.slow
    @pytest.mark.parametrize(("method", "classes"), PAIRS)
    @pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda real: real.file)
    def test_real_models(self, real: data.Real, method: str, classes: str) -> None:
        self.check(whole(real), method, classes, limit=limit_of(real), size=(224, 224))

    def check(
        self, plain: bytes, method: str, classes: str, *, limit: float = SINGLE, size: Sequence[int] = (64, 64)
    ) -> None:
        onnxslim = pytest.importorskip("onnxslim", reason="onnxslim is not installed")
        made = embed_cam(plain, method=method, classes=classes)
        slim = onnxslim.slim(onnx.load_from_string(onnx_bytes(made)))
        assert [o.name for o in slim.graph.output] == [o.name for o in made.graph.output]
        assert {e.key for e in slim.metadata_props} == {e.key for e in made.metadata_props}
        spec = OnnxBackend(plain, device="cpu").input
        given = images(*[n or m for n, m in zip(spec.shape, (3, 3, *size), strict=False)]).astype(spec.dtype)
        sessions = (make_session(onnx_bytes(m), device="cpu", threads=1) for m in (made, slim))
        expected, found = (session.run(None, {spec.name: given}) for session in sessions)
        for before, after in zip(expected, found, strict=True):
            assert before.shape == after.shape
            assert relative(after, before) <= limit
