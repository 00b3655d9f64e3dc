"""The same training with other options, one after the other, and one table of them all."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcore.errors import CamError, InputError, suggest
from camcore.files import write_atomically
from camcore_tools.console import columns, note, safe
from camcore_tools.training.job import Job
from camcore_tools.training.options import add_options, job_from, options_given

__all__ = ["Axis", "Combination", "axis", "combinations", "grid_csv", "grid_table", "mark_best", "run_grid"]

_TRUE, _FALSE = ("yes", "true", "on", "1"), ("no", "false", "off", "0")
_COLUMNS = ("best", "epoch", "top1", "top3", "top5", "validation_loss", "loss", "epochs", "stopped", "run", "error")


@dataclass(frozen=True)
class Axis:
    """An option and the values that it is to have, as texts."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Combination:
    """One training of a grid: the name of its folder, the value of each axis, and what is given by all options."""

    name: str
    values: Mapping[str, str]
    given: Mapping[str, Any]


def axis(text: str) -> Axis:
    """From ``lr=1e-4,1e-3``, as argparse wants it."""
    name, found, values = text.partition("=")
    parts = tuple(part.strip() for part in values.split(","))
    if not found or not name or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,VALUE such as lr=1e-4,1e-3")
    if len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has a value twice")
    return Axis(name.strip().lstrip("-").replace("_", "-"), parts)


def combinations(axes: Sequence[Axis], given: Mapping[str, Any]) -> list[Combination]:
    """All of them, the last axis fastest.

    Raises
    ------
    InputError
        If an option is not known or cannot have a value, before anything is trained.
    """
    names = [one.name for one in axes]
    if len(set(names)) < len(names):
        raise InputError("--grid names an option twice; give all its values in one")
    found = []
    for chosen in itertools.product(*(one.values for one in axes)):
        values = dict(zip(names, chosen, strict=True))
        changed = dict(given)
        for name, value in values.items():
            changed |= _read(name, value)
        if values.get("method", "recam") != "recam" and "recam" not in values:
            changed["recam"] = None  # a network for the maps of another method is trained without it
        found.append(Combination(_folder(values), values, changed))
        job_from(found[-1].given)
    if len({one.name for one in found}) < len(found):
        raise InputError("--grid: two values give folders of the same name")
    return found


def _folder(values: Mapping[str, str]) -> str:
    return ",".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise InputError(message)


def _read(name: str, value: str) -> dict[str, Any]:
    """What an option of train makes of a value."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_options(parser)
    known = {flag.removeprefix("--"): action for action in parser._actions for flag in action.option_strings}
    if name not in known or name.startswith("no-"):
        names = [flag for flag in known if not flag.startswith("no-")]
        raise InputError(f"--grid: train has no option {name!r}. {suggest(name, names)}")
    if isinstance(known[name], argparse.BooleanOptionalAction):
        if value.lower() not in _TRUE + _FALSE:
            raise InputError(f"--grid: {name} is {value!r}; expected yes or no")
        words = [f"--{name}" if value.lower() in _TRUE else f"--no-{name}"]
    else:
        words = [f"--{name}={value}"]
    try:
        return options_given(parser.parse_args(words))
    except InputError as error:
        raise InputError(f"--grid {name}={value}: {error}") from error


def run_grid(
    grid: Sequence[Combination], folder: Path, train: Callable[[Job, Path, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Train all, each in a folder of its own; one that fails is told and leaves the others alone.

    Parameters
    ----------
    grid : sequence of Combination
    folder : Path
        Gets their folders, and ``grid.csv``, which is written anew after each.
    train : callable
        Of a job, its folder and a label for the bar; gives what ``summary.json`` holds.

    Returns
    -------
    list of dict
        A row each: the value of each axis, the best epoch, or the error.
    """
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(grid, start=1):
        note(f"[{number}/{len(grid)}] {safe(one.name.replace(',', ', '))}")
        try:
            document = train(job_from(one.given), folder / one.name, f"{number}/{len(grid)}")
            rows.append(_row(one, document))
        except CamError as error:
            note(f"failed: {safe(error)}")
            rows.append({**one.values, "run": one.name, "error": str(error)})
        mark_best(rows)
        write_atomically(folder / "grid.csv", lambda file: file.write(grid_csv(rows).encode("utf-8", "replace")))
    return rows


def _row(one: Combination, document: Mapping[str, Any]) -> dict[str, Any]:
    best, model = document["best"], document["model"]
    row = {**one.values, "run": one.name, "epochs": document["epochs"], "stopped": document["stopped"]}
    row |= {name: best[name] for name in ("epoch", "top1", "top3", "top5", "validation_loss", "loss")}
    return row if model is None or model["passed"] else {**row, "error": "the exported model failed its verification"}


def mark_best(rows: Sequence[dict[str, Any]]) -> None:
    """As the best epoch of one training is chosen: by top-1, then by the validation loss, then the first."""
    for row in rows:
        row["best"] = ""
    done = [row for row in rows if "top1" in row]
    if done:
        max(done, key=lambda row: (row["top1"], -row["validation_loss"]))["best"] = "*"


def grid_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each training; axes first."""
    axes = [name for name in rows[0] if name not in _COLUMNS]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*axes, *_COLUMNS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def grid_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best epoch of each, for a terminal; the best of all has a star."""
    axes = [name for name in rows[0] if name not in _COLUMNS]
    head = ["", *axes, "epoch", "top-1", "top-3", "top-5", "loss", ""]
    return columns([head, *([row["best"], *(row[name] for name in axes), *_cells(row)] for row in rows)], indent=0)


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "top1" not in row:
        return ["-", "-", "-", "-", "-", "failed, see grid.csv"]
    shares = [f"{row[name]:.1%}" for name in ("top1", "top3", "top5")]
    return [str(row["epoch"]), *shares, f"{row['validation_loss']:.4f}", row.get("error", "")]
