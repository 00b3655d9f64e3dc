"""The command ``camcore pictures``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.cli import main
from camcore_tools.merchandise import KINDS, picture_set
from camcore_tools.training.folders import open_folder
from camcore_tools.training.masks import load_masks
from numpy.typing import NDArray
from PIL import Image

from camcore.preprocess import preprocess

SMALL = ["--count", "3", "--validation", "1", "--size", "24"]


def pixels(paths: list[Path]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_they_are_those_of_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["pictures", str(out), *SMALL, "--seed", "5"]) == 0
    seeds = np.random.SeedSequence(5).generate_state(2)
    for side, count, seed in zip(("train", "val"), (3, 1), seeds, strict=True):
        drawn = picture_set(count, 24, seed=int(seed))
        for label, kind in enumerate(KINDS):
            names = [f"{n:04d}.png" for n in range(1, count + 1)]
            assert sorted(path.name for path in (out / side / kind).iterdir()) == names
            chosen = drawn.labels == label
            np.testing.assert_array_equal(pixels([out / side / kind / n for n in names]), drawn.images[chosen])
            np.testing.assert_array_equal(pixels([out / "masks" / side / kind / n for n in names]), drawn.masks[chosen])
    assert capsys.readouterr().out == (
        f"  train  15 pictures: {', '.join(KINDS)}\n"
        f"  val    5 pictures: {', '.join(KINDS)}\n"
        "  masks  of all of them, white where the object is\n"
        f"written to {out}; try: camcore train {out}\n"
    )


def test_they_can_be_trained_on_with_their_masks(tmp_path: Path) -> None:
    main(["pictures", str(tmp_path), *SMALL])
    rule = preprocess("tf", size=(24, 24), resize="squash")
    split = open_folder(tmp_path, rule=rule)
    assert (len(split.train), len(split.validation)) == (15, 5)
    assert (split.train.classes, split.left_out, split.notes) == (KINDS, (), ())
    for side, pictures in (("train", split.train), ("val", split.validation)):
        masks = load_masks(tmp_path / "masks" / side, pictures.names, rule=rule)
        assert masks.shape == (len(pictures), 24, 24)
        assert (masks.mean(axis=(1, 2)) > 0.02).all()
    seed = int(np.random.SeedSequence(0).generate_state(2)[1])
    drawn = picture_set(1, 24, seed=seed)
    np.testing.assert_array_equal(masks, drawn.masks[np.argsort(drawn.labels)])


def test_without_validation_pictures_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["pictures", str(out), "--count", "2", "--validation", "0", "--size", "16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(out),
        "size": 16,
        "seed": 0,
        "pictures": {"train": dict.fromkeys(KINDS, 2)},
    }
    assert sorted(path.name for path in out.iterdir()) == ["masks", "train"]


def test_a_folder_with_something_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["pictures", str(tmp_path), *SMALL]) == 2
    text = f"camcore pictures: {tmp_path}: is not empty; give a new folder, or remove this one first\n"
    assert capsys.readouterr().err == text
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--count", "0"], "--count is 0; expected 1 to 100000"),
        (["--validation", "-1"], "--validation is -1; expected 0 to 100000"),
        (["--size", "8"], "--size is 8; expected 16 to 1024"),
        (["--seed", "-1"], "--seed is -1; expected 0 to 9223372036854775808"),
    ],
)
def test_wrong_numbers(tmp_path: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pictures", str(tmp_path / "out"), *words]) == 2
    assert capsys.readouterr().err == f"camcore pictures: {text}\n"
    assert not (tmp_path / "out").exists()
