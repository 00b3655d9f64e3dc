"""What all callbacks do: a recorder from the start of a training to its end, and what becomes of it then."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from camcore.errors import InputError, MissingPackage
from camcore.recording import Recording
from camcore_torch.recorder import CamRecorder

__all__ = ["Pick", "Watching", "lacking"]

Pick = None | str | Callable[[Any], nn.Module]


class Watching:
    """The recorder of a callback.

    Parameters
    ----------
    images, classes, **options
        See `camcore_torch.CamRecorder`.
    model : None, str or callable
        Which part of the trained module takes images and gives scores: all of it, the submodule of that name, or what
        the function makes of it.
    folder : path, optional
        Where the recording grows, and its products are saved.
    on_frame : sequence of callable
        Each is called with the recorder after each frame, the first among them.
    """

    def __init__(
        self,
        images: Any,
        classes: Any,
        *,
        model: Pick,
        folder: str | PathLike[str] | None,
        on_frame: Sequence[Callable[[CamRecorder], object]],
        **options: Any,
    ) -> None:
        self.recorder: CamRecorder | None = None
        self._model, self._folder, self._on_frame = model, None if folder is None else Path(folder), on_frame
        self._images, self._classes, self._options = images, classes, options

    @property
    def recording(self) -> Recording:
        """What was recorded up to now."""
        if self.recorder is None:
            raise InputError("nothing is recorded yet; ask once the training has begun")
        return self.recorder.recording

    def start(self, module: nn.Module, **defaults: Any) -> None:
        """Make the recorder, which takes the first frame; ``defaults`` hold where the user has given no such option."""
        part, options = _picked(module, self._model), defaults | self._options
        self.recorder = CamRecorder(part, self._images, self._classes, folder=self._folder, **options)

    def resume(self, step: int) -> None:
        """Tell how many steps the training has behind it, once that is known."""
        assert self.recorder is not None
        if step:
            self.recorder.load_state_dict({"step": step})
        else:
            self.recorder.frame()  # it is there; but what an earlier run has left in the folder goes
        self.recorder.on_frame.extend(self._on_frame)
        if self.recorder.records:
            for listener in self._on_frame:
                listener(self.recorder)

    def finish(self, *, failed: bool = False) -> None:
        """Take the last frame, unless the training failed, and save the products; no error of that ends a training."""
        if self.recorder is None:
            return
        if not failed:
            self.recorder.finish()
        self.recorder.state_dict()
        if self._folder is None:
            return
        try:
            self.recorder.save(self._folder)
        except Exception as error:  # the training itself is done, and the recording is in the folder
            warnings.warn(f"the products of the recording were not saved: {error}", RuntimeWarning, stacklevel=2)


def _picked(module: nn.Module, model: Pick) -> nn.Module:
    if isinstance(model, str):
        try:
            return module.get_submodule(model)
        except AttributeError as error:
            known = ", ".join(name for name, _ in module.named_children())
            raise InputError(
                f"model is {model!r}, and {type(module).__name__} has no such part; its parts: {known}"
            ) from error
    part = module if model is None else model(module)
    if not isinstance(part, nn.Module):
        raise InputError(
            f"model gave {type(part).__name__}; expected a function that gives the nn.Module to be recorded"
        )
    return part


def lacking(package: str, extra: str, error: ImportError) -> MissingPackage:
    """The error that says what to install."""
    return MissingPackage(f"{package} cannot be imported ({error}): pip install 'camcore[{extra}]'")
