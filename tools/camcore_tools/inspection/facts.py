"""All that there is to know of a model, as one plain document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore.errors import CamError
from camcore.evidence import Backend, Layer, Tap
from camcore.opening import open_backend
from camcore_tools.inspection.costs import methods_of
from camcore_tools.inspection.metadata import describe_metadata, embedded

if TYPE_CHECKING:
    from camcore_onnx.counting.census import Census
    from camcore_onnx.counting.compute import Compute
    from camcore_onnx.reading.load import Loaded

__all__ = ["Subject", "describe", "look_at"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is looked at.

    Attributes
    ----------
    backend : Backend or None
        None for an ONNX model that cannot be explained; ``obstacle`` then says why.
    loaded : Loaded or None
        An ONNX model as it is in its file: ``backend`` explains it without a map that is inside.
    census : Census or None
    compute : Compute or None
        What an ONNX model is made of, and what it costs.
    explained : Compute or None
        What that costs which ``backend`` explains.
    size : tuple of int
        That of the images that compute is counted for, where the model takes any.
    """

    backend: Backend | None
    loaded: Loaded | None
    census: Census | None = None
    compute: Compute | None = None
    explained: Compute | None = None
    obstacle: str = ""
    size: tuple[int, ...] = ()


def look_at(model: Any, *, device: str = "auto", size: Sequence[int] = ()) -> Subject:
    """Open a model; an ONNX file that is no image classifier is looked at all the same.

    Raises
    ------
    CamError
        For what cannot be read.
    """
    try:
        backend: Backend | None = open_backend(model, device=device)
        obstacle = ""
    except CamError as error:
        if not isinstance(model, str) or not model.lower().endswith(".onnx"):
            raise
        backend, obstacle = None, str(error)
    loaded: Loaded | None = getattr(backend, "loaded", None)
    if backend is not None and loaded is None:
        return Subject(backend, None, size=tuple(size))
    from camcore_onnx.counting.census import take_census
    from camcore_onnx.counting.compute import count_macs, state_lengths
    from camcore_onnx.folded import state_folded

    recorded = None if backend is None or backend.preprocess is None else backend.preprocess.size
    lengths = tuple(size) or tuple(recorded or ())
    if loaded is not None:
        state_folded(loaded)
    inside = backend is None or getattr(backend, "card").cam is not None  # noqa: B009
    whole = _loaded(model) if loaded is None or inside else loaded
    census, compute = take_census(whole), count_macs(whole, size=lengths)
    explained = compute if loaded is whole or loaded is None else count_macs(loaded, size=lengths)
    if loaded is not None:
        state_lengths(loaded, explained)
    return Subject(backend, whole, census, compute, explained, obstacle, lengths)


def _loaded(model: str) -> Loaded:
    from camcore_onnx.reading.load import infer_shapes, load

    loaded = load(model)
    infer_shapes(loaded.model)
    return loaded


def describe(subject: Subject, layer: str | None = None) -> dict[str, Any]:
    """All facts as a plain dict; see :mod:`camcore_tools.inspection` for its keys.

    Parameters
    ----------
    subject : Subject
    layer : str, optional
        The layer to plan methods for; that which the head reads where absent.

    Raises
    ------
    CamError
        If ``layer`` is given and is not there.
    """
    backend = subject.backend
    document: dict[str, Any] = {"kind": "onnx" if backend is None else backend.kind, **_model(subject)}
    if backend is None:
        nothing = {"input": None, "layer": None, "head": None, "second classifier": None, "labels": None}
        return document | nothing | {"obstacle": subject.obstacle, "preprocess": None, "layers": [], "methods": {}}
    document["input"] = {"name": backend.input.name, "shape": list(backend.input.shape), "type": backend.input.dtype}
    tap, obstacle = _tap(backend, layer, _example(subject))
    costs = _Costs(subject)
    document |= {"compute": costs.document, "obstacle": obstacle}
    facts = None if tap is None else {"name": tap.layer, "shape": list(tap.shape), **_gradient(backend, tap.layer)}
    document["layer"] = None if tap is None or facts is None else facts | costs.behind(tap.layer)
    document["head"] = None if tap is None or tap.head is None else {"how": tap.how, "form": repr(tap.head)}
    document["second classifier"] = _second(backend)
    document["layers"] = [
        {"name": e.name, "shape": list(e.shape), "made by": e.op, **_gradient(backend, e.name), **costs.behind(e.name)}
        for e in _candidates(backend)
    ]
    share = None if document["layer"] is None else document["layer"]["share behind"]
    document["methods"] = {} if tap is None else methods_of(backend, layer, share)
    document["labels"] = None if backend.labels is None else len(backend.labels)
    document["preprocess"] = None if backend.preprocess is None else backend.preprocess.to_json()
    return document


def _tap(backend: Backend, layer: str | None, example: Any) -> tuple[Tap | None, str | None]:
    """The features, or why there are none; a layer that was asked for must be there."""
    try:
        return backend.tap(layer, example), None
    except CamError as error:
        if layer is not None:
            raise
        return None, str(error)


