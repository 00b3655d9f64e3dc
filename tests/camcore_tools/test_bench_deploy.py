from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_graphs
import pytest
from camcore_onnx.running import binding, packages, providers
from camcore_onnx.running.providers import PROVIDERS, Place, place
from camcore_tools import bench_deploy, timing
from camcore_tools.bench_deploy import EXPLAINER, NUMPY, PLAIN
from camcore_tools.cli import main

TOP, ALL = "map inside, top5", "map inside, all"
QUICK = ["--rounds", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SPIN", 0.0)


def file(folder: Path, **options: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(onnx_graphs.onnx_bytes(onnx_graphs.classifier(**{"size": (20, 30), **options})))
    return path


def table(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    assert main(["bench", "deploy", *QUICK, "--json", *map(str, words)]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = table(capsys, "--networks", file(tmp_path))
    assert (document["device"], document["threads"], document["rounds"]) == ("cpu", 1, 1)
    assert [row["batch"] for row in document["rows"]] == [1, 8]
    for row in document["rows"]:
        assert row["network"] == "model.onnx"
        assert list(row["ms"]) == [PLAIN, TOP, ALL, NUMPY, EXPLAINER]
        assert row["ratio"][PLAIN] == 1.0
        for name, ms in row["ms"].items():
            assert row["ratio"][name] == pytest.approx(ms / row["ms"][PLAIN], rel=0.1, abs=0.05)
        sent = row["KiB returned for each image"]
        assert sent[PLAIN] == round(5 * 4 / 1024, 1)
        assert sent[NUMPY] == round((5 + 6 * 20 * 30) * 4 / 1024, 1)
        assert sent[ALL] == round((5 + 5 * 20 * 30) * 4 / 1024, 1)


def test_what_is_timed_gives_the_same_maps(tmp_path: Path) -> None:
    """Otherwise times would be compared of different things."""
    model = bench_deploy._open(str(file(tmp_path)))
    setting = bench_deploy._Setting(place("cpu"), 1)
    sessions = bench_deploy._sessions(model, setting, ["top5"], "auto")
    images = bench_deploy._images(sessions[PLAIN], 3)
    runs = {name: bench_deploy._runner(session, images, setting) for name, session in sessions.items()}
    _, cam, classes, scores = runs[TOP]()
    others = bench_deploy._in_python(model, runs, images, setting)
    out = others[EXPLAINER]()
    np.testing.assert_allclose(cam, out.maps, atol=1e-5)
    np.testing.assert_allclose(others[NUMPY]().reshape(cam.shape), out.maps, atol=1e-5)
    assert (classes == out.classes).all()
    assert (np.diff(scores) <= 0).all()


def test_the_table_fits_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, batch=2)
    assert main(["bench", "deploy", *QUICK, "--networks", str(path), "--batches", "2", "--classes", "input"]) == 0
    text = capsys.readouterr().out
    assert "1 threads, medians of alternating calls; ratio to the plain model," in text
    assert "map inside, input" in text
    assert TOP not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_method_that_is_made_of_gradients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--networks", file(tmp_path), "--batches", "2", "--classes", "top2", "--method", "layercam"]
    assert "map inside, top2" in table(capsys, *words)["rows"][0]["ms"]


def test_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--networks", file(tmp_path, dtype="float16"), "--batches", "1", "--classes", "top5"]
    assert table(capsys, *words)["rows"][0]["ratio"][PLAIN] == 1.0


def test_a_network_of_torchvision(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--networks", "squeezenet1_1", "--batches", "1", "--classes", "top5"]
    row = table(capsys, *words)["rows"][0]
    assert row["network"] == "squeezenet1_1"
    assert NUMPY not in row["ms"]  # its features are the maps
    assert row["ms"][TOP] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--networks", "resnet49"], "torchvision has no such network; try resnet50, mobilenet_v2, or an .onnx file"),
        (["--networks", "none.onnx"], "--networks 'none.onnx': no such file"),
        (["--batches", "1,x"], "--batches '1,x'; expected whole numbers of at least 1, such as 1,8"),
        (["--batches", "0"], "expected whole numbers of at least 1"),
        (["--device", "tpu"], "device is 'tpu'; expected"),
    ],
)
def test_wrong_arguments(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "deploy", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_fixed_batch_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "deploy", *QUICK, "--networks", str(file(tmp_path, batch=1))]) == 2
    assert "the model takes batches of 1, not of 8: give --batches 1" in capsys.readouterr().err


def test_only_deployed_models_run_on_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "recorder", "--device", "cuda"]) == 2
    assert "--device cuda: only `camcore bench deploy` runs there, not recorder" in capsys.readouterr().err


def test_without_cuda_the_cure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" in packages.onnxruntime().get_available_providers():
        pytest.skip("this ONNX Runtime is built with CUDA")
    assert main(["bench", "--device", "cuda"]) == 2
    assert "pip install 'camcore[onnx-gpu]'" in capsys.readouterr().err


class Device:
    """A session on a GPU; it notes what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", shape=["N", 3, 4, 4], type="tensor(float)")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in ("scores", "cam")]

    def io_binding(self) -> Any:
        def note(name: str) -> Any:
            return lambda *words: self.done.append((name, *words))

        return SimpleNamespace(
            bind_ortvalue_input=note("input"),
            bind_output=note("output"),
            copy_outputs_to_cpu=lambda: [np.zeros((2, 5), np.float32), np.zeros((2, 5, 3, 3), np.float32)],
        )

    def run_with_iobinding(self, binding: Any) -> None:
        self.done.append(("run",))


def test_on_a_gpu_images_are_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Any] = []

    def put(array: Any, kind: str, index: int) -> str:
        placed.append((array.shape, kind, index))
        return "on the GPU"

    fake = SimpleNamespace(OrtValue=SimpleNamespace(ortvalue_from_numpy=put))
    monkeypatch.setattr(binding, "onnxruntime", lambda: fake)
    device = Device()
    setting = bench_deploy._Setting(Place("cuda:1", PROVIDERS["cuda"], 1, ()), None)
    run = bench_deploy._runner(device, bench_deploy._images(device, 2), setting)
    for _ in range(2):
        assert [a.shape for a in run()] == [(2, 5), (2, 5, 3, 3)]
    assert placed == [((2, 3, 4, 4), "cuda", 1)]
    asked = [("input", "image", "on the GPU"), ("output", "scores", "cpu"), ("output", "cam", "cpu"), ("run",)]
    assert device.done == asked * 2


def test_the_batches_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def row(model: Any, sessions: Any, batch: int, setting: Any, *more: Any) -> dict[str, Any]:
        return {"batch": batch, "threads": setting.threads, "memory": setting.memory}

    monkeypatch.setattr(providers, "place", lambda device: Place(device, PROVIDERS["cuda"], 0, ()))
    monkeypatch.setattr(bench_deploy, "_sessions", lambda *words: {})
    monkeypatch.setattr(bench_deploy, "_row", row)
    rows = bench_deploy.measure([str(file(tmp_path))], device="cuda")
    assert rows == [{"batch": n, "threads": None, "memory": "cuda"} for n in (1, 32, 256)]


def test_pytorch_is_needed_for_its_networks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert main(["bench", "deploy", "--networks", "resnet18"]) == 2
    assert "to export 'resnet18' takes PyTorch" in capsys.readouterr().err
    assert table(capsys, "--networks", file(tmp_path), "--batches", "1")["rows"]
