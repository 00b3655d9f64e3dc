"""``camcore export --web``."""

from __future__ import annotations

import json
from pathlib import Path

import camcore_onnx
import onnx
import pytest
from camcore_tools.cli import main
from camcore_tools.web import command
from camcore_tools.web.ort_web import BUILDS


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: b"runtime" for build in BUILDS.values() for name in build.values()}
    monkeypatch.setattr(command, "runtime_files", lambda place: files)


def test_the_folder_and_what_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("cat\ndog\nhorse\ncow\n")
    words = ["export", str(model), "--web", str(tmp_path / "site"), "--labels", str(labels), "--preprocess", "tf"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "map              cam at relu" in text
    assert "classes          4 (cat, ...)" in text
    assert "[ok] cam, graph against explainer" in text
    assert f"next: python -m http.server -d {tmp_path / 'site'} 8000   then open http://localhost:8000" in text
    assert "a camera needs https or localhost" in text
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    assert (tmp_path / "site" / "index.html").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["names.txt", "site", "tiny.onnx"]


def test_as_json_and_with_the_model_kept(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.onnx"
    words = ["export", str(model), "--web", str(tmp_path / "site"), "-o", str(kept), "--method", "layercam", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"]
    assert told["model"]["method"] == "layercam"
    assert told["onnxruntime-web"] == "1.30.0"
    assert told["files"]["model.onnx"] == (tmp_path / "site" / "model.onnx").stat().st_size
    assert [i.name for i in onnx.load(kept).graph.input] == ["x", "cam_class"]
    assert main(["export", str(kept), "--web", str(tmp_path / "again")]) == 0  # as it is


def test_a_failed_check_is_status_1(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from camcore_onnx.report import Report

    monkeypatch.setattr(Report, "passed", property(lambda report: False))
    assert main(["export", str(model), "--web", str(tmp_path / "site")]) == 1
    assert "verification failed" in capsys.readouterr().out


def test_a_large_model_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_LARGE", 10)
    assert main(["export", str(model), "--web", str(tmp_path / "site")]) == 0
    assert "MB, which each visitor loads; --fp16 halves it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing to write was given; expected -o OUT.onnx, or --web DIR"),
        (["--web", "{}/site", "--classes", "top5"], "--classes and --heatmap: with --web the reader chooses the class"),
        (["--web", "{}/no/site"], "make it first"),
        (["--web", "{}/tiny.onnx"], "is a file; give a folder"),
    ],
)
def test_wrong_words(
    words: list[str], text: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(model), *(word.format(tmp_path) for word in words)]) == 2
    assert text in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.onnx"]


def test_a_map_of_another_kind_inside(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(camcore_onnx.embed_cam(model), tmp_path / "top.onnx")
    assert main(["export", str(tmp_path / "top.onnx"), "--web", str(tmp_path / "site")]) == 2
    assert "has a map of classes 'top4' inside already; give the model that it was made of" in capsys.readouterr().err
