"""A model for the browser: what differs there, and what the page must know to feed it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.inputs import fitting_names
from camcore.preprocess import Preprocess, preprocess
from camcore_tools.console import note

if TYPE_CHECKING:
    import onnx_ir as ir
    from camcore_onnx import OnnxBackend
    from camcore_onnx.reading.load import Loaded

__all__ = ["WebModel", "web_model"]

_QUANTISED = ("DequantizeLinear", "MatMulInteger", "ConvInteger", "QGemm")
_MOST = 1 << 30  # bytes; with what it computes, a browser tab has 4 GiB


@dataclass(frozen=True, eq=False)
class WebModel:
    """The file, its description for the page, and the names of the classes."""

    data: bytes
    description: dict[str, Any]
    labels: tuple[str, ...] | None


def web_model(source: Any) -> WebModel:
    """Make the model that the page runs.

    ONNX Runtime Web gives no value to an input that may be left out: ``cam_class`` must be given here. And the scores
    before a final softmax become an output.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        A model with its map inside, made with ``classes="input"``.

    Raises
    ------
    InputError
        If the model takes no pictures, has no such map inside, or is too large for a browser.
    """
    from camcore_onnx import OnnxBackend
    from camcore_onnx.reading.load import load

    backend = OnnxBackend(source, device="cpu")
    cam, channels = _checked(backend)
    rule = _rule(backend)
    model, scores = _changed(load(source), backend.found.logits, cam)
    data = _one_file(model, backend.loaded.name)
    size = _size(backend, rule)
    seen = _run(data, backend, cam, scores, (channels, *size))
    if seen[cam].ndim != 4:
        raise InputError(f"{backend.loaded.name}: its map has the shape {seen[cam].shape}; the page shows pictures")
    spec, classes = backend.input, seen[scores].size // len(seen[scores])
    description = {
        "bytes": len(data),
        "input": spec.name,
        "type": spec.dtype,
        "batch": spec.shape[0] or 1,
        "channels": channels,
        "preprocess": {**rule.to_json(), "size": list(size) if rule.resize != "none" or spec.size else None},
        "cam": cam,
        "classInput": f"{cam}_class",
        "scores": scores,
        "scoresAre": backend.found.scores_are,
        "classes": classes,
        "quantised": any(node.op_type in _QUANTISED or node.op_type.startswith("QLinear") for node in model.graph),
        "half": any(v.dtype is not None and v.dtype.name == "FLOAT16" for v in model.graph.initializers.values()),
        **{key: (backend.card.cam or {}).get(key) for key in ("method", "layer", "rectifies")},
    }
    return WebModel(data, description, fitting_names(backend.labels, classes))


def _checked(backend: OnnxBackend) -> tuple[str, int]:
    """The name of the map, and how many channels a picture must have."""
    card, name = backend.card.cam, backend.loaded.name
    if card is None or card.get("classes") != "input":
        which = "no map" if card is None else f"a map of classes {card.get('classes')!r}"
        raise InputError(f"{name}: has {which} inside; the page needs one made with classes='input'")
    spec = backend.input
    if len(spec.shape) != 4:
        raise InputError(f"{name}: its input has {len(spec.shape) - 2} spatial axes; the page shows pictures")
    if spec.channels not in (1, 3, None):
        raise InputError(f"{name}: takes {spec.channels} channels; a picture has 3, or 1 as grey")
    return str(card["name"]), spec.channels or 3


def _rule(backend: OnnxBackend) -> Preprocess:
    """What the model says, at the size that it takes."""
    if backend.preprocess is None:
        note("note: the model does not say how pictures become its input; taking --preprocess imagenet")
    rule = backend.preprocess or preprocess("imagenet")
    fixed = backend.input.size
    if fixed is not None and rule.size not in (None, fixed):
        raise InputError(
            f"{backend.loaded.name}: its preprocessing makes {rule.size}, its input takes {fixed}; give --preprocess"
        )
    return replace(rule, size=rule.size or fixed)


def _size(backend: OnnxBackend, rule: Preprocess) -> tuple[int, int]:
    return backend.input.size or rule.size or (224, 224)


def _changed(loaded: Loaded, logits: ir.Value, cam: str) -> tuple[ir.Model, str]:
    """The model as the browser needs it, and the output with the scores of all classes."""
    from camcore_onnx.surgery import add_outputs

    name = (logits.name or "") if logits.is_graph_output() else f"{cam}_all_scores"
    model = add_outputs(loaded, {name: logits})
    model.graph.initializers.pop(f"{cam}_class", None)
    return model, name


def _one_file(model: ir.Model, name: str) -> bytes:
    """The model with all its weights."""
    from camcore_onnx.reading.load import serialize
    from camcore_onnx.writing import take_in

    stored = (value.const_value for value in model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in stored if tensor is not None)
    if size > _MOST:
        raise InputError(f"{name}: {size / 1e6:.0f} MB of weights are too much for a browser; try --fp16")
    take_in(model)
    return serialize(model)


def _run(data: bytes, backend: OnnxBackend, cam: str, scores: str, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """What it gives for nothing: shapes that the graph need not state."""
    from camcore_onnx.running.runtime import make_session

    spec, session = backend.input, make_session(data, device="cpu", threads=1)
    feeds = {
        spec.name: np.zeros((spec.shape[0] or 1, *shape), spec.dtype),
        f"{cam}_class": np.array([-1], np.int32),
    }
    names = [scores, cam]
    return dict(zip(names, session.run(names, feeds), strict=True))
