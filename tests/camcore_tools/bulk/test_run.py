"""camcore explain --workers: what it writes, what it says, and that a run that is killed ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from camcore_tools.cli import main
from PIL import Image

import camcore
from camcore.half import to_half

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 small pictures in folders; two of them are none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for n in range(200):
        (folder / f"{n // 50}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (20 + n % 3, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n // 50}" / f"{n:03d}.jpg")
    (folder / "0" / "005.jpg").write_bytes(b"nothing")
    (folder / "3" / "180.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def run(model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def explain(*words: object, output: str = "out", places: tuple[object, ...] = (photos,)) -> tuple[int, str, str]:
        basic = ["--preprocess", "unit", "--threads", "1", "--shard-size", "48", "--batch-size", "16", "--workers", "0"]
        status = main(
            ["explain", str(model), *map(str, places), *basic, *map(str, words), "-o", str(tmp_path / output)]
        )
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return explain


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_maps_and_index_of_all_pictures(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    status, out, err = run("--classes", "top2")
    assert status == 2  # two were left out
    assert out == f"198 of 200 pictures explained; maps and index.jsonl in {tmp_path / 'out'}\n"
    assert err.count("left out: ") == 2
    assert "005.jpg: not a picture that can be read" in err
    paths = sorted(map(str, photos.rglob("*.jpg")))
    results = camcore.bulk.read(tmp_path / "out")
    assert [picture.path for picture in results] == paths
    good = [path for path in paths if Path(path).name not in ("005.jpg", "180.jpg")]
    expected = camcore.explainer(model, preprocess="unit", threads=1)(good, "top2")
    half, _ = to_half(expected.maps)
    found = [picture for picture in results if not picture.error]
    np.testing.assert_allclose([p.maps for p in found], half.astype(np.float32), rtol=2e-3, atol=1e-5)
    assert [p.classes for p in found] == expected.classes.tolist()
    np.testing.assert_allclose([p.heatmaps()[0] for p in found], expected.heatmaps()[:, 0], atol=2e-3)
    assert "file is empty" in results[180].error


@pytest.mark.parametrize("words", [("--workers", "2"), ("--workers", "1", "--format", "parquet")])
def test_workers_change_no_byte(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    run(*words, "--workers", "0")
    run(*words, output="other")
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    assert {p.suffix for p in (tmp_path / "out").glob("maps-*")} == {".parquet" if "parquet" in words else ".npz"}


def test_a_run_that_has_ended(run: Run, tmp_path: Path) -> None:
    run()
    before = contents(tmp_path / "out")
    status, out, err = run()
    assert (status, err) == (2, "note: 200 of 200 pictures are done already\n")
    assert "198 of 200" in out
    assert contents(tmp_path / "out") == before


def test_other_settings(run: Run, tmp_path: Path) -> None:
    run()
    status, out, err = run("--method", "fem", "--classes", "top2")
    assert (status, out) == (2, "")
    assert "holds a run with other settings (" in err
    assert 'method was "cam", is "fem"' in err
    assert 'classes was null, is "top2"' in err


def test_another_model_of_the_same_name(run: Run, model: Path) -> None:
    run()
    proto = onnx.load(model)
    proto.producer_name = "another"
    onnx.save(proto, model)
    status, _, err = run()
    assert status == 2
    assert "model_sha256 was " in err


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    folder.mkdir()
    for n in range(100, 200):
        (folder / f"{n}.jpg").write_bytes((photos / f"{n // 50}" / f"{n}.jpg").read_bytes())
    return folder


def test_pictures_that_have_changed(run: Run, copied: Path) -> None:
    run(places=(copied,))
    (copied / "120.jpg").rename(copied / "x.jpg")
    status, _, err = run(places=(copied,))
    assert status == 2
    assert "the pictures have changed since: number 20 was" in err
    (copied / "x.jpg").rename(copied / "120.jpg")
    (copied / "new.jpg").write_bytes((copied / "120.jpg").read_bytes())
    status, _, err = run(places=(copied,))
    assert status == 2
    assert "its run of 100 pictures has ended, and there are more now, such as" in err
    (copied / "new.jpg").unlink()
    for n in range(199, 150, -1):
        (copied / f"{n}.jpg").unlink()
    assert "number 51 was" in (err := run(places=(copied,))[2])
    assert "there are no more now" in err


def test_json(run: Run) -> None:
    _, out, _ = run("--json")
    document = json.loads(out)
    assert (document["pictures"], document["errors"], document["method"]) == (200, 2, "cam")


def test_many_bad_pictures_are_not_all_told(run: Run, copied: Path) -> None:
    for n in range(100, 120):
        (copied / f"{n}.jpg").write_bytes(b"bad")
    _, _, err = run(places=(copied,))
    assert err.count("left out: ") == 5
    assert "21 pictures were left out; index.jsonl says why" in err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--boxes"], "--boxes is for overlays, which --workers does not write; leave one of the two out"),
        (["--together"], "--together is for overlays"),
        (["--threshold", "0.2"], "--threshold is for overlays"),
        (["--method", "cam,fem"], "--method 'cam,fem' names several; --workers takes one"),
        (["--workers", "-1"], "--workers is -1; expected at least 0"),
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["--shard-size", "0"], "--shard-size is 0; expected at least 1"),
        (["--resize", "none"], "resize 'none' leaves each picture its own size"),
        (["--classes", "9"], "class 9 is out of range"),
        (["--method", "gradcamm"], "Did you mean 'gradcam"),
    ],
)
def test_what_does_not_go_together(run: Run, tmp_path: Path, words: list[str], error: str) -> None:
    status, _, err = run(*words)
    assert status == 2
    assert error in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("--format", "parquet"), ("--batch-size", "8"), ("--shard-size", "2")])
def test_what_has_no_effect_without_workers(
    model: Path, picture: Path, tmp_path: Path, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(model), str(picture), *words, "-o", str(tmp_path / "out")]) == 2
    assert f"{words[0]} goes with --workers" in capsys.readouterr().err


def test_a_pytorch_model(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--torch", "mine:make", str(photos / "1"), "--size", "16x16", "--workers", "0", "--threads", "1"]
    assert main(["explain", *words, "--preprocess", "unit", "-o", "out"]) == 0
    assert main(["explain", *words, "--preprocess", "unit", "-o", "out"]) == 0
    results = camcore.bulk.read("out")
    assert len(results) == 50
    assert results[0].maps.shape == (1, 14, 14)
    assert "torch" in results.settings


class TestKilled:
    """In processes of their own; one that has ended meanwhile does no harm."""

    def start(self, model: Path, photos: Path, output: Path) -> subprocess.Popen[str]:
        words = ["--preprocess", "unit", "--threads", "1", "--shard-size", "8", "--batch-size", "4", "--workers", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "camcore_tools.cli", "explain", str(model), str(photos), *words, "-o", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        _, err = process.communicate(timeout=120)
        return process.returncode, err

    def kill_after(self, process: subprocess.Popen[str], output: Path, lines: int, wait: float) -> None:
        """Once so many pictures are done, and then at any moment."""
        while process.poll() is None:
            index = output / "index.jsonl"
            if index.exists() and index.read_bytes().count(b"\n") >= lines:
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.communicate()

    def test_it_ends_with_the_same_bytes(self, model: Path, photos: Path, tmp_path: Path) -> None:
        whole, killed, dice = tmp_path / "whole", tmp_path / "killed", random.Random(0)
        assert self.end(self.start(model, photos, whole))[0] == 2
        for lines in (16, 120):
            self.kill_after(self.start(model, photos, killed), killed, lines, dice.uniform(0, 0.03))
        status, err = self.end(self.start(model, photos, killed))
        assert status == 2
        assert "pictures are done already" in err
        assert contents(killed) == contents(whole)

    @pytest.mark.slow
    def test_it_ends_with_the_same_bytes_wherever_it_is_killed(self, model: Path, photos: Path, tmp_path: Path) -> None:
        whole, dice = tmp_path / "whole", random.Random(1)
        self.end(self.start(model, photos, whole))
        for n in range(8):
            killed = tmp_path / f"killed-{n}"
            for lines in sorted(dice.sample(range(190), 4)):
                self.kill_after(self.start(model, photos, killed), killed, lines, dice.uniform(0, 0.1))
            self.end(self.start(model, photos, killed))
            assert contents(killed) == contents(whole)

    def test_two_at_once(self, model: Path, photos: Path, tmp_path: Path) -> None:
        output = tmp_path / "out"
        both = [self.start(model, photos, output) for _ in range(2)]
        errors = [self.end(process)[1] for process in both]
        refused = [error for error in errors if "is writing to it; wait until that has ended" in error]
        waited = [error for error in errors if "200 of 200 pictures are done already" in error]
        assert len(refused) + len(waited) == 1  # the second came while the first was at work, or after it
        assert [picture.record["row"] for picture in camcore.bulk.read(output)] == [n % 8 for n in range(200)]
