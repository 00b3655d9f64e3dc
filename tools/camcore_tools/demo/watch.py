"""Watch a network while it trains: its loss, its accuracy, and where it looks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import camcore
from camcore_tools.console import Progress
from camcore_tools.demo.measure import Data, inputs

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Frame", "History", "Watcher", "watch_training"]

_FRAMES = 72


@dataclass(frozen=True, eq=False)
class Frame:
    """After ``step`` steps: (N, h, w) maps and (N,) probabilities of the true classes, and the (N,) best classes."""

    step: int
    maps: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    best: NDArray[np.int64]


@dataclass
class History:
    """What was seen: the loss of each step, (step, share right) of the validation pictures, and the frames."""

    steps: int
    parameters: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)


class Watcher:
    """Looks at a network now and then; to be called after each step of the training, which goes on undisturbed.

    Parameters
    ----------
    network : nn.Module
    watched : (images, labels)
        Those whose maps are kept, images as the network takes them.
    validation : (images, labels)
        Those on which the accuracy is measured.
    epochs, per_epoch : int
        How long the training will be, and its steps an epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        watched: tuple[NDArray[np.float32], NDArray[np.int64]],
        validation: tuple[NDArray[np.float32], NDArray[np.int64]],
        *,
        epochs: int,
        per_epoch: int,
    ) -> None:
        self.history = History(epochs * per_epoch, sum(p.numel() for p in network.parameters()))
        self._explainer = camcore.explainer(network, device="cpu")
        self._watched, self._validation = watched, validation
        self._per_epoch = per_epoch
        self._interval = math.ceil(self.history.steps / _FRAMES)
        self._measure(0)
        self._look(0)

    def __call__(self, step: int, loss: float) -> None:
        """After ``step`` steps, the last of which had this ``loss``."""
        self.history.losses.append(loss)
        if step % self._per_epoch == 0:
            self._measure(step)
        if step % self._interval == 0 or step == self.history.steps:
            self._look(step)

    @property
    def accuracy(self) -> float:
        """Share of the validation pictures that were right when last measured."""
        return self.history.accuracies[-1][1]

    def _measure(self, step: int) -> None:
        images, labels = self._validation
        right = self._explainer.backend.scores(images).argmax(axis=1) == labels
        self.history.accuracies.append((step, float(right.mean())))

    def _look(self, step: int) -> None:
        images, labels = self._watched
        out = self._explainer(images, labels)
        chances = out.probabilities[np.arange(len(labels)), labels].astype(np.float32)
        self.history.frames.append(Frame(step, out.maps[:, 0], chances, out.scores.argmax(axis=1)))


def watch_training(network: nn.Module, data: Data, *, epochs: int, batch: int, seed: int) -> History:
    """Train the network on the data, with a bar, and give what was seen on the way."""
    import torch

    from camcore_tools.demo.network import train

    gallery = np.stack([p.pixels for p in data.pictures])
    per_epoch = math.ceil(len(data.training.labels) / batch)
    watcher = Watcher(
        network,
        (inputs(gallery), data.labels),
        (inputs(data.validation.images), data.validation.labels),
        epochs=epochs,
        per_epoch=per_epoch,
    )
    images, labels = torch.from_numpy(inputs(data.training.images)), torch.from_numpy(data.training.labels)
    start = time.monotonic()
    with Progress(watcher.history.steps, "      training") as bar:

        def after_step(step: int, loss: float) -> None:
            watcher(step, loss)
            bar.step(text=f"loss {loss:.2f}  accuracy {watcher.accuracy:.0%}")

        train(network, images, labels, epochs=epochs, batch=batch, seed=seed, after_step=after_step)
    watcher.history.seconds = time.monotonic() - start
    return watcher.history
