from __future__ import annotations

import json
import sys

import pytest
from camcore_tools import doctor
from camcore_tools.cli import main


def test_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text
    assert "cpu  works" in text
    assert "ORT_DISABLE_TELEMETRY" in text
    assert all(len(line) <= 80 for line in text.splitlines() if " on Linux" not in line)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["onnxruntime"]["devices"]["cpu"] == "works"
    assert document["packages"]["camcore"] is not None


def test_two_runtimes_overwrite_each_other() -> None:
    document = {"onnxruntime": {"installed": ["onnxruntime 1.31", "onnxruntime-gpu 1.31"]}, "packages": {"torch": "2"}}
    assert any("overwrite each other; uninstall both" in text for text in doctor._advice(document))


def test_missing_packages_are_named_with_the_cure() -> None:
    advice = doctor._advice({"onnxruntime": {"installed": []}, "packages": {"torch": None}})
    assert any("pip install 'camcore[onnx]'" in text for text in advice)
    assert any("pip install 'camcore[torch]'" in text for text in advice)


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
