"""One evaluation from its options to its files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from camcore.accuracy import class_figures, confusion_matrix
from camcore.drift import chance_inside
from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible
from camcore.explanation import Explanation
from camcore.files import save_picture, write_atomically
from camcore.labels import escaped
from camcore.lettering import SYSTEM_FONTS, drawn_name
from camcore.pictures import Picture, load_picture
from camcore.results import check_writable
from camcore_tools.console import Progress, note, safe
from camcore_tools.evaluation import document
from camcore_tools.evaluation.choosing import at_random, by_name
from camcore_tools.evaluation.confusion import confusion_picture
from camcore_tools.evaluation.curves import curves_picture
from camcore_tools.evaluation.localisation import localise
from camcore_tools.evaluation.methods import make_explainers
from camcore_tools.evaluation.scoring import Score, Scorer, score
from camcore_tools.evaluation.sheets import save_methods, save_sheets
from camcore_tools.explainers import leave_out
from camcore_tools.explaining.options import look_of
from camcore_tools.training.checkpoints import Checkpoint
from camcore_tools.training.loop import choose_device
from camcore_tools.training.masks import load_masks
from camcore_tools.training.pictures import Pictures
from camcore_tools.training.run_folder import RunFolder
from camcore_tools.training.runs import Run, open_run

__all__ = ["evaluate"]

Masks = NDArray[np.bool_]
_NAMED = 5  # classes in a note


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Do all of it; gives what ``eval.json`` holds. ``args`` are those of :mod:`camcore_tools.evaluate`."""
    run = _opened(args.run)
    chosen = _chosen(run, args.checkpoint)
    pictures = run.data(args.data).validation
    masks = _masks(args, run, pictures)
    named = None if args.pictures is None else by_name(pictures.names, args.pictures)
    folder = Path(args.output) if args.output else run.folder / "evaluation"
    check_writable(folder)
    work = _Work(args, run, chosen, pictures, folder)
    work.measure([chosen])
    work.draw_maps(work.choose() if named is None else named)
    if masks is not None:
        work.localise(*masks)
    work.draw_confusion()
    _note_undrawn(run.classes)
    if not args.no_others:  # last: they take the longest, and whatever is wrong has been told by then
        work.measure([c for c in run.checkpoints if c != chosen])
    work.draw_curves()
    work.save()
    return work.document


def _opened(folder: str) -> Run:
    path = Path(folder)
    if (path / RunFolder.GRID).is_file() and not (path / RunFolder.CONFIG).is_file():
        inner = sorted(p.name for p in path.iterdir() if (p / RunFolder.CONFIG).is_file())
        raise InputError(f"{path} holds a grid of runs; give one of them: {', '.join(inner[:6]) or 'none has begun'}")
    return open_run(path)


def _chosen(run: Run, which: str) -> Checkpoint:
    if not run.checkpoints:
        raise run.no_checkpoint()
    if which == "best":
        return run.best or run.checkpoints[-1]
    if which == "last":
        return run.checkpoints[-1]
    if not which.isascii() or not which.isdigit():
        raise InputError(f"--checkpoint is {which!r}; expected best, last or the number of an epoch")
    return run.checkpoint(int(which))


def _masks(args: argparse.Namespace, run: Run, pictures: Pictures) -> tuple[Masks, str] | None:
    """Those asked for; those of the run, if they are still there."""
    place = args.masks or run.job.masks
    if place is None:
        return None
    try:
        return load_masks(place, pictures.names, rule=run.rule), str(place)
    except InputError as error:
        if args.masks:
            raise
        note(f"note: the masks of the run cannot be used: {error}")
        return None


def _note_undrawn(classes: Sequence[str]) -> None:
    """Say which names the pictures cannot show, and what would help."""
    names = [safe(name) for n, name in enumerate(classes) if safe(name).strip() and drawn_name(name, n) != name]
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        fonts = ", ".join(name.rpartition(".")[0] for name in SYSTEM_FONTS)
        note(
            f"note: no font here has the letters of {', '.join(names[:_NAMED])}{more}, so pictures show the numbers of "
            f"these classes; install a font that has them, one of {fonts}"
        )


