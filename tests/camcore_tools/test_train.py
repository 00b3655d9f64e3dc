"""``camcore train``: from a folder of pictures to a run that is trained, recorded, exported and verified."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from camcore_onnx.checking import verify
from camcore_tools.cli import main
from camcore_tools.training import report, run_folder
from camcore_tools.training.checkpoints import find_checkpoints
from camcore_tools.training.feeds import inputs
from camcore_tools.training.loop import Training
from camcore_tools.training.runs import open_run
from PIL import Image
from tiny_training import write_folder

import camcore
from camcore.errors import InputError

QUICK = ("--size", "16", "--batch", "8", "--epochs", "2", "--watch", "3", "--every", "4", "--threads", "1")
PRODUCTS = {
    "recording.npz",
    "drift.json",
    "training.gif",
    "training.webp",
    "timeline.html",
    "filmstrip.png",
    "drift.png",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("data") / "pictures", each=6))


def train(*words: object) -> int:
    return main(["train", *map(str, words)])


@pytest.fixture(scope="module")
def finished(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """A run with everything, the status of the command, and what it said."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = train(data, "-o", folder, *QUICK, "--epochs", "3", "--strip", "1,2")
    return folder, status, out.getvalue(), err.getvalue()


def test_from_pictures_to_a_verified_model(finished: tuple[Path, int, str, str]) -> None:
    folder, status, out, err = finished
    assert status == 0
    assert "3 classes, 15 pictures to train on, 3 to validate" in out
    assert err.startswith(
        "3 classes, 15 pictures to train on, 3 to validate\nsmall at 16x16 on cpu, 1 thread\nepoch 1/3"
    )
    assert f"next: camcore evaluate {folder}" in out
    assert "6 of 6 checks passed" in out
    assert [line.split()[1] for line in err.splitlines() if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert all(len(line) <= 80 for line in (out + err).splitlines() if str(folder) not in line)
    assert {path.name for path in folder.iterdir()} >= PRODUCTS | {"model.onnx", "summary.json", "metrics.csv"}
    assert open_run(folder).recording().steps.tolist() == [0, 2, 4, 6]
    with Image.open(folder / "training.gif") as film:
        assert getattr(film, "n_frames", 1) == 4


def test_the_exported_network_is_that_of_the_best_epoch(finished: tuple[Path, int, str, str]) -> None:
    run = open_run(finished[0])
    assert run.best is not None
    document = json.loads((run.folder / "summary.json").read_text())
    assert document["checkpoint"] == f"checkpoints/{run.best.path.name}"
    shipped = camcore.explainer(run.folder / "model.onnx")
    assert shipped.labels == ("bright", "dark", "middle")
    assert shipped.preprocess == run.rule
    batch = inputs(run.data().validation.pixels(range(3)), run.rule).numpy()
    expected = camcore.explainer(run.network())(batch)
    assert abs(shipped(batch).scores - expected.scores).max() <= 1e-4 * abs(expected.scores).max()
    assert abs(shipped(batch, "all").maps - camcore.explainer(run.network())(batch, "all").maps).max() <= 1e-3


def test_one_document_on_stdout(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, "-o", tmp_path / "run", *QUICK, "--json", "--no-export") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert printed["model"] is None
    assert set(printed["files"]) >= PRODUCTS
    assert printed["best"]["epoch"] in (1, 2)


def test_a_run_is_not_begun_twice_but_goes_on(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train(data, "-o", run, *QUICK, "--no-export", "--resume") == 0  # there is nothing yet
    assert train(data, "-o", run, *QUICK, "--no-export") == 2
    assert "holds a run already: go on by --resume, or choose another folder" in capsys.readouterr().err
    (run / "summary.json").unlink()
    (run / "timeline.html").unlink()
    assert train("-o", run, "--resume") == 0  # as after a kill among the products
    assert (run / "timeline.html").exists()
    assert train("-o", run, "--resume", "--lr", "0.5") == 2
    assert "lr is 0.003 there and 0.5 here; give the same, or another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [(), ("--recam",), ("--arch", "resnet18", "--freeze", "--weights", "random", "--size", "64", "--recam", "self")],
)
def test_a_run_that_is_done_is_trained_on_in_a_new_one(
    words: tuple[str, ...], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one begins with what the old one knew."""
    words = (*QUICK, "--epochs", "1", "--no-export", *words)
    assert train(data, "-o", tmp_path / "run", *words) == 0
    assert train("-o", tmp_path / "run", "--resume", "--epochs", "3") == 2
    told = capsys.readouterr().err
    weights = tmp_path / "run" / "checkpoints" / "epoch-0001.safetensors"
    assert "epochs is 1 there and 3 here; a learning-rate schedule is made for its number of epochs" in told
    assert f"start a new run with the same options and --weights {weights}" in told
    assert train(data, "-o", tmp_path / "on", *words, "--weights", weights, "--lr", "1e-12") == 0
    before, after = (open_run(tmp_path / name).network().state_dict() for name in ("run", "on"))
    learned = [name for name in after if name.endswith("weight") and "recam" not in name]
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in learned)


def test_a_full_disk_tells_how_to_go_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, tensors: Any, info: Any) -> Path:
        if "epoch-0002" in str(path):
            raise OSError(errno.ENOSPC, f"cannot write {path.name!r} in the folder: {os.strerror(errno.ENOSPC)}")
        return save(path, tensors, info)

    save, run = run_folder.save_tensors, tmp_path / "run"
    monkeypatch.setattr(run_folder, "save_tensors", full)
    assert train(data, "-o", run, *QUICK, "--no-export") == 2
    told = capsys.readouterr().err
    assert "camcore train: cannot write 'epoch-0002.safetensors' in the folder" in told
    assert f"go on with: camcore train -o {run} --resume" in told
    monkeypatch.undo()
    assert train("-o", run, "--resume", "--threads", "2") == 0
    told = capsys.readouterr().err
    assert "note: threads was 1 when the run began and is 2 now: it rounds otherwise" in told
    assert "going on after epoch 1 of 2" in told
    assert [c.epoch for c in find_checkpoints(run / "checkpoints")] == [1, 2]


def test_a_reader_who_has_enough_is_no_error(
    finished: tuple[Path, int, str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(document: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(report, "print_run", gone)
    monkeypatch.setattr(os, "dup2", lambda *files: None)
    assert train("-o", finished[0], "--resume") == 141
    assert "camcore train" not in capfd.readouterr().err


def test_warnings_are_lines(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(self: Training) -> str:
        warnings.warn("a frame was left out\x1b[31m", RuntimeWarning, stacklevel=1)
        return run(self)

    run, before = Training.run, warnings.showwarning
    monkeypatch.setattr(Training, "run", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = before  # not pytest's, which collects
        assert train(data, "-o", tmp_path / "run", *QUICK, "--no-export") == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("warning: a frame was left out") and "\x1b" not in line for line in lines)


def test_a_loss_that_is_no_number_is_status_1(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    run = tmp_path / "run"
    assert train(data, "-o", run, *QUICK, "--optimizer", "sgd", "--lr", "1e30", "--schedule", "constant") == 1
    assert (
        "the training has diverged; there is no epoch before to keep. Try a new run with a" in capsys.readouterr().err
    )
    assert (run / "timeline.html").exists()
    assert not (run / "model.onnx").exists()
    with pytest.raises(InputError, match="has no checkpoint: the training diverged before its first epoch ended"):
        open_run(run).network()


def test_a_failed_verification_is_status_1(
    finished: tuple[Path, int, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / "summary.json").unlink()
    monkeypatch.setattr(verify, "_IDENTICAL", -1.0)
    assert train("-o", run, "--resume") == 1
    told = capsys.readouterr().out
    assert "[FAILED] outputs" in told
    assert "verification failed" in told


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([], "no pictures were given; expected DATA"),
        (["--resume"], "there is no run in run; expected the folder of one with -o, or DATA to begin one there"),
        (["DATA", "--arch", "resnet19"], "no network is called 'resnet19'. Did you mean"),
        (["DATA", "--arch", "resnet18", "--cut", "layer9", "--weights", "random"], "layer9"),
        (["DATA", "--weights", "absent.safetensors"], "absent.safetensors: no such file"),
        (["DATA", "--device", "gpu"], "device is 'gpu', which cannot be used"),
        (["DATA", "--lr", "0"], "lr is 0.0; expected a number above 0"),
        (["DATA", "--masks", "nowhere"], "nowhere: no such folder; expected masks in it"),
        (["DATA", "--method", "jett"], "jett"),
        (["DATA", "--strip", "5,50"], "strip is 5,50; expected epochs, 0 to 2"),
        (["DATA", "--grid", "learningrate=1,2"], "train has no option 'learningrate'"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(
    words: list[str],
    text: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(*[data if word == "DATA" else word for word in words], "-o", "run", *QUICK) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class TestGrid:
    def test_one_table_of_best_epochs(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """One of two cannot be trained; the table is that of the runs; what is done is kept when it goes on."""
        runs = tmp_path / "runs"
        words = ("--no-export", "--no-augment", "--optimizer", "sgd", "--schedule", "constant")
        assert train(data, "-o", runs, *QUICK, *words, "--grid", "lr=1e-2,1e30") == 1
        told = capsys.readouterr()
        assert "failed: the training loss is" in told.err
        assert "[2/2] lr=1e30" in told.err
        with (runs / "grid.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["best"] for row in rows] == ["*", ""]
        best = json.loads((runs / "lr=1e-2" / "summary.json").read_text())["best"]
        assert float(rows[0]["top1"]) == best["top1"]
        assert "failed, see grid.csv" in told.out.splitlines()[2]
        assert train(data, "-o", runs, *QUICK, "--grid", "lr=1e-2") == 2
        assert "holds a grid of runs already" in capsys.readouterr().err
        stamp = (runs / "lr=1e-2" / "last.safetensors").stat().st_mtime_ns
        assert train("-o", runs, "--resume", "--grid", "lr=1e-2,2e-2", "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert [row["run"] for row in printed["trainings"]] == ["lr=1e-2", "lr=2e-2"]
        assert (runs / "lr=1e-2" / "last.safetensors").stat().st_mtime_ns == stamp
        assert train("-o", runs, "--resume") == 0  # the grid of the last time
        assert (runs / "lr=1e-2" / "last.safetensors").stat().st_mtime_ns == stamp

    def test_methods(self, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("--no-export", "--epochs", "1", "--every", "9")
        assert (
            train(data, "-o", tmp_path / "runs", *QUICK, *words, "--recam", "self", "--grid", "method=cam,recam") == 0
        )
        plain, recam = (open_run(tmp_path / "runs" / f"method={name}") for name in ("cam", "recam"))
        assert (plain.job.settings.recam, recam.job.settings.recam) == (None, "self")
        assert (plain.recording().method, recam.recording().method) == ("cam", "recam")
        assert "note: --method recam trains with ReCAM's second loss, here --recam self" in capsys.readouterr().err


class TestUses:
    """What people train by hand today, in a small form."""

    def test_a_network_of_torchvision_with_maps_at_every_step(self, data: str, tmp_path: Path) -> None:
        words = ("--arch", "resnet18", "--weights", "random", "--size", "64", "--every", "1", "--epochs", "1")
        assert train(data, "-o", tmp_path / "run", *QUICK, *words, "--no-export") == 0
        assert open_run(tmp_path / "run").recording().steps.tolist() == [0, 1, 2]

    def test_a_network_that_is_cut_and_gets_a_convolution_of_1024_maps(self, data: str, tmp_path: Path) -> None:
        words = (
            "--arch",
            "googlenet",
            "--weights",
            "random",
            "--cut",
            "inception4e",
            "--head",
            "conv1024",
            "--no-export",
        )
        assert train(data, "-o", tmp_path / "run", *QUICK, *words, "--size", "64", "--epochs", "1") == 0
        found = open_run(tmp_path / "run").recording()
        assert found.method == "cam"
        assert found.maps.shape[2:] == (4, 4)

    def test_a_head_on_a_frozen_trunk_with_recam(self, data: str, tmp_path: Path) -> None:
        words = (
            "--arch",
            "vgg16",
            "--weights",
            "random",
            "--head",
            "maps",
            "--freeze",
            "--recam",
            "self",
            "--no-export",
        )
        assert train(data, "-o", tmp_path / "run", *QUICK, *words, "--size", "64", "--epochs", "1") == 0
        (checkpoint,) = open_run(tmp_path / "run").checkpoints
        assert checkpoint.path.stat().st_size < 50_000
        assert "recam_loss" in (tmp_path / "run" / "metrics.csv").read_text()


def test_help_fits_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        train("--help")
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(name in text for name in (*PRODUCTS, "split.json", "trunk.safetensors", "last.safetensors"))
    assert "recam trains with ReCAM's second loss" in " ".join(text.split())


def test_packages_are_looked_for_before_anything_else(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert train(data, "-o", tmp_path / "run", *QUICK) == 2
    assert "training needs safetensors, which cannot be imported: pip install 'camcore[all]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_tells_how_to_go_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Training, number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_epoch", interrupt)
    assert train(data, "-o", tmp_path / "run", *QUICK) == 130
    assert f"to go on: camcore train -o {tmp_path / 'run'} --resume" in capsys.readouterr().err
