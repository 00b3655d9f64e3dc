"""Train the network of the demo, by the loop of ``camcore train``, and record where it looks meanwhile."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camcore.recording import Recording
from camcore_tools.console import Progress
from camcore_tools.demo.measure import RULE, Data, inputs
from camcore_tools.merchandise import KINDS, PictureSet

if TYPE_CHECKING:
    from torch import nn

    from camcore_tools.training.loop import Training
    from camcore_tools.training.pictures import PictureArray

__all__ = ["Trained", "columns_of_kinds", "train_and_record"]

_FRAMES, _ROWS = 72, 3


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, what was recorded meanwhile, and how long it took.

    Attributes
    ----------
    network : nn.Module
    recording : Recording
        Of some pictures of the gallery, three of each kind at most, a column for each kind.
    parameters, epochs : int
    accuracy, seconds : float
    """

    network: nn.Module
    recording: Recording
    parameters: int
    epochs: int
    accuracy: float
    seconds: float


def train_and_record(data: Data, *, epochs: int, batch: int, seed: int) -> Trained:
    """Train the built-in network on the data, with a bar."""
    from camcore_torch import CamRecorder

    training = _training(data, epochs, batch, seed)
    shown = columns_of_kinds(data.labels)
    pixels = np.stack([data.pictures[n].pixels for n in shown])
    training.recorder = recorder = CamRecorder(
        training.network,
        inputs(pixels),
        data.labels[shown],
        every=math.ceil(training.total / _FRAMES),
        labels=KINDS,
        names=[data.pictures[n].name for n in shown],
        pictures=pixels,
        device="cpu",
    )
    start = time.monotonic()
    with Progress(training.total, "      training") as bar:
        training.after_step = lambda step, loss: bar.step(text=f"loss {loss:.2f}  accuracy {_accuracy(training):.0%}")
        training.run()
    recorder.finish()
    return Trained(
        training.network,
        recorder.recording,
        sum(p.numel() for p in training.network.parameters()),
        epochs,
        _accuracy(training),
        time.monotonic() - start,
    )


def _training(data: Data, epochs: int, batch: int, seed: int) -> Training:
    from camcore_tools.training.job import recipe
    from camcore_tools.training.loop import Training
    from camcore_tools.training.pictures import Split
    from camcore_tools.training.small import make_network

    settings = recipe("small")
    rate = settings.lr * batch / settings.batch  # smaller batches point less surely downhill
    settings = replace(settings, epochs=epochs, batch=batch, lr=rate, seed=seed, device="cpu")
    split = Split(_pictures(data.training), _pictures(data.validation))
    return Training(make_network(len(KINDS), seed=seed), split, settings, RULE)


def _pictures(drawn: PictureSet) -> PictureArray:
    from camcore_tools.training.pictures import PictureArray

    return PictureArray(drawn.images, drawn.labels, KINDS, [str(n) for n in range(len(drawn.labels))])


def _accuracy(training: Training) -> float:
    """Share of the validation pictures that were right after the last epoch."""
    return training.history[-1].top1 if training.history else 0.0


def columns_of_kinds(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of pictures, row after row, so that each kind has a column; at most three rows.

    Examples
    --------
    >>> columns_of_kinds(np.array([0, 0, 1, 1])).tolist()
    [0, 2, 1, 3]
    """
    members = [np.flatnonzero(labels == kind)[:_ROWS] for kind in np.unique(labels)]
    rows: NDArray[np.int64] = np.stack(members, axis=1).reshape(-1)
    return rows
