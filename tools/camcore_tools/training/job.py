"""What a training is asked to do: pictures, network, settings, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from camcore.errors import InputError, suggest
from camcore_tools.training.settings import Settings

__all__ = ["FREE", "HEADS", "Job", "differences", "recipe"]

FREE = ("data", "keep", "export", "masks", "device", "threads")  # what may be another when a training goes on
HEADS = ("auto", "gap", "conv1024", "maps")
_TUPLES = ("size", "strip")
_SETTINGS = frozenset(f.name for f in fields(Settings))


@dataclass(frozen=True)
class Job:
    """Everything that the command line says of one training.

    Parameters
    ----------
    data : str
        A folder of class folders, or one with ``train/`` and ``val/``.
    split : float
        Share of the pictures of each class that are trained on, where the folder does not say.
    arch, head, maps, cut, freeze, weights
        See :func:`camcore_tools.training.networks.build`.
    size : (H, W), optional
        That of the network where absent.
    resize : {"short", "squash"}, optional
        See :class:`camcore.preprocess.Preprocess`.
    every : int, optional
        Steps between two frames of the recording; as few as give no more than 150 frames where absent.
    watch : int
        How many validation pictures are recorded.
    strip : tuple of int, optional
        The epochs that the filmstrip shows, at whose end a frame is taken; 0 is before the training.
    masks : str, optional
        A folder of object masks, named as the pictures.
    method, layer : str
        Whose maps are recorded, and where.
    keep : int, optional
        How many of the last checkpoints stay, besides the best one; all of them where absent and small.
    export : bool
        Write the best network as ONNX, and verify it.
    settings : Settings
    """

    data: str
    split: float = 0.9
    arch: str = "small"
    head: Literal["auto", "gap", "conv1024", "maps"] = "auto"
    maps: int | None = None
    cut: str | None = None
    freeze: bool = False
    weights: str | None = None
    size: tuple[int, int] | None = None
    resize: Literal["short", "squash"] | None = None
    every: int | None = None
    watch: int = 12
    strip: tuple[int, ...] | None = None
    masks: str | None = None
    method: str = "auto"
    layer: str | None = None
    keep: int | None = None
    export: bool = True
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise InputError(f"no head is called {self.head!r}. {suggest(str(self.head), HEADS)}")
        if not 0 < self.split < 1:
            raise InputError(f"split is {self.split:g}; expected the share to train on, between 0 and 1")
        for name, least in (("every", 1), ("watch", 1), ("keep", 1), ("maps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; expected {least} or more")
        if self.strip is not None and not all(0 <= epoch <= self.settings.epochs for epoch in self.strip):
            raise InputError(f"strip is {','.join(map(str, self.strip))}; expected epochs, 0 to {self.settings.epochs}")
        if self.method == "recam" and self.settings.recam is None:
            raise InputError("maps of method recam are those of a network that is trained with it: give recam too")

    def changed(self, given: Mapping[str, Any]) -> Job:
        """With other values of some fields, those of the settings included."""
        settings = {name: value for name, value in given.items() if name in _SETTINGS}
        own = {name: value for name, value in given.items() if name not in _SETTINGS}
        return replace(self, **own, settings=replace(self.settings, **settings))

    def flat(self) -> dict[str, Any]:
        """All fields, those of the settings among the others, as JSON can hold them."""
        document = asdict(self)
        document |= {name: list(document[name]) for name in _TUPLES if document[name] is not None}
        return document | document.pop("settings")

    @classmethod
    def from_flat(cls, document: Mapping[str, Any]) -> Job:
        """From a dict of untrusted origin; whatever does not fit raises :class:`InputError`."""
        try:
            own = {f.name: document[f.name] for f in fields(cls) if f.name != "settings"}
            settings = {name: document[name] for name in _SETTINGS}
            own |= {name: tuple(map(int, own[name])) for name in _TUPLES if own[name] is not None}
            _check_kinds(own)
            return cls(**own, settings=Settings.from_json(settings))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the configuration of the run cannot be read: {error!r}") from error


_KINDS: dict[type | tuple[type, ...], tuple[str, ...]] = {
    str: ("data", "arch", "head", "method"),
    bool: ("freeze", "export"),
    (str, type(None)): ("cut", "weights", "resize", "masks", "layer"),
    (int, type(None)): ("maps", "every", "keep"),
    (int, float): ("split", "watch"),
}


def _check_kinds(values: Mapping[str, Any]) -> None:
    for kind, names in _KINDS.items():
        for name in names:
            if not isinstance(values[name], kind):
                raise TypeError(f"{name} is {values[name]!r}")


def recipe(arch: str, *, freeze: bool = False, scratch: bool = False) -> Settings:
    """Settings that do well for a kind of network.

    ``small`` is trained from scratch; smoothed labels and small changes of the pictures do little for its accuracy, but
    move the peaks of its maps onto the objects. A network of torchvision that has learned before has a small learning
    rate, so that it does not forget; a new head on a frozen trunk may learn faster.
    """
    if arch == "small" or scratch:
        small = Settings(epochs=20, optimizer="adamw", lr=3e-3, weight_decay=0.02, schedule="onecycle")
        small = replace(small, label_smoothing=0.2, rotate=10.0, shift=0.1, flip=True)
        return replace(small, lr=3e-3 if arch == "small" else 1e-3)
    learned_before = Settings(epochs=10, batch=16, lr=1e-3, rotate=20.0, shift=0.2, flip=True)
    if freeze:
        return replace(learned_before, epochs=20, batch=32, optimizer="adam", weight_decay=0.0)
    return learned_before


def differences(stored: Job, asked: Job) -> list[str]:
    """What would be trained otherwise, in words."""
    have, want = stored.flat(), asked.flat()
    changed = [name for name in have if have[name] != want[name] and name not in FREE]
    return [f"{name} is {_shown(have[name])} there and {_shown(want[name])} here" for name in changed]


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
