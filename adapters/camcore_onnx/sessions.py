"""A session on an edited copy of the model: it returns scores, tapped features, and maps of the best classes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore_onnx.class_maps import CLASSES, COUNT, MAPS, add_class_maps, can_add_class_maps
from camcore_onnx.heads import Found
from camcore_onnx.load import Loaded, serialize
from camcore_onnx.runtime import make_session
from camcore_onnx.surgery import add_outputs

__all__ = ["Seen", "Watcher"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of one batch: (N, K) scores, and what else was asked for."""

    scores: Floats
    features: Floats | None = None
    classes: NDArray[np.int64] | None = None
    maps: Floats | None = None


class Watcher:
    """Runs a model and watches ``value`` in it.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    found : Found
    value : ir.Value or None
        What to tap; None for the scores alone.
    **options
        For :func:`camcore_onnx.runtime.make_session`.
    """

    def __init__(self, loaded: Loaded, spec: InputSpec, found: Found, value: ir.Value | None, **options: Any) -> None:
        self._spec = spec
        self._scores = found.logits.name or ""
        self._features = None if value is None else value.name or ""
        self._axis = found.channel_axis if value is found.features else 1
        self._classes = 0 if found.head is None else found.head.classes
        self._spaces: dict[tuple[int, ...], tuple[int, ...]] = {}  # size of the images -> size of the maps
        model = add_outputs(loaded, {v.name or "": v for v in (found.logits, value) if v is not None})
        self.gives_maps = value is not None and value is found.features and _add_maps(model, found)
        self.session = make_session(serialize(model), folder=loaded.folder, **options)
        self._on_cpu = self.session.get_providers()[0] == "CPUExecutionProvider"
        self._busy = threading.Lock()  # CUDA sessions run one call at a time

    def knows_map_size(self, images: Floats) -> bool:
        """Whether images of this size have been seen with their features; maps come flat out of the graph."""
        return images.shape[2:] in self._spaces

    def __call__(self, images: Floats, *, features: bool = False, top: int = 0) -> Seen:
        """Run a batch; ``top`` is how many of the best classes to map."""
        names = [self._scores]
        names += [self._features] if features and self._features is not None else []
        names += [CLASSES, MAPS] if top else []
        results = dict(zip(names, self._run(names, images, max(1, min(top, self._classes))), strict=True))
        tapped = results.get(self._features or "") if features else None
        if tapped is not None:
            tapped = _float(tapped if self._axis == 1 else np.moveaxis(tapped, self._axis, 1))
            self._spaces[images.shape[2:]] = tapped.shape[2:]
        maps = results.get(MAPS)
        if maps is not None:
            maps = maps.reshape(*maps.shape[:2], *self._spaces[images.shape[2:]])
        return Seen(_rows(results[self._scores], self._scores), tapped, results.get(CLASSES), maps)

    def _run(self, names: list[str], images: Floats, top: int) -> list[NDArray[Any]]:
        """In batches of the size that the model takes."""
        batch = self._spec.shape[0]
        size = len(images) if batch is None else batch
        parts = [self._run_part(names, images[i : i + size], size, top) for i in range(0, len(images), size)]
        return parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]

    def _run_part(self, names: list[str], images: Floats, size: int, top: int) -> list[NDArray[Any]]:
        count = len(images)
        if count < size:  # a model of fixed batch size: fill up, and drop again
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        feed = {self._spec.name: np.ascontiguousarray(images, dtype=self._spec.dtype)}
        if self.gives_maps:
            feed[COUNT] = np.array([top], np.int64)
        try:
            results = self._call(names, feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            text = str(error).strip().splitlines()
            raise InputError(
                f"ONNX Runtime could not run images of shape {images.shape}: {text[0][:400] if text else error!r}"
            ) from error
        return [r[:count] for r in results] if count < size else list(results)

    def _call(self, names: list[str], feed: dict[str, NDArray[Any]]) -> Any:
        if self._on_cpu:
            return self.session.run(names, feed)
        with self._busy:
            return self.session.run(names, feed)


def _add_maps(model: ir.Model, found: Found) -> bool:
    """Put the class maps into the graph where its opset has what they take."""
    if not can_add_class_maps(found, model.opset_imports.get("", 0)):
        return False
    values = {v.name: v for node in model.graph for v in node.outputs}
    assert found.features is not None  # together with the head
    assert found.head is not None
    add_class_maps(model.graph, values[found.logits.name], values[found.features.name], found.head)
    return True


def _rows(scores: NDArray[Any], name: str) -> Floats:
    flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[:, None]
    if scores.ndim > 2 and any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"the scores {name!r} have shape {scores.shape}; expected (N, K)")
    return _float(flat)


def _float(array: NDArray[Any]) -> Floats:
    return array if array.dtype == np.float32 else array.astype(np.float32)
