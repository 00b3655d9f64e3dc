from __future__ import annotations

import json
import re
import sys

import pytest
from camcore_onnx.gradients.table import FLAT, rules
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


class TestOperators:
    def run(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        assert main(["methods", "--ops", *words]) == 0
        return capsys.readouterr().out

    def test_every_operator_within_80_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.run(capsys)
        assert all(len(line) <= 80 for line in text.splitlines())
        listed = {word.rstrip("*").partition("@")[0] for word in re.findall(r"[\w@*]+", text)}
        assert {rule.op for rule in rules()} | FLAT | {"FusedConv", "QLinearConv"} <= listed
        assert "NhwcConv" not in listed  # whose form says why there is none
        assert re.search(r"^  pooling +GlobalMaxPool, MaxPool", text, re.MULTILINE)
        assert re.search(r"^  activations .*Gelu@20", text, re.MULTILINE)
        assert "QuantizeLinear*" in text
        assert "* DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear: a straight-through" in text
        assert "camcore.onnx_gradients" in text

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        document = json.loads(self.run(capsys, "--json"))
        table = {(e["domain"], e["operator"]): e for e in document["operators"]}
        assert len(table) == len(list(rules()))
        conv = table["ai.onnx", "Conv"]
        assert (conv["family"], conv["opset"], conv["derivative"], conv["why"]) == ("convolution", 9, "exact", None)
        assert table["ai.onnx", "Tanh"]["family"] == "activations"
        assert table["com.microsoft", "QuantizeLinear"]["why"].startswith("a straight-through estimate")
        assert "FusedConv" in document["written out"]
        assert set(document["flat"]) == FLAT

    def test_is_my_operator_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = self.run(capsys, "gelu", "Shape", "FusedConv")
        assert re.search(r"^Gelu\n  domain +ai.onnx\n  family +activations\n  opset +20 or later", text)
        assert re.search(r"^Shape\n  derivative +zero", text, re.MULTILINE)
        assert re.search(r"^FusedConv\n  derivative +as the operators it is short for", text, re.MULTILINE)

    def test_it_is_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["methods", "--ops", "Convv"]) == 2
        assert "no derivative is known of the operator 'Convv'. Did you mean 'Conv'" in capsys.readouterr().err

    def test_those_that_are_there_are_told_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["methods", "--ops", "Det", "Conv", "Warp"]) == 2
        told = capsys.readouterr()
        assert told.out.startswith("Conv\n")
        assert "no derivative is known of the operators 'Det', 'Warp'" in told.err

    def test_without_the_packages(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert main(["methods", "--ops"]) == 2
        err = capsys.readouterr().err
        assert "onnx cannot be imported" in err
        assert "pip install 'camcore[onnx]'" in err
