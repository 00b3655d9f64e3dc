"""One training from pictures to products, in a folder from which it can go on at any time."""

from __future__ import annotations

import math
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from camcore.errors import InputError
from camcore.preprocess import Preprocess
from camcore_tools.console import Progress, note, safe
from camcore_tools.training.checkpoints import find_checkpoints
from camcore_tools.training.feeds import inputs
from camcore_tools.training.job import Job, differences
from camcore_tools.training.loop import Diverged, Training
from camcore_tools.training.masks import load_masks
from camcore_tools.training.material import (
    bare_network,
    check_pictures,
    load_trunk,
    open_split,
    picture_names,
    rule_of,
    trunk,
)
from camcore_tools.training.pictures import Split
from camcore_tools.training.products import finish, show
from camcore_tools.training.run_folder import RunFolder, products_room
from camcore_tools.training.runs import FORMAT, open_run, read_json
from camcore_tools.training.screen import Screen
from camcore_tools.training.watching import for_the_eye, watched

if TYPE_CHECKING:
    from camcore_torch import CamRecorder

__all__ = ["OpenSplit", "carry_out"]

OpenSplit = Callable[[Job, Preprocess, str], Split]

_FRAMES = 150
_PACKAGES = ("camcore", "torch", "torchvision", "numpy", "onnxruntime", "pillow")


def carry_out(
    job: Job,
    folder: str | os.PathLike[str],
    *,
    command: Sequence[str] = (),
    pictures: OpenSplit = open_split,
    label: str = "training",
) -> dict[str, Any]:
    """Train, record, export and verify; where the folder has a part of it already, go on from there.

    Parameters
    ----------
    job : Job
        Of a folder that has a run already, the same job: other values are refused, by their names.
    folder : path
    command : sequence of str
        Is noted in ``config.json``.
    pictures : callable
        Gives the pictures of a job.
    label : str
        Of the progress bar.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    InputError
        Before the training, if anything is missing for it: pictures, a folder that can be written to, room on the disk.
    Diverged
        If a loss is no number any more. The recording is shown up to there.
    OSError
        If a file cannot be written any more. The same call goes on from the last whole epoch.
    """
    run = RunFolder(Path(folder), keep=job.keep)
    with run.taken():
        if (run.path / run.SUMMARY).exists():
            _check_same(job, run)
            return _document(run)
        training, recorder = _taken_up(job, run, command, pictures)
        _tell_what_comes(job, training)
        _prepare(job, training)
        with Screen(training, label=label) as screen:

            def at_epoch(training: Training) -> None:
                if len(training.history) in (job.strip or ()):
                    recorder.frame()
                run.save(training)
                screen.epoch(training)

            training.at_epoch = at_epoch
            try:
                training.run()
            except Diverged:
                show(job, run, training, recorder)
                raise
        return finish(job, run, training, recorder)


def _tell_what_comes(job: Job, training: Training) -> None:
    """The first epoch may take long, and the bar is shown on a terminal alone."""
    split, (height, width) = training.split, training.split.train.pixels([0]).shape[1:3]
    classes, validation = len(split.train.classes), len(split.validation)
    note(f"{classes} classes, {len(split.train):,} pictures to train on, {validation:,} to validate")
    threads = torch.get_num_threads()
    note(f"{job.arch} at {height}x{width} on {training.device}, {threads} thread{'s' * (threads > 1)}")
    if training.history and training.stopped is None:
        note(f"going on after epoch {len(training.history)} of {job.settings.epochs}")


def _prepare(job: Job, training: Training) -> None:
    """Minutes that would look like nothing: a bar of their own."""
    if job.freeze and training.stopped is None:
        with Progress(len(training.split.train) + len(training.split.validation), "running the trunk once") as bar:
            training.prepare(bar.step)


def _document(run: RunFolder) -> dict[str, Any]:
    document = read_json(run.path / run.SUMMARY)
    if not isinstance(document, dict):
        raise InputError(f"{run.path / run.SUMMARY} is damaged; delete it, and the same command makes it anew")
    return document


def _check_same(job: Job, run: RunFolder) -> None:
    others = differences(open_run(run.path).job, job)
    if others:
        advice = _train_on(run) if others[0].startswith("epochs is") else "give the same, or another folder"
        raise InputError(f"{run.path} holds a run with other settings: {'; '.join(others)}; {advice}")


def _train_on(run: RunFolder) -> str:
    """What to do where more epochs are asked for than the run has."""
    found = find_checkpoints(run.path / run.CHECKPOINTS)
    if not found:
        return "give the same, or another folder"
    return (
        "a learning-rate schedule is made for its number of epochs: start a new run with the same options and "
        f"--weights {shlex.quote(str(found[-1].path))}"
    )


