"""How a network is trained: everything that its weights depend on besides the network and the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from camcore.errors import InputError, suggest

__all__ = ["OPTIMIZERS", "RECAM", "RECAM_MASKS", "SCHEDULES", "Settings"]

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "inverse", "cosine", "onecycle")
RECAM = ("class", "self")
RECAM_MASKS = ("relu-max", "minmax", "sigmoid", "tanh")

_WHOLE = {"epochs": 1, "batch": 1, "seed": 0, "patience": 1, "threads": 1}  # the least that each may be
_UP_TO = {"momentum": 1.0, "label_smoothing": 1.0}  # from 0 to below this
_LEAST = {"weight_decay": 0.0, "decay": 0.0, "warmup": 0.0, "recam_weight": 0.0, "rotate": 0.0, "shift": 0.0}
_ABOVE = {"lr": 0.0, "stop_ratio": 0.0}
_NAMES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "recam": RECAM,
    "recam_mask": RECAM_MASKS,
}
_OPTIONAL = ("patience", "stop_ratio", "recam", "threads")
_MOST = 10**9


@dataclass(frozen=True)
class Settings:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the pictures.
    batch : int
        Pictures a step. A single picture that would be left at the end joins the step before it: batch normalisation
        cannot learn from one.
    optimizer : {"sgd", "adam", "adamw"}
    lr : float
        The learning rate: at the start, or at the peak of ``onecycle``.
    momentum : float
        Of ``sgd``, in [0, 1).
    nesterov : bool
    weight_decay : float
        L2 for ``sgd`` and ``adam``, decoupled for ``adamw``.
    schedule : {"constant", "inverse", "cosine", "onecycle"}
        See :mod:`camcore_tools.training.schedules`.
    decay : float
        Of ``inverse``: ``lr / (1 + decay * iteration)``.
    warmup : float
        Epochs in which the learning rate rises evenly to what the schedule says.
    label_smoothing : float
        In [0, 1); only in the loss that is trained on.
    rotate, shift, flip : float, float, bool
        Random changes of each picture while it is trained on: up to so many degrees to both sides, up to that share of
        the side in both directions, and mirrored left to right half of the time.
    amp : bool
        Mixed precision: bfloat16 on the CPU, float16 with a scaled loss on CUDA.
    seed : int
        Of the order of the pictures, of their random changes and of dropout.
    patience : int, optional
        Stop after so many epochs without a higher top-1 or a lower loss on the validation pictures than ever before.
    stop_ratio : float, optional
        Stop when the validation loss is more than so many times the training loss.
    recam : {"class", "self"}, optional
        Train with ReCAM's second loss, see :class:`camcore_torch.recam.ReCam`.
    recam_mask : {"relu-max", "minmax", "sigmoid", "tanh"}
        How a map becomes the mask of the features.
    recam_weight : float
        How much the second loss counts.
    device : str
        ``auto`` is CUDA where there is one.
    threads : int, optional
        Of PyTorch; another number may give other weights in the last digits.
    """

    epochs: int = 10
    batch: int = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["constant", "inverse", "cosine", "onecycle"] = "cosine"
    decay: float = 1e-3
    warmup: float = 0.0
    label_smoothing: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    flip: bool = False
    amp: bool = False
    seed: int = 0
    patience: int | None = None
    stop_ratio: float | None = None
    recam: Literal["class", "self"] | None = None
    recam_mask: Literal["relu-max", "minmax", "sigmoid", "tanh"] = "relu-max"
    recam_weight: float = 1.0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name not in _OPTIONAL:
                object.__setattr__(self, field.name, _checked(field.name, value))
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise InputError("nesterov is a form of sgd with momentum; give optimizer='sgd' and a momentum above 0")
        if self.warmup and self.schedule == "onecycle":
            raise InputError("the schedule onecycle has a warm-up of its own; leave warmup at 0, or take cosine")
        for name, most, what in (("rotate", 180, "degrees to both sides"), ("shift", 1, "a share of the side")):
            if getattr(self, name) > most:
                raise InputError(f"{name} is {getattr(self, name):g}; expected {what}, 0 to {most}")

    @property
    def augments(self) -> bool:
        """Whether pictures are changed at random."""
        return bool(self.rotate or self.shift or self.flip)

    def to_json(self) -> dict[str, Any]:
        """A plain dict that :meth:`from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """From a dict of untrusted origin; whatever does not fit raises :class:`InputError`."""
        if not isinstance(data, Mapping):
            raise InputError(f"settings are of type {type(data).__name__}; expected names with values")
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise InputError(f"setting {name!r} is not known. {suggest(str(name), known)}")
        return cls(**data)


def _checked(name: str, value: Any) -> Any:
    """The value in its own type, if it can be that of the setting."""
    if name in _NAMES:
        return _name(name, value)
    if name in ("nesterov", "flip", "amp"):
        return _truth(name, value)
    if name == "device":
        return _text(name, value)
    return _whole(name, value) if name in _WHOLE else _number(name, value)


def _name(name: str, value: Any) -> str:
    if value not in _NAMES[name]:
        expected = ", ".join(repr(n) for n in _NAMES[name])
        raise InputError(f"{name} is {value!r}; expected one of {expected}")
    return str(value)


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; expected True or False")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}; expected a name such as 'auto', 'cpu' or 'cuda'")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not _WHOLE[name] <= value <= _MOST:
        raise InputError(f"{name} is {value!r}; expected a whole number, {_WHOLE[name]} or more")
    return value


def _number(name: str, value: Any) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if name in _UP_TO:
        if not (usable and 0 <= value < _UP_TO[name]):
            raise InputError(f"{name} is {value!r}; expected a number from 0 to below {_UP_TO[name]:g}")
    elif name in _ABOVE:
        if not (usable and value > _ABOVE[name]):
            raise InputError(f"{name} is {value!r}; expected a number above {_ABOVE[name]:g}")
    elif not (usable and value >= _LEAST[name]):
        raise InputError(f"{name} is {value!r}; expected a number, {_LEAST[name]:g} or more")
    return float(value)
