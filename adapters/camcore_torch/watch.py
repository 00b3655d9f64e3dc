"""Wait for values of a forward pass at given points; from the first point on, a graph for gradients where wanted.

A point is a module's output, or some operations after a module was entered or left. Hooks sit on these modules for
the time of the call only, and answer to the calling thread only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from camcore.errors import InputError
from camcore_torch.record import Place, decomposed, hooking
from camcore_torch.study import Point

__all__ = ["Sight", "watching"]


@dataclass(eq=False)
class Sight:
    """What was seen at a point.

    Attributes
    ----------
    value : Tensor or None
        As it was then, whatever overwrote it later; without a graph.
    tensor : Tensor or None
        The same with its graph, which in-place operations may have moved on.
    edge : GradientEdge or None
        Where gradients with respect to the value arrive.
    """

    value: Tensor | None = None
    tensor: Tensor | None = None
    edge: GradientEdge | None = None


class _Counter(TorchDispatchMode):
    """Counts operations, and takes the results that are waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: dict[Any, int] = {}
        self.wanted: dict[tuple[Any, int], list[tuple[Point, Sight]]] = {}
        self.open: list[tuple[Tensor, Sight]] = []

    def expect(self, point: Point, sight: Sight) -> None:
        """``point`` is counted from here."""
        index = self.counts.get(point.func, 0) + (point.offset or 0)
        self.wanted.setdefault((point.func, index), []).append((point, sight))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        whole = decomposed(self, func, args, kwargs)
        if whole is not NotImplemented:
            return whole
        if self.open:
            self.settle(tree_leaves((args, kwargs)))
        out = func(*args, **kwargs)
        count = self.counts.get(func, 0)
        for point, sight in self.wanted.pop((func, count), ()):
            self._take(point, sight, out)
        self.counts[func] = count + 1
        return out

    def _take(self, point: Point, sight: Sight, out: Any) -> None:
        tensor = [t for t in tree_leaves(out) if isinstance(t, Tensor)][point.result]
        sight.value, sight.tensor = tensor.detach().clone(), tensor
        self.open.append((tensor, sight))

    def settle(self, tensors: Sequence[Any]) -> None:
        """Autograd knows a result only after the operation is over: look at it when it is next used."""
        left = []
        for tensor, sight in self.open:
            found = next((t for t in tensors if isinstance(t, Tensor) and _is_same(t, tensor)), None)
            if found is None:
                left.append((tensor, sight))
            elif found.requires_grad:
                sight.tensor, sight.edge = found, get_gradient_edge(found)
        self.open = left


class _Insisting(TorchFunctionMode):
    """Builds the graph also where the network says ``no_grad``, as one with a frozen trunk does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.enable_grad():
            return func(*args, **(kwargs or {}))


def _is_same(a: Tensor, b: Tensor) -> bool:
    """The same tensor; views get another wrapper when autograd is on."""
    return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())


@dataclass
class _Watch:
    grad: bool
    counter: _Counter
    insist: bool = False
    thread: int = field(default_factory=threading.get_ident)
    counts: dict[Place, int] = field(default_factory=dict)
    modes: ExitStack = field(default_factory=ExitStack)
    counting: bool = False
    insisting: bool = False

    def arrive(self, place: Place, points: Sequence[tuple[Point, Sight]], values: Any) -> Any:
        """A module is entered with, or left with, ``values``; gives what they are replaced by, or None."""
        if threading.get_ident() != self.thread:
            return None
        self.counts[place] = self.counts.get(place, 0) + 1
        if self.counts[place] != place.nth:
            return None
        new = self._rooted(values) if self.grad else values
        for point, sight in points:
            if point.offset is None:
                self._see(sight, values, new)
        for point, sight in points:  # afterwards, for what is done here must not be counted
            if point.offset is not None:
                self.start()
                self.counter.expect(point, sight)
        return new if self.grad else None

    def _rooted(self, values: Any) -> Any:
        """From here on there is a graph: tensors become copies of leaves, since what follows may write into them."""
        torch.set_grad_enabled(True)
        if self.insist and not self.insisting:
            self.modes.enter_context(_Insisting())
            self.insisting = True
        return tree_map(_root, values)

    def _see(self, sight: Sight, values: Any, new: Any) -> None:
        was, now = _one_tensor(values), _one_tensor(new)
        fresh = self.grad and now is not was  # then the old one stays as it is
        sight.value, sight.tensor = (was.detach() if fresh else was.detach().clone()), now
        sight.edge = get_gradient_edge(now) if now.requires_grad else None

    def start(self) -> None:
        """Begin to count operations."""
        if not self.counting:
            self.modes.enter_context(self.counter)
            self.counting = True


def _root(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().requires_grad_(True).clone()


def _one_tensor(values: Any) -> Tensor:
    found = next((t for t in tree_leaves(values) if isinstance(t, Tensor)), None)
    if found is None:
        raise InputError("the layer returned no tensor this time")
    return found


@contextmanager
def watching(
    root: nn.Module, points: Sequence[Point], *, grad: bool = False, insist: bool = False
) -> Iterator[list[Sight]]:
    """Fill a sight for each point during the forward pass that is made in this context.

    Parameters
    ----------
    root : nn.Module
    points : sequence of Point
    grad : bool
        Build a graph from the first point on; everything before runs as the caller has it.
    insist : bool
        Build it also where the network itself says ``no_grad``.
    """
    counter = _Counter()
    watch, sights = _Watch(grad, counter, insist), [Sight() for _ in points]
    places: dict[Place, list[tuple[Point, Sight]]] = {}
    for point, sight in zip(points, sights, strict=True):
        places.setdefault(point.place, []).append((point, sight))
    enabled = torch.is_grad_enabled()
    handles: list[Any] = []
    try:
        with hooking:
            handles += [_hook(root, place, watch, waiting) for place, waiting in places.items()]
        if any(place.compiled for place in places):
            watch.start()
        yield sights
        counter.settle([tensor for tensor, _ in counter.open])
    finally:
        watch.modes.close()
        torch.set_grad_enabled(enabled)
        with hooking:
            for handle in handles:
                handle.remove()


def _hook(root: nn.Module, place: Place, watch: _Watch, waiting: Sequence[tuple[Point, Sight]]) -> Any:
    module = root.get_submodule(place.path)

    def enter(_: nn.Module, args: Any, kwargs: Any = None) -> Any:  # other threads may miss that it wants kwargs
        return watch.arrive(place, waiting, (args, kwargs))

    def leave(_: nn.Module, args: Any, output: Any) -> Any:
        return watch.arrive(place, waiting, output)

    if place.kind == "enter":
        return module.register_forward_pre_hook(enter, with_kwargs=True)
    return module.register_forward_hook(leave)
