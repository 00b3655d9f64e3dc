from __future__ import annotations

import json

import pytest
from camcore_tools import bench_recorder
from camcore_tools.cli import main


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_recorder, "_STEPS", 2)
    monkeypatch.setattr(bench_recorder, "_BATCH", 4)


@pytest.mark.usefixtures("small")
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "recorder", "--rounds", "1", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "ratio to a step without a recorder" in text
    assert "a step of the training" in text
    assert "a frame every 10 steps adds" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.usefixtures("small")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "recorder", "--rounds", "1", "--threads", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    step, frame = document["ms"]["a step of the training"], document["ms"]["a frame alone"]
    assert document["ratio"]["a step of the training"] == 1
    assert document["ratio"]["a frame alone"] == pytest.approx(frame / step, rel=0.01)
    assert document["a frame every 10 steps adds"] == pytest.approx(frame / step / 10, rel=0.01)
    assert set(bench_recorder.KINDS) < set(document["ms"])
