"""Record where a network looks while it is trained, in anyone's loop, without changing the training."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor, nn

import camcore
from camcore.errors import InputError
from camcore.recording import Recording
from camcore.recording.buffer import RecordingBuffer, Store
from camcore.recording.files import RecordingWriter, load_recording
from camcore.recording.watched import watch
from camcore_torch.looking import Look, Looker
from camcore_torch.network import unwrap
from camcore_torch.processes import check_whole, is_first
from camcore_torch.untouched import kept_attributes, kept_generators

__all__ = ["CamRecorder"]

_QUEUE = 256  # numbers wait on their device: to ask for each at once would make the host wait for the device


class CamRecorder:
    """Records the class activation maps of some pictures, and numbers, while a network is trained.

    Parameters
    ----------
    model : nn.Module
        As it is trained; ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers are looked
        through. Nothing in it is changed.
    images : (N, C, H, W) float array or tensor, or pictures or their paths
        Those to be watched, a dozen of the validation set as a rule. Arrays are taken as the model takes them;
        pictures need ``preprocess``.
    classes : (N,) array or list of indices or names, optional
        The true ones: whose maps are recorded. Where absent, those that the network takes the pictures for now, which
        makes sense only of a network that knows them already.
    every : int
        Steps between two frames; 0 takes none but the first, the last, and those of `frame`.
    layer, method, target
        See `camcore.explainer`.
    folder : path, optional
        Where the recording grows, to be read by `camcore.load_recording` at any time, also after a kill. In memory
        where absent.
    labels : path, sequence or mapping, optional
        Names of all classes.
    names : sequence of str, optional
        Of the pictures.
    pictures, masks, boxes
        See `camcore.recording.watched.watch`: pictures for the eye, and where the object is.
    preprocess : str, Preprocess or dict, optional
        How pictures become the input.
    device : str
        See `camcore.explainer`: it is checked, nothing is moved.
    **options
        Of the method and the backend, as for `camcore.explainer`: ``fusion=``, ``batch_size=``, ``output=``.

    Attributes
    ----------
    records : bool
        False in all processes but the first of a distributed training: there every call does nothing at once. See
        `camcore_torch.processes.is_first`.
    steps : int
        How many steps were counted.
    on_frame : list of callable
        Each is called with the recorder after each frame from now on; ``recording`` has that frame as its last.

    Raises
    ------
    InputError
        At construction, later only for arguments: for pictures, classes, masks or options that cannot be used, a
        network that gives no finite scores, has parameters without a shape (lazy) or sharded ones, a folder that
        cannot be written to or has another recording.
    MethodNotPossible
        At construction, if the network cannot give what the method needs.

    Notes
    -----
    The network that is recorded is the one that would be shipped: in evaluation mode and without autocast. The first
    frame is taken at construction. Later on nothing stops the training: where scores are no numbers, their pictures
    have a best class of -1, and maps and probabilities of NaN; whatever else goes wrong with a frame, a full disk
    among it, leaves that frame out with a ``RuntimeWarning``.

    A frame costs a forward pass of the pictures, and some milliseconds on the host: ``camcore bench recorder``. One of
    12 pictures every 10 steps adds about 2 % to the time of a training with batches of 32 on a CPU.

    Parameters, buffers, their gradients, training flags, the state of an optimizer and the random numbers of PyTorch,
    Python and NumPy are as they were, and plain attributes of the modules, one level deep. Forward hooks of others
    are run. Frames are taken under ``no_grad``, not ``inference_mode``: a tensor that a network made in inference
    mode and keeps could never again be part of a training.

    A run that begins again with the folder of an old one begins the recording again, at its first step, unless
    `load_state_dict` tells where to go on.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from camcore_torch import CamRecorder
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> images, labels = torch.randn(32, 3, 16, 16), torch.randint(2, (32,))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with CamRecorder(model, images[:4], labels[:4], every=10) as recorder:
    ...     for _ in range(25):
    ...         loss = nn.functional.cross_entropy(model(images), labels)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         recorder.step(loss=loss)
    >>> recorder.recording.steps
    array([ 0, 10, 20, 25])
    """

    def __init__(
        self,
        model: nn.Module,
        images: Any,
        classes: Any = None,
        *,
        every: int = 10,
        layer: str | Sequence[str] | None = None,
        method: Any = "auto",
        folder: str | PathLike[str] | None = None,
        labels: Any = None,
        names: Sequence[str] | None = None,
        pictures: Any = None,
        preprocess: Any = None,
        masks: Any = None,
        boxes: Any = None,
        target: Any = None,
        device: str = "auto",
        **options: Any,
    ) -> None:
        if not _is_count(every):
            raise InputError(f"every is {every!r}; expected a number of steps from 1 on, or 0 for no frames between")
        check_whole(model)
        self.every, self.steps, self.records = int(every), 0, is_first()
        self.on_frame: list[Callable[[CamRecorder], object]] = []
        self._waiting: list[tuple[int, dict[str, float | Tensor]]] = []
        self._begun = False
        self._pending: Look | None = None
        if not self.records:
            return
        asked = {"layer": layer, "method": method, "labels": labels, "preprocess": preprocess, "target": target}
        explainer = camcore.explainer(model, device=device, **asked, **options)
        watched = watch(explainer, images, pictures=pictures, names=names, masks=masks, boxes=boxes)
        self._model = unwrap(model)
        with kept_generators(), kept_attributes(self._model):
            self._look = Looker(explainer, watched, _known(classes, folder))
        about, first = self._look.about, self._look.first
        self._store: Store = RecordingBuffer(about) if folder is None else RecordingWriter(folder, about)
        if len(self._store):
            self._pending = first
        else:
            self._store.append(0, *first)

    @property
    def recording(self) -> Recording:
        """What was recorded up to now; it stays as it is when more comes.

        Raises
        ------
        InputError
            In a process that does not record.
        """
        if not self.records:
            raise InputError("only the first process of a distributed training records; ask where recorder.records")
        self._flush()
        return self._store.recording

    def step(self, *, loss: Any = None, accuracy: Any = None, **more: Any) -> None:
        """Count a step of the training, log its numbers, and take a frame where one is due.

        Parameters
        ----------
        loss, accuracy, **more : float, or a tensor or array of one element, optional
            Tensors on a GPU are not waited for. Those that are None are left out.

        Raises
        ------
        InputError
            For what is not a number.
        """
        self.steps += 1
        self.log(loss=loss, accuracy=accuracy, **more)
        if self.every and self.steps % self.every == 0:
            self.frame()

    def log(self, **numbers: Any) -> None:
        """Log numbers at the current step, such as the accuracy after an epoch."""
        if not self.records:
            return
        self._begun = True
        kept = {name: _kept(name, value) for name, value in numbers.items() if value is not None}
        if kept:
            self._waiting.append((self.steps, kept))
        if len(self._waiting) >= _QUEUE:
            self._flush()

    def frame(self) -> bool:
        """Take a frame now, unless there is one of this step; whether there is one."""
        if not self.records:
            return False
        self._begun = True
        try:
            self._settle()
            if self._store.last == self.steps:
                return True
            with kept_generators(), kept_attributes(self._model):
                look = self._look()
            self._store.append(self.steps, *look)
        except Exception as error:  # whatever it is: hours of training are worth more than a frame
            _warn(f"the frame of step {self.steps} was left out: {_reason(error)}")
            return False
        self._tell()
        return True

    def _tell(self) -> None:
        for listener in self.on_frame:
            try:
                with kept_generators():
                    listener(self)
            except Exception as error:  # as for a frame
                _warn(f"a listener to the frame of step {self.steps} failed: {_reason(error)}")

    def finish(self) -> None:
        """Take the last frame, if there is none of this step yet, and write all that waits."""
        if self._begun:
            self.frame()
        self._flush()

    def __enter__(self) -> CamRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self._flush()

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint needs: the step. Everything up to it is on the disk afterwards."""
        self._flush(sync=True)
        return {"step": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: frames and numbers after its step are dropped.

        Load the weights first: where the frames of before are not there, since the folder is new or there is none,
        the recording begins with a frame of this step.

        Raises
        ------
        InputError
            For a state of something else, or if the folder cannot be written to.
        """
        step: Any = state.get("step") if isinstance(state, Mapping) else state
        if not _is_count(step):
            raise InputError(f"the state of a recorder has step {step!r}; expected what state_dict gave, such as 100")
        first = not self._begun and self._pending is None  # then there is but the frame of the construction
        self.steps, self._begun, self._pending = int(step), True, None
        self._waiting.clear()
        if not self.records:
            return
        try:
            self._store.cut(-1 if first else self.steps)
        except OSError as error:
            raise InputError(f"the recording cannot be cut at step {step}: {_reason(error)}") from error
        if first:
            self.frame()

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write what was recorded into a folder; see `camcore.recording.products.save_products`.

        Films, pages and numbers; nothing in a process that does not record.
        """
        if not self.records:
            return []
        from camcore.recording.products import save_products

        return save_products(folder, self.recording)

    def __repr__(self) -> str:
        if not self.records:
            return "CamRecorder(nothing: another process records)"
        about = self._store.recording
        return (
            f"CamRecorder({about.method} at {about.layer}, {len(about.classes)} pictures, "
            f"{len(self._store)} frames, step {self.steps})"
        )

    def _settle(self) -> None:
        """Numbers that wait on their device, to the store.

        The training goes on: where an old recording was found and nobody resumed, a new one begins.
        """
        if self._pending is not None and self._begun:
            self._store.cut(-1)
            self._store.append(0, *self._pending)
            self._pending = None
        waiting, self._waiting = self._waiting, []
        for step, numbers in waiting:
            self._store.log(step, {name: float(value) for name, value in numbers.items()})

    def _flush(self, *, sync: bool = False) -> None:
        if not self.records:
            return
        try:
            self._settle()
            self._store.flush(sync=sync)
        except OSError as error:
            _warn(f"the recording waits in memory, since it cannot be written: {_reason(error)}")


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _known(classes: Any, folder: str | PathLike[str] | None) -> Any:
    """The classes as given; else those of the recording to be continued, if there is one."""
    if isinstance(classes, Tensor):
        return classes.detach().cpu().numpy()
    if classes is None and folder is not None:
        with suppress(InputError):
            return load_recording(folder).classes
    return classes


def _kept(name: str, value: Any) -> float | Tensor:
    """A number; one on a GPU is copied there and read later."""
    if isinstance(value, Tensor) and value.device.type != "cpu" and value.numel() == 1 and not value.is_complex():
        return value.detach().clone()
    try:
        return float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {type(value).__name__}; expected a number, or a tensor of one element") from error


def _reason(error: Exception) -> str:
    """Of errors of the system their words, without their number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    words = error.strerror if error.filename is None else f"{error.strerror}: {str(error.filename)!r}"
    full = error.errno == errno.ENOSPC and "make room" not in words
    return f"{words}; make room on that disk" if full else words


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)
