"""``camcore evaluate``: from a run to its numbers, tables and sheets; and what it says of runs that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camcore_tools.cli import main
from camcore_tools.evaluation.session import _note_undrawn
from camcore_tools.training.runs import open_run
from PIL import Image
from tiny_training import CLASSES, write_folder

from camcore.accuracy import class_figures
from camcore.pictures import load_picture

QUICK = ("--size", "16", "--batch", "8", "--epochs", "3", "--watch", "3", "--every", "9", "--threads", "1")
SHEETS = {"grid", "compact", "strip"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and masks of their squares, which are the only pixels of one grey."""
    folder = write_folder(tmp_path_factory.mktemp("data") / "pictures", each=10)
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        mask = folder.parent / "masks" / path.relative_to(folder)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.isin(pixels, (240, 10, 128)).all(axis=2)).save(mask)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network after three epochs."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [
        str(data),
        "-o",
        str(folder),
        *QUICK,
        "--split",
        "0.6",
        "--no-export",
        "--masks",
        str(data.parent / "masks"),
    ]
    assert main(["train", *words]) == 0
    return folder


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "eval.json").read_text())
    return found


@pytest.fixture(scope="module")
def evaluated(run: Path) -> Path:
    assert evaluate(run, "--method", "cam,layercam", "--count", 5) == 0
    return run / "evaluation"


def test_every_checkpoint_is_measured_as_in_the_training(run: Path, evaluated: Path) -> None:
    rows = document(evaluated)["checkpoints"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, epoch in zip(rows, open_run(run).history, strict=True):
        assert row["loss"] == pytest.approx(epoch.validation_loss, rel=1e-5)
        assert [row[name] for name in ("top1", "top3", "top5")] == [epoch.top1, epoch.top3, epoch.top5]


def test_classes_and_confusion_belong_together(run: Path, evaluated: Path) -> None:
    found = document(evaluated)
    confusion = np.array(found["confusion"])
    assert found["classes"] == list(CLASSES)
    assert confusion.sum() == found["pictures"] == len(open_run(run).data().validation)
    best = next(row for row in found["checkpoints"] if row["epoch"] == found["checkpoint"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(best["top1"])
    figures = class_figures(confusion)
    for n, row in enumerate(found["per_class"]):
        assert row["count"] == confusion[n].sum()
        assert row["f1"] == (None if np.isnan(figures.f1[n]) else pytest.approx(figures.f1[n]))


def test_pictures_are_drawn_method_by_method(evaluated: Path) -> None:
    found = document(evaluated)
    assert set(found["files"]) == {path.name for path in evaluated.iterdir()}
    expected = {f"{method}-{sheet}.png" for method in ("cam", "layercam") for sheet in SHEETS}
    assert set(found["files"]) == {"eval.json", "accuracy.png", "confusion.png", "methods.png"} | expected
    assert all(min(load_picture(path).pixels.shape[:2]) > 100 for path in evaluated.glob("*.png"))
    assert len(found["shown"]) == 5
    for row in found["shown"]:
        assert row["name"].startswith(row["class"])
        assert row["right"] == (row["top"][0]["class"] == row["class"])
        assert sum(one["probability"] for one in row["top"]) == pytest.approx(1, abs=1e-5)  # of three classes


def test_maps_are_compared_with_the_masks_of_the_run(run: Path, evaluated: Path) -> None:
    found = document(evaluated)["localisation"]
    assert set(found["methods"]) == {"cam", "layercam"}
    assert found["pictures"] == len(open_run(run).data().validation)
    assert found["by_chance"] == pytest.approx(36 / 256, abs=0.02)
    for row in found["methods"].values():
        assert 0 <= row["iou"] <= row["best_iou"] <= 1
        assert 0 <= row["peaks"] <= 1


def test_tables_fit_a_terminal(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "-o", tmp_path, "--count", 2) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if str(tmp_path) not in line and str(run) not in line]
    assert max(map(len, lines)) <= 80
    assert "validation pictures of 3 classes" in out
    assert [line.split()[1] for line in lines if line.strip().startswith("epoch ")] == ["1", "2", "3"]
    for name in (*CLASSES, "mean of classes", "by chance", "IoU at 0.5"):
        assert name in out


def test_json_is_the_document_and_nothing_else(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "-o", tmp_path, "--count", 2, "--json", "--no-others", "--checkpoint", "last") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == document(tmp_path)
    assert [row["epoch"] for row in found["checkpoints"]] == [3] == [found["checkpoint"]]


def test_pictures_by_name_of_a_checkpoint_in_a_style(run: Path, tmp_path: Path) -> None:
    names = open_run(run).data().validation.names
    words = ("--pictures", names[3], names[0], "--checkpoint", 1, "--style", "red", "--of", "true")
    assert evaluate(run, "-o", tmp_path, *words, "--no-others") == 0
    found = document(tmp_path)
    assert [row["name"] for row in found["shown"]] == [names[3], names[0]]
    assert found["checkpoint"] == 1
    before = np.asarray(Image.open(tmp_path / "cam-compact.png"))
    assert evaluate(run, "-o", tmp_path, *words[:-3], "alpha", *words[-2:], "--no-others") == 0
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "cam-compact.png")), before)


