"""Record where a network looks while the Trainer of Hugging Face transformers trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from camcore.recording import Recording
from camcore_torch.callbacks.watching import Pick, Watching, lacking
from camcore_torch.recorder import CamRecorder

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise lacking("transformers", "huggingface", error) from error

__all__ = ["CamCallback"]

_NOT_OF_A_STEP = ("_runtime", "_per_second", "total_flos", "train_loss")  # the summary at the end, and times


class CamCallback(TrainerCallback):
    """Records the class activation maps of some pictures while a Hugging Face Trainer trains.

    A step is a step of the optimizer (``state.global_step``), whatever ``gradient_accumulation_steps`` is. The numbers
    are those that the Trainer logs, when it does: give ``logging_steps`` for a finer curve. A run that is resumed from
    a checkpoint goes on with its recording, if that is in a folder.

    Parameters
    ----------
    images, classes
        See `camcore_torch.CamRecorder`; images are ``pixel_values`` as the model takes them. Class names are those of
        the model's ``config`` where no ``labels`` are given.
    every : int
        Steps between two frames.
    model : str or callable, optional
        Which part of the model takes images and gives scores (or an output with ``logits``); all where absent.
    folder : path, optional
        Where the recording grows, and where film, timeline and the like are saved at the end. In memory where absent:
        ``callback.recording``.
    on_frame : sequence of callable
        As `camcore_torch.callbacks.tensorboard.TensorBoardSink`: called with the recorder after each frame.
    **options
        Of `camcore_torch.CamRecorder`.

    Attributes
    ----------
    recorder : CamRecorder or None
        From the start of the training on.
    """

    def __init__(
        self,
        images: Any,
        classes: Any = None,
        *,
        every: int = 50,
        model: Pick = None,
        folder: str | PathLike[str] | None = None,
        on_frame: Sequence[Callable[[CamRecorder], object]] = (),
        **options: Any,
    ) -> None:
        self._watching = Watching(
            images, classes, model=model, folder=folder, on_frame=on_frame, every=every, **options
        )

    @property
    def recorder(self) -> CamRecorder | None:
        return self._watching.recorder

    @property
    def recording(self) -> Recording:
        """What was recorded up to now."""
        return self._watching.recording

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._watching.start(model, labels=getattr(getattr(model, "config", None), "id2label", None))
        self._watching.resume(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.recorder is not None
        self.recorder.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if self.recorder is not None:
            self.recorder.log(**_numbers(logs or {}))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.recorder is not None
        self.recorder.state_dict()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watching.finish()


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, (int, float)) and not name.endswith(_NOT_OF_A_STEP)
    }
