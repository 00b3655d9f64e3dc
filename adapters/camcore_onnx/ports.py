"""Which input takes the images, and which outputs may have the scores."""

from __future__ import annotations

import math

import onnx_ir as ir

from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore_onnx.reading import limits
from camcore_onnx.reading.load import Loaded

__all__ = ["NUMPY_TYPES", "image_input", "score_outputs"]

_ADDED = ("cam_class", "cam_slopes")  # inputs that camcore_onnx.gradients.build writes
NUMPY_TYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "UINT8": "uint8"}


def image_input(loaded: Loaded) -> InputSpec:
    """The one input, which takes images; an answer where there are others."""
    graph = loaded.model.graph
    inputs = [v for v in graph.inputs if v.name not in graph.initializers]
    images = [
        v
        for v in inputs
        if v.dtype is not None and v.dtype.name in NUMPY_TYPES and v.shape is not None and len(v.shape) >= 3
    ]
    listed = ", ".join(f"{v.name!r} {_shown(v)}" for v in inputs) or "none"
    if not images:
        raise InputError(f"{loaded.name}: no image input: expected floats (N, C, *S), the model takes {listed}")
    added = [v.name for v in inputs if v.name in _ADDED]
    if added:
        raise InputError(
            f"{loaded.name}: it has gradients in it already (input {added[0]!r}); give the file that they were added "
            "to. This one is to be run in any runtime as it is"
        )
    if len(inputs) > 1:
        raise InputError(
            f"{loaded.name}: {len(inputs)} inputs ({listed}); expected one image input: fix the others first"
        )
    value = images[0]
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in value.shape or ())
    count = math.prod(n or 1 for n in shape)
    if count > limits.MAX_BATCH:
        raise limits.too_many(loaded.name, limits.rough(count), "numbers in a batch of images", "MAX_BATCH")
    if len(shape) > 3 and shape[-1] in (1, 3) and shape[1] not in (1, 3):
        raise InputError(
            f"{loaded.name}: the input {_shown(value)} has its channels last; expected (N, C, H, W). Convert the "
            "model with its inputs channels-first (tf2onnx: --inputs-as-nchw), or put a Transpose in front"
        )
    return InputSpec(value.name or "", shape, NUMPY_TYPES[value.dtype.name if value.dtype is not None else "FLOAT"])


def _shown(value: ir.Value) -> str:
    shape = "?" if value.shape is None else "[" + ", ".join(str(n) for n in value.shape) + "]"
    return f"{value.dtype.name.lower() if value.dtype is not None else '?'} {shape}"


def score_outputs(loaded: Loaded, name: str | None) -> list[ir.Value]:
    """The outputs that look like (N, K), or the one called ``name``."""
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
