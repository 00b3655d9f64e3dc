from __future__ import annotations

import json

import pytest
from camcore_tools.bench import alternate
from camcore_tools.cli import main


def test_calls_alternate() -> None:
    order: list[str] = []
    seconds = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == [*"aaaabbbb"] * 3
    assert set(seconds) == {"a", "b"}


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