def test_mistakes_alone_are_shown(run: Path, tmp_path: Path) -> None:
    assert evaluate(run, "-o", tmp_path, "--mistakes", "--checkpoint", 1, "--no-others") == 0
    found = document(tmp_path)
    wrong = found["pictures"] - int(np.trace(np.array(found["confusion"])))
    assert wrong > 0
    assert len(found["shown"]) == min(12, wrong)
    assert not any(row["right"] for row in found["shown"])


def test_a_method_that_is_not_possible_is_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(run, "-o", tmp_path, "--method", "recam,cam", "--no-others", "--count", 1) == 2
    assert "left out recam: recam is not possible" in capsys.readouterr().err
    found = document(tmp_path)
    assert list(found["left_out"]) == ["recam"]
    assert "cam-grid.png" in found["files"]


def test_methods_that_read_the_head_keep_their_layer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--method", "cam,layercam", "--layer", "stem", "--layer", "blocks", "--fusion", "mean")
    assert evaluate(run, "-o", tmp_path, *words, "--no-others", "--count", 1) == 0
    assert capsys.readouterr().err.count("note: cam is at the layer that the head reads") == 1
    assert set(document(tmp_path)["localisation"]["methods"]) == {"cam", "layercam"}


def test_a_damaged_checkpoint_is_left_out_and_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    epochs = [c.epoch for c in open_run(broken).checkpoints if c != open_run(broken).best]
    open_run(broken).checkpoint(epochs[0]).path.write_bytes(b"nothing")
    assert evaluate(broken, "--count", 1) == 2
    captured = capsys.readouterr()
    assert f"left out epoch {epochs[0]}: " in captured.err
    assert "damaged" in captured.out
    assert sum("error" in row for row in document(broken / "evaluation")["checkpoints"]) == 1


def test_pictures_that_were_moved_are_found_again(run: Path, data: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    assert evaluate(run, "-o", tmp_path / "out", "--data", moved, "--no-others", "--count", 1) == 0


def test_masks_of_the_run_that_are_gone_are_told_and_no_error(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "run"))
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace(str(data.parent / "masks"), "/nowhere"))
    assert evaluate(other, "--no-others", "--count", 1) == 0
    assert "the masks of the run cannot be used: /nowhere: no such folder" in capsys.readouterr().err
    assert document(other / "evaluation")["localisation"] is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--checkpoint", "9"), "has no checkpoint of epoch 9; those that were kept: 1, 2, 3"),
        (("--checkpoint", "newest"), "--checkpoint is 'newest'; expected best, last or the number of an epoch"),
        (("--pictures", "nix.png"), "no validation picture is called 'nix.png'"),
        (("--pictures", "a", "--mistakes"), "--pictures names pictures, and --mistakes chooses others"),
        (("--method", "kam"), "kam"),
        (("--layer", "blocs", "--method", "gradcam"), "no layer is called 'blocs'"),
        (("--count", "0"), "--count is 0; expected 1 or more"),
        (("--iou-threshold", "0"), "--iou-threshold is 0; expected a share of the maximum"),
        (("--masks", "/nowhere"), "/nowhere: no such folder"),
        (("--data", "/nowhere"), "/nowhere: no such folder"),
        (("--alpha", "7"), "alpha is 7.0; expected a number in"),
    ],
)
def test_wrong_words_are_answered(
    run: Path, tmp_path: Path, words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(run, "-o", tmp_path / "out", *words) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out" / "eval.json").exists()


def test_folders_that_hold_no_run_are_answered(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "nothing") == 2
    assert "no such folder; expected a folder that camcore train wrote" in capsys.readouterr().err
    (tmp_path / "grid" / "lr=1").mkdir(parents=True)
    (tmp_path / "grid" / "grid.json").write_text("{}")
    shutil.copy(run / "config.json", tmp_path / "grid" / "lr=1")
    assert evaluate(tmp_path / "grid") == 2
    assert "holds a grid of runs; give one of them: lr=1" in capsys.readouterr().err
    assert evaluate(tmp_path / "grid" / "lr=1") == 2
    assert "has no checkpoint yet; the training has not finished its first epoch" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_told_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert evaluate(run, "-o", tmp_path / "file") == 2
    assert "is a file; give a folder with -o" in capsys.readouterr().err


def test_names_that_pictures_cannot_show_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    _note_undrawn(["cap", *["\U00013000" * n for n in range(2, 9)]])
    told = capsys.readouterr().err
    assert "\U00013000\U00013000, " in told
    assert " and 2 more, so pictures show the numbers of these classes; install a font" in told
    _note_undrawn(["cap", "cube, Rubik's cube"])
    assert capsys.readouterr().err == ""
