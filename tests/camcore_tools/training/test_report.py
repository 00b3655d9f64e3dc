"""The summary of a run reads well at 80 columns, and names are cleaned."""

from __future__ import annotations

from typing import Any

import pytest
from camcore_tools.training.report import print_run

DOCUMENT: dict[str, Any] = {
    "run": "runs/vgg16\x1b[31m",
    "stopped": "stop_ratio",
    "limit": 2.0,
    "epochs": 12,
    "steps": 3456,
    "seconds": 61.4,
    "best": {"epoch": 9, "top1": 0.9512, "top3": 0.99, "top5": 1.0, "validation_loss": 0.21, "loss": 0.08},
    "checkpoint": "checkpoints/epoch-0009.safetensors",
    "recording": {"frames": 120, "pictures": 12, "every": 29, "method": "cam", "layer": "head.relu"},
    "files": ["recording.npz", "training.gif", "training.webp", "timeline.html", "filmstrip.png", "drift.json"],
    "model": None,
    "pictures": {"train": 1224, "validation": 136, "left_out": 2},
    "parameters": {"all": 14_700_000, "trained": 9_000},
    "classes": [f"flower {n}" for n in range(17)],
    "device": "cpu",
}


def check(passed: bool) -> dict[str, Any]:
    return {"name": "outputs", "passed": passed, "detail": "unchanged", "difference": 0.5, "limit": 1e-5}


def test_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(DOCUMENT)
    text = capsys.readouterr().out
    assert "17 classes, 1,224 pictures to train on, 136 to validate, 2 left out" in text
    assert "9 of 12 (stopped: the validation loss rose above 2 x the training" in text
    assert "training 61 s, 3,456 steps" in text
    assert "95.1%  99.0%  100.0%" in text
    assert "9,000 trained of 14,700,000, on cpu" in text
    assert "model" not in text
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines()[1:])


@pytest.mark.parametrize(("top1", "hint"), [(0.088, True), (0.09, False)])
def test_what_hardly_learned_is_told(top1: float, hint: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 17 classes."""
    print_run(DOCUMENT | {"best": DOCUMENT["best"] | {"top1": top1}})
    text = "  hardly better than guessing: try more epochs, a lower --lr or more pictures\n"
    assert (text in capsys.readouterr().out) == hint


def test_the_patience_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_run(DOCUMENT | {"stopped": "patience", "limit": 3})
    assert "9 of 12 (stopped: no better epoch for 3 epochs)" in capsys.readouterr().out


@pytest.mark.parametrize(("passed", "text"), [(True, "2 of 2 checks passed"), (False, "verification failed")])
def test_the_model(passed: bool, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"path": "runs/model.onnx", "size": 3_100_000, "checks": [check(True), check(passed)]}
    print_run(DOCUMENT | {"model": model})
    told = capsys.readouterr().out
    assert "model.onnx (3.1 MB)" in told
    assert text in told
    assert ("[FAILED] outputs: unchanged (difference 0.5)" in told) == (not passed)
    assert ("next: camcore evaluate" in told) == passed
