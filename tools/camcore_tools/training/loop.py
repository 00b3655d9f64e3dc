"""The loop: steps, epochs, what is measured after each, and when to stop. Knows of no files and no command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camcore.errors import CamError, DeviceError, InputError
from camcore.preprocess import Preprocess
from camcore_tools.training.augment import Augmentation, augmented
from camcore_tools.training.feeds import Feed, PictureFeed, TensorFeed, batches, inputs
from camcore_tools.training.frozen import features_of, separable
from camcore_tools.training.history import Epoch, best_of, reason_to_stop
from camcore_tools.training.measure import Measured, measure
from camcore_tools.training.networks import put_training
from camcore_tools.training.objective import Objective
from camcore_tools.training.optimizers import OPTIMIZER_PREFIX, load_optimizer, make_optimizer, optimizer_tensors
from camcore_tools.training.pictures import Split
from camcore_tools.training.schedules import set_rate
from camcore_tools.training.settings import Settings

__all__ = ["Diverged", "Recorder", "Training", "choose_device"]

AfterStep = Callable[[int, float], None]


class Diverged(CamError):
    """The loss is no number any more.

    Attributes
    ----------
    step, epoch : int
        Where it was first seen, both from 1.
    """

    def __init__(self, what: str, value: float, step: int, epoch: int, settings: Settings) -> None:
        cures = [f"a lower learning rate than {settings.lr:g}", "a warm-up"] + ["no mixed precision"] * settings.amp
        kept = "what was learned in the epochs before is kept" if epoch > 1 else "there is no epoch before to keep"
        super().__init__(
            f"the {what} is {value} at step {step}, in epoch {epoch}: the training has diverged; {kept}. Try a new run "
            f"with {', '.join(cures[:-1])} or {cures[-1]}"
        )
        self.step, self.epoch = step, epoch


class Recorder(Protocol):
    """What the loop wants of a :class:`camcore_torch.CamRecorder`."""

    def step(self, *, loss: float | None = None, **more: float) -> None: ...
    def log(self, **numbers: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; what is asked for by name is there or an error."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except Exception as error:  # PyTorch raises what it likes
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device is {name!r}, which cannot be used: {reason}; take 'auto' or 'cpu'") from error
    return device


class Training:
    """Train a network in place.

    Everything random comes from the seed and the number of the epoch, so that a training that goes on after an epoch
    needs to know of no random state; PyTorch's own is as before afterwards.

    Parameters
    ----------
    network : nn.Module
        (N, 3, H, W) images to (N, K) scores. Moved to the device.
    split : Split
        Pictures of the size that the network takes.
    settings : Settings
    rule : Preprocess
        From pixels to values; it resizes nothing here.
    recorder : Recorder, optional
        Told each step and each measurement. It may be set later, as ``training.recorder``, before :meth:`run`.
    after_step : callable, optional
        Called with the number of the step, from 1, and its loss.
    at_epoch : callable, optional
        Called with the training before the first step and after each epoch: a good moment to save :meth:`state`.

    Attributes
    ----------
    history : list of Epoch
    step : int
        Steps done.
    stopped : {"epochs", "patience", "stop_ratio"} or None
        Why the training is over.
    """

    def __init__(
        self,
        network: nn.Module,
        split: Split,
        settings: Settings,
        rule: Preprocess,
        *,
        recorder: Recorder | None = None,
        after_step: AfterStep | None = None,
        at_epoch: Callable[[Training], None] | None = None,
    ) -> None:
        self.device = choose_device(settings.device)
        self.network, self.split, self.settings, self.rule = network.to(self.device), split, settings, rule
        self.recorder, self.after_step, self.at_epoch = recorder, after_step, at_epoch
        self._example = inputs(split.train.pixels([0, len(split.train) - 1]), rule).to(self.device)
        self.objective = self._minimised = Objective(self.network, settings, self._example).to(self.device)
        self._feeds: tuple[Feed, Feed] = (PictureFeed(split.train, rule), PictureFeed(split.validation, rule))
        self._prepared = False
        self.optimizer = make_optimizer(self.objective, settings)
        self.scaler = torch.amp.GradScaler("cuda", enabled=settings.amp and self.device.type == "cuda")
        self.history: list[Epoch] = []
        self.step = 0
        self.stopped: str | None = None
        self.per_epoch = len(batches(np.arange(len(split.train)), settings.batch))
        self.total = settings.epochs * self.per_epoch

    @property
    def best(self) -> Epoch | None:
        """The best epoch so far."""
        return best_of(self.history)

    def run(self) -> str:
        """Train until it is over; gives why.

        Raises
        ------
        Diverged
            If a loss is no number any more.
        """
        if self.stopped is None:
            self.prepare()
        if not self.history:
            self._begin()
        while self.stopped is None:
            self._epoch(len(self.history) + 1)
        return self.stopped

    def prepare(self, after: Callable[[int], object] | None = None) -> None:
        """Run a frozen trunk on each picture once and for all, where pictures are not changed; :meth:`run` does it too.

        Weights are the same as without, but for the way in which a processor rounds batches of other pictures.

        Parameters
        ----------
        after : callable, optional
            Called with the number of pictures after each batch of them.
        """
        if self._prepared:
            return
        self._prepared = True
        count = len(self.split.train) + len(self.split.validation)
        part = None if self.settings.augments or self.settings.amp else separable(self.objective, self._example, count)
        if part is not None:
            batch, labels = self.settings.batch, [feed.labels for feed in self._feeds]
            found = [features_of(self.network, part, feed, batch=batch, after=after) for feed in self._feeds]
            self._feeds = (TensorFeed(found[0], labels[0]), TensorFeed(found[1], labels[1]))
            self._minimised = self.objective.behind(part, found[0][:2].to(self.device))

    def _begin(self) -> None:
        """How it does before it has learned anything."""
        self._log(self._measured(0), 0)
        self._save()

    def _epoch(self, number: int) -> None:
        start = time.monotonic()
        put_training(self.network)
        with self._random(number) as generator:
            order = torch.randperm(len(self.split.train), generator=generator).numpy()
            groups = batches(order, self.settings.batch)
            shown = zip(groups, self._feeds[0].read(groups), strict=True)
            losses = [self._train(*self._batch(*each, generator), number) for each in shown]
        loss, second = np.average(losses, axis=0, weights=[len(group) for group in groups])
        found = self._measured(number)
        row = Epoch(
            epoch=number,
            step=self.step,
            lr=self.optimizer.param_groups[0]["lr"],
            loss=float(loss),
            recam_loss=float(second) if self.settings.recam else None,
            validation_loss=found.loss,
            top1=found.top1,
            top3=found.top3,
            top5=found.top5,
            seconds=time.monotonic() - start,
        )
        self.history.append(row)
        self.stopped = reason_to_stop(self.history, self.settings)
        self._log(found, number)
        self._save()

    @contextmanager
    def _random(self, epoch: int) -> Iterator[torch.Generator]:
        """A generator for order and changes, and PyTorch's own for dropout, both by seed and epoch alone."""
        first, second = np.random.SeedSequence((self.settings.seed, epoch)).generate_state(2).tolist()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(first)
            yield torch.Generator().manual_seed(second)

    def _train(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[float, float]:
        """One step; gives the losses of its batch."""
        set_rate(self.optimizer, self.settings, self.step, total=self.total, per_epoch=self.per_epoch)
        with _as_input_error(images):
            first, second = self._descend(images, labels, epoch)
        self.step += 1
        self._tell(first)
        return first, second

    def _descend(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[float, float]:
        self.optimizer.zero_grad()
        with self._precision():
            loss, first, second = self._minimised(images, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged("training loss", value, self.step + 1, epoch, self.settings)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(first.detach()), float(second.detach())

    def _batch(self, chosen: NDArray[np.int64], samples: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        images = samples.to(self.device)
        if self.settings.augments:
            policy = Augmentation(self.settings.rotate, self.settings.shift, self.settings.flip)
            images = augmented(images, generator, policy)
        return images, torch.from_numpy(self.split.train.labels[chosen]).to(self.device)

    def _precision(self) -> torch.autocast:
        kind = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=kind, enabled=self.settings.amp)

    def _measured(self, epoch: int) -> Measured:
        found = measure(self._minimised.network, self._feeds[1], batch=self.settings.batch)
        if not math.isfinite(found.loss):
            raise Diverged("validation loss", found.loss, self.step, epoch, self.settings)
        return found

    def _tell(self, loss: float) -> None:
        if self.recorder is not None:
            self.recorder.step(loss=loss)
        if self.after_step is not None:
            self.after_step(self.step, loss)

    def _log(self, found: Measured, epoch: int) -> None:
        if self.recorder is not None:
            self.recorder.log(accuracy=found.top1, validation_loss=found.loss, epoch=epoch)

    def _save(self) -> None:
        if self.at_epoch is not None:
            self.at_epoch(self)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`load` needs to go on: tensors, and a document that JSON can hold."""
        tensors = self.objective.learned() | optimizer_tensors(self.optimizer)
        info = {
            "step": self.step,
            "stopped": self.stopped,
            "history": [row.to_json() for row in self.history],
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "recorder": None if self.recorder is None else self.recorder.state_dict(),
        }
        return tensors, info

    def load(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
        """Take up a :meth:`state`; the recorder, if there is one, goes back to it too."""
        self.objective.load({name: t for name, t in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)})
        load_optimizer(self.optimizer, tensors)
        self.history = [Epoch.from_json(row) for row in info["history"]]
        self.step, self.stopped = info["step"], info["stopped"]
        if info["scaler"] is not None:
            self.scaler.load_state_dict(info["scaler"])
        if self.recorder is not None and info["recorder"] is not None:
            self.recorder.load_state_dict(info["recorder"])


@contextmanager
def _as_input_error(images: Tensor) -> Iterator[None]:
    """A network that cannot be trained on such a batch says so in many ways."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, CamError):
            raise
        advice = "take a smaller batch" if "memory" in str(error) else "take a larger size, another batch or network"
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"the network cannot be trained on images {tuple(images.shape)}: {reason}; {advice}"
        ) from error