def _taken_up(job: Job, run: RunFolder, command: Sequence[str], pictures: OpenSplit) -> tuple[Training, CamRecorder]:
    """A training that is ready to run, from its beginning or from the last whole epoch."""
    old = (run.path / run.CONFIG).exists()
    if old:
        _check_same(job, run)
    rule = open_run(run.path).rule if old else rule_of(job)
    split = pictures(job, rule, job.data)
    if old:
        check_pictures(read_json(run.path / run.SPLIT), split, job.data)
    else:
        _tell(split)
    state = run.state()
    weights = job.weights if state is None else None
    network = bare_network(job, len(split.train.classes), rule, weights=weights)
    if state is not None:
        load_trunk(network, run.path / run.TRUNK)
    training = Training(network, split, job.settings, rule)
    if old:
        _tell_other_machine(open_run(run.path).config, training)
    else:
        _begin(job, run, training, command)
    recorder = training.recorder = _recorder(job, run, training)
    if state is None:
        run.save_trunk(trunk(network))
    else:
        training.load(*state)
        run.tidy(training.history)
    return training, recorder


def _tell(split: Split) -> None:
    for text in split.notes:
        note(f"note: {safe(text)}")
    for path, reason in split.left_out[:3]:
        note(f"left out: {safe(path)}: {safe(reason)}")
    if len(split.left_out) > 3:
        note(f"left out: {len(split.left_out) - 3} more, see {RunFolder.LEFT_OUT}")


def _tell_other_machine(config: Mapping[str, Any], training: Training) -> None:
    now = {"device": str(training.device), "threads": torch.get_num_threads()}
    for name, value in now.items():
        if config.get(name) != value:
            note(
                f"note: {name} was {safe(config.get(name))} when the run began and is {value} now: it rounds otherwise"
            )


def _begin(job: Job, run: RunFolder, training: Training, command: Sequence[str]) -> None:
    """What is known before the first step; the configuration last, for it says that the rest is there."""
    run.need_room(_room(job, run, training))
    if job.method == "recam":
        note(f"note: --method recam trains with ReCAM's second loss, here --recam {job.settings.recam}")
    split = training.split
    if split.left_out:
        run.write_json(run.LEFT_OUT, [{"file": path, "reason": reason} for path, reason in split.left_out])
    run.write_json(run.SPLIT, picture_names(split))
    run.write_json(run.CONFIG, _configuration(job, training, command))


def _room(job: Job, run: RunFolder, training: Training) -> int:
    learned = sum(t.numel() * t.element_size() for t in training.objective.learned().values())
    whole = sum(t.numel() * t.element_size() for t in training.network.state_dict().values())
    memories = {"sgd": 1, "adam": 2, "adamw": 2}[job.settings.optimizer]
    shown = training.split.validation
    frames = 2 + training.total // _every(job, training) + len(job.strip or ())
    products = products_room(frames, min(job.watch, len(shown)), shown.pixels([0]).shape[1:3])
    return products + run.room_needed(learned, learned * (1 + memories), max(whole - learned, 0), job.settings.epochs)


def _every(job: Job, training: Training) -> int:
    """Steps between two frames."""
    return job.every or max(1, math.ceil(training.total / _FRAMES))


def _configuration(job: Job, training: Training, command: Sequence[str]) -> dict[str, Any]:
    split, parameters = training.split, list(training.objective.parameters())
    return {
        "format": FORMAT,
        "command": list(command),
        "job": job.flat(),
        "classes": list(split.train.classes),
        "rule": training.rule.to_json(),
        "pictures": {
            "train": len(split.train),
            "validation": len(split.validation),
            "left_out": len(split.left_out),
        },
        "parameters": {
            "all": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "every": _every(job, training),
        "device": str(training.device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _recorder(job: Job, run: RunFolder, training: Training) -> CamRecorder:
    from camcore_torch import CamRecorder

    shown = training.split.validation
    numbers = watched(shown.labels, job.watch)
    names = [shown.names[n] for n in numbers]
    pictures, larger = for_the_eye(shown, numbers, training.rule)
    return CamRecorder(
        training.objective.model,
        inputs(shown.pixels(numbers), training.rule),
        shown.labels[numbers],
        every=open_run(run.path).config["every"],
        method=job.method,
        layer=job.layer,
        folder=run.path / run.RECORDING,
        labels=shown.classes,
        names=names,
        pictures=pictures,
        masks=None if job.masks is None else load_masks(job.masks, names, rule=larger),
        **_method_options(job),
    )


def _method_options(job: Job) -> dict[str, Any]:
    """The maps of ReCAM are of the form that was trained."""
    if job.method != "recam":
        return {}
    return {"variant": job.settings.recam, "normalization": job.settings.recam_mask}
