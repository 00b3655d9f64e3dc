"""What is seen of a training while it runs: a bar, and a line for each epoch, on stderr."""

from __future__ import annotations

from types import TracebackType

from camcore_tools.console import Progress, note
from camcore_tools.training.loop import Training

__all__ = ["Screen"]

_STEADY = 0.9  # of the loss that is shown, which would be hard to read if it jumped at each step


class Screen:
    """Shows a training; use it as a context manager around :meth:`Training.run`.

    Parameters
    ----------
    training : Training
        Its hook for steps is taken.
    label : str
        Before the bar.
    """

    def __init__(self, training: Training, *, label: str = "training") -> None:
        self.training = training
        self._bar = Progress(training.total - training.step, label)
        self._loss: float | None = None
        training.after_step = self._step

    def __enter__(self) -> Screen:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def _step(self, step: int, loss: float) -> None:
        self._loss = loss if self._loss is None else _STEADY * self._loss + (1 - _STEADY) * loss
        done = self.training.history
        known = f"  top-1 {done[-1].top1:.0%}" if done else ""
        self._bar.step(text=f"epoch {len(done) + 1}  loss {self._loss:.3f}{known}")

    def epoch(self, training: Training) -> None:
        """A line for the epoch that is done."""
        if training.history:
            self._bar.clear()
            note(epoch_line(training))


def epoch_line(training: Training) -> str:
    """The measurements of the last epoch; a star marks the best so far."""
    row = training.history[-1]
    star = " *" if training.best == row else ""
    total = training.settings.epochs
    second = "" if row.recam_loss is None else f"recam {row.recam_loss:.4f}  "
    return (
        f"epoch {row.epoch:>{len(str(total))}}/{total}  loss {row.loss:.4f}  {second}validation "
        f"{row.validation_loss:.4f}  top-1 {row.top1:6.1%}  {row.seconds:.1f} s{star}"
    )
