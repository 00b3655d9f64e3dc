"""All combinations of options, each in its folder; what fails is told, and the table shows the best."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import pytest
from camcore_tools.training.grid import Axis, axis, combinations, grid_table, run_grid
from camcore_tools.training.job import Job

from camcore.errors import InputError


def test_an_axis() -> None:
    assert axis("lr=1e-5, 5e-5") == Axis("lr", ("1e-5", "5e-5"))
    assert axis("--label_smoothing=0") == Axis("label-smoothing", ("0",))
    for wrong in ("lr", "=3", "lr=", "lr=1,,2"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not NAME=VALUE,VALUE such as lr=1e-4,1e-3"):
            axis(wrong)
    with pytest.raises(argparse.ArgumentTypeError, match="has a value twice"):
        axis("lr=1,1")


def test_combinations_are_all_of_them_in_order() -> None:
    found = combinations([axis("lr=1e-3,1e-2"), axis("flip=yes,no")], {"data": "d", "epochs": 4})
    assert [one.name for one in found] == [
        "lr=1e-3,flip=yes",
        "lr=1e-3,flip=no",
        "lr=1e-2,flip=yes",
        "lr=1e-2,flip=no",
    ]
    assert found[1].given == {"data": "d", "epochs": 4, "lr": 1e-3, "flip": False}
    assert found[1].values == {"lr": "1e-3", "flip": "no"}


def test_with_and_without_recam() -> None:
    """The method of the maps decides how the network is trained; which ReCAM, the other options."""
    found = combinations([axis("method=cam,recam")], {"data": "d", "recam": "self"})
    assert [one.given["recam"] for one in found] == [None, "self"]
    bare = combinations([axis("method=cam,recam")], {"data": "d"})
    assert bare[1].given == {"data": "d", "method": "recam"}
    both = combinations([axis("method=cam"), axis("recam=class,off")], {"data": "d"})
    assert [one.given["recam"] for one in both] == ["class", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=1", r"train has no option 'epoch'. Did you mean 'epochs'"),
        ("no-flip=yes", r"train has no option 'no-flip'"),
        ("lr=1e-3,fast", r"--grid lr=fast: .*invalid float value: 'fast'"),
        ("optimizer=sgd,lion", r"--grid optimizer=lion: .*invalid choice: 'lion'"),
        ("flip=maybe", r"--grid: flip is 'maybe'; expected yes or no"),
        ("epochs=0", r"epochs is 0; expected a whole number, 1 or more"),
        ("weights=a/b,a_b", r"two values give folders of the same name"),
    ],
)
def test_wrong_values_are_told_before_anything_is_trained(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        combinations([axis(text)], {"data": "d", "arch": "resnet18"})
    with pytest.raises(InputError, match="names an option twice"):
        combinations([axis("lr=1"), axis("lr=2")], {"data": "d"})


def document(top1: float, loss: float) -> dict[str, Any]:
    best = {"epoch": 3, "top1": top1, "top3": 0.9, "top5": 1.0, "validation_loss": loss, "loss": 0.5}
    return {"best": best, "epochs": 4, "stopped": "epochs", "model": None}


def test_the_table_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = {1e-3: document(0.8, 0.7), 1e-2: document(0.8, 0.6), 1e-1: document(0.7, 0.1)}
    trained: list[tuple[float, Path, str]] = []

    def train(job: Job, folder: Path, label: str) -> dict[str, Any]:
        trained.append((job.settings.lr, folder, label))
        if job.settings.lr == 1.0:
            raise InputError("it went wrong")
        return results[job.settings.lr]

    grid = combinations([axis("lr=1e-3,1,1e-2,1e-1")], {"data": "d"})
    rows = run_grid(grid, tmp_path, train)
    assert [(folder.name, label) for _, folder, label in trained][:2] == [("lr=1e-3", "1/4"), ("lr=1", "2/4")]
    assert "failed: it went wrong" in capsys.readouterr().err
    with (tmp_path / "grid.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["best"] for row in read] == ["", "", "*", ""]
    assert [row["error"] for row in read] == ["", "it went wrong", "", ""]
    assert read[0]["lr"] == "1e-3"
    assert float(read[2]["top1"]) == 0.8
    lines = grid_table(rows).splitlines()
    assert lines[0].split() == ["lr", "epoch", "top-1", "top-3", "top-5", "loss"]
    assert lines[3].split() == ["*", "1e-2", "3", "80.0%", "90.0%", "100.0%", "0.6000"]
    assert lines[2].split() == ["1", "-", "-", "-", "-", "-", "failed,", "see", "grid.csv"]
    assert all(len(line) <= 80 for line in lines)


def test_a_failed_verification_is_an_error_of_its_row(tmp_path: Path) -> None:
    failed = document(0.5, 1.0) | {"model": {"passed": False}}
    (row,) = run_grid(combinations([axis("lr=1")], {"data": "d"}), tmp_path, lambda *_: failed)
    assert row["error"] == "the exported model failed its verification"
    assert row["top1"] == 0.5