@dataclass
class _Work:
    """What is known so far."""

    args: argparse.Namespace
    run: Run
    chosen: Checkpoint
    pictures: Pictures
    folder: Path
    scores: NDArray[np.float64] = field(init=False)
    measured: list[Score] = field(default_factory=list)
    damaged: list[dict[str, Any]] = field(default_factory=list)
    explainers: dict[str, Explainer] = field(default_factory=dict)
    files: list[str] = field(default_factory=lambda: ["eval.json", "accuracy.png", "confusion.png"])
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device, load = choose_device(self.args.device), self.run.loader()
        self.load: Callable[[Checkpoint], nn.Module] = lambda checkpoint: load(checkpoint).to(device)

    @property
    def right(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.scores.argmax(axis=1) == self.pictures.labels
        return found

    # ---- numbers

    def measure(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Some checkpoints; damaged ones are left out, but for the chosen one."""
        labels = self.pictures.labels
        with Progress(len(checkpoints) * len(labels), "measuring") as bar:
            for checkpoint in checkpoints:
                try:
                    network = self.load(checkpoint)
                except InputError as error:
                    if checkpoint == self.chosen:
                        raise
                    note(f"left out epoch {checkpoint.epoch}: {safe(error)}")
                    self.damaged.append({"epoch": checkpoint.epoch, "error": str(error)})
                    continue
                if checkpoint == self.chosen:
                    self._begin(network)
                found = self.scorer(network, bar.step)
                self.measured.append(score(checkpoint.epoch, found, labels))
                if checkpoint == self.chosen:
                    self.scores = found

    def _begin(self, network: nn.Module) -> None:
        """With the chosen checkpoint, which is the first."""
        often = not self.args.no_others and len(self.run.checkpoints) > 1
        self.network = network
        self.scorer = Scorer(network, self.pictures, self.run.rule, batch=self.args.batch, often=often)

    def draw_confusion(self) -> None:
        """The matrix, and the figures of each class."""
        classes = self.run.classes
        confusion = confusion_matrix(self.pictures.labels, self.scores.argmax(axis=1), len(classes))
        save_picture(self.folder / "confusion.png", confusion_picture(confusion, classes))
        figures = class_figures(confusion)
        self.document |= {
            "macro": document.macro(figures),
            "per_class": document.class_rows(figures, confusion, classes),
            "confusion": confusion.tolist(),
        }

    def draw_curves(self) -> None:
        """Loss and accuracy of the checkpoints that were measured."""
        scores = sorted(self.measured, key=lambda one: one.epoch)
        picture = curves_picture(scores, self.run.history, classes=len(self.run.classes))
        save_picture(self.folder / "accuracy.png", picture)
        rows = [*map(document.score_row, scores), *self.damaged]
        self.document["checkpoints"] = sorted(rows, key=lambda row: row["epoch"])

    # ---- maps

    def choose(self) -> list[int]:
        """Pictures at random, where asked for of those that the network is wrong about."""
        among = np.flatnonzero(~self.right) if self.args.mistakes else np.arange(len(self.pictures))
        if not len(among):
            note("note: the network is right about every picture, so none is shown")
        picked = at_random(self.pictures.labels[among], self.args.count, seed=self.args.seed)
        return [int(among[n]) for n in picked]

    def draw_maps(self, numbers: list[int]) -> None:
        """Sheets of each method that is possible."""
        example = self.run.rule.values(self.pictures.pixels([0])[0])[None]
        self.explainers, obstacles = make_explainers(
            self.args, self.run.job, self.network, classes=self.run.classes, rule=self.run.rule, example=example
        )
        outs = self._explained(numbers, obstacles) if numbers else {}
        truth = self.pictures.labels[numbers].tolist()
        style = look_of(self.args)
        for name, out in outs.items():
            self.files += [path.name for path in save_sheets(self.folder, name, out, truth, **style)]
        if len(outs) > 1:
            self.files.append(save_methods(self.folder / "methods.png", outs, truth, **style).name)
        names = [self.pictures.names[n] for n in numbers]
        rows = document.picture_rows(names, truth, next(iter(outs.values()))) if outs else []
        self.document |= {"shown": rows, "left_out": obstacles}

    def _explained(self, numbers: list[int], obstacles: dict[str, str]) -> dict[str, Explanation]:
        shown = [self._picture(n) for n in numbers]
        classes = self.pictures.labels[numbers][:, None] if self.args.of == "true" else None
        outs: dict[str, Explanation] = {}
        with Progress(len(self.explainers), "explaining") as bar:
            for name, explainer in self.explainers.items():
                explainer.report = lambda done, total: bar.step(0, f"{done}/{total} runs")
                try:
                    outs[name] = explainer(shown, classes)
                except MethodNotPossible as error:
                    leave_out(name, error)
                    obstacles[name] = str(error)
                bar.step()
        self.explainers = {name: self.explainers[name] for name in outs}
        return outs

    def _picture(self, number: int) -> Picture:
        """As sharp as its file is."""
        paths = getattr(self.pictures, "paths", None)
        pixels = self.pictures.pixels([number])[0] if paths is None else load_picture(paths[number]).pixels
        return Picture(pixels, self.pictures.names[number])

    def localise(self, masks: Masks, place: str) -> None:
        """How well each method finds the object."""
        args, found = self.args, {}
        numbers = np.array(at_random(self.pictures.labels, args.localise, seed=args.seed), np.int64)
        if not self.explainers or not masks[numbers].any():
            return
        with Progress(len(self.explainers) * len(numbers), "comparing with masks") as bar:
            for name, explainer in self.explainers.items():
                found[name] = localise(
                    explainer,
                    self.pictures,
                    masks,
                    self.right,
                    self.run.rule,
                    threshold=args.iou_threshold,
                    numbers=numbers,
                    after=bar.step,
                )
        self.document["localisation"] = document.localisation_part(
            found, threshold=args.iou_threshold, by_chance=chance_inside(masks[numbers]), masks=place
        )

    def save(self) -> None:
        """The document, which names the other files, last."""
        found = {
            "run": str(self.run.folder),
            "folder": str(self.folder),
            "pictures": len(self.pictures),
            "classes": list(self.run.classes),
            "checkpoint": self.chosen.epoch,
            "localisation": None,
        }
        self.document = found | self.document | {"files": self.files}
        text = escaped(json.dumps(self.document, indent=1, ensure_ascii=False, allow_nan=False))
        write_atomically(self.folder / "eval.json", lambda file: file.write(text.encode("utf-8", "surrogateescape")))
