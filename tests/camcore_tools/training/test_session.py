"""A training in its folder: what is in there, what is refused, and that it may die at any moment."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training import run_folder, session
from camcore_tools.training.checkpoints import find_checkpoints, load_tensors
from camcore_tools.training.job import Job
from camcore_tools.training.loop import Diverged, Training
from camcore_tools.training.run_folder import RunFolder
from camcore_tools.training.session import carry_out
from camcore_tools.training.settings import Settings
from camcore_torch import CamRecorder
from tiny_training import RULE, split, tiny, write_folder
from torch import nn

from camcore.errors import InputError
from camcore.recording.files import load_recording

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = Settings(epochs=3, batch=12, lr=0.02, schedule="cosine", flip=True, device="cpu")
JOB = Job("drawn", weights="somewhere", watch=3, every=2, keep=1, settings=SETTINGS)
DATA = split(train=8, validation=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network, which where it goes on starts from other weights; no films and no export."""

    def network(job: Job, classes: int, rule: Any, *, weights: str | None = None) -> nn.Module:
        return tiny(0 if weights == "somewhere" else 9, freeze=job.freeze)

    def finish(job: Job, run: RunFolder, training: Training, recorder: CamRecorder) -> dict[str, Any]:
        recorder.finish()
        run.write_json(run.SUMMARY, {"epochs": len(training.history)})
        return {"epochs": len(training.history)}

    monkeypatch.setattr(session, "bare_network", network)
    monkeypatch.setattr(session, "rule_of", lambda job: RULE)
    monkeypatch.setattr(session, "finish", finish)


def carried_out(folder: Path, job: Job = JOB) -> dict[str, Any]:
    return carry_out(job, folder, pictures=lambda job, rule, data: DATA)


