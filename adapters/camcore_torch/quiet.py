"""Run a module without leaving a trace: flags, buffers and random numbers are as before, also after an error."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from camcore.errors import InputError

__all__ = ["MODES", "Mode", "kept_buffers", "undisturbed"]

Mode = Literal["eval", "caller"]
MODES = ("eval", "caller")


_users: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many want a part in evaluation mode that was training before the first of them."""
_lock = threading.Lock()
_one_at_a_time = threading.RLock()


@contextmanager
def undisturbed(module: nn.Module, mode: Mode = "eval", *, buffers: bool = False, grad: bool = False) -> Iterator[None]:
    """Context in which ``module`` can be run without consequences.

    Parameters
    ----------
    module : nn.Module
    mode : {"eval", "caller"}
        ``eval``: batch normalisation with its running statistics, dropout off, whatever the training flag says; this is
        the network that will be shipped. ``caller``: as the training flags say; buffers are put back afterwards.
    buffers : bool
        Put buffers back in evaluation mode too: for networks that count or observe whatever the flags say.
    grad : bool
        Leave ``inference_mode``, so that gradients can be switched on inside.

    Notes
    -----
    Flags are changed only where one is set, and the last of several threads that run a part puts its flag back, also
    where they run different networks that share the part. ``model.train()`` of another thread meanwhile keeps its
    effect afterwards, but ``model.eval()`` of another thread changes nothing then, and such parts are training again
    at the end. Nothing is differentiated unless it is switched on inside. Compiled parts run as they were written, for
    hooks do not reach into them. Autocast of the caller has no effect in evaluation mode: the network has the precision
    of its weights. In the caller's mode it stays, but its cache of cast weights is off: what is cast here has no graph,
    and the caller's training would take it from the cache.
    """
    if mode not in MODES:
        raise InputError(f"mode is {mode!r}; expected 'eval' or 'caller'")
    with ExitStack() as stack:
        if grad:
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_no_autocast_cache())
        if parametrize._cache_enabled:
            stack.enter_context(_no_parametrization_cache())
        stack.enter_context(_random_numbers(module))
        if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
            stack.enter_context(_uncompiled())
        if mode == "eval":
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(_evaluation(module))
            if buffers:
                stack.enter_context(_one_at_a_time)
                stack.enter_context(kept_buffers(module))
        elif buffers or any(part.training for part in _parts(module)):
            stack.enter_context(_one_at_a_time)
            stack.enter_context(kept_buffers(module))
        yield


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


@contextmanager
def _no_parametrization_cache() -> Iterator[None]:
    """Weights made here have no graph; a caller within ``parametrize.cached()`` would train with them."""
    enabled, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = enabled


class _Stance:
    """How many threads run compiled code as it was written. The switch is one of the whole process."""

    users = 0
    stack = ExitStack()


@contextmanager
def _uncompiled() -> Iterator[None]:
    with _lock:
        if _Stance.users == 0:
            _Stance.stack.enter_context(torch.compiler.set_stance("force_eager"))
        _Stance.users += 1
    try:
        yield
    finally:
        with _lock:
            _Stance.users -= 1
            if _Stance.users == 0:
                _Stance.stack.close()


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    with _lock:
        parts = [part for part in _parts(module) if part.training or (_users and part in _users)]
        for part in parts:
            _users[part] = _users.get(part, 0) + 1
        _set(parts, False)  # attributes, not .eval(): that method may be overridden, and may do more
    try:
        yield
    finally:
        with _lock:
            for part in parts:
                _users[part] -= 1
            unused = [part for part in parts if not _users[part]]
            for part in unused:
                del _users[part]
            _set(unused, True)


def _parts(module: nn.Module) -> list[nn.Module]:
    """A module and all inside; runs in every call, and ``module.modules()`` takes ten times longer."""
    found: dict[nn.Module, None] = {}
    stack = [module]
    while stack:
        part = stack.pop()
        if part not in found:
            found[part] = None
            stack += [child for child in part._modules.values() if child is not None]
    return list(found)


def _set(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[list[Tensor]]:
    """Put all buffers back; the list that is given holds, afterwards, those that had changed or been replaced."""
    saved = [_Kept(part) for part in _parts(module)]
    changed: list[Tensor] = []
    try:
        yield changed
    finally:
        for kept in saved:
            changed += kept.put_back()


class _Kept:
    """The buffers of one part: which tensors they are, and what these hold."""

    def __init__(self, part: nn.Module) -> None:
        self.part = part
        self.buffers = {name: (b, None if b is None else b.clone()) for name, b in part._buffers.items()}
        plain = (bool, int, float, str, tuple, type(None))
        self.plain = {k: v for k, v in vars(part).items() if type(v) in plain and k != "training"}

    def put_back(self) -> list[Tensor]:
        """Those that had changed. With a buffer that was replaced come back the numbers that may describe it."""
        now = self.part._buffers
        replaced = [name for name, (b, _) in self.buffers.items() if name in now and now[name] is not b]
        changed = [b for b in (now[name] for name in replaced) if b is not None]
        for name in replaced:
            now[name] = self.buffers[name][0]
        if replaced:
            vars(self.part).update(self.plain)
        for buffer, value in self.buffers.values():
            # versions do not tell: batch normalisation updates its statistics without one
            if buffer is not None and value is not None and not torch.equal(buffer, value):
                buffer.data.copy_(value)  # a graph of the caller's may hold the buffer, and minds the version
                changed.append(buffer)
        return changed


@dataclass
class _Generators:
    """How many threads may draw random numbers, and the states before the first. They draw from one generator."""

    users: int = 0
    cpu: Tensor | None = None
    cuda: dict[torch.device, Tensor] = field(default_factory=dict)


_generators = _Generators()


@contextmanager
def _random_numbers(module: nn.Module) -> Iterator[None]:
    with _lock:
        if _generators.users == 0:
            _generators.cpu = torch.get_rng_state()
        _generators.users += 1
        for device in {p.device for p in module.parameters() if p.is_cuda} if torch.cuda.is_initialized() else ():
            _generators.cuda.setdefault(device, torch.cuda.get_rng_state(device))
    try:
        yield
    finally:
        with _lock:
            _generators.users -= 1
            if _generators.users == 0:
                _put_back(_generators)


def _put_back(states: _Generators) -> None:
    assert states.cpu is not None  # saved by the first
    if not torch.equal(torch.get_rng_state(), states.cpu):
        torch.set_rng_state(states.cpu)
    for device, state in states.cuda.items():
        torch.cuda.set_rng_state(state, device)
    states.cuda = {}
