"""Gradients of an ONNX file: against differences of the file itself, or against those of another model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore.errors import MethodNotPossible
from camcore_tools.verifying.models import Model

if TYPE_CHECKING:
    from camcore_onnx import OnnxBackend
    from camcore_onnx.gradients.check import Agreement

    Check = Callable[[str], Agreement]

__all__ = ["gradient_findings"]

_IMAGES = 3


def gradient_findings(file: Model, other: Model | None, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How well gradients agree at each layer.

    Raises
    ------
    MethodNotPossible
        If there is no layer that can be checked.
    """
    from camcore_onnx.checking.sandbox import tell

    backend: OnnxBackend = file.backend
    check, layers = _by_differences(backend, options) if other is None else _by_other(backend, other, options)
    tell({"total": len(layers), "label": "checking"})
    found = [a for layer in layers for a in _one(check, layer, usual=not options["layer"])]
    if not found:
        raise MethodNotPossible(f"no layer could be checked of {', '.join(layers) or 'none'}; choose one by --layer")
    return [_entry(a) for a in found]


def _by_differences(backend: OnnxBackend, options: Mapping[str, Any]) -> tuple[Check, list[str]]:
    """The check of a layer against the file itself, and the layers to check."""
    from camcore_onnx.gradients.check import against_differences

    images = _images(backend, options)
    layers = options["layer"] or [layer.name for layer in backend.layers()]
    return lambda layer: against_differences(backend, layer, images, **_limits(options)), layers


def _by_other(backend: OnnxBackend, other: Model, options: Mapping[str, Any]) -> tuple[Check, list[str]]:
    """The check of a layer against that of the same name in the other model, and the layers that both name."""
    from camcore_onnx.gradients.check import against_reference
    from camcore_onnx.layers import module_paths

    images, network = _images(backend, options), other.backend
    network.tap(None, images)
    known = {*module_paths(list(backend.graph))} if other.is_torch else {layer.name for layer in backend.layers()}
    layers = options["layer"] or [layer.name for layer in network.layers() if layer.name in known]

    def reference(images: Any, layer: str, classes: Any) -> tuple[Any, Any]:
        needs = frozenset({"features", "gradients"})
        seen = network.observe(images, needs=needs, layers=[layer], classes=classes[:, None])[0]
        assert seen.gradients is not None  # asked for
        return seen.need_features(), seen.gradients[:, 0]

    return lambda layer: against_reference(backend, layer, images, reference, **_limits(options)), layers


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    from camcore_onnx.gradients.check import LIMIT

    return {"rtol": LIMIT if options["rtol"] is None else options["rtol"], "atol": options["atol"] or 0.0}


def _images(backend: OnnxBackend, options: Mapping[str, Any]) -> Any:
    """Random images that fit."""
    from camcore_onnx.checking.verify import sample_inputs

    size, seed = options["size"], options["seed"]
    images = np.concatenate([sample_inputs(backend.input, seed=seed + i, size=size)[0] for i in range(_IMAGES)])
    return np.rint(images * 40 + 128).clip(0, 255) if backend.input.dtype == "uint8" else images


def _one(check: Check, layer: str, *, usual: bool) -> Iterator[Agreement]:
    """One layer; of those that nobody asked for, one that has no gradient is left out."""
    from camcore_onnx.checking.sandbox import doing, tell

    doing(f"checking the gradient at {layer}")
    try:
        yield check(layer)
    except MethodNotPossible as error:
        if not usual:
            raise
        tell({"note": f"left out {layer}: {error}"})
    tell({"step": 1, "text": layer})


def _entry(a: Agreement) -> dict[str, Any]:
    return {
        "layer": a.layer,
        "difference": _finite(a.difference),
        "worst image": _finite(a.worst),
        "limit": a.limit,
        "passed": a.passed,
        "compared with": a.how,
        "difference of Grad-CAM maps": None if a.maps is None else _finite(a.maps),
    }


def _finite(number: float) -> float | None:
    """JSON knows no infinity."""
    return number if math.isfinite(number) else None