def _candidates(backend: Any) -> list[Layer]:
    """The layers that the scores depend on: a file with a CAM in it has others."""
    if getattr(backend, "loaded", None) is None:
        return list(backend.layers())
    from camcore_onnx.tails import reached
    from camcore_onnx.unfold.integers import whole_of

    logits = backend.found.logits
    return [e for e in backend.layers() if logits in reached(backend.graph, [whole_of(backend.value(e.name))])]


def _example(subject: Subject) -> Any:
    """Noise of the size that was asked for, by which a PyTorch network is understood."""
    backend = subject.backend
    if subject.loaded is not None or backend is None or not subject.size or len(backend.input.shape) < 3:
        return None
    axes = len(backend.input.shape) - 2
    lengths = [*subject.size, *subject.size[-1:] * axes][:axes]
    random = np.random.default_rng(0)
    return random.standard_normal((1, backend.input.channels or 3, *lengths)).astype(np.float32)


class _Costs:
    """How much of the compute lies behind a layer, in ONNX graphs and in PyTorch modules."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._behind: Mapping[str, int] = {}
        self.total: int | None = None
        if subject.compute is not None:
            explained = subject.explained or subject.compute
            self.total, self.document = explained.total, _compute(subject.compute)
        else:
            self.document = self._of_torch(subject.backend)

    def _of_torch(self, backend: Any) -> dict[str, Any]:
        if getattr(backend, "kind", "") != "torch":
            return {"macs": None, "for": {}, "not counted": [], "problem": "not known of such models"}
        from camcore_torch.compute import count_macs

        try:
            found = count_macs(backend)
        except CamError as error:
            return {"macs": None, "for": {}, "not counted": [], "problem": str(error)}
        self.total, self._behind = found.total, found.behind
        shapes = {backend.input.name: list(found.shape)}
        return {"macs": found.total, "for": shapes, "not counted": list(found.missing), "problem": None}

    def behind(self, layer: str) -> dict[str, Any]:
        """``macs behind`` and ``share behind``."""
        macs = self._in_graph(layer) if self._subject.explained is not None else self._behind.get(layer)
        share = macs / self.total if macs is not None and self.total else None
        return {"macs behind": macs, "share behind": None if share is None else round(share, 6)}

    def _in_graph(self, layer: str) -> int | None:
        from camcore_onnx.unfold.integers import whole_of

        backend: Any = self._subject.backend
        assert self._subject.explained is not None
        return self._subject.explained.behind(backend.graph, whole_of(backend.value(layer)), backend.found.logits)


def _compute(compute: Compute) -> dict[str, Any]:
    shapes = {name: list(shape) for name, shape in compute.shapes.items()}
    rest = {"not counted": list(compute.missing), "problem": compute.problem or None}
    return {"macs": compute.total, "for": shapes, **rest}


def _second(backend: Backend) -> dict[str, Any] | None:
    """The weight of a second classifier, where the model has one; a file may say so and have none."""
    if "second_weight" not in backend.gives:
        return None
    try:
        weight = getattr(backend, "second_weight", None)  # backends from elsewhere may give it with the evidence only
        return {"weight": None if weight is None else list(weight.shape), "problem": None}
    except CamError as error:
        return {"weight": None, "problem": str(error)}


def _gradient(backend: Backend, layer: str) -> dict[str, Any]:
    """Whether a layer has a gradient: why not, and which operators make it an approximation."""
    differentiator = getattr(backend, "differentiator", None)
    if differentiator is None:  # its framework differentiates
        return {"gradient": True, "no gradient": None, "approximate": []}
    value = backend.value(layer)  # type: ignore[attr-defined]  # of an ONNX backend
    why = differentiator.obstacle(value)
    return {"gradient": not why, "no gradient": why or None, "approximate": list(differentiator.approximate(value))}


def _model(subject: Subject) -> dict[str, Any]:
    census = subject.census
    if subject.loaded is None or census is None:
        return _module(subject.backend)
    model, weights = subject.loaded.model, census.weights
    return {
        "file": subject.loaded.name,
        "bytes": subject.loaded.size,
        "external files": dict(weights.files),
        "producer": model.producer_name or "",
        "producer version": model.producer_version or "",
        "ir version": model.ir_version,
        "opset": dict(model.opset_imports),
        "nodes": sum(census.operators.values()),
        "operators": dict(census.operators),
        "parameters": weights.parameters,
        "precision": census.precision,
        "weights": dict(weights.by_type),
        "initializers": {"count": weights.initializers, "bytes": weights.bytes, "external bytes": weights.external},
        "inputs": [_port(p) | {"optional": p.optional} for p in census.inputs],
        "outputs": [_port(p) for p in census.outputs],
        "compute": _compute(subject.compute) if subject.compute is not None else None,
        "embedded": embedded(model.metadata_props),
        "metadata": describe_metadata(model.metadata_props),
        "complaints": list(getattr(subject.backend, "complaints", ())),
    }


def _port(port: Any) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": list(port.shape)}


def _module(backend: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"device": backend.device}
    if backend.kind != "torch":
        return document
    from camcore_torch.census import take_census

    census = take_census(backend.model)
    facts: dict[str, Any] = {
        "class": census.name,
        "modules": dict(census.modules),
        "parameters": census.parameters,
        "trainable parameters": census.trainable,
        "precision": census.precision,
        "weights": dict(census.by_type),
    }
    return document | facts
