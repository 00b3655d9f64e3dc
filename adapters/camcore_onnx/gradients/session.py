"""Sessions that give gradients: built when they are first needed, shared by all threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import MethodNotPossible
from camcore.evidence import Evidence, InputSpec
from camcore.scores import Classes, choose_classes, top_count
from camcore.targets import TARGETS, Target
from camcore_onnx.axes import Axes
from camcore_onnx.gradients.build import CLASS, SLOPES, Built, Order, build
from camcore_onnx.gradients.facts import Feed, probes
from camcore_onnx.gradients.outlook import Outlook, outlook
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.gradients.several import NotRepeatable
from camcore_onnx.heads import Found
from camcore_onnx.load import Loaded
from camcore_onnx.sessions import Runner, Watcher, as_rows

__all__ = ["Differentiator", "Pulled"]

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pulled:
    """What came of one batch; of each layer, with axes as in the model: (N, ...) features and (N, T, ...) others."""

    scores: Floats
    classes: Indices | None
    features: tuple[Floats, ...] = ()
    gradients: tuple[Floats, ...] = ()
    curvatures: tuple[Floats, ...] = ()
    maps: tuple[Floats, ...] = ()


class Differentiator:
    """Gradients of a model's scores with respect to any of its tensors.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    found : Found
    axes : Axes
        How the tensors hold their maps.
    **options
        For :func:`camcore_onnx.runtime.make_session`.
    """

    def __init__(self, loaded: Loaded, spec: InputSpec, found: Found, axes: Axes, **options: Any) -> None:
        self._loaded, self._spec, self._found, self._axes, self._options = loaded, spec, found, axes, options
        self._raised: Loaded | None = None
        self._feeds: dict[tuple[int, ...], list[Feed]] = {}
        self._sessions: dict[Any, _Session] = {}
        self._outlooks: dict[ir.Value, Outlook] = {}
        self._apart: set[Any] = set()  # layers whose tail cannot run for several classes at once
        self._classes = 0
        self._watcher: Watcher | None = None
        self._lock = threading.RLock()

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

    def evidence(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target | None,
        *,
        bends: bool = False,
    ) -> list[Evidence]:
        """Features and gradients (and curvature, if it ``bends``) of each layer, as the core takes them.

        Slopes that the graph cannot compute, of a user's function, are taken from the scores of a pass of its own.
        """
        goal = TARGETS["logit"] if target is None else target
        if goal.code:
            order = Order(target=goal.code, curvature=bends)
            pulled = self(images, layers, order, classes=self._indices(images, classes, labels))
        else:
            pulled = self._by_slopes(images, layers, classes, labels, goal, bends)
        assert pulled.classes is not None  # asked for
        made = zip(layers, pulled.features, pulled.gradients, pulled.curvatures or pulled.gradients, strict=True)
        return [
            Evidence(
                pulled.scores,
                pulled.classes,
                features=self._maps(layer, features, images),
                gradients=self._maps(layer, gradients, images, like=features),
                curvature=self._maps(layer, bend, images, like=features) if bends else None,
            )
            for layer, features, gradients, bend in made
        ]

    def _maps(self, layer: ir.Value, native: Floats, images: Floats, *, like: Floats | None = None) -> Floats:
        """(N, C, *S) features, or (N, T, C, *S) gradients ``like`` them."""
        features = native if like is None else like
        tokens = features.shape[1] if features.ndim > 1 else None
        layout = self._axes.of(layer, tokens, images.shape[2:])
        if layout.kind == "tokens" and like is not None:
            native = np.broadcast_to(native, (*native.shape[:2], *like.shape[1:]))
        return layout.maps(native, lead=1 if like is None else 2)

    def _indices(self, images: Floats, classes: Classes, labels: Sequence[str] | None) -> Indices:
        """The (N, T) classes; -1 for those that are chosen by their scores."""
        count = self._count(images)
        if top_count(classes):
            return np.full((len(images), min(top_count(classes), count)), -1, np.int64)
        return choose_classes(np.zeros((len(images), count), np.float32), classes, labels)

    def _count(self, images: Floats) -> int:
        """How many classes there are: the graph tells, or a run."""
        if not self._classes:
            shape = self._found.logits.shape
            known = shape[1] if shape is not None and len(shape) > 1 else None
            self._classes = known if isinstance(known, int) else self._scores(images).shape[1]
        return self._classes

    def _scores(self, images: Floats) -> Floats:
        """From the graph of the plain logit at the last layer, or any that is there."""
        if self._watcher is None:
            self._watcher = Watcher(self._loaded, self._spec, self._found, (), axes=self._axes, **self._options)
        return self._watcher(images).scores

    def _by_slopes(
        self,
        images: Floats,
        layers: Sequence[ir.Value],
        classes: Classes,
        labels: Sequence[str] | None,
        target: Target,
        bends: bool,
    ) -> Pulled:
        if bends and not target.linear:
            raise MethodNotPossible(
                f"the target {target.name!r} is a function of its own, of which the graph has no second derivative: "
                "take a target by name"
            )
        scores = self._scores(images)
        chosen = choose_classes(scores, classes, labels)
        aim = target.aim(scores, chosen, alone=self._found.scores_are == "independent logit")
        pulled = self(images, layers, Order(target=None, curvature=bends), slopes=aim.slopes())
        return replace(pulled, classes=chosen)

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
        given = classes if slopes is None else slopes
        assert given is not None  # one of them is
        key = (tuple(layers), order.target, order.method and order.method.name, order.curvature, order.layouts)
        if given.shape[1] > 1 and key not in self._apart:
            try:
                return self._session(images, layers, replace(order, classes="inputs"), key)(images, given)
            except NotRepeatable:
                self._apart.add(key)
        return self._each(images, layers, order, key, given)

    def _each(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any, given: Any) -> Pulled:
        """One class at a time."""
        if given.shape[1] > 1 and given.dtype.kind == "i" and (given < 0).any():
            given = self._ranked(images, layers, order, key, given)
        session = self._session(images, layers, order, key)
        parts = [session(images, given[:, t : t + 1]) for t in range(given.shape[1])]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _ranked(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any, given: Any) -> Any:
        """The classes themselves instead of their ranks."""
        first = self._session(images, layers, order, key)(images, given[:, :1])
        best = np.argsort(-first.scores, axis=1, kind="stable")[:, : given.shape[1]]
        return np.where(given < 0, best, given)

    def _session(self, images: Floats, layers: Sequence[ir.Value], order: Order, key: Any) -> _Session:
        feeds = self._probes(images.shape[2:])
        free = len({tuple(feed[self._spec.name].shape[2:]) for feed in feeds}) > 1
        key = (key, order.several, None if free else images.shape[2:])
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._new_session(layers, order, feeds)
            return self._sessions[key]

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

    def _new_session(self, layers: Sequence[ir.Value], order: Order, feeds: Sequence[Feed]) -> _Session:
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
        return _Session(self._model, self._spec, full, built, self._options)

    def _learn(self, layers: Sequence[ir.Value], order: Order, feeds: Sequence[Feed]) -> None:
        """Remember which of some layers have no gradient, since a rule refuses its node there."""
        for layer in layers:
            plain = Order(order.scores, (layer.name or "",), alone=order.alone, titles=("",))
            try:
                build(self._model, plain, feeds)
            except MethodNotPossible as error:
                self._outlooks[layer] = Outlook(str(error))


class _Session:
    """One graph with gradients, loaded."""

    def __init__(self, loaded: Loaded, spec: InputSpec, order: Order, built: Built, options: Mapping[str, Any]) -> None:
        self._spec, self._order, self._built = spec, order, built
        model = built.model
        scores = next(v for node in model.graph for v in node.outputs if v.name == order.scores)
        if not scores.is_graph_output():
            model.graph.outputs.append(scores)
        self._runner = Runner(model, "images", folder=loaded.folder, **options)

    def __call__(self, images: Floats, given: Any) -> Pulled:
        order, built = self._order, self._built
        kinds = ("features", "gradients", "curvatures", "maps")
        names = [order.scores, *(n for kind in kinds for n in getattr(built, kind))]
        names += [built.classes] if built.classes else []
        results = self._runner(names, self._feed(images, given), batch=self._spec.shape[0])
        found = dict(zip(names, results, strict=True))
        scores = as_rows(found[order.scores], order.scores)
        parts: dict[str, Any] = {kind: tuple(_float(found[n]) for n in getattr(built, kind)) for kind in kinds}
        return Pulled(scores, found.get(built.classes), **parts)

    def _feed(self, images: Floats, given: Any) -> dict[str, NDArray[Any]]:
        rows = given if self._order.several else given[:, 0]
        name, dtype = (SLOPES, np.float32) if self._order.target is None else (CLASS, np.int32)
        return {self._spec.name: images.astype(self._spec.dtype, copy=False), name: rows.astype(dtype)}


def _joined(parts: Sequence[Pulled]) -> Pulled:
    """The classes of several runs side by side."""

    def beside(kind: str) -> tuple[Floats, ...]:
        columns = zip(*(getattr(part, kind) for part in parts), strict=True)
        return tuple(np.concatenate(column, axis=1) for column in columns)

    classes = (
        None
        if parts[0].classes is None
        else np.concatenate([p.classes for p in parts if p.classes is not None], axis=1)
    )
    return replace(
        parts[0],
        classes=classes,
        gradients=beside("gradients"),
        curvatures=beside("curvatures"),
        maps=beside("maps"),
    )


def _float(array: NDArray[Any]) -> Floats:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
