"""Watch what a network does: every tensor operation of a forward pass, or those from a certain point on.

Nothing is hooked into the model for good. The operations are seen below the module level, so it does not matter
whether a network is written with modules, functions or tensor methods.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = [
    "Call",
    "Event",
    "Place",
    "Recorder",
    "decomposed",
    "hooking",
    "recording_from",
    "scores_of",
    "watching_modules",
]

hooking = threading.Lock()  # the ids of hooks are not thread-safe in PyTorch


@dataclass(frozen=True, eq=False)
class Call:
    """One operation. ``sources`` and ``results`` are the numbers of the tensors that go in and come out."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[int, ...]
    results: tuple[int, ...]

    @property
    def name(self) -> str:
        """``addmm``, ``mean``: the name of the operation without overload and in-place mark."""
        packet: str = self.func.overloadpacket.__name__
        return packet[:-1] if packet.endswith("_") and not packet.startswith("_") else packet


def decomposed(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a composite operation, its parts seen by ``mode``; else NotImplemented.

    Under inference_mode composite operations arrive whole; elsewhere they do not.
    """
    if not func._can_decompose():
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


class Recorder(TorchDispatchMode):
    """Records operations and gives every value a number; an in-place operation makes a new value.

    Attributes
    ----------
    calls : list of Call
    producer : dict
        Value number -> index of the call that made it.
    tensors : dict
        Value number -> tensor. Kept alive, so that no identity is used twice.
    originals : dict
        Value number -> what an in-place operation found there; only with ``keep``.
    resting : bool
        Whether operations are let through unseen.
    """

    def __init__(self, *, keep: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.resting = False
        self.originals: dict[int, Tensor] = {}
        self._keep = keep
        self.calls: list[Call] = []
        self.producer: dict[int, int] = {}
        self.tensors: dict[int, Tensor] = {}
        self._numbers: dict[int, int] = {}

    def number(self, tensor: Tensor) -> int:
        """The number of the value that a tensor holds now; a new one for a tensor not seen before."""
        known = self._numbers.get(id(tensor))
        return self._new(tensor) if known is None else known

    def _new(self, tensor: Tensor) -> int:
        number = len(self.tensors)
        self.tensors[number] = tensor
        self._numbers[id(tensor)] = number
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.resting:
            return func(*args, **kwargs)
        whole = decomposed(self, func, args, kwargs)
        if whole is not NotImplemented:
            return whole
        sources = tuple(self.number(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        if self._keep:
            self._keep_overwritten(func, args)
        out = func(*args, **kwargs)
        results = tuple(self._new(t) for t in tree_leaves(out) if isinstance(t, Tensor))
        for result in results:
            self.producer[result] = len(self.calls)
        self.calls.append(Call(func, args, kwargs, sources, results))
        return out

    def _keep_overwritten(self, func: Any, args: Any) -> None:
        for spec, value in zip(func._schema.arguments, args, strict=False):
            if isinstance(value, Tensor) and spec.alias_info is not None and spec.alias_info.is_write:
                self.originals[self.number(value)] = value.clone()

    def made_by(self, value: int, name: str, steps: int = 3) -> bool:
        """Whether an operation of that name is among the last few that made a value."""
        if value not in self.producer or steps == 0:
            return False
        call = self.calls[self.producer[value]]
        return call.name == name or any(self.made_by(s, name, steps - 1) for s in call.sources)

    def depends_on(self, start: int) -> set[int]:
        """The numbers of all values that come from value ``start``."""
        reached = {start}
        for call in self.calls:
            if not reached.isdisjoint(call.sources):
                reached.update(call.results)
        return reached


@dataclass(frozen=True, eq=False)
class Event:
    """A module was entered or left when ``index`` operations had been recorded; ``nth`` counts its calls from 1."""

    path: str
    module: nn.Module
    kind: str
    nth: int
    index: int
    value: int | None = None


@dataclass(frozen=True)
class Place:
    """Where to start recording: at the ``nth`` entry of or exit from a module."""

    path: str
    kind: str
    nth: int

    @property
    def compiled(self) -> bool:
        """Whether it is inside of what ``torch.compile`` wraps, which at its end drops modes begun inside."""
        return "_orig_mod" in self.path


@dataclass
class _Watch:
    recorder: Recorder
    paths: dict[nn.Module, str]
    events: list[Event] = field(default_factory=list)
    counts: dict[tuple[nn.Module, str], int] = field(default_factory=dict)

    def note(self, module: nn.Module, kind: str, output: Any = None) -> None:
        nth = self.counts[module, kind] = self.counts.get((module, kind), 0) + 1
        value = self.recorder.number(output) if isinstance(output, Tensor) else None
        self.events.append(Event(self.paths[module], module, kind, nth, len(self.recorder.calls), value))


@contextmanager
def watching_modules(root: nn.Module, recorder: Recorder) -> Iterator[list[Event]]:
    """Note when the modules of ``root`` are entered and left in this thread; with global hooks, none in the model."""
    watch = _Watch(recorder, {m: path for path, m in root.named_modules()})
    thread = threading.get_ident()

    def mine(module: nn.Module) -> bool:
        return threading.get_ident() == thread and module in watch.paths

    def enter(module: nn.Module, args: Any) -> None:
        if mine(module):
            watch.note(module, "enter")

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if mine(module):
            watch.note(module, "exit", output)

    with hooking:
        handles = [nn_module.register_module_forward_pre_hook(enter), nn_module.register_module_forward_hook(leave)]
    try:
        with _no_warning_of_global_hooks(watch):
            yield watch.events
    finally:
        with hooking:
            for handle in handles:
                handle.remove()


@contextmanager
def _no_warning_of_global_hooks(watch: _Watch) -> Iterator[None]:
    """``torch.compile`` warns that both its wrapper and the module inside are noted, as they should be."""
    if not any("_orig_mod" in path for path in watch.paths.values()):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
        yield


@contextmanager
def recording_from(root: nn.Module, place: Place, recorder: Recorder) -> Iterator[list[int]]:
    """Record, in this thread, from a place in the forward pass to its end.

    One hook is set on one module for the time of the call. The list that is given holds, afterwards, the number of
    the value that the module returned there.
    """
    module = root.get_submodule(place.path)
    thread, count, started = threading.get_ident(), 0, False
    returned: list[int] = []
    modes = ExitStack()

    def start(*values: Any) -> None:
        nonlocal count, started
        if threading.get_ident() != thread or started:
            return
        count += 1
        if count == place.nth:
            returned.extend(recorder.number(v) for v in values[2:] if isinstance(v, Tensor))
            started, recorder.resting = True, False
            if not place.compiled:
                modes.enter_context(recorder)

    if place.compiled:
        recorder.resting = True
        modes.enter_context(recorder)
    with hooking:
        register = module.register_forward_pre_hook if place.kind == "enter" else module.register_forward_hook
        handle = register(start)
    try:
        yield returned
    finally:
        with hooking:
            handle.remove()
        modes.close()


def scores_of(output: Any, which: str | int | None = None) -> Tensor | None:
    """The tensor with class scores in what a model returns: itself, ``.logits``, or the first with two axes."""
    if isinstance(output, Tensor):
        return output
    if which is not None:
        chosen = _entry(output, which)
        return chosen if isinstance(chosen, Tensor) else None
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and torch.is_floating_point(t)]
    return next((t for t in tensors if t.ndim == 2), tensors[0] if tensors else None)


def _entry(output: Any, which: str | int) -> Any:
    """Entry ``which`` of a tuple or dict, or a field of that name; None where there is none."""
    try:
        return output[which]
    except (KeyError, IndexError, TypeError):
        return getattr(output, which, None) if isinstance(which, str) else None
