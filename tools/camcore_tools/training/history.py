"""What was measured epoch by epoch, which epoch is the best, and when to stop."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from camcore.errors import InputError
from camcore_tools.training.settings import Settings

__all__ = ["Epoch", "as_csv", "best_of", "reason_to_stop"]

_DIGITS = 8


@dataclass(frozen=True)
class Epoch:
    """A row of ``metrics.csv``.

    Attributes
    ----------
    epoch, step : int
        How many were done.
    lr : float
        Of the last step.
    loss : float
        Mean cross-entropy of the training pictures as they were shown, without label smoothing.
    recam_loss : float or None
        Mean of ReCAM's second loss, without its weight.
    validation_loss : float
        Mean cross-entropy of the validation pictures, without label smoothing.
    top1, top3, top5 : float
        Shares of the validation pictures.
    seconds : float
    """

    epoch: int
    step: int
    lr: float
    loss: float
    recam_loss: float | None
    validation_loss: float
    top1: float
    top3: float
    top5: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A plain dict that :meth:`from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Epoch:
        """From a dict of untrusted origin; whatever does not fit raises :class:`InputError`."""
        try:
            values = {field.name: data[field.name] for field in fields(cls)}
            numbers = [value for name, value in values.items() if name != "recam_loss" or value is not None]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError("a value that is no number")
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"a row of the history of the training cannot be read: {error!r}") from error
        return cls(**values)


def best_of(history: Iterable[Epoch]) -> Epoch | None:
    """The epoch of the highest top-1, then of the lowest validation loss, then the first."""
    return max(history, key=lambda row: (row.top1, -row.validation_loss, -row.epoch), default=None)


def reason_to_stop(history: Sequence[Epoch], settings: Settings) -> str | None:
    """``epochs``, ``stop_ratio`` or ``patience``, or None where there should be a further epoch."""
    last = history[-1]
    if last.epoch >= settings.epochs:
        return "epochs"
    if settings.stop_ratio is not None and last.validation_loss > settings.stop_ratio * last.loss:
        return "stop_ratio"
    if settings.patience is not None and last.epoch - _last_progress(history) >= settings.patience:
        return "patience"
    return None


def _last_progress(history: Sequence[Epoch]) -> int:
    """The last epoch with a higher top-1 or a lower loss than all before it."""
    highest = max(history, key=lambda row: (row.top1, -row.epoch)).epoch
    lowest = min(history, key=lambda row: (row.validation_loss, row.epoch)).epoch
    return max(highest, lowest)


def as_csv(history: Iterable[Epoch]) -> str:
    """One line an epoch; ReCAM's loss has a column where there is one.

    Examples
    --------
    >>> print(as_csv([Epoch(1, 4, 0.1, 2.5, None, 2.25, 0.5, 1.0, 1.0, 0.25)]), end="")
    epoch,step,lr,loss,validation_loss,top1,top3,top5,seconds
    1,4,0.1,2.5,2.25,0.5,1.0,1.0,0.25
    """
    rows = [row.to_json() for row in history]
    names = [field.name for field in fields(Epoch)]
    if all(row["recam_loss"] is None for row in rows):
        names.remove("recam_loss")
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _short(value: float | None) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
