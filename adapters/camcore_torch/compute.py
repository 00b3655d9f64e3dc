"""Multiply-accumulates of a module: how many one image takes, and how many of them lie behind each layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.flop_counter import flop_registry

from camcore_torch.backend import TorchBackend
from camcore_torch.quiet import kept_buffers
from camcore_torch.record import Call, Recorder, watching_modules

__all__ = ["Compute", "count_macs"]

_MULTIPLY = ("rnn", "lstm", "gru_", "attention", "transformer", "linear", "conv", "matmul")
_KNOWN = ("_native_multi_head_attention",)


@dataclass(frozen=True)
class Compute:
    """What one image costs.

    Attributes
    ----------
    shape : tuple of int
        Of the image.
    total : int
        Multiply-accumulates.
    behind : dict
        Those between what each module returns and the scores.
    missing : tuple of str
        Operations that multiply and were not counted.
    """

    shape: tuple[int, ...]
    total: int
    behind: Mapping[str, int]
    missing: tuple[str, ...] = ()


def count_macs(backend: TorchBackend) -> Compute:
    """Run a module once, on noise of the size it was understood by, and count what its operations multiply.

    Nothing is hooked into the module, and it is left as it was. Convolutions, matrix products and attention count.

    Parameters
    ----------
    backend : TorchBackend

    Raises
    ------
    InputError
        If the module cannot be run on noise.
    """
    size = backend.study().size
    random = np.random.default_rng(0)
    images = random.standard_normal((1, backend.input.channels or 3, *size)).astype(np.float32)
    record = Recorder()
    with backend.network.undisturbed(), kept_buffers(backend.model):
        tensor = backend.network.tensor(images)
        with watching_modules(backend.model, record) as events, record:
            output = backend.network(tensor)
    counts = [(call, macs) for call in record.calls if (macs := _macs(call, record))]
    needed = _needed(record, record.number(output))
    returned = {e.path: e.value for e in events if e.kind == "exit" and e.value is not None}
    behind = {path: _behind(record, value, needed, counts) for path, value in returned.items()}
    return Compute(images.shape, sum(macs for _, macs in counts), behind, _missing(record))


def _behind(record: Recorder, value: int, needed: set[int], counts: Sequence[tuple[Call, int]]) -> int:
    live = record.depends_on(value)
    return sum(
        macs for call, macs in counts if not live.isdisjoint(call.sources) and not needed.isdisjoint(call.results)
    )


def _needed(record: Recorder, value: int) -> set[int]:
    """The numbers of all values that a value is computed of, and its own."""
    needed = {value}
    for call in reversed(record.calls):
        if not needed.isdisjoint(call.results):
            needed.update(call.sources)
    return needed


def _macs(call: Call, record: Recorder) -> int:
    """PyTorch counts a multiplication and an addition apart."""
    if call.name in _KNOWN:
        return _attention(call.args)
    rule = flop_registry.get(call.func.overloadpacket)
    if rule is None or not call.results:
        return 0
    return int(rule(*call.args, **call.kwargs, out_val=record.tensors[call.results[0]])) // 2


def _attention(args: Sequence[Any]) -> int:
    """q, k and v of one weight, what they give together, and the projection behind it."""
    query, key = args[0].shape, args[1].shape
    batch, length, width = query
    others = key[1]
    projections = 2 * batch * (length + others) * width * width
    return int(projections + 2 * batch * length * others * width)


def _missing(record: Recorder) -> tuple[str, ...]:
    names = Counter(
        call.name
        for call in record.calls
        if call.func.overloadpacket not in flop_registry
        and any(word in call.name for word in _MULTIPLY)
        and call.name not in _KNOWN
    )
    return tuple(name if n == 1 else f"{name} ({n})" for name, n in names.items())
