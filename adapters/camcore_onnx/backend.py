"""Evidence from an ONNX model in ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Evidence, InputSpec, Layer, Tap, milestones
from camcore.head import LinearHead
from camcore.layout import POOLED_PREFIX, Layout
from camcore.methods import cam
from camcore.preprocess import Preprocess
from camcore.scores import Classes, choose_classes, top_count
from camcore_onnx.axes import Axes, is_map
from camcore_onnx.constants import Constants
from camcore_onnx.folded import find_folded_head, may_be_maps, state_folded
from camcore_onnx.gradients.differentiator import Differentiator
from camcore_onnx.gradients.finish import can_finish
from camcore_onnx.gradients.observer import Observer
from camcore_onnx.heads import Found, find_head
from camcore_onnx.layers import find_layer, is_inner, operator_of
from camcore_onnx.layouts import token_features
from camcore_onnx.metadata import read_card
from camcore_onnx.plain import without_map
from camcore_onnx.ports import image_input, score_outputs
from camcore_onnx.reading.load import Loaded, infer_shapes, load
from camcore_onnx.running.runtime import device_of, placement
from camcore_onnx.running.sessions import Watcher
from camcore_onnx.second import read_second_weight
from camcore_onnx.shapes import lengths_of
from camcore_onnx.tails import Tail, TailSession, tails_of
from camcore_onnx.unfold.integers import float_of, whole_of

if TYPE_CHECKING:
    from camcore.methods import Method
    from camcore.targets import Target

__all__ = ["OnnxBackend"]

Floats = NDArray[np.floating[Any]]
_TOLERANCE = {"FLOAT": 1e-3, "DOUBLE": 1e-3, "FLOAT16": 2e-2, "BFLOAT16": 5e-2}


class OnnxBackend:
    """An ONNX classifier.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"``, ``"tensorrt"`` or another of
        :data:`camcore_onnx.running.providers.PROVIDERS`; ``.device`` says what it is in the end.
    threads : int, optional
        Threads within an operator.
    output : str, optional
        The output with the class scores; the first that has a linear head, else the first, where absent.
    optimization : str
        ONNX Runtime's graph optimisation: ``disabled``, ``basic``, ``extended``, ``layout`` or ``all``.
    grid : tuple of int, optional
        How tokens lie on the picture, (rows, columns); found where absent.
    prefix : int, optional
        How many tokens in front are not of the picture (class, register); found where absent.
    provider_options : mapping, optional
        Of ONNX Runtime's execution provider, such as ``{"gpu_mem_limit": 2 << 30}`` or, for TensorRT,
        ``{"trt_engine_cache_path": "engines"}``.
    strict : bool
        Whether operators that the device has no kernel for are an error; ``.placement`` counts them where they are not.
    tf32 : bool
        Whether CUDA may round factors to 10 bits; off where its numbers are compared with others.
    cuda_graph : bool
        Whether CUDA records the forward pass and replays it: for batches of one size, or a few.

    Notes
    -----
    The model is edited in memory: the features, the scores before a final softmax, and the maps of the best classes
    become outputs. One session for each choice of layers is made when it is first needed, and is shared by all threads;
    so is one for the rest of the network behind a layer.
    """

    kind = "onnx"
    fixed = True
    gives = frozenset({"features", "head", "class_maps", "gradients", "curvature", "maps", "tail", "model"})

    def __init__(
        self,
        model: Any,
        *,
        device: str = "auto",
        threads: int | None = None,
        output: str | None = None,
        optimization: str = "all",
        grid: tuple[int, ...] | None = None,
        prefix: int | None = None,
        provider_options: Mapping[str, Any] | None = None,
        strict: bool = False,
        tf32: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        self.loaded: Loaded = load(model)
        self._options: dict[str, Any] = {"device": device, "threads": threads, "optimization": optimization}
        self._options |= {"provider_options": provider_options, "strict": strict, "tf32": tf32}
        self._cuda_graph = cuda_graph
        self._output = output
        self._tokens: dict[str, Any] = {"grid": grid, "prefix": prefix}
        self._watchers: dict[tuple[ir.Value, ...], Watcher] = {}
        self._tails: dict[ir.Value, TailSession] = {}
        self._names: dict[str, ir.Value] = {}
        self._lock = threading.Lock()
        infer_shapes(self.loaded.model)
        card, self.complaints = read_card(self.loaded.model.metadata_props)
        self.card = card
        if card.cam is not None:
            self.loaded = without_map(self.loaded, card.cam)
        self.labels: tuple[str, ...] | None = card.labels
        self.preprocess: Preprocess | None = card.preprocess
        if card.second_weight is not None:
            self.gives |= {"second_weight"}
        self.input: InputSpec = image_input(self.loaded)

    @property
    def graph(self) -> ir.Graph:
        """The graph as it came."""
        return self.loaded.model.graph

    @property
    def device(self) -> str:
        """Where it runs: ``"cpu"``, ``"cuda"`` or another device's name."""
        return device_of(self._session)

    @property
    def placement(self) -> Mapping[str, int]:
        """How many operators each execution provider runs; empty on the CPU, where all run there."""
        return dict(placement(self._session) or {})

    @property
    def _session(self) -> Any:
        """Any that is loaded."""
        loaded = self.differentiator.session
        return self._any_watcher().session if loaded is None else loaded

    @cached_property
    def constants(self) -> Constants:
        return Constants(self.loaded)

    @cached_property
    def found(self) -> Found:
        """The head and the features it reads, or what stands in its way and the last feature map.

        Where a class token is read, that is the tokens one attention before, for behind it the patches do not matter.
        """
        state_folded(self.loaded)
        outputs = score_outputs(self.loaded, self._output)
        tries = [find_head(value, self.constants) for value in outputs]
        if all(f.head is None for f in tries):
            tries = [find_folded_head(value, self.loaded) or f for value, f in zip(outputs, tries, strict=True)]
        found = next((f for f in tries if f.head is not None), tries[0])
        if found.head is not None:
            return found
        features = token_features(found.logits, self.constants) or found.features
        return replace(found, features=None if features is None else float_of(self.loaded.model, features))

    @cached_property
    def second_weight(self) -> Floats:
        """The (K, C) weight of the second classifier that the model says to hold."""
        return read_second_weight(self.loaded, self.constants, self.card.second_weight or "")

    @cached_property
    def axes(self) -> Axes:
        """How the tensors hold their maps."""
        return Axes(self.found, self.constants, **self._tokens)

    @cached_property
    def differentiator(self) -> Differentiator:
        """What gives gradients."""
        return Differentiator(self.loaded, self.input, self.found, **self._options)

    @cached_property
    def _observer(self) -> Observer:
        return Observer(self.differentiator, self.found, self.axes, self.scores)

    def tap(self, layer: str | None = None, example: Floats | None = None) -> Tap:
        """The features of ``layer`` and the head behind them; see :class:`camcore.Tap`."""
        found, value = self.found, self.value(layer)
        tap = Tap(
            layer=value.name or "",
            head=found.head,
            how=found.how,
            obstacle=found.obstacle,
            scores_are=found.scores_are,
            shape=self._shape(value, example),
            slack=found.slack,
            span=found.span,
            tolerance=self._tolerance(),
            no_gradient=self.differentiator.obstacle(whole_of(value)),
        )
        if self.axes.pools_prefix(value):
            return replace(tap, head=None, how="", obstacle=POOLED_PREFIX)
        if found.head is None or found.reads(value):
            return tap
        read = found.features.name if found.features is not None else ""
        why = f"the head does not read {layer!r} but {read!r}; CAM is defined only there: leave layer out."
        return replace(tap, head=None, how="", obstacle=why)

    def value(self, layer: str | None = None) -> ir.Value:
        """The tensor that a layer's name means; the features that the head reads for None."""
        value = self.found.features if layer is None else self._named(layer)
        if value is None:
            raise HeadNotFound(f"{self.found.obstacle} Nor is there any feature map with spatial axes on that way.")
        return value

    def _named(self, layer: str) -> ir.Value:
        """Each name is looked up once: that takes as long as a small network."""
        if layer not in self._names:
            value = find_layer(self.graph, layer)
            with self._lock:
                self._names[layer] = float_of(self.loaded.model, value)
        return self._names[layer]

    def layout(self, layer: str | None = None, size: tuple[int, ...] | None = None) -> Layout:
        """How a layer holds its maps; for tokens ``size`` is that of the images, where the model takes any."""
        value, space = self.value(layer), size or tuple(n for n in self.input.shape[2:] if n is not None)
        try:
            return self.axes.of(value, None, space)
        except InputError:
            example = np.zeros((1, self.input.channels or 3, *space), np.float32)
            native = self._watch((value,)).fetch(example, [value.name or ""])[1][value.name or ""]
            return self.axes.of(value, native.shape[1], space)

    def layers(self) -> list[Layer]:
        """The last tensor of each map size that ends a block, and the features; of those whose axes are known."""
        found = self.found.features
        floats = may_be_maps(self.graph, self.input.shape[0], found)
        ends = [v for v in floats if v is found or not (self.constants.is_constant(v) or is_inner(v))]
        shapes = [(v, self._shape(v) if v is found else self.axes.shape(v)) for v in ends]
        axes = len(self.input.shape) - 1  # maps of fewer are flat
        maps = [
            Layer(v.name or "", s, operator_of(v)) for v, s in shapes if is_map(s) and (v is found or len(s) == axes)
        ]
        return milestones(maps, (found.name or "") if found else "")

    def observe(
        self,
        images: Floats,
        *,
        needs: frozenset[str],
        layers: Sequence[str | None] = (None,),
        classes: Classes = None,
        labels: Sequence[str] | None = None,
        target: Target | None = None,
    ) -> list[Evidence]:
        """One forward pass; see :class:`camcore.Backend`."""
        if needs & {"gradients", "curvature"}:
            values = [whole_of(self.value(layer)) for layer in layers]
            names = self.labels if labels is None else labels
            found = self._observer.evidence(images, values, classes, names, target, bends="curvature" in needs)
            return [replace(e, head=self.found.head if "head" in needs else None) for e in found]
        watcher = self._watcher(layers if needs & {"features", "class_maps"} else (None,))
        top = top_count(classes) if "class_maps" in needs and watcher.gives_maps else 0
        by_hand = "class_maps" in needs and not top
        features = "features" in needs or by_hand or (top > 0 and not watcher.knows_map_size(images))
        seen = watcher(images, features=features, top=top)
        chosen = seen.classes if top else None
        if chosen is None:
            chosen = choose_classes(seen.scores, classes, self.labels if labels is None else labels)
        first = Evidence(
            scores=seen.scores,
            classes=chosen,
            head=self.found.head if "head" in needs else None,
            class_maps=seen.maps,
        )
        if seen.features is None:
            return [first for _ in layers]
        found = [replace(first, features=features) for features in seen.features]
        return [replace(e, class_maps=self._summed(e)) for e in found] if by_hand else found

    def finishes(self, method: Method, target: Target) -> bool:
        """Whether the graph makes a method's maps; see :class:`camcore.evidence.Finisher`."""
        return bool(target.code) and can_finish(method)

    def finished(
        self,
        images: Floats,
        method: Method,
        target: Target,
        *,
        layers: Sequence[str | None] = (None,),
        classes: Classes = None,
        labels: Sequence[str] | None = None,
    ) -> list[Evidence]:
        """The raw maps of each layer, made in the graph; see :class:`camcore.evidence.Finisher`."""
        names = self.labels if labels is None else labels
        return self._observer.maps(
            images, [whole_of(self.value(layer)) for layer in layers], classes, names, target, method
        )

    def scores(self, images: Floats) -> Floats:
        """(N, K) scores, before a final softmax."""
        return self._any_watcher()(images).scores

    def tails(self, images: Floats, layer: str | None = None) -> list[Tail]:
        """The rest of the network behind ``layer``, one for each image: (M, C, *S) features -> (M, K) scores.

        Raises
        ------
        MethodNotPossible
            If the graph cannot be cut there, or what is cut off does not reproduce the scores.
        """
        value = self.value(layer)
        with self._lock:
            if value not in self._tails:
                self._tails[value] = TailSession(self.loaded, self.input, self.found, value, **self._options)
            session = self._tails[value]
        return tails_of(images, session, self._watch(session.watched), self.axes)

    def _summed(self, seen: Evidence) -> Floats:
        """The class maps by NumPy, where the graph cannot give them."""
        assert seen.features is not None  # asked for
        assert isinstance(self.found.head, LinearHead)  # the planner has seen to that
        return cam(seen.features, self.found.head, seen.classes)

    def _shape(self, value: ir.Value, example: Floats | None = None) -> tuple[int | None, ...]:
        """(C, *S); a run shows what the graph does not state and the size of the images fixes. Empty if not known."""
        fixed = self._example()
        try:
            layout, native = self.axes.of(value), lengths_of(value)[1:]
        except InputError:
            images = fixed if example is None else example[:1]
            return () if images is None else self._seen_shape(value, images)
        shape = layout.shape([n if isinstance(n, int) else None for n in native]) if native else ()
        return self._seen_shape(value, fixed) or shape if None in shape and fixed is not None else shape

    def _seen_shape(self, value: ir.Value, images: Floats) -> tuple[int | None, ...]:
        name = value.name or ""
        try:
            native = self._watch((value,)).fetch(images, [name])[1][name].shape
            return self.axes.of(value, native[1], images.shape[2:]).shape(native[1:])
        except InputError:  # told again, and to the end, where features are asked for
            return ()

    def _example(self) -> Floats | None:
        """An empty image, where the model takes one size only."""
        size = tuple(n for n in self.input.shape[1:] if n is not None)
        return np.zeros((1, *size), np.float32) if len(size) == len(self.input.shape) - 1 else None

    def _tolerance(self) -> float:
        """Of the coarser of what the head reads and gives: behind a cast, float32 holds what float16 has rounded."""
        dtypes = (v.dtype for v in (self.found.logits, self.found.features) if v is not None)
        return max(1e-3 if dtype is None else _TOLERANCE.get(dtype.name, 1e-3) for dtype in dtypes)

    def _any_watcher(self) -> Watcher:
        """One that is there already, since all give the scores; a session holds the weights once more."""
        return next(iter(list(self._watchers.values())), None) or self._watcher((None,))

    def _watcher(self, layers: Sequence[str | None]) -> Watcher:
        """The session that watches some layers; for the head's features, if there are any, and the scores: (None,)."""
        if list(layers) == [None] and self.found.features is None:
            return self._watch(())
        return self._watch(tuple(self.value(layer) for layer in layers))

    def _watch(self, values: tuple[ir.Value, ...]) -> Watcher:
        if values not in self._watchers:
            with self._lock:
                if values not in self._watchers:
                    self._watchers[values] = self._new_watcher(values)
        return self._watchers[values]

    def _new_watcher(self, values: tuple[ir.Value, ...]) -> Watcher:
        options = {**self._options, "cuda_graph": self._cuda_graph}
        return Watcher(self.loaded, self.input, self.found, values, axes=self.axes, **options)
