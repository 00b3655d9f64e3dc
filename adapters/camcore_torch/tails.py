"""The network behind a layer, run by itself: what a forward pass did from there on is done again with other features.

Two forward passes of the same image, twice and three times in a batch, show which numbers in the operations (sizes
of views, for example) follow the size of the batch; then the operations can be repeated for any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from camcore.errors import MethodNotPossible
from camcore_torch.record import Call, Recorder

__all__ = ["LOOKS", "RELAXED", "Record", "Tail", "check_tail", "make_tail"]

# Other features may lie in memory in another way than those of the record.
RELAXED = {op.default: torch.ops.aten.reshape.default for op in (torch.ops.aten.view, torch.ops.aten._unsafe_view)}

Argument = Callable[[dict[int, Tensor], int], Any]

# Operations that hand values of tensors to Python, where they may decide what is done next.
LOOKS = {"_local_scalar_dense", "equal", "is_nonzero"}


@dataclass(frozen=True, eq=False)
class Record:
    """A recorded tail: which value is the layer's, and which the scores'; ``batch`` images."""

    recorder: Recorder
    layer: int
    scores: int
    batch: int

    def original(self, source: int, tensor: Tensor) -> Tensor:
        """A value as it was when it was read, though it may have been overwritten since."""
        return self.recorder.originals.get(source, tensor)

    @property
    def start(self) -> int:
        """The first operation that reads the layer's value."""
        calls = self.recorder.calls
        return next((i for i, call in enumerate(calls) if self.layer in call.sources), len(calls))

    def spared(self) -> Record:
        """The same without what comes from the layer, of which a tail takes only the shapes. The record is used up."""
        recorder, live = self.recorder, self.recorder.depends_on(self.layer)
        calls = [_spared(call, live) for call in recorder.calls[self.start :]]
        recorder.calls[:] = calls
        recorder.tensors.clear()
        for number in live.intersection(recorder.originals):
            del recorder.originals[number]
        return self


def _spared(call: Call, live: set[int]) -> Call:
    sources = iter(call.sources)

    def spare(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or next(sources) not in live:
            return leaf
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")

    args, kwargs = tree_map(spare, (call.args, call.kwargs))
    return replace(call, args=args, kwargs=kwargs)


@dataclass(frozen=True, eq=False)
class _Operation:
    func: Any
    arguments: list[Argument]
    form: TreeSpec
    results: tuple[int, ...]
    done: set[int]
    """Values that no later operation reads."""

    def __call__(self, values: dict[int, Tensor], batch: int) -> None:
        leaves = [argument(values, batch) for argument in self.arguments]
        args, kwargs = tree_unflatten(leaves, self.form)
        out = self.func(*args, **kwargs)
        values.update(zip(self.results, (t for t in tree_leaves(out) if isinstance(t, Tensor)), strict=True))
        for number in self.done:
            values.pop(number, None)


@dataclass(frozen=True, eq=False)
class Tail:
    """The operations behind a layer. Called with the layer's values in any number, gives their scores."""

    layer: int
    scores: int
    operations: list[_Operation]

    def __call__(self, features: Tensor) -> Tensor:
        values = {self.layer: features}
        for operation in self.operations:
            operation(values, len(features))
        return values[self.scores]


def _last_read(calls: Sequence[Call], scores: int) -> list[set[int]]:
    """For each operation the values that no later one reads."""
    wanted, done = {scores}, []
    for call in reversed(calls):
        done.append({*call.sources, *call.results} - wanted)
        wanted.update(call.sources)
    return done[::-1]


def make_tail(two: Record, three: Record) -> Tail:
    """Learn the operations from records of two and of three images.

    Raises
    ------
    MethodNotPossible
        If the two passes did different things, or might for other features.
    """
    first, second = two.recorder.calls[two.start :], three.recorder.calls[three.start :]
    if [c.func for c in first] != [c.func for c in second]:
        raise MethodNotPossible(
            "the network behind the layer does other operations for three images than for two, so it cannot be run by "
            "itself"
        )
    known = {two.layer: three.layer}
    operations = []
    for a, b, done in zip(first, second, _last_read(first, two.scores), strict=True):
        if a.name in LOOKS and any(s in known for s in a.sources):
            raise MethodNotPossible(
                f"the network behind the layer looks at values of its tensors ({a.name}), so it may do other things "
                "for other features, and cannot be run by itself; choose a method that needs no runs of the tail"
            )
        leaves, form = tree_flatten((a.args, a.kwargs))
        others = tree_leaves((b.args, b.kwargs))
        sources = iter(zip(a.sources, b.sources, strict=True))
        arguments = [
            _tensor(x, y, *next(sources), known, two) if isinstance(x, Tensor) else _number(x, y, two.batch)
            for x, y in zip(leaves, others, strict=True)
        ]
        operations.append(_Operation(RELAXED.get(a.func, a.func), arguments, form, a.results, done))
        known.update(zip(a.results, b.results, strict=True))
    if known.get(two.scores) != three.scores:
        raise MethodNotPossible("the scores do not depend on the layer: choose another layer")
    return Tail(two.layer, two.scores, operations)


def _tensor(a: Tensor, b: Any, source: int, other: int, known: dict[int, int], two: Record) -> Argument:
    """A value of the tail; or a constant; or, where its length follows the batch, what comes past the layer."""
    if known.get(source) == other:
        return lambda values, _: values[source]
    a = two.original(source, a)
    if a.shape == b.shape:
        return (lambda values, _: a.clone()) if source in two.recorder.originals else (lambda values, _: a)
    batch = two.batch
    share, rest = divmod(a.shape[0], batch)
    if rest or a.shape[1:] != b.shape[1:] or b.shape[0] != share * (batch + 1):
        raise MethodNotPossible(
            f"a tensor of shape {tuple(a.shape)} comes past the layer, and its batch axis is not the first"
        )
    one = a[:share]
    return lambda values, count: one.repeat(count, *(1 for _ in one.shape[1:]))


def _number(a: Any, b: Any, batch: int) -> Argument:
    """A number that follows the size of the batch, or anything that stays."""
    if type(a) is int and type(b) is int and a != b:
        slope = b - a
        return lambda _, count: a + slope * (count - batch)
    return lambda _values, _count: a


def check_tail(tail: Tail, layer: Tensor, scores: Tensor, tolerance: float) -> None:
    """Run an image's values (1, ...) among others: they must give its scores (1, K), and the others theirs.

    Raises
    ------
    MethodNotPossible
        With the difference.
    """
    other = layer / 2
    try:
        again = tail(torch.cat([layer, other, layer, torch.zeros_like(layer), layer])).reshape(5, -1)
        alone = tail(other).reshape(1, -1)
        worst = float((again - torch.cat([scores, alone, scores, again[3:4], scores])).abs().max())
    except RuntimeError as error:
        raise MethodNotPossible(
            f"the network behind the layer cannot be run by itself: {str(error).splitlines()[0]}; choose a method that "
            "needs no runs of the tail"
        ) from error
    scale = float(scores.abs().max())
    if not worst <= tolerance * scale:
        raise MethodNotPossible(
            f"the network behind the layer, run by itself, gives scores that differ by up to {worst:.3g} from those of "
            f"the whole network (up to {scale:.3g}), or from image to image in a batch; choose a method that needs no "
            "runs of the tail"
        )
