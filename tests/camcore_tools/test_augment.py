"""The command ``camcore augment``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.cli import main
from PIL import Image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("кошка/1.png", "кошка/2.png", "dog/1.jpg"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def test_ten_times_as_many(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augment", str(data), "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "кошка").iterdir())) == 20
    assert len(list((tmp_path / "out" / "dog").iterdir())) == 10
    captured = capsys.readouterr()
    assert captured.out == (
        f"  dog    1 picture and 9 copies\n  кошка  2 pictures and 18 copies\n30 pictures in {tmp_path}/out\n"
    )
    assert captured.err == ""


def test_json_and_the_files_that_are_left_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "dog" / "0.jpg").write_bytes(b"")
    (data / "loose.jpg").write_bytes(b"x")
    words = ["augment", str(data), "-o", str(tmp_path / "out"), "--times", "3", "--rotate", "5", "--no-flip", "--json"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "data": str(data),
        "output": str(tmp_path / "out"),
        "times": 3,
        "rotate": 5.0,
        "shift": 0.2,
        "flip": False,
        "seed": 0,
        "classes": {"dog": {"pictures": 1, "copies": 2}, "кошка": {"pictures": 2, "copies": 4}},
        "held_out": 0,
        "left_out": [
            {"path": str(data / "dog" / "0.jpg"), "reason": "the file is empty (0 bytes); expected a picture"}
        ],
        "notes": [f"1 picture lies in {data} itself, outside of the class folders, and will not be used"],
    }
    assert captured.err.startswith("note: 1 picture lies in")
    assert f"1 file left out:\n  {data}/dog/0.jpg  the file is" in captured.err


def test_a_long_list_is_cut(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(23):
        (data / "dog" / f"bad-{number}.jpg").write_bytes(b"")
    assert main(["augment", str(data), "-o", str(tmp_path / "out"), "--times", "2"]) == 2
    err = capsys.readouterr().err
    assert "23 files left out:" in err
    assert len(re.findall(r"bad-\d+\.jpg", err)) == 20
    assert "  and 3 more; --json lists all" in err


def test_val_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = tmp_path / "both"
    both.mkdir()
    data.rename(both / "train")
    (both / "val").mkdir()
    shutil.copytree(both / "train" / "dog", both / "val" / "dog")
    (both / "masks" / "train").mkdir(parents=True)
    assert main(["augment", str(both), "-o", str(tmp_path / "out"), "--times", "2"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith(f"7 pictures in {tmp_path}/out, of which 1 to validate with, as they were\n")
    assert told.err == f"note: {both}/masks is left out: only pictures in train are augmented, masks of them are not\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--times", "1"], "--times is 1; expected 2 or more"),
        (["--seed", "-1"], "--seed is -1; expected 0 or more"),
        (["--rotate", "200"], "rotation is 200.0; expected degrees to both sides, 0 to 180"),
        (["--shift", "nan"], "shift is nan; expected a share of the side, 0 to 1"),
        (
            ["--rotate", "0", "--shift", "0", "--no-flip"],
            "--rotate 0, --shift 0 and --no-flip leave nothing to change; expected one of them otherwise",
        ),
    ],
)
def test_wrong_options_are_one_line(
    data: Path, tmp_path: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["augment", str(data), "-o", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"camcore augment: {text}\n"
    assert not (tmp_path / "out").exists()


def test_a_bad_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augment", str(tmp_path), "-o", str(tmp_path.parent / "elsewhere")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"camcore augment: {tmp_path}: no pictures and no folders in it; expected a folder for each")
    assert err.count("\n") == 1


def test_help_fits_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ("augment", "pictures"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_no_torch(data: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from camcore_tools.cli import main\n"
        f"sys.exit(main(['augment', {str(data)!r}, '-o', {str(tmp_path / 'out')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "camcore augment: pictures are changed by torch, which cannot be imported: pip install 'camcore[torch]'\n",
    )
