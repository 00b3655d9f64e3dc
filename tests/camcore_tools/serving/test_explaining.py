from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camcore_tools.serving.explaining import Model, Stopped, Worker
from camcore_tools.serving.messages import Request
from live_server import Gated, asynchronous, told
from onnx import TensorProto, helper, numpy_helper

import camcore
from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.pictures import load_picture
from camcore.preprocess import preprocess


def nowhere(name: str) -> Path:
    raise AssertionError(name)


def test_what_the_page_is_told(explained: Model) -> None:
    info = explained.info
    assert (info["classes"], info["size"], info["method"], info["device"]) == (4, [16, 16], "cam", "cpu")
    assert info["labels"][1] == "b & c"
    assert info["frame"] == {"resize": "short", "crop": 0.875, "size": [16, 16], "pixels": 4_000_000}
    assert explained.seconds > 0


@pytest.mark.parametrize("classes", [None, 0, 2])
def test_a_picture_of_the_folder_gives_the_numbers_of_explain(
    explained: Model, explainer: Explainer, folder: Path, classes: int | None
) -> None:
    for path in (folder / "a.png", folder / "c.jpg", folder / "deep" / "b.tiff"):
        request = Request(5, classes, 2, "picture", picture="0")
        header, found = told(explained.answer(request, lambda name, path=path: path, threading.Event()))
        out = explainer(path, classes)
        assert np.array_equal(found, out.maps[0, 0])
        assert header["classIndex"] == out.classes[0, 0]
        order = np.argsort(-out.probabilities[0])[:2]
        assert [t["index"] for t in header["top"]] == order.tolist()
        assert [t["name"] for t in header["top"]] == [out.label(c) for c in order]
        assert [t["probability"] for t in header["top"]] == pytest.approx(out.probabilities[0, order], rel=1e-7)
        x0, y0, x1, y1 = out.views[0]
        height, width = out.pictures[0].pixels.shape[:2]
        assert header["view"] == {
            "x": x0 / width,
            "y": y0 / height,
            "width": (x1 - x0) / width,
            "height": (y1 - y0) / height,
        }
        assert (header["id"], header["rectifies"]) == (5, False)
        assert header["milliseconds"] > 0


def test_pixels_that_the_page_has_fitted_give_the_numbers_of_explain(
    explained: Model, explainer: Explainer, folder: Path
) -> None:
    rule = explainer.preprocess
    assert rule is not None
    fitted, _ = preprocess(rule, size=(16, 16)).fit(load_picture(folder / "a.png").pixels)
    request = Request(1, None, 3, "rgb", width=16, height=16, payload=fitted.tobytes())
    header, found = told(explained.answer(request, nowhere, threading.Event()))
    assert np.array_equal(found, explainer(folder / "a.png").maps[0, 0])
    assert header["view"] is None


def test_a_frame_of_another_size_is_an_answer(explained: Model, tiny: Any) -> None:
    fixed = tiny(shape=(1, 3, 16, 16))
    strict = Model(camcore.explainer(fixed, preprocess="unit", threads=1))
    request = Request(1, None, 3, "rgb", width=20, height=20, payload=bytes(1200))
    with pytest.raises(InputError, match="images have"):
        strict.answer(request, nowhere, threading.Event())


def test_a_class_out_of_range_is_an_answer(explained: Model) -> None:
    request = Request(1, 4, 3, "rgb", width=16, height=16, payload=bytes(768))
    with pytest.raises(InputError, match="class 4"):
        explained.answer(request, nowhere, threading.Event())


def test_probabilities_that_are_no_numbers_are_none(tiny: Any) -> None:
    spoiled = tiny()
    values = np.full(4, np.nan, np.float32)
    next(w for w in spoiled.graph.initializer if w.name == "b").CopyFrom(numpy_helper.from_array(values, "b"))
    broken = Model(camcore.explainer(spoiled, method="eigencam", preprocess="unit", threads=1))
    request = Request(1, None, 1, "rgb", width=16, height=16, payload=bytes(768))
    header, _ = told(broken.answer(request, nowhere, threading.Event()))
    assert header["top"] == [{"index": 0, "name": "class 0", "probability": None}]


def test_models_that_take_no_pictures_are_refused() -> None:
    weights = {"w": np.ones((5, 3, 3), np.float32), "v": np.ones((4, 5), np.float32), "b": np.zeros(4, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"]),
        helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "b"], ["scores"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 16]), ("scores", [1, 4]))]
    graph = helper.make_graph(
        nodes, "line", ends[:1], ends[1:], [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    line = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(InputError, match=r"images have shape \(1, 3, 224, 224\); the model takes \(N, 3, 16\)"):
        Model(camcore.explainer(line, preprocess="unit", threads=1))


def test_a_long_method_ends_when_nobody_waits(model: Path) -> None:
    stopped = threading.Event()
    slow = Model(camcore.explainer(model, method="scorecam", preprocess="unit", threads=1, batch_size=1))
    runs = []
    answer = slow.explainer.backend.scores

    def counted(*args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        stopped.set()
        return answer(*args, **kwargs)

    slow.explainer.backend.scores = counted  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        slow.answer(Request(1, None, 3, "rgb", 16, 16, payload=bytes(768)), nowhere, stopped)
    assert len(runs) < 3


def request(number: int) -> Request:
    return Request(number, None, 3, "rgb")


@asynchronous
async def test_first_come_first_served_and_one_at_a_time() -> None:
    model = Gated()
    worker = Worker(model, nowhere)  # type: ignore[arg-type]
    waiting = [asyncio.create_task(worker.answer(request(n))) for n in range(4)]
    await asyncio.to_thread(model.begun.acquire)
    waiting[2].cancel()
    await asyncio.sleep(0)
    for _ in range(3):
        model.gate.release()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [told(r)[0]["id"] for r in results if isinstance(r, bytes)] == [0, 1, 3]
    assert model.order == [0, 1, 3]
    worker.close()


@asynchronous
async def test_a_fault_of_the_model_is_an_answer() -> None:
    model = Gated()
    worker = Worker(model, nowhere)  # type: ignore[arg-type]
    model.gate.release()
    with pytest.raises(InputError, match="could not be explained: ZeroDivisionError: of the model"):
        await worker.answer(request(13))
    model.gate.release()
    assert told(await worker.answer(request(1)))[0]["id"] == 1
    worker.close()


@asynchronous
async def test_what_is_cancelled_while_it_runs_makes_way() -> None:
    model = Gated()
    worker = Worker(model, nowhere)  # type: ignore[arg-type]
    first = asyncio.create_task(worker.answer(request(1)))
    await asyncio.to_thread(model.begun.acquire)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.gate.release()
    await worker.answer(request(2))
    assert model.order == [2]
    worker.close()


@asynchronous
async def test_closing_ends_what_runs() -> None:
    model = Gated()
    worker = Worker(model, nowhere)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(worker.answer(request(n))) for n in range(2)]
    await asyncio.to_thread(model.begun.acquire)
    worker.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], Stopped)
    assert isinstance(results[1], asyncio.CancelledError)
    assert not worker.busy
    with pytest.raises(RuntimeError):
        await worker.answer(request(3))
