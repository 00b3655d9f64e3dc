"""Show what a model is made of and what can be explained in it.

examples:
  camcore inspect model.onnx
  camcore inspect --torch torchvision.models:resnet18 --json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from camcore.errors import CamError
from camcore.evidence import Backend, Tap
from camcore.methods import METHODS
from camcore.opening import open_backend
from camcore.plan import Plan, make_plan, possible
from camcore_tools.console import columns, print_json, safe
from camcore_tools.sources import add_model_options, open_model

SUMMARY = "inputs, outputs, head, layers, and which methods work"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_options(parser)
    parser.add_argument("--layer", metavar="NAME", help="look at this layer instead of the one that is found")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what there is to know."""
    backend = open_backend(open_model(args), device=args.device)
    document = describe(backend, args.layer)
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def describe(backend: Backend, layer: str | None = None) -> dict[str, Any]:
    """All facts as a plain dict."""
    document: dict[str, Any] = {"kind": backend.kind, **_model(backend)}
    document["input"] = {"name": backend.input.name, "shape": list(backend.input.shape), "type": backend.input.dtype}
    try:
        tap: Tap | None = backend.tap(layer)
    except CamError as error:
        if layer is not None:
            raise
        document["obstacle"], tap = str(error), None
    document["layer"] = None if tap is None else _layer(backend, tap)
    document["head"] = None if tap is None or tap.head is None else {"how": tap.how, "form": repr(tap.head)}
    document["second classifier"] = _second(backend)
    document["layers"] = [
        {"name": e.name, "shape": list(e.shape), "made by": e.op, **_gradient(backend, e.name)}
        for e in backend.layers()
    ]
    if tap is not None:
        document["methods"] = _methods(backend, layer)
    document["labels"] = None if backend.labels is None else len(backend.labels)
    document["preprocess"] = None if backend.preprocess is None else backend.preprocess.to_json()
    return document


def _layer(backend: Backend, tap: Tap) -> dict[str, Any]:
    return {"name": tap.layer, "shape": list(tap.shape), **_gradient(backend, tap.layer)}


def _second(backend: Backend) -> dict[str, Any] | None:
    """The weight of a second classifier, where the model has one; a file may say so and have none."""
    if "second_weight" not in backend.gives:
        return None
    try:
        weight = getattr(backend, "second_weight", None)  # backends from elsewhere may give it with the evidence only
        return {"weight": None if weight is None else list(weight.shape), "problem": None}
    except CamError as error:
        return {"weight": None, "problem": str(error)}


def _second_in_words(weight: list[int] | None, problem: str | None) -> str:
    shape = "" if weight is None else f" {_shape(weight)}"
    return safe(problem) if problem else f"its weight{shape} is inside, for the method recam"


def _gradient(backend: Backend, layer: str) -> dict[str, Any]:
    """Whether a layer has a gradient: why not, and which operators make it an approximation."""
    differentiator = getattr(backend, "differentiator", None)
    if differentiator is None:  # its framework differentiates
        return {"gradient": True, "no gradient": None, "approximate": []}
    value = backend.value(layer)  # type: ignore[attr-defined]  # of an ONNX backend
    why = differentiator.obstacle(value)
    return {"gradient": not why, "no gradient": why or None, "approximate": list(differentiator.approximate(value))}


def _methods(backend: Backend, layer: str | None) -> dict[str, Any]:
    return {
        name: {"possible": False, "why not": why, "cost": None, "same map as": [], "paper": METHODS[name].paper}
        if why
        else _planned(make_plan(name, backend, (layer,)))
        for name, why in possible(backend, layer).items()
    }


def _planned(plan: Plan) -> dict[str, Any]:
    facts = {"cost": plan.cost, "way": plan.way, "same map as": list(plan.alike)}
    return {"possible": True, "why not": None, **facts, "paper": plan.method.paper}


def _model(backend: Backend) -> dict[str, Any]:
    loaded = getattr(backend, "loaded", None)
    if loaded is None:
        return {"device": backend.device}
    model = loaded.model
    return {
        "file": loaded.name,
        "bytes": loaded.size,
        "producer": model.producer_name,
        "ir version": model.ir_version,
        "opset": dict(model.opset_imports),
        "nodes": len(model.graph),
        "outputs": [{"name": v.name, "shape": _lengths(v.shape)} for v in model.graph.outputs],
        "complaints": list(getattr(backend, "complaints", ())),
    }


def _lengths(shape: Any) -> list[int | None]:
    return [n if isinstance(n, int) else None for n in shape or ()]


def _verdict(method: dict[str, Any]) -> str:
    return f"works, {method['cost']}" if method["possible"] else "no"


def _print_methods(methods: dict[str, Any]) -> None:
    print(columns([(name, _verdict(m)) for name, m in methods.items()]) or "  none")
    for group in dict.fromkeys(tuple(sorted([n, *m["same map as"]])) for n, m in methods.items() if m["same map as"]):
        print("\n" + columns([("the same map, up to scale:", ", ".join(group))]))
    for why in dict.fromkeys(m["why not"] for m in methods.values() if m["why not"]):
        names = ", ".join(n for n, m in methods.items() if m["why not"] == why)
        print("\n" + columns([("no", f"{names}: {why}")]))


def _print(d: dict[str, Any]) -> None:
    facts: list[tuple[str, Any]] = []
    if "file" in d:
        opsets = ", ".join(f"{safe(k) or 'onnx'} {v}" for k, v in d["opset"].items())
        facts.append(("model", f"{d['file']} ({d['bytes'] / 1e6:.1f} MB, {d['nodes']} nodes)"))
        facts.append(("format", f"opset {opsets}; IR version {d['ir version']}; made by {d['producer'] or 'unknown'}"))
    facts.append(("input", f"{d['input']['name']} {_shape(d['input']['shape'])} {d['input']['type']}"))
    facts += [("output", f"{o['name']} {_shape(o['shape'])}") for o in d.get("outputs", ())]
    if d["layer"]:
        facts.append(("features", f"{d['layer']['name']} {_shape(['N', *d['layer']['shape']])}"))
    if d["head"]:
        facts.append(("head", d["head"]["how"]))
    if d["second classifier"]:
        facts.append(("second head", _second_in_words(**d["second classifier"])))
    facts.append(("labels", d["labels"] if d["labels"] is not None else "none recorded (--labels)"))
    facts.append(("preprocess", "recorded" if d["preprocess"] else "none recorded (--preprocess)"))
    print(columns(facts))
    if d.get("obstacle"):
        print(f"\n  {safe(d['obstacle'])}")
    _print_layers(d["layers"])
    print("\nmethods")
    _print_methods(d.get("methods", {}))
    for text in d.get("complaints", ()):
        print(f"\nnote: {safe(text)}")


def _print_layers(layers: Sequence[dict[str, Any]]) -> None:
    """Names, shapes, and whether there is a gradient; then why not."""
    print("\nlayers that can be tapped (the last of each size)")
    rows = [(e["name"], _shape(["N", *e["shape"]]), _mark(e), e["made by"]) for e in layers]
    print(columns(rows) or "  none")
    for why in dict.fromkeys(e["no gradient"] for e in layers if e["no gradient"]):
        names = ", ".join(e["name"] for e in layers if e["no gradient"] == why)
        print("\n" + columns([("no gradient", f"{names}: {why}")]))
    for what in dict.fromkeys(what for e in layers for what in e["approximate"]):
        print("\n" + columns([("approximate", what)]))


def _mark(layer: dict[str, Any]) -> str:
    if not layer["gradient"]:
        return "no gradient"
    return "approximate gradient" if layer["approximate"] else "gradient"


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
