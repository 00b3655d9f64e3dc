"""Sessions on edited copies of the model: scores, tapped features of any layers, and maps of the best classes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore.head import LinearHead
from camcore_onnx.axes import Axes
from camcore_onnx.class_maps import CLASSES, COUNT, MAPS, add_class_maps, can_add_class_maps
from camcore_onnx.constants import Constants
from camcore_onnx.heads import Found
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.binding import Bound, Placed, Recorded, ahead
from camcore_onnx.running.providers import CPU, PROVIDERS
from camcore_onnx.running.runtime import device_of, make_session
from camcore_onnx.surgery import add_outputs

__all__ = ["Runner", "Seen", "Watcher", "as_rows"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of one batch: (N, K) scores, and what else was asked for; ``features`` are in the order watched."""

    scores: Floats
    features: tuple[Floats, ...] | None = None
    classes: NDArray[np.int64] | None = None
    maps: Floats | None = None


class Runner:
    """A session that may be called from any thread, in batches of the size that its model takes.

    Parameters
    ----------
    model : ir.Model
    what : str
        What the first input takes, as errors call it: ``"images"``.
    **options
        For :func:`camcore_onnx.running.runtime.make_session`.

    Notes
    -----
    On a device with memory of its own a thread copies the next batch there while one is run, and threads that call at
    once copy while another one runs. Only the outputs asked for come back.
    """

    _device: Bound | None = None  # where the inputs are copied ahead of a run; None on the CPU

    def __init__(self, model: ir.Model, what: str, **options: Any) -> None:
        self._what = what
        self.session = make_session(model, **options)
        self._device = bound(self.session, options.get("device", "auto"), recorded=options.get("cuda_graph", False))
        on_cpu = self.session.get_providers()[0] == CPU
        self._turn: AbstractContextManager[Any] = nullcontext() if on_cpu else threading.Lock()  # others: one at a time

    def place(self, array: NDArray[Any]) -> NDArray[Any] | Placed:
        """An array that several calls take, all rows at once: copied to the device once, where there is one."""
        return array if self._device is None else self._device.put(np.ascontiguousarray(array))

    def __call__(
        self,
        names: Sequence[str],
        feed: Mapping[str, NDArray[Any] | Placed],
        *,
        batch: int | None = None,
        constant: Mapping[str, NDArray[Any]] | None = None,
    ) -> list[NDArray[Any]]:
        """Run all rows of ``feed``, ``batch`` at a time (None: at once); ``constant`` goes into every call.

        Raises
        ------
        InputError
            If ONNX Runtime refuses the arrays, with its reason.
        """
        count = len(next(iter(feed.values())))
        size = count if batch is None else batch
        starts, fixed = range(0, count, size), constant or {}
        try:
            if self._device is None or len(starts) == 1:  # no thread for one batch
                parts = [self.call(names, {**self._rows(feed, i, size), **fixed}) for i in starts]
            else:
                ready = partial(self._rows, feed, size=size)
                parts = list(ahead(starts, ready, lambda rows: self.call(names, {**rows, **fixed})))
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise InputError(self._refusal((size, *next(iter(feed.values())).shape[1:]), error)) from error
        last = count - starts[-1]
        if last < size:
            parts[-1] = [result[:last] for result in parts[-1]]
        return list(parts[0]) if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]

    def _rows(self, feed: Mapping[str, NDArray[Any] | Placed], start: int, size: int) -> Mapping[str, Any]:
        """``size`` rows of each array, filled up where they end, on the device where there is one."""
        rows = {n: a if isinstance(a, Placed) else _filled(a[start : start + size], size) for n, a in feed.items()}
        if self._device is None:
            return rows
        return {n: a if isinstance(a, Placed) else self._device.put(a) for n, a in rows.items()}

    def _refusal(self, shape: tuple[int, ...], error: Exception) -> str:
        text = str(error).strip().splitlines()
        return f"ONNX Runtime could not run {self._what} of shape {shape}: {text[0][:400] if text else repr(error)}"

    def call(self, names: Sequence[str], feed: Mapping[str, Any]) -> Any:
        """One run of the session as it is."""
        with self._turn:
            return self.session.run(names, feed) if self._device is None else self._device.run(names, feed)


