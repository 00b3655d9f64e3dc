from __future__ import annotations

import json
import time

import numpy as np
import pytest
from camcore_tools import timing
from camcore_tools.cli import main
from camcore_tools.timing import alternate


def test_calls_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SPIN", 0.0)
    order: list[str] = []
    seconds = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == [*"aaaabbbb"] * 3
    assert set(seconds) == {"a", "b"}


def test_calls_begin_when_the_workers_of_others_rest() -> None:
    times: list[float] = []
    alternate({"a": lambda: times.append(time.perf_counter())}, 1)
    assert times[-3] - times[0] >= timing._SPIN


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--networks", "squeezenet1_1", "--batches", "1", "--rounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    row = document["rows"][0]
    assert row["ratio"]["onnxruntime"] == 1.0
    assert row["ratio"]["torch"] == 1.0
    assert row["ms"]["camcore onnx, top 5"] > 0
    assert document["all classes"]["ratio"] > 0


def test_unknown_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--networks", "resnet49"]) == 2
    assert "torchvision has no such network" in capsys.readouterr().err


def test_no_gradients_of_that(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gradients", "--networks", "resnet49"]) == 2
    assert "--networks 'resnet49': gradients are timed of resnet18, resnet50" in capsys.readouterr().err


@pytest.mark.slow
def test_gradients_table(capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--networks", "mobilenet_v2", "--batches", "1", "--rounds", "1", "--json"]
    assert main(["bench", "gradients", *about]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["ratio"]["ONNX Runtime, plain forward"] == 1.0
    assert row["ms"]["camcore gradcam, features.13"] > 0
    assert 0.2 < row["share of the multiply-adds behind the layer"]["features.13"] < 0.4


@pytest.mark.slow
def test_methods_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "methods", "--rounds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    table = document["ResNet-50 in PyTorch, batch 1"]
    assert table["ratio"]["plain forward pass"] == 1.0
    assert table["ms"]["camcore gradcam"] > 0
    assert document["Score-CAM, ResNet-18 in ONNX Runtime"]["MiB above the loaded model"]["camcore scorecam"] >= 0


def test_peak_memory_sees_what_grew() -> None:
    from camcore_tools.bench_methods import peak_memory

    with peak_memory() as grown:
        block = np.ones(16 << 20)
        time.sleep(0.05)
    assert grown[0] == 0 or grown[0] > 100
    assert block[0] == 1
