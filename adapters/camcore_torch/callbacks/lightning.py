"""Record where a network looks while PyTorch Lightning trains it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

from camcore.recording import Recording
from camcore_torch.callbacks.watching import Pick, Watching, lacking
from camcore_torch.recorder import CamRecorder

__all__ = ["CamCallback"]


def _base() -> Any:
    """The callback of the Lightning that is in use: the same package goes by two names."""
    names = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
    for name in names:
        try:
            return import_module(name).Callback
        except ImportError as error:
            last = error
    raise lacking("PyTorch Lightning", "lightning", last)


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = _base()


class CamCallback(Callback):
    """Records the class activation maps of some pictures while Lightning trains.

    A step is one of an optimizer (``trainer.global_step``), whatever ``accumulate_grad_batches`` is. At each the loss
    is logged, as the optimizer saw it, and what the module logs; validation metrics when they are there, and how many
    epochs are done. A run that is resumed from a checkpoint goes on with its recording, if that is in a folder.

    Parameters
    ----------
    images, classes
        See `camcore_torch.CamRecorder`.
    every : int
        Steps between two frames.
    model : str or callable, optional
        Which part of the LightningModule takes images and gives scores: its name (``"net"``), or a function of the
        module. The module itself where absent.
    folder : path, optional
        Where the recording grows, and where film, timeline and the like are saved at the end, also of a training that
        fails. In memory where absent: ``callback.recording``.
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
        super().__init__()
        self._watching = Watching(
            images, classes, model=model, folder=folder, on_frame=on_frame, every=every, **options
        )
        self._loss: Any = None
        self._often: set[str] = set()
        self._seldom: set[str] = set()

    @property
    def recorder(self) -> CamRecorder | None:
        return self._watching.recorder

    @property
    def recording(self) -> Recording:
        """What was recorded up to now."""
        return self._watching.recording

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._watching.start(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._watching.resume(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self.recorder is not None
        self._add(outputs)
        for _ in range(self.recorder.steps + 1, trainer.global_step):  # several optimizers
            self.recorder.step()
        if self.recorder.steps < trainer.global_step:
            self.recorder.step(loss=self._loss, **self._fresh(trainer, self._often, self._seldom))
            self._loss = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._log_seldom(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._log_seldom(trainer)
        if self.recorder is not None:
            self.recorder.log(epoch=trainer.current_epoch + 1)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """What was recorded is on the disk before the checkpoint is."""
        if self.recorder is not None:
            self.recorder.state_dict()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._watching.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._watching.finish(failed=True)

    def _add(self, outputs: Any) -> None:
        """Lightning gives each batch's loss as a share of the step's, so that they add up."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def _log_seldom(self, trainer: Any) -> None:
        """What is known once an epoch, or after a validation."""
        if self.recorder is not None and not trainer.sanity_checking:
            self.recorder.log(**self._fresh(trainer, self._seldom, self._often))

    @staticmethod
    def _fresh(trainer: Any, mine: set[str], others: set[str]) -> dict[str, Any]:
        """Metrics that come at this time; Lightning keeps the old ones of other times beside them.

        All processes must ask, since Lightning may gather them.
        """
        found = trainer.callback_metrics
        twice = {f"{name}_step" for name in found}
        fresh = {name: value for name, value in found.items() if name not in others | twice}
        mine.update(fresh)
        return fresh
