"""Evidence from an ONNX model in ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Evidence, InputSpec, Layer, Tap, milestones
from camcore.preprocess import Preprocess
from camcore.scores import Classes, choose_classes
from camcore_onnx.constants import Constants
from camcore_onnx.heads import Found, find_head
from camcore_onnx.layers import find_layer, module_path
from camcore_onnx.load import Loaded, infer_shapes, load, serialize
from camcore_onnx.metadata import read_card
from camcore_onnx.runtime import device_of, make_session
from camcore_onnx.surgery import add_outputs

__all__ = ["OnnxBackend"]

Floats = NDArray[np.floating[Any]]
_TOLERANCE = {"FLOAT": 1e-3, "DOUBLE": 1e-3, "FLOAT16": 2e-2, "BFLOAT16": 5e-2}
_NUMPY = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "UINT8": "uint8"}


@dataclass(frozen=True, eq=False)
class _Run:
    """A session that returns the scores and, at ``features``, the tapped tensor."""

    session: Any
    scores: str
    features: str | None
    channel_axis: int


class OnnxBackend:
    """An ONNX classifier.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; ``.device`` says what it is in the end.
    threads : int, optional
        Threads within an operator.
    output : str, optional
        The output with the class scores; the first that has a linear head, else the first, where absent.
    optimization : str
        ONNX Runtime's graph optimisation: ``disabled``, ``basic``, ``extended``, ``layout`` or ``all``.

    Notes
    -----
    The model is edited in memory: the features, and the scores before a final softmax, become outputs. One session a
    layer is made when it is first needed, and is shared by all threads.
    """

    kind = "onnx"
    fixed = True

    def __init__(
        self,
        model: Any,
        *,
        device: str = "auto",
        threads: int | None = None,
        output: str | None = None,
        optimization: str = "all",
    ) -> None:
        self.loaded: Loaded = load(model)
        self._options: dict[str, Any] = {"device": device, "threads": threads, "optimization": optimization}
        self._output = output
        self._runs: dict[str | None, _Run] = {}
        self._lock = threading.Lock()
        self._busy = threading.Lock()  # CUDA sessions run one call at a time
        infer_shapes(self.loaded.model)
        card, self.complaints = read_card(self.loaded.model.metadata_props)
        self.card = card
        self.labels: tuple[str, ...] | None = card.labels
        self.preprocess: Preprocess | None = card.preprocess
        self.input: InputSpec = _image_input(self.loaded)

    @property
    def graph(self) -> ir.Graph:
        """The graph as it came."""
        return self.loaded.model.graph

    @property
    def device(self) -> str:
        """Where it runs: ``"cpu"`` or ``"cuda"``."""
        return device_of(self._run(None).session)

    @cached_property
    def constants(self) -> Constants:
        return Constants(self.loaded)

    @cached_property
    def found(self) -> Found:
        """The head and the features it reads, or what stands in its way."""
        outputs = _score_outputs(self.loaded, self._output)
        tries = [find_head(value, self.constants) for value in outputs]
        return next((f for f in tries if f.head is not None), tries[0])

    def tap(self, layer: str | None = None, example: Floats | None = None) -> Tap:
        """The features of ``layer`` and the head behind them; see :class:`camcore.Tap`."""
        found = self.found
        value = found.features if layer is None else find_layer(self.graph, layer)
        if value is None:
            raise HeadNotFound(f"{found.obstacle} Nor is there any feature map with spatial axes on that way.")
        tap = Tap(
            layer=value.name or "",
            head=found.head,
            how=found.how,
            obstacle=found.obstacle,
            shape=_features_shape(value, found.channel_axis if value is found.features else 1),
            slack=found.slack,
            tolerance=self._tolerance(),
        )
        if found.head is None or self._is_read_by_head(value):
            return tap
        read = found.features.name if found.features is not None else ""
        why = f"the head does not read {layer!r} but {read!r}; CAM is defined only there: leave layer out."
        return replace(tap, head=None, how="", obstacle=why)

    def layers(self) -> list[Layer]:
        """The last tensor of each map size that ends a block, and the features."""
        found = self.found.features
        maps = [v for v in self._maps() if v is found or not (self.constants.is_constant(v) or _is_side_branch(v))]
        return milestones(
            [Layer(v.name or "", _features_shape(v), _op(v)) for v in maps], (found.name or "") if found else ""
        )

    def observe(
        self,
        images: Floats,
        *,
        needs: frozenset[str],
        layer: str | None = None,
        classes: Classes = None,
        labels: Sequence[str] | None = None,
    ) -> Evidence:
        """One forward pass; see :class:`camcore.Backend`."""
        run = self._run(layer if "features" in needs else None, features="features" in needs)
        scores, features = self._forward(run, images)
        return Evidence(
            scores=scores,
            classes=choose_classes(scores, classes, self.labels if labels is None else labels),
            features=features,
            head=self.found.head if "head" in needs else None,
        )

    def scores(self, images: Floats) -> Floats:
        """(N, K) scores, before a final softmax."""
        return self._forward(self._run(None, features=False), images)[0]

    def _maps(self) -> list[ir.Value]:
        return [
            v
            for node in self.graph
            for v in node.outputs
            if v.shape is not None
            and len(v.shape) in (3, 4, 5)
            and v.dtype is not None
            and v.dtype.name in _TOLERANCE
            and not all(n == 1 for n in v.shape[2:])
        ]

    def _tolerance(self) -> float:
        dtype = self.found.logits.dtype
        return _TOLERANCE.get(dtype.name, 1e-3) if dtype is not None else 1e-3

    def _is_read_by_head(self, value: ir.Value) -> bool:
        """Whether nothing but copies and casts stands between ``value`` and the features."""
        at = self.found.features
        while at is not None and at is not value:
            node = at.producer()
            at = node.inputs[0] if node is not None and node.op_type in ("Identity", "Cast", "Dropout") else None
        return at is value

    def _run(self, layer: str | None, *, features: bool = True) -> _Run:
        key = layer if features else "\0scores"
        if key not in self._runs:
            with self._lock:
                if key not in self._runs:
                    self._runs[key] = self._make_run(layer, features)
        return self._runs[key]

    def _make_run(self, layer: str | None, features: bool) -> _Run:
        found = self.found
        value = None if not features else found.features if layer is None else find_layer(self.graph, layer)
        wanted = [v for v in (found.logits, value) if v is not None]
        model = add_outputs(self.loaded, {v.name or "": v for v in wanted})
        session = make_session(serialize(model), folder=self.loaded.folder, **self._options)
        axis = found.channel_axis if value is found.features else 1
        return _Run(session, found.logits.name or "", None if value is None else value.name, axis)

    def _forward(self, run: _Run, images: Floats) -> tuple[Floats, Floats | None]:
        names = [run.scores] if run.features is None else [run.scores, run.features]
        batch = self.input.shape[0]
        size = len(images) if batch is None else batch
        parts = [self._run_part(run, names, images[i : i + size], size) for i in range(0, len(images), size)]
        whole = parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]
        scores = _as_rows(whole[0], self.found.logits.name or "")
        return scores, None if run.features is None else _channels_first(_float(whole[1]), run.channel_axis)

    def _run_part(self, run: _Run, names: list[str], images: Floats, size: int) -> list[NDArray[Any]]:
        count = len(images)
        if count < size:  # a model of fixed batch size: fill up, and drop again
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        feed = {self.input.name: np.ascontiguousarray(images, dtype=self.input.dtype)}
        try:
            if run.session.get_providers()[0] == "CPUExecutionProvider":
                results = run.session.run(names, feed)
            else:
                with self._busy:
                    results = run.session.run(names, feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            text = str(error).strip().splitlines()
            raise InputError(
                f"ONNX Runtime could not run images of shape {images.shape}: {text[0][:400] if text else error!r}"
            ) from error
        return [r[:count] for r in results] if count < size else list(results)


def _image_input(loaded: Loaded) -> InputSpec:
    graph = loaded.model.graph
    inputs = [v for v in graph.inputs if v.name not in graph.initializers]
    images = [
        v
        for v in inputs
        if v.dtype is not None and v.dtype.name in _NUMPY and v.shape is not None and len(v.shape) >= 3
    ]
    listed = ", ".join(f"{v.name!r} {_shown(v)}" for v in inputs) or "none"
    if not images:
        raise InputError(f"{loaded.name}: no image input: expected floats (N, C, *S), the model takes {listed}")
    if len(inputs) > 1:
        raise InputError(
            f"{loaded.name}: {len(inputs)} inputs ({listed}); expected one image input: fix the others first"
        )
    value = images[0]
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in value.shape or ())
    return InputSpec(value.name or "", shape, _NUMPY[value.dtype.name if value.dtype is not None else "FLOAT"])


def _shown(value: ir.Value) -> str:
    shape = "?" if value.shape is None else "[" + ", ".join(str(n) for n in value.shape) + "]"
    return f"{value.dtype.name.lower() if value.dtype is not None else '?'} {shape}"


def _score_outputs(loaded: Loaded, name: str | None) -> list[ir.Value]:
    outputs = list(loaded.model.graph.outputs)
    if name is not None:
        chosen = [v for v in outputs if v.name == name]
        if not chosen:
            raise InputError(f"{loaded.name}: no output {name!r}; it has {', '.join(repr(v.name) for v in outputs)}")
        return chosen
    rows = [v for v in outputs if v.shape is None or len(v.shape) <= 2 or all(n == 1 for n in v.shape[2:])]
    if not rows:
        listed = ", ".join(f"{v.name!r} {_shown(v)}" for v in outputs)
        raise InputError(f"{loaded.name}: no output with class scores (N, K); it gives {listed}")
    return rows


def _features_shape(value: ir.Value, axis: int = 1) -> tuple[int | None, ...]:
    if value.shape is None:
        return ()
    shape = [n if isinstance(n, int) else None for n in value.shape][1:]
    return tuple(shape if axis == 1 else [shape[-1], *shape[:-1]])


def _op(value: ir.Value) -> str:
    node = value.producer()
    if node is None:
        return ""
    path = module_path(node)
    return f"{node.op_type} ({path})" if path else node.op_type


def _is_side_branch(value: ir.Value) -> bool:
    """Read by nothing but one operator of the same block: a part of it, not its end."""
    inner = ("Concat", "Add", "Sum", "Mul", "BatchNormalization", "Relu", "Clip", "QuantizeLinear", "Slice", "Pad")
    users = {use.node for use in value.uses()}
    return len(users) == 1 and next(iter(users)).op_type in inner


def _as_rows(scores: NDArray[Any], name: str) -> Floats:
    flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[:, None]
    if scores.ndim > 2 and any(n != 1 for n in scores.shape[2:]):
        raise InputError(f"the scores {name!r} have shape {scores.shape}; expected (N, K)")
    return _float(flat)


def _float(array: NDArray[Any]) -> Floats:
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _channels_first(features: Floats, axis: int) -> Floats:
    return features if axis == 1 else np.moveaxis(features, axis, 1)
