"""Gradients of a model: sessions built when they are first needed, shared by all threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError, MethodNotPossible
from camcore.evidence import InputSpec
from camcore_onnx.gradients.build import Order, build
from camcore_onnx.gradients.facts import Feed, image_of, probes
from camcore_onnx.gradients.outlook import Outlook, outlook
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.gradients.session import GradientSession, Pulled, joined
from camcore_onnx.gradients.several import NotRepeatable
from camcore_onnx.heads import Found
from camcore_onnx.reading.load import Loaded

__all__ = ["Differentiator"]

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


class Differentiator:
    """Gradients of a model's scores with respect to any of its tensors.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    found : Found
    **options
        For :func:`camcore_onnx.running.runtime.make_session`.
    """

    def __init__(self, loaded: Loaded, spec: InputSpec, found: Found, **options: Any) -> None:
        self._loaded, self._spec, self._found, self._options = loaded, spec, found, options
        self._raised: Loaded | None = None
        self._feeds: dict[tuple[int, ...], list[Feed]] = {}
        self._sessions: dict[Any, GradientSession] = {}
        self._outlooks: dict[ir.Value, Outlook] = {}
        self._apart: set[Any] = set()  # layers whose tail cannot run for several classes at once
        self._lock = threading.RLock()

    @property
    def session(self) -> Any:
        """One that is loaded, if there is any."""
        return next((session.session for session in list(self._sessions.values())), None)

    def obstacle(self, layer: ir.Value) -> str:
        """Why there is no gradient at a layer, as far as is known; empty where nothing stands in its way."""
        return self._outlook(layer).obstacle

    def approximate(self, layer: ir.Value) -> tuple[str, ...]:
        """The operators behind a layer that have no exact derivative, and why; none where there is no gradient."""
        return self._outlook(layer).approximate

    def _outlook(self, layer: ir.Value) -> Outlook:
        if layer not in self._outlooks:
            space = tuple(n for n in self._spec.shape[2:] if n is not None)
            size = space if len(space) == len(self._spec.shape) - 2 else None
            self._outlooks[layer] = outlook(
                self._loaded, self._found.logits, layer, lambda: probes(self._model, self._spec, size)
            )
        return self._outlooks[layer]

    def __call__(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        order: Order,
        *,
        classes: Indices | None = None,
        slopes: Floats | None = None,
    ) -> Pulled:
        """Run a batch.

        Parameters
        ----------
        images : (N, C, *S) ndarray
        layers : sequence of ir.Value
        order : Order
            Its target, method, curvature and layouts; the rest is filled in here.
        classes : (N, T) int64 ndarray
            An index, or -1 in column t for the class of rank t.
        slopes : (N, T, K) ndarray
            Of the target over the scores, where the order has no target.
        """
        if len(set(layers)) < len(layers):
            return self._each_once(images, layers, order, classes=classes, slopes=slopes)
        given = classes if slopes is None else slopes
        assert given is not None  # one of them is
        formula = order.method and (order.method.formula, order.method.needs)
        key = (tuple(layers), order.target, formula, order.curvature, order.layouts)
        if given.shape[1] > 1 and key not in self._apart:
            try:
                return self._session(images, layers, replace(order, classes="inputs"), key)(images, given)
            except NotRepeatable:
                self._apart.add(key)
        return self._each(images, layers, order, key, given)

    def _each_once(self, images: Floats, layers: Sequence[ir.Value], order: Order, **given: Any) -> Pulled:
        """Layers that are named twice."""
        once, named = list(dict.fromkeys(layers)), list(layers)
        layouts = tuple(order.layouts[named.index(layer)] for layer in once) if order.layouts else ()
        pulled = self(images, once, replace(order, layouts=layouts), **given)
        found = {kind: getattr(pulled, kind) for kind in ("features", "gradients", "curvatures", "maps")}
        again: dict[str, Any] = {
            k: tuple(arrays[once.index(layer)] for layer in layers) for k, arrays in found.items() if arrays
        }
        return replace(pulled, **again)

    def _each(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any, given: Any) -> Pulled:
        """One class at a time."""
        if given.shape[1] > 1 and given.dtype.kind == "i" and (given < 0).any():
            given = self._ranked(images, layers, order, key, given)
        session = self._session(images, layers, order, key)
        placed = session.place(images) if given.shape[1] > 1 else images
        parts = [session(placed, given[:, t : t + 1]) for t in range(given.shape[1])]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _ranked(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any, given: Any) -> Any:
        """The classes themselves instead of their ranks."""
        first = self._session(images, layers, order, key)(images, given[:, :1])
        best = np.argsort(-first.scores, axis=1, kind="stable")[:, : given.shape[1]]
        return np.where(given < 0, best, given)

    def _session(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any) -> GradientSession:
        feeds = self._probes(images.shape[2:])
        free = len({tuple(feed[self._spec.name].shape[2:]) for feed in feeds}) > 1
        key = (key, order.several, None if free else images.shape[2:])
        with self._lock:
            if key not in self._sessions or not self._holds(self._sessions[key], images.shape[2:], feeds):
                self._sessions[key] = self._new_session(layers, order, feeds)
            return self._sessions[key]

    def _holds(self, session: GradientSession, size: tuple[int, ...], feeds: list[Feed]) -> bool:
        """Whether a session serves a size too; where not, an image of it is added to those that are learned from."""
        if size not in session.sizes:
            image = image_of(self._spec, len(feeds[0][self._spec.name]), size)
            with suppress(InputError):  # not of this size, as the session is going to say
                if session.facts is not None and not session.facts.hold(self._model, image):
                    feeds.append(image)
                    return False
            session.sizes.add(size)
        return True

    def _probes(self, size: tuple[int, ...]) -> list[Feed]:
        """Images to learn from; once where the model takes images of any size, else for each size."""
        with self._lock:
            for feeds in self._feeds.values():
                if len({tuple(feed[self._spec.name].shape[2:]) for feed in feeds}) > 1:
                    return feeds
            if size not in self._feeds:
                self._feeds[size] = probes(self._model, self._spec, size)
            return self._feeds[size]

    @property
    def _model(self) -> Loaded:
        if self._raised is None:
            self._raised = raised(self._loaded)
        return self._raised

    def _new_session(self, layers: Sequence[ir.Value], order: Order, feeds: Sequence[Feed]) -> GradientSession:
        full = replace(
            order,
            scores=self._found.logits.name or "",
            layers=tuple(v.name or "" for v in layers),
            alone=self._found.scores_are == "independent logit",
            titles=tuple(f"/{i}" for i in range(len(layers))),
        )
        try:
            built = build(self._model, full, feeds)
        except NotRepeatable:
            raise
        except MethodNotPossible:
            self._learn(layers, full, feeds)
            raise
        session = GradientSession(self._model, self._spec, full, built, self._options)
        session.sizes |= {feed[self._spec.name].shape[2:] for feed in feeds}
        return session

    def _learn(self, layers: Sequence[ir.Value], order: Order, feeds: Sequence[Feed]) -> None:
        """Remember which of some layers have no gradient, since a rule refuses its node there."""
        for layer in layers:
            plain = Order(order.scores, (layer.name or "",), alone=order.alone, titles=("",))
            try:
                build(self._model, plain, feeds)
            except MethodNotPossible as error:
                self._outlooks[layer] = Outlook(str(error))
