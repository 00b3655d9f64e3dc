from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from camcore_onnx.running import providers, runtime
from camcore_tools import doctor
from camcore_tools.cli import main


def test_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text
    assert re.search(r"^  cpu +works$", text, re.MULTILINE)
    assert re.search(r"^  auto +takes (cpu|cuda)$", text, re.MULTILINE)
    assert "`camcore doctor`" not in text
    assert "ORT_DISABLE_TELEMETRY" in text
    assert all(len(line) <= 80 for line in text.splitlines() if " on Linux" not in line)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    devices = document["onnxruntime"]["devices"]
    assert devices["cpu"] == "works"
    assert {"cuda", "tensorrt"} <= set(devices)
    assert len(document["onnxruntime"]["clash"]) == 1
    assert document["packages"]["camcore"] is not None


class Package:
    def __init__(self, name: str, version: str, *files: str) -> None:
        self.metadata, self.version, self.files = {"Name": name}, version, files or None


def test_two_runtimes_overwrite_each_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Package("onnxruntime", "1.31", "onnxruntime/__init__.py"),
        Package("onnxruntime-gpu", "1.31", "onnxruntime/capi/x.so", "onnxruntime/__init__.py"),
        Package("onnxruntime-extensions", "0.15", "onnxruntime_extensions/__init__.py"),
        Package("onnxruntime-ep-openvino", "1.8"),
        Package("numpy", "2.0", "numpy/__init__.py"),
    ]
    monkeypatch.setattr(metadata, "distributions", lambda: found)
    assert main(["doctor"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "onnxruntime 1.31 and onnxruntime-gpu 1.31 overwrite each other; uninstall all, then install one" in text
    assert "onnxruntime-extensions 0.15, onnxruntime-gpu 1.31" in text


def document(**runtime: Any) -> dict[str, Any]:
    return {"onnxruntime": {"installed": ["onnxruntime 1"], "clash": [], **runtime}, "packages": {"torch": "2"}}


def test_missing_packages_are_named_with_the_cure() -> None:
    advice = doctor._advice({"onnxruntime": {"installed": [], "clash": []}, "packages": {"torch": None}})
    assert any("pip install 'camcore[onnx]'" in text for text in advice)
    assert any("pip install 'camcore[torch]'" in text for text in advice)


def test_a_driver_that_is_not_used() -> None:
    cuda = {"cpu": "works", "cuda": "no: libcublas.so.13 cannot be loaded"}
    assert any("ONNX Runtime does not use it" in t for t in doctor._advice(document(devices=cuda, driver=True)))
    assert doctor._advice(document(devices=cuda, driver=False)) == []
    assert doctor._advice(document(devices={**cuda, "cuda-plugin": "works"}, driver=True)) == []


def session_that(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """CUDA starts, and then answers so."""

    def run(names: Any, feed: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return [np.full((1, 1), answer)]

    session = SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"], run=run)
    monkeypatch.setattr(runtime, "make_session", lambda model, *, device: session)


def test_a_device_that_starts_and_then_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    session_that(monkeypatch, RuntimeError("CUDNN_STATUS_NOT_INITIALIZED\nat ..."))
    assert doctor._works("cuda") == "no: it starts, and then fails: CUDNN_STATUS_NOT_INITIALIZED"
    session_that(monkeypatch, 17.0)
    assert doctor._works("cuda") == "no: it starts, and then gives wrong numbers (17.0, not 18.0)"
    session_that(monkeypatch, 18.0)
    assert doctor._works("cuda") == "works"
    assert doctor._taken() == "cuda"


def test_reasons_are_short() -> None:
    text = "device 'cuda' was asked for, but the build has only CPU. Run pip install x; or take device='cpu'"
    assert doctor._reason(Exception(text)) == "the build has only CPU. Run pip install x"
    assert (
        doctor._reason(Exception("device 'a' was asked for, but b. `camcore doctor` shows what is missing; or c"))
        == "b"
    )
    assert doctor._reason(Exception("anything")) == "anything"


def test_plugins_are_shown_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_works", lambda device: "works")
    monkeypatch.setattr(providers, "is_installed", lambda row: row.device == "openvino")
    assert list(doctor._providers()["devices"]) == ["cpu", "cuda", "tensorrt", "openvino"]


def test_broken_installation_is_shown_not_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["doctor"]) == 0
    assert "onnxruntime cannot be imported" in capsys.readouterr().out


def test_telemetry_that_may_be_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert "may send telemetry" in doctor._telemetry()
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert doctor._telemetry().startswith("off")
