"""Two models output by output, and map by map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from camcore.engine import Explainer
from camcore.errors import CamError, InputError
from camcore_tools.verifying.inputs import Inputs, common_input, open_inputs
from camcore_tools.verifying.models import Model

if TYPE_CHECKING:
    from camcore_onnx.checking.comparing import Comparison, Difference
    from camcore_onnx.checking.comparing_maps import Maps

__all__ = ["output_findings"]

_ORDER = ("float32", "float16", "quantised")


def output_findings(a: Model, b: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """How far apart the outputs and maps of A and B are."""
    from camcore_onnx.checking.comparing import LIMITS, compare
    from camcore_onnx.checking.sandbox import doing, tell

    coarse = max(a.precision, b.precision, key=_ORDER.index)
    rtol, atol = (
        d if options[k] is None else options[k] for k, d in zip(("rtol", "atol"), LIMITS[coarse], strict=True)
    )
    inputs = _inputs(a, b, options)
    tell({"total": 2 * inputs.batches, "label": "comparing"})
    sides = a.side, b.side
    doing(f"running {a.name} and {b.name}")
    found = compare(*sides, _told(inputs), rtol=rtol, atol=atol)
    document: dict[str, Any] = {
        "a": {"name": a.name, "precision": a.precision},
        "b": {"name": b.name, "precision": b.precision},
        "rtol": rtol,
        "atol": atol,
        "inputs": {"random": inputs.distribution, "images": found.inputs, "shape": _size(inputs)},
        "outputs": [_difference(d, inputs) for d in found.outputs],
        "extra": found.extra,
        "top1": _top(found, inputs),
        "left_out": dict(inputs.left_out),
    }
    maps = _maps(a, b, options, inputs, (rtol, atol))
    return document | {"maps": maps, "passed": found.passed and maps.get("passed", True)}


def _inputs(a: Model, b: Model, options: Mapping[str, Any]) -> Inputs:
    file = b.opened.input
    spec = common_input(file if a.is_torch else a.opened.input, file, options["size"])
    return open_inputs(options, spec, [m.explain() for m in (a, b) if not m.is_torch])


def _told(inputs: Inputs) -> Iterator[Any]:
    from camcore_onnx.checking.sandbox import tell

    for batch in inputs:
        yield batch
        tell({"step": 1, "text": inputs.names[-1]})


def _size(inputs: Inputs) -> list[int]:
    return [224 if n is None else n for n in (inputs.spec.channels or 3, *inputs.spec.shape[2:])]


def _maps(
    a: Model, b: Model, options: Mapping[str, Any], inputs: Inputs, limits: tuple[float, float]
) -> dict[str, Any]:
    """The map inside B against the library's of A; else both explained."""
    from camcore_onnx.checking.comparing_maps import compare_embedded, compare_maps

    try:
        card = None if b.is_torch else b.backend.card.cam
        if card is not None and (a.is_torch or a.backend.card.cam is None):
            found = compare_embedded(_plain(a), b.side, card, _told(inputs), limits=limits)
            return _map_entry(found, inputs, True)
        wanted = {"method": options["method"] or "auto", "layer": options["layer"]}
        mine, other = (m.explain(**wanted) for m in (a, b))
        if options["method"] is None:
            for model in (a, b):
                model.backend.tap(None, next(iter(inputs))).need_head()
        top = min(5, mine.backend.scores(next(iter(inputs))).shape[1])
        return _map_entry(compare_maps(mine, other, _told(inputs), limits=limits, top=top), inputs, False)
    except InputError:
        raise
    except CamError as error:
        if options["method"]:
            raise
        return {"not_compared": str(error)}


def _plain(a: Model) -> Callable[..., Explainer]:
    """The layers of a network of PyTorch have other names: there it is the one that the head reads."""
    return (lambda **wanted: a.explain(**wanted | {"layer": None})) if a.is_torch else a.explain


def _map_entry(maps: Maps, inputs: Inputs, embedded: bool) -> dict[str, Any]:
    return {
        "how": maps.how,
        "embedded": embedded,
        "parts": [_difference(d, inputs) for d in maps.parts],
        "correlation": maps.correlation,
        "passed": maps.passed,
    }


def _difference(d: Difference, inputs: Inputs) -> dict[str, Any]:
    at = None
    if d.worst is not None:
        values = {"a": _finite(d.worst.a), "b": _finite(d.worst.b)}
        at = {"input": inputs.names[d.worst.input], "index": list(d.worst.index)} | values
    return {
        "name": d.name,
        "in_b": d.other or None,
        "by_position": d.by_position,
        "shape": list(d.shape),
        "types": list(d.types),
        "absolute": _finite(d.absolute),
        "relative": _finite(d.relative),
        "mean": _finite(d.mean),
        "worst": at,
        "identical": d.identical,
        "passed": d.passed,
        "note": d.note or None,
    }


def _top(found: Comparison, inputs: Inputs) -> dict[str, Any] | None:
    top = found.top
    if not top.total:
        return None
    others = [{"input": inputs.names[i], "a": a, "b": b} for i, a, b in top.others]
    return {"output": top.output, "agree": top.agree, "of": top.total, "differ": others}


def _finite(number: float) -> float | None:
    """JSON knows no infinity."""
    return number if math.isfinite(number) else None