def table(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the times."""
    rows = csv.DictReader(io.StringIO((folder / "metrics.csv").read_text()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """The same bits in every tensor, the same table, recording and files."""
    assert table(one) == table(other)
    files = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    assert files[0] == files[1]
    for name in [n for n in files[0] if n.endswith(".safetensors")]:
        mine, theirs = load_tensors(one / name)[0], load_tensors(other / name)[0]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine), name
    first, second = load_recording(one / "recording"), load_recording(other / "recording")
    for field in ("steps", "maps", "probabilities", "best"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)
    assert first.curves.keys() == second.curves.keys()
    for name, curve in first.curves.items():
        np.testing.assert_array_equal(curve.values, second.curves[name].values, err_msg=name)


@contextmanager
def _dying(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[list[int]]:
    """Dies before the change number ``moment`` to a file, and then neither changes nor clears away anything."""
    changes = [0]

    def deadly(function: Any, names: bool = False) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if names and not set("wxa+") & set(str(args[1]) if len(args) > 1 else options.get("mode", "r")):
                return function(*args, **options)
            changes[0] += 1
            if changes[0] >= moment:
                raise Killed
            return function(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir", "mkdir"):
            patch.setattr(Path, name, deadly(getattr(Path, name)))
        patch.setattr(Path, "open", deadly(Path.open, names=True))
        patch.setattr(shutil, "rmtree", deadly(shutil.rmtree))
        yield changes


class Killed(BaseException):
    """No except or suppress of the program holds it up."""


def check_deaths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: Job, moments: range) -> None:
    """Die before the changes with those numbers; after some of them once more."""
    with _dying(monkeypatch, 10**9) as changes:
        carried_out(tmp_path / "whole", job)
    assert 40 < changes[0] < moments.stop
    for moment in moments[: (changes[0] - moments.start) // moments.step]:
        folder = tmp_path / f"dead-{moment}"
        with pytest.raises(Killed), _dying(monkeypatch, moment):
            carried_out(folder, job)
        if moment % 3 == 0:
            with pytest.raises(Killed), _dying(monkeypatch, 9):
                carried_out(folder, job)
        carried_out(folder, job)
        assert_same_run(folder, tmp_path / "whole")
        shutil.rmtree(folder)


def test_a_death_between_two_changes_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_deaths(monkeypatch, tmp_path, JOB, range(1, 200, 7))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"freeze": True}, {"keep": None, "every": 1}, {"keep": 2}], ids=str)
def test_a_death_between_any_two_changes_of_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    check_deaths(monkeypatch, tmp_path, replace(JOB, **changes), range(1, 200))


KILLS = """
import json, os, signal, sys, time
from pathlib import Path
import onnx_ir, onnxscript, scipy.stats, torch._dynamo, torchvision
import camcore_onnx.exporting, camcore_tools.training.folders, camcore_tools.training.session
from camcore_tools.cli import main

def started(words):
    child = os.fork()
    if child == 0:
        try:
            os._exit(main(words))
        finally:
            os._exit(99)
    return child

def files(folder):
    found = []
    for path in folder.rglob("*"):
        try:
            found.append((str(path), path.stat().st_mtime_ns, path.stat().st_size))
        except OSError:
            pass
    return sorted(found)

def ended(folder, changes):
    child = started([*sys.argv[2:], folder])
    seen, before = 0, files(Path(folder))
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = files(Path(folder))
        if now != before:
            seen, before = seen + 1, now
            if seen == changes:
                os.kill(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.001)

os.chdir(sys.argv[1])
print(json.dumps([ended("killed", changes) for changes in (1, 6, 18, 3, 10**9)] + [ended("whole", 10**9)]))
"""


def test_killed_by_the_system_again_and_again(tmp_path: Path) -> None:
    """With SIGKILL, at moments that the folder decides; the whole command, on a folder of pictures."""
    words = ["train", str(write_folder(tmp_path / "data")), "--size", "16", "--epochs", "4", "--batch", "4"]
    words += ["--every", "2", "--watch", "3", "--keep", "2", "--no-export", "--threads", "1", "--resume", "-o"]
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "adapters", "tools"))},
    )
    assert done.returncode == 0, done.stderr
    *killed, second_last, last = json.loads(done.stdout.splitlines()[-1])
    assert (second_last, last) == (0, 0)
    assert killed.count(-signal.SIGKILL) >= 3
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


class TestStart:
    def test_nothing_is_left_of_a_run_that_cannot_begin(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "run"
        with pytest.raises(InputError, match="nonsense"):
            carried_out(folder, replace(JOB, method="nonsense"))
        assert list(tmp_path.iterdir()) == []
        folder.mkdir(parents=True)
        with pytest.raises(InputError, match="nonsense"):
            carried_out(folder, replace(JOB, method="nonsense"))
        assert list(folder.iterdir()) == []

    def test_a_folder_of_somebody_elses(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match="is not empty, and what is in it is no run; choose another folder"):
            carried_out(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
        with pytest.raises(InputError, match="is a file; expected a folder to write the run to"):
            carried_out(tmp_path / "thesis.tex")

    def test_a_folder_that_cannot_be_written_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)
        with pytest.raises(InputError, match=r"cannot be written to '.*run': Read-only file system; choose a folder"):
            carried_out(tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_without_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
        monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(InputError, match=r"needs about 5 MB in '.*run', where 2 MB are free; make room"):
            carried_out(tmp_path / "run")
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once(self, tmp_path: Path) -> None:
        with RunFolder(tmp_path).taken(), pytest.raises(InputError, match="another camcore train is at work in"):
            carried_out(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestGoingOn:
    def test_with_other_settings(self, tmp_path: Path) -> None:
        carried_out(tmp_path)
        other = replace(JOB, every=3, settings=replace(SETTINGS, lr=0.5, patience=7))
        with pytest.raises(InputError) as caught:
            carried_out(tmp_path, other)
        text = "every is 2 there and 3 here; lr is 0.02 there and 0.5 here; patience is not set there and 7 here"
        assert text in str(caught.value)

    def test_a_finished_run_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert carried_out(tmp_path) == {"epochs": 3}
        monkeypatch.setattr(session, "Training", None)
        assert carried_out(tmp_path) == {"epochs": 3}
        (tmp_path / "summary.json").write_text("[")
        with pytest.raises(InputError, match=r"summary.json: cannot be read"):
            carried_out(tmp_path)

    def test_other_pictures_than_before(self, tmp_path: Path) -> None:
        carried_out(tmp_path)
        (tmp_path / "summary.json").unlink()
        names = json.loads((tmp_path / "split.json").read_text())
        names["validation"][1] = "bright/gone.png"
        (tmp_path / "split.json").write_text(json.dumps(names))
        with pytest.raises(InputError) as caught:
            carried_out(tmp_path)
        assert (
            "of those to validate with, 1 are new (such as 'bright/001.png') and 1 are gone (such as 'bright/gone.png')"
        ) in str(caught.value)

    def test_after_the_disk_was_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, tensors: Any, info: Any) -> Path:
            if "0002" in str(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return save(path, tensors, info)

        save = run_folder.save_tensors
        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "save_tensors", full)
            with pytest.raises(OSError, match="No space left on device"):
                carried_out(tmp_path / "full")
        assert len(table(tmp_path / "full")) == 1
        carried_out(tmp_path / "full")
        carried_out(tmp_path / "whole")
        assert_same_run(tmp_path / "full", tmp_path / "whole")


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    carry_out(JOB, tmp_path, command=["camcore", "train"], pictures=lambda job, rule, data: DATA)
    config = json.loads((tmp_path / "config.json").read_text())
    assert Job.from_flat(config["job"]) == JOB
    assert config["classes"] == list(DATA.train.classes)
    assert config["rule"] == RULE.to_json()
    assert config["command"] == ["camcore", "train"]
    assert config["pictures"] == {"train": 24, "validation": 6, "left_out": 0}
    assert config["parameters"]["all"] == sum(p.numel() for p in tiny().parameters())
    assert config["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert json.loads((tmp_path / "split.json").read_text())["validation"] == list(DATA.validation.names)
    assert [row["epoch"] for row in table(tmp_path)] == ["1", "2", "3"]
    assert not (tmp_path / "left-out.json").exists()
    best = max(table(tmp_path), key=lambda row: (float(row["top1"]), -float(row["validation_loss"])))
    kept = {c.epoch for c in find_checkpoints(tmp_path / "checkpoints")}
    assert kept == {3, int(best["epoch"])}


def test_what_was_left_out_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tuple((f"cap/{n}\x1b[31m.jpg", "damaged") for n in range(5))
    data = replace(DATA, left_out=bad, notes=("two are alike",))
    carry_out(JOB, tmp_path, pictures=lambda job, rule, data_: data)
    assert [entry["file"] for entry in json.loads((tmp_path / "left-out.json").read_text())] == [p for p, _ in bad]
    told = capsys.readouterr().err
    assert "note: two are alike" in told
    assert "left out: 2 more, see left-out.json" in told
    assert "\x1b[31m" not in told


def test_a_frozen_trunk_is_saved_once(tmp_path: Path) -> None:
    carried_out(tmp_path, replace(JOB, freeze=True))
    trunk, _ = load_tensors(tmp_path / "trunk.safetensors")
    (checkpoint, *_) = find_checkpoints(tmp_path / "checkpoints")
    learned, info = load_tensors(checkpoint.path)
    assert all(name.startswith("trunk.") for name in trunk)
    assert trunk.keys() | learned.keys() == tiny().state_dict().keys()
    assert not trunk.keys() & learned.keys()
    assert info["metrics"]["epoch"] == checkpoint.epoch


def test_a_training_that_diverges_keeps_what_was_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its second epoch; what was recorded up to there is shown."""
    monkeypatch.setattr(Training, "_descend", _broken(Training._descend))
    with pytest.raises(Diverged, match=r"at step 3, in epoch 2: .* what was learned in the epochs before is kept"):
        carried_out(tmp_path)
    assert len(table(tmp_path)) == 1
    assert load_tensors(tmp_path / "last.safetensors")[1]["step"] == 2
    assert load_recording(tmp_path / "recording.npz").steps.tolist() == [0, 2]
    assert not (tmp_path / "summary.json").exists()


def _broken(descend: Any) -> Any:
    def call(self: Training, images: Any, labels: Any, epoch: int) -> Any:
        if epoch == 2:
            raise Diverged("training loss", float("nan"), self.step + 1, epoch, self.settings)
        return descend(self, images, labels, epoch)

    return call