def bound(session: Any, device: str, *, recorded: bool = False) -> Bound | None:
    """What keeps a session's tensors on its device; None where that has no memory of its own."""
    row = PROVIDERS.get(device_of(session))
    if row is None or not row.memory:
        return None
    return (Recorded if recorded else Bound)(session, row.memory, int(device.partition(":")[2] or 0))


class Watcher:
    """Runs a model and watches tensors in it.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    found : Found
    values : sequence of ir.Value
        What to tap, any number of them; the class maps of the head are summed in the graph where its features are
        the only one.
    axes : Axes, optional
        How the tensors hold their maps; what the graph and the head say of it where absent.
    **options
        For :func:`camcore_onnx.running.runtime.make_session`.
    """

    def __init__(
        self,
        loaded: Loaded,
        spec: InputSpec,
        found: Found,
        values: Sequence[ir.Value] = (),
        *,
        axes: Axes | None = None,
        **options: Any,
    ) -> None:
        self._spec = spec
        self._scores = found.logits.name or ""
        self._values = tuple(values)
        self._features = [v.name or "" for v in values]
        self._axes = Axes(found, Constants(loaded)) if axes is None else axes
        self._classes = 0 if found.head is None else found.head.classes
        self._spaces: dict[tuple[int, ...], tuple[int, ...]] = {}  # size of the images -> size of the maps
        model = add_outputs(loaded, {v.name or "": v for v in (found.logits, *values)})
        self.gives_maps = list(values) == [found.features] and _add_maps(model, found)
        self.runner = Runner(model, "images", folder=loaded.folder, **options)
        self.session = self.runner.session

    def knows_map_size(self, images: Floats) -> bool:
        """Whether images of this size have been seen with their features; maps come flat out of the graph."""
        return images.shape[2:] in self._spaces

    def __call__(self, images: Floats, *, features: bool = False, top: int = 0) -> Seen:
        """Run a batch; ``top`` is how many of the best classes to map."""
        names = [*(self._features if features else ()), *((CLASSES, MAPS) if top else ())]
        scores, results = self.fetch(images, names, top=top)
        tapped = tuple(
            self._maps(value, results[name], images)
            for value, name in zip(self._values, self._features, strict=True)
            if features
        )
        if tapped:
            self._spaces[images.shape[2:]] = tapped[0].shape[2:]
        maps = results.get(MAPS)
        if maps is not None:
            maps = maps.reshape(*maps.shape[:2], *self._spaces[images.shape[2:]])
        return Seen(scores, tapped or None, results.get(CLASSES), maps)

    def _maps(self, value: ir.Value, native: Floats, images: Floats) -> Floats:
        """(N, C, *S) float32, however the tensor holds them."""
        tokens = native.shape[1] if native.ndim > 1 else None
        return _float(self._axes.of(value, tokens, images.shape[2:]).maps(native))

    def fetch(self, images: Floats, names: Sequence[str], *, top: int = 0) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """The (N, K) scores, and the tensors ``names`` as the model holds them."""
        wanted = list(dict.fromkeys([self._scores, *names]))
        constant = {COUNT: np.array([max(1, min(top, self._classes))], np.int64)} if self.gives_maps else None
        feed = {self._spec.name: images.astype(self._spec.dtype, copy=False)}
        results = self.runner(wanted, feed, batch=self._spec.shape[0], constant=constant)
        return as_rows(results[0], self._scores), dict(zip(wanted, results, strict=True))


def _filled(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The last row again and again, until there are ``size``; rows that lie side by side in memory."""
    missing = size - len(array)
    rows = np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array
    return np.ascontiguousarray(rows)


def _add_maps(model: ir.Model, found: Found) -> bool:
    """Put the class maps into the graph where its opset has what they take."""
    if not isinstance(found.head, LinearHead) or not can_add_class_maps(found, model.opset_imports.get("", 0)):
        return False
    values = {v.name: v for node in model.graph for v in node.outputs}
    assert found.features is not None  # together with the head
    add_class_maps(model.graph, values[found.logits.name], values[found.features.name], found.head)
    return True


def as_rows(scores: NDArray[Any], name: str) -> Floats:
    """Scores as (N, K) float32, without axes of length 1 behind the classes."""
    flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[:, None]
    if scores.ndim > 2 and any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"the scores {name!r} have shape {scores.shape}; expected (N, K)")
    return _float(flat)


def _float(array: NDArray[Any]) -> Floats:
    return array if array.dtype == np.float32 else array.astype(np.float32)
