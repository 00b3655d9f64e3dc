"""Tensors on a device: what is bound where, recordings, and copying ahead.

No GPU is needed: calls are noted by stand-ins, and the same code runs for real with the host's memory as the device's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime as real
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.class_maps import CLASSES, MAPS
from camcore_onnx.gradients.several import NotRepeatable
from camcore_onnx.running import binding, sessions
from camcore_onnx.running.binding import MAX_GRAPHS, Bound, Placed, Recorded, ahead
from camcore_onnx.running.runtime import make_session
from camcore_onnx.running.sessions import Runner
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import Graph, classifier, images, onnx_bytes

import camcore

MODEL = onnx_bytes(classifier())


class Value:
    """What ``OrtValue`` is asked for on a device: it notes where it lies, and holds a copy."""

    made: ClassVar[list[tuple[str, int, tuple[int, ...]]]] = []

    def __init__(self, array: Any) -> None:
        self.array = np.array(array)

    @classmethod
    def ortvalue_from_numpy(cls, array: Any, memory: str, index: int) -> Value:
        cls.made.append((memory, index, array.shape))
        return cls(array)

    def update_inplace(self, array: Any) -> None:
        assert array.shape == self.array.shape
        self.array[...] = array

    def numpy(self) -> Any:
        return self.array.copy()


class Binding:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.calls.append(("device input", name))
        self.inputs[name] = value

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.calls.append(("host input", name))
        self.inputs[name] = array

    def bind_output(self, name: str, *where: Any) -> None:
        self.calls.append(("output", name, *where))
        self.outputs[name] = None

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.calls.append(("fixed output", name))
        self.outputs[name] = value

    def copy_outputs_to_cpu(self) -> list[Any]:
        return [value.array for value in self.outputs.values()]

    def get_outputs(self) -> list[Value]:
        return list(self.outputs.values())


class Session:
    """Doubles the image; as a recording does, it reads and writes the memory that it was first bound to."""

    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.runs: list[str | None] = []

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def io_binding(self) -> Binding:
        self.bindings.append(Binding())
        return self.bindings[-1]

    def run_with_iobinding(self, bound: Binding, options: Any = None) -> None:
        self.runs.append(None if options is None else options.graph)
        found = bound.inputs["image"].array * 2 + bound.inputs.get("count", np.zeros(1)).sum()
        for name, value in bound.outputs.items():
            if value is None:
                bound.outputs[name] = Value(found)
            else:
                value.array[...] = found


class Options:
    def add_run_config_entry(self, name: str, value: str) -> None:
        assert name == "gpu_graph_id"
        self.graph = value


@pytest.fixture
def device(monkeypatch: Any) -> Session:
    monkeypatch.setattr(Value, "made", [])
    monkeypatch.setattr(binding, "onnxruntime", lambda: SimpleNamespace(OrtValue=Value, RunOptions=Options))
    return Session()


class TestBound:
    def test_what_is_bound_where(self, device: Session) -> None:
        bound = Bound(device, "cuda", 3)
        image = bound.put(np.ones((2, 1), np.float32))
        assert isinstance(image, Placed)
        assert (len(image), image.shape) == (2, (2, 1))
        (found,) = bound.run(["maps"], {"image": image, "count": np.array([5])})
        assert Value.made == [("cuda", 3, (2, 1))]
        assert device.bindings[0].calls == [
            ("device input", "image"),
            ("host input", "count"),
            ("output", "maps", "cpu"),
        ]
        np.testing.assert_array_equal(found, np.full((2, 1), 7))

    def test_the_real_api(self) -> None:
        session = make_session(MODEL, device="cpu", threads=1)
        pixels, bound = images(3, 3, 8, 8), Bound(session, "cpu")
        image = bound.put(pixels)
        for _ in range(2):  # what lies on the device may be read again
            (found,) = bound.run(["scores"], {"image": image})
            np.testing.assert_array_equal(found, session.run(["scores"], {"image": pixels})[0])


class TestRecorded:
    def test_recorded_once_and_replayed(self, device: Session) -> None:
        recorded = Recorded(device, "cuda", 1)
        for i in range(3):
            image = np.full((2, 2), i, np.float32)
            (found,) = recorded.run(["maps"], {"image": recorded.put(image)})
            np.testing.assert_array_equal(found, image * 2)
        assert device.runs == ["-1", "1", "1", "1"]
        assert Value.made == [("cuda", 1, (2, 2))]
        first, second = device.bindings
        assert first.calls == [("device input", "image"), ("output", "maps", "cuda", 1)]
        assert second.calls == [("device input", "image"), ("fixed output", "maps")]
        assert first.inputs["image"] is second.inputs["image"]

    def test_one_for_each_shape_choice_of_outputs_and_number_on_the_host(self, device: Session) -> None:
        recorded, small, large = Recorded(device, "cuda"), np.ones((1, 2), np.float32), np.ones((4, 2), np.float32)
        runs: list[tuple[list[str], Any, int]] = [
            (["maps"], small, 0),
            (["maps"], large, 0),
            (["maps", "scores"], large, 0),
            (["maps"], large, 3),
        ]
        for _ in range(2):
            for names, image, count in runs:
                found = recorded.run(names, {"image": recorded.put(image), "count": np.array([count])})
                assert len(found) == len(names)
                np.testing.assert_array_equal(found[0], image * 2 + count)
        assert device.runs == ["-1", "1", "-1", "2", "-1", "3", "-1", "4", "1", "2", "3", "4"]

    def test_results_are_not_overwritten_by_the_next_replay(self, device: Session) -> None:
        recorded = Recorded(device, "cuda")
        first, second = (recorded.run(["maps"], {"image": recorded.put(np.full((1, 1), i))})[0] for i in (1.0, 2.0))
        assert (first[0, 0], second[0, 0]) == (2, 4)

    def test_too_many_shapes(self, device: Session) -> None:
        recorded = Recorded(device, "cuda")
        for n in range(1, MAX_GRAPHS + 1):
            recorded.run(["maps"], {"image": recorded.put(np.ones((n, 2)))})
        with pytest.raises(camcore.InputError) as caught:
            recorded.run(["maps"], {"image": recorded.put(np.ones((9, 2)))})
        assert "one recording for each shape of its inputs, 8 at most; (9, 2) would be another" in str(caught.value)
        assert "Give batches of the same size, or leave cuda_graph out" in str(caught.value)
        recorded.run(["maps"], {"image": recorded.put(np.ones((8, 2)))})  # the others go on

    def test_the_real_api(self) -> None:
        session = make_session(MODEL, device="cpu", threads=1)
        recorded = Recorded(session, "cpu")
        for seed in range(3):
            pixels = images(2, 3, 8, 8, seed=seed)
            (found,) = recorded.run(["scores"], {"image": recorded.put(pixels.copy())})
            np.testing.assert_array_equal(found, session.run(["scores"], {"image": pixels})[0])


class TestAhead:
    @given(count=st.integers(0, 7))
    def test_in_order(self, count: int) -> None:
        assert list(ahead(range(count), lambda i: i + 1, lambda i: i * 10)) == [10 * (i + 1) for i in range(count)]

    def test_the_next_is_prepared_while_one_runs(self) -> None:
        prepared = [threading.Event() for _ in range(3)]
        names = set()

        def prepare(i: int) -> int:
            names.add(threading.current_thread().name)
            prepared[i].set()
            return i

        def run(i: int) -> bool:
            assert threading.current_thread() is threading.main_thread()
            return i == 2 or prepared[i + 1].wait(20)  # never set, if it were prepared only after this

        assert all(ahead(range(3), prepare, run))
        assert names == {"camcore-ahead_0"}

    def test_no_more_than_one_ahead(self) -> None:
        prepared: list[int] = []

        def run(i: int) -> int:
            assert len(prepared) <= i + 2
            return i

        assert list(ahead(range(6), lambda i: (prepared.append(i), i)[1], run)) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize("at", ["prepare", "run"])
    def test_what_is_raised_comes_where_its_turn_is(self, at: str) -> None:
        def fail(where: str) -> Callable[[int], int]:
            def step(i: int) -> int:
                if where == at and i == 2:
                    raise camcore.InputError("the third")
                return i

            return step

        results = ahead(range(5), fail("prepare"), fail("run"))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(camcore.InputError, match="the third"):
            next(results)
        assert not [t for t in threading.enumerate() if t.name.startswith("camcore-ahead")]

    def test_nobody_waits_for_one_that_is_left(self) -> None:
        results = ahead(range(5), lambda i: i, lambda i: i)
        assert next(results) == 0
        assert isinstance(results, Iterator)
        results.close()  # type: ignore[attr-defined]
        assert not [t for t in threading.enumerate() if t.name.startswith("camcore-ahead")]


def two_layers() -> Any:
    """A head that gradients must go through."""
    g = Graph()
    features = g.add("Relu", g.conv(g.image(["N", 3, "H", "W"]), 3, 6), to="features")
    hidden = g.add(
        "Relu", g.add("Gemm", g.add("Flatten", g.add("GlobalAveragePool", features)), g.const(g.normal(6, 7)))
    )
    g.out(g.add("Gemm", hidden, g.const(g.normal(7, 5)), to="scores"), ["N", 5])
    return g.model()


def on_device(monkeypatch: Any, kind: type[Bound] = Bound) -> list[Bound]:
    """Sessions keep their tensors on a device, which is the host under another name."""
    made: list[Bound] = []

    def bound(session: Any, device: str, *, recorded: bool = False) -> Bound:
        made.append(kind(session, "cpu"))
        return made[-1]

    monkeypatch.setattr(sessions, "bound", bound)
    return made


class TestRunner:
    @pytest.mark.parametrize("kind", [Bound, Recorded])
    @pytest.mark.parametrize("batch", ["N", 2])
    def test_the_same_maps(self, monkeypatch: Any, kind: type[Bound], batch: Any) -> None:
        pixels = images(5, 3, 8, 8)
        expected = camcore.explainer(classifier(batch=batch), device="cpu", threads=1)
        on_device(monkeypatch, kind)
        found = camcore.explainer(classifier(batch=batch), device="cpu", threads=1)
        for classes in (None, "top3", [0, 1, 2, 3, 4]):
            for method in ("cam", "gradcam"):
                mine, theirs = (camcore.Explainer(e.backend, method=method)(pixels, classes) for e in (found, expected))
                np.testing.assert_array_equal(mine.classes, theirs.classes)
                np.testing.assert_allclose(mine.maps, theirs.maps, rtol=1e-6, atol=1e-7)
                np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-6, atol=1e-7)

    def test_features_do_not_come_back(self, monkeypatch: Any) -> None:
        asked: list[list[str]] = []
        run = Bound.run
        monkeypatch.setattr(Bound, "run", lambda self, names, feed: asked.append(list(names)) or run(self, names, feed))
        on_device(monkeypatch)
        explainer = camcore.explainer(classifier(), method="cam", device="cpu", threads=1)
        for _ in range(2):
            explainer(images(2, 3, 8, 8), "top2")
        assert asked[-1] == ["scores", CLASSES, MAPS]
        camcore.explainer(two_layers(), method="hirescam", device="cpu", threads=1)(images(2, 3, 8, 8), "top2")
        assert len(asked[-1]) == 3  # scores, classes, maps
        assert "features" not in asked[-1]

    def test_parts_are_copied_ahead(self, monkeypatch: Any) -> None:
        threads: list[str] = []
        put = Bound.put
        monkeypatch.setattr(
            Bound, "put", lambda self, array: threads.append(threading.current_thread().name) or put(self, array)
        )
        on_device(monkeypatch)
        backend = OnnxBackend(classifier(batch=2), device="cpu", threads=1)
        backend.scores(images(5, 3, 8, 8))
        assert threads == ["camcore-ahead_0"] * 3
        backend.scores(images(2, 3, 8, 8))
        assert threads[3:] == ["MainThread"]

    @pytest.mark.parametrize("batch", ["N", 2])
    def test_no_thread_on_the_cpu(self, monkeypatch: Any, batch: Any) -> None:
        monkeypatch.setattr(sessions, "ahead", None)
        monkeypatch.setattr(threading.Thread, "start", None)
        assert OnnxBackend(classifier(batch=batch), device="cpu", threads=1).scores(images(5, 3, 8, 8)).shape == (5, 5)

    @pytest.mark.parametrize("batch", ["N", 2])
    def test_a_copy_that_fails(self, monkeypatch: Any, batch: Any) -> None:
        def full(self: Any, array: Any) -> Any:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 7\nmore")

        monkeypatch.setattr(Bound, "put", full)
        on_device(monkeypatch)
        backend = OnnxBackend(classifier(batch=batch), device="cpu", threads=1)
        size = 5 if batch == "N" else 2
        text = rf"^ONNX Runtime could not run images of shape \({size}, 3, 8, 8\): Failed to allocate memory .* size 7$"
        with pytest.raises(camcore.InputError, match=text):
            backend.scores(images(5, 3, 8, 8))

    def test_images_of_several_runs_are_copied_once(self, monkeypatch: Any) -> None:
        """Where a class is explained at a time."""
        copied: list[tuple[int, ...]] = []
        put = Bound.put
        monkeypatch.setattr(Bound, "put", lambda self, array: copied.append(array.shape) or put(self, array))
        on_device(monkeypatch)
        backend = OnnxBackend(two_layers(), device="cpu", threads=1)
        session = backend.differentiator._session

        def one_class(images: Any, layers: Any, order: Any, key: Any) -> Any:
            if order.several:
                raise NotRepeatable("one class at a time")
            return session(images, layers, order, key)

        monkeypatch.setattr(backend.differentiator, "_session", one_class)
        camcore.Explainer(backend, method="hirescam")(images(2, 3, 8, 8), [[0, 1, 2], [2, 1, 0]])
        assert copied.count((2, 3, 8, 8)) == 1
        assert copied.count((2,)) == 3

    def test_one_run_at_a_time(self, device: Session, monkeypatch: Any) -> None:
        running, seen = threading.Semaphore(1), []

        def run(bound: Binding, options: Any = None) -> None:
            seen.append(running.acquire(blocking=False))
            Session.run_with_iobinding(device, bound, options)
            threading.Event().wait(0.002)
            running.release()

        monkeypatch.setattr(device, "run_with_iobinding", run)
        monkeypatch.setattr(sessions, "make_session", lambda model, **options: device)
        runner = Runner(None, "images", device="cuda:1")  # type: ignore[arg-type]
        threads = [
            threading.Thread(target=runner, args=(["maps"], {"image": np.ones((1, 1), np.float32)})) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [True] * 8
        assert Value.made == [("cuda", 1, (1, 1))] * 8


@pytest.mark.parametrize(
    ("providers", "kind"),
    [(["CPUExecutionProvider"], None), (["CUDAExecutionProvider"], Bound), (["TensorrtExecutionProvider"], Bound)],
)
def test_who_has_memory_of_its_own(providers: list[str], kind: Any) -> None:
    found = sessions.bound(SimpleNamespace(get_providers=lambda: providers), "tensorrt:2")
    assert type(found) is (kind or type(None))
    if kind:
        recorded = sessions.bound(SimpleNamespace(get_providers=lambda: providers), "cuda", recorded=True)
        assert type(recorded) is Recorded


def test_onnx_runtime_has_what_is_called() -> None:
    """The stand-ins above take what the real ones take."""
    value = real.OrtValue.ortvalue_from_numpy(np.zeros((1, 1), np.float32), "cpu", 0)
    value.update_inplace(np.ones((1, 1), np.float32))
    assert value.numpy()[0, 0] == 1
    options = real.RunOptions()
    options.add_run_config_entry("gpu_graph_id", "-1")
    assert options.get_run_config_entry("gpu_graph_id") == "-1"
