"""The commands of the README that train: each is run as it stands there, on drawn pictures, in a small form."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Watch it learn")[2].partition("\n## ")[0]
COMMANDS = [shlex.split(line) for line in re.findall(r"^camcore .*$", SECTION, re.MULTILINE)]

SMALL = {
    "pictures": ["--count", "6", "--validation", "2"],
    "train": ["--epochs", "1", "--batch", "8", "--threads", "1", "--watch", "3"],
    "evaluate": ["--count", "2"],
}
FILMS = ("timeline.html", "training.gif", "training.webp", "filmstrip.png", "drift.png")
PRODUCTS = (*FILMS, "drift.json", "model.onnx", "metrics.csv")


def run_of(command: list[str]) -> str:
    return command[command.index("-o") + 1] if "-o" in command else command[2]


def small_form(command: list[str]) -> list[str]:
    """The same with fewer pictures and steps, and with random weights, since none can be downloaded here."""
    words = [*command[1:], *SMALL[command[1]]]
    if command[1] == "train" and "--arch" in command and "small" not in command:
        words += ["--weights", "random", "--size", "64"]
    if "--strip" in words:
        words[words.index("--strip") + 1] = "0,1"
    if "--grid" in words:
        words = [re.sub(r"^(\w+=[^,]+,[^,]+),.*", r"\1", word) for word in words] + ["--no-export"]
    return words


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drawn pictures under every name that the README gives to data."""
    folder = tmp_path_factory.mktemp("recipes")
    call(small_form(COMMANDS[0]), folder)
    for name in ("photos", "cifar10", "flowers"):
        shutil.copytree(folder / "merchandise" / "train", folder / name)
    return folder


def call(words: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "camcore_tools.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_readme_has_the_four_uses() -> None:
    assert [c[1] for c in COMMANDS] == [*["pictures", "train", "evaluate"], *["train"] * 4, "evaluate", "train"]


@pytest.mark.parametrize("run", sorted({run_of(c) for c in COMMANDS[1:]}))
def test_a_recipe_trains_and_shows_where_the_network_looks(run: str, place: Path) -> None:
    printed = [call(small_form(c), place) for c in COMMANDS[1:] if run_of(c) == run]
    assert all(len(line) <= 80 for text in printed for line in text.splitlines())
    if run.endswith("-grid"):
        assert len((place / run / "grid.csv").read_text().splitlines()) == 1 + 2 * 2
        return
    assert [name for name in PRODUCTS if not (place / run / name).is_file()] == []
    summary = json.loads((place / run / "summary.json").read_text())
    assert summary["model"]["passed"]
    if len(printed) > 1:
        assert json.loads((place / run / "evaluation" / "eval.json").read_text())
