"""A finished, running or broken-off training, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError
from camcore.preprocess import Preprocess
from camcore_tools.training.checkpoints import Checkpoint, find_checkpoints, load_tensors, read_info
from camcore_tools.training.history import Epoch, best_of
from camcore_tools.training.job import Job
from camcore_tools.training.material import bare_network, check_pictures, load_trunk, open_split
from camcore_tools.training.pictures import Split
from camcore_tools.training.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from camcore.recording import Recording

__all__ = ["FORMAT", "Run", "open_run", "read_json"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Run:
    """A training in its folder.

    Attributes
    ----------
    folder : Path
    config : dict
        What ``config.json`` holds.
    job : Job
        What was asked for.
    classes : tuple of str
    rule : Preprocess
        How pictures become the input.
    history : list of Epoch
        The epochs done.
    checkpoints : list of Checkpoint
        Those that were kept, by their epochs.
    """

    folder: Path
    config: dict[str, Any]
    job: Job
    classes: tuple[str, ...]
    rule: Preprocess
    history: list[Epoch]
    checkpoints: list[Checkpoint]

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint of the best epoch; None before the end of the first epoch."""
        row = best_of(self.history)
        return None if row is None else self.checkpoint(row.epoch)

    def checkpoint(self, epoch: int) -> Checkpoint:
        """The one of an epoch.

        Raises
        ------
        InputError
            Where it was not kept; names those that were.
        """
        found = next((c for c in self.checkpoints if c.epoch == epoch), None)
        if found is None:
            kept = ", ".join(str(c.epoch) for c in self.checkpoints) or "none"
            raise InputError(f"{self.folder} has no checkpoint of epoch {epoch}; those that were kept: {kept}")
        return found

    def data(self, data: str | PathLike[str] | None = None) -> Split:
        """The pictures, divided as they were for the training.

        Parameters
        ----------
        data : path, optional
            Where the folder is now, if it was moved.

        Raises
        ------
        InputError
            If the folder is gone, or other pictures are in it than were then.
        """
        place = self.job.data if data is None else str(data)
        split = open_split(self.job, self.rule, place)
        check_pictures(read_json(self.folder / RunFolder.SPLIT), split, place)
        return split

    def network(self, checkpoint: Checkpoint | Path | int | None = None) -> nn.Module:
        """The network as it was after an epoch, on the CPU and in evaluation mode.

        Parameters
        ----------
        checkpoint : Checkpoint, path or epoch, optional
            The best one where absent.

        Returns
        -------
        nn.Module
            Of a training with ReCAM a :class:`camcore_torch.recam.ReCam`, which gives the scores of the network in it.

        Raises
        ------
        InputError
            If there is none yet, or files are missing or damaged.
        """
        chosen = self.best if checkpoint is None else checkpoint
        if chosen is None:
            raise self.no_checkpoint()
        if isinstance(chosen, int):
            chosen = self.checkpoint(chosen)
        return self.loader()(chosen if isinstance(chosen, Checkpoint) else Path(chosen))

    def no_checkpoint(self) -> InputError:
        """What to say where there is none: a training that goes on has no films yet, one that diverged has."""
        over = all((self.folder / name).exists() for name in (RunFolder.LAST, "recording.npz"))
        if not over:
            return InputError(f"{self.folder} has no checkpoint yet; the training has not finished its first epoch")
        return InputError(
            f"{self.folder} has no checkpoint: the training diverged before its first epoch ended; its timeline.html "
            "shows how. Train anew with a lower learning rate"
        )

    def loader(self) -> Callable[[Checkpoint | Path], nn.Module]:
        """What loads checkpoints one after the other: each into the same module, which is made once.

        As :meth:`network`, but for the time that making a large network takes.
        """
        import torch

        from camcore_tools.training.objective import Objective

        height, width = self.rule.size or (224, 224)
        network = bare_network(self.job, len(self.classes), self.rule)
        load_trunk(network, self.folder / RunFolder.TRUNK)
        objective = Objective(network, self.job.settings, torch.zeros(2, 3, height, width))

        def load(checkpoint: Checkpoint | Path) -> nn.Module:
            path = checkpoint.path if isinstance(checkpoint, Checkpoint) else checkpoint
            objective.load(load_tensors(path)[0])
            return objective.model.eval()

        return load

    def recording(self) -> Recording:
        """What was recorded of the validation pictures."""
        from camcore.recording.files import load_recording

        return load_recording(self.folder / RunFolder.RECORDING)


def open_run(folder: str | PathLike[str]) -> Run:
    """Read a folder that ``camcore train`` wrote; it may be unfinished.

    Raises
    ------
    InputError
        If it is no such folder, or damaged.
    """
    folder = Path(folder)
    if not (folder / RunFolder.CONFIG).is_file():
        what = "no such folder" if not folder.exists() else f"no run in it ({RunFolder.CONFIG} is missing)"
        raise InputError(f"{folder}: {what}; expected a folder that camcore train wrote")
    config = read_json(folder / RunFolder.CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{folder / RunFolder.CONFIG}: not the configuration of a run of this version of camcore")
    job = Job.from_flat(_part(config, "job", dict, folder))
    classes = _part(config, "classes", list, folder)
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{folder / RunFolder.CONFIG}: its classes are not two names or more")
    rule = Preprocess.from_json(_part(config, "rule", dict, folder))
    found = find_checkpoints(folder / RunFolder.CHECKPOINTS)
    return Run(folder, config, job, tuple(classes), rule, _history(folder), found)


def read_json(path: Path) -> Any:
    """A document of a run folder; whatever is wrong with it raises :class:`InputError`."""
    try:
        return json.loads(path.read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the run is damaged") from error


def _part(config: Mapping[str, Any], name: str, kind: type, folder: Path) -> Any:
    if not isinstance(config.get(name), kind):
        raise InputError(f"{folder / RunFolder.CONFIG}: its entry {name!r} is missing or of another kind")
    return config[name]


def _history(folder: Path) -> list[Epoch]:
    path = folder / RunFolder.LAST
    if not path.exists():
        return []
    rows = read_info(path).get("history")
    if not isinstance(rows, list):
        raise InputError(f"{path}: its history is missing; the run is damaged")
    return [Epoch.from_json(row) for row in rows]
