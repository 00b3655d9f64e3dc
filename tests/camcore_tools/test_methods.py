from __future__ import annotations

import json

import pytest
from camcore_tools.cli import main

from camcore import METHODS


def test_every_row_of_the_table_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for name, row in METHODS.items():
        assert any(line.split()[:1] == [name] for line in lines), name
        assert row.paper in text


def test_costs_are_those_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "needs gradients; free on a pooled head, else a backward pass of the tail; arXiv:1610.02391" in text
    assert "needs model; one forward pass a channel; arXiv:1910.01279" in text
    assert "needs head; free, on a pooled head only; arXiv:1512.04150" in text


def test_json_has_all_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == list(METHODS)
    assert document["gradcam++"]["options"] == {"variant": "paper"}
    assert document["gradcam++"]["same map on a pooled head"] == ["smoothgradcam++"]
    assert document["cam"]["cost elsewhere"] == "not defined"
    assert document["groupcam"]["needs"] == ["features", "gradients", "model"]


def test_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "shapleycam", "eigencam"]) == 0
    text = capsys.readouterr().out
    assert "explains" in text
    assert "rest" in text
    assert "no score" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "gradcam+"]) == 2
    assert "method 'gradcam+' is not known. Did you mean 'gradcam++'" in capsys.readouterr().err
