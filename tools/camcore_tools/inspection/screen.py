"""The facts on a terminal, in 80 columns or what there is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from camcore_tools.console import columns, safe
from camcore_tools.inspection.words import count, kinds, percent, shape, short, size, times

__all__ = ["embedded", "extras", "fitted", "gradient", "same_maps", "second_head", "share", "show", "used_opsets"]

_LEAST = 12  # characters of a shortened cell
_ENTRIES = 12


def show(d: dict[str, Any]) -> None:
    """Print a document as `describe` gives it."""
    print(columns(_facts(d)))
    if d.get("obstacle"):
        print("\n" + columns([("obstacle", d["obstacle"])]))
    _show_layers(d["layers"])
    if d["methods"]:
        _show_methods(d["methods"])
    _show_metadata(d.get("metadata") or [])
    for text in d.get("complaints", ()):
        print("\n" + columns([("note:", text)], indent=0))


def _facts(d: dict[str, Any]) -> list[tuple[str, Any]]:
    facts = _file(d) if "file" in d else _module(d)
    facts += [("weights", _weights(d))] if "parameters" in d else []
    facts += [("compute", _compute(d["compute"]))] if d.get("compute") else []
    facts += [(f"{p}put", _port(port)) for p in ("in", "out") for port in d.get(f"{p}puts", ())]
    if "inputs" not in d and d["input"]:
        facts.append(("input", f"{short(d['input']['name'], 30)} {shape(d['input']['shape'])} {d['input']['type']}"))
    if d["layer"]:
        facts.append(("features", f"{short(d['layer']['name'], 40)} {shape(['N', *d['layer']['shape']])}"))
    facts += [("head", d["head"]["how"])] if d["head"] else []
    facts += [("second head", second_head(**d["second classifier"]))] if d["second classifier"] else []
    facts += [("cam inside", embedded(d["embedded"]))] if d.get("embedded") else []
    facts.append(("labels", d["labels"] if d["labels"] is not None else "none recorded (camcore export --labels)"))
    facts.append(("preprocess", "recorded" if d["preprocess"] else "none recorded (camcore export --preprocess)"))
    return facts


def _file(d: dict[str, Any]) -> list[tuple[str, Any]]:
    files = "".join(f", and {size(n)} in {short(name, 30)}" for name, n in list(d["external files"].items())[:3])
    opsets = ", ".join(f"{safe(k) or 'onnx'} {v}" for k, v in used_opsets(d).items())
    made = short(f"{d['producer'] or 'unknown'} {d['producer version']}".strip(), 60)
    return [
        ("model", f"{d['file']} ({size(d['bytes'])}{files})"),
        ("format", f"opset {opsets}; IR version {d['ir version']}; made by {made}"),
        ("operators", f"{d['nodes']} nodes: {kinds(d['operators'], 6)}"),
    ]


def used_opsets(d: dict[str, Any]) -> dict[str, int]:
    """Those whose operators are there; tools for quantisation state all that they know."""
    used = {"", *(name.rpartition(".")[0] for name in d["operators"])}
    return {domain: version for domain, version in d["opset"].items() if domain in used}


def _module(d: dict[str, Any]) -> list[tuple[str, Any]]:
    if "class" not in d:
        return []
    modules = sum(d["modules"].values())
    return [("model", f"PyTorch {d['class']} on {d['device']}"), ("layers", f"{modules}: {kinds(d['modules'], 5)}")]


def _weights(d: dict[str, Any]) -> str:
    text = f"{count(d['parameters'])} parameters, {d['precision']}"
    if "initializers" not in d:
        frozen = d["parameters"] - d["trainable parameters"]
        return text + (f"; {count(frozen)} of them frozen" if frozen else "")
    stored = d["initializers"]
    where = f", {size(stored['external bytes'])} in files of their own" if stored["external bytes"] else ""
    return f"{text}; {stored['count']} initialisers of {size(stored['bytes'])}{where}"


def _compute(compute: dict[str, Any]) -> str:
    if compute["macs"] is None:
        return f"not counted: {compute['problem']} (--size counts for images of another size)"
    images = ", ".join(shape(lengths) for lengths in compute["for"].values())
    left = f"; without {', '.join(compute['not counted'])}" if compute["not counted"] else ""
    return f"{count(compute['macs'], 'MAC')} for an image, counted for {images}{left}"


def _port(port: dict[str, Any]) -> str:
    optional = ", may be left out" if port.get("optional") else ""
    return f"{short(port['name'], 40)} {shape(port['shape'])} {port['type']}{optional}"


def second_head(weight: list[int] | None, problem: str | None) -> str:
    """What there is of a second classifier."""
    lengths = "" if weight is None else f" {shape(weight)}"
    return safe(problem) if problem else f"its weight{lengths} is inside, for the method recam"


def embedded(card: dict[str, Any]) -> str:
    """How a CAM was put into the file, as it says of itself."""
    picture = card.get("heatmap")
    whose = {"all": "all classes", "input": "the class of the input cam_class"}.get(
        str(card.get("classes")), f"classes {short(card.get('classes', '?'), 20)}"
    )
    parts = [f"{short(card.get('method', '?'), 30)} of {whose}", f"at {short(card.get('layer', '?'), 40)}"]
    parts += [f"by {short(card['way'], 30)}"] if card.get("way") else []
    return ", ".join([*parts, "raw maps" if not picture else f"and a heatmap ({short(picture, 20)})"])


def _show_layers(layers: Sequence[dict[str, Any]]) -> None:
    """Names, shapes, the compute behind, and whether there is a gradient; then why not."""
    print("\nlayers that can be tapped (the last of each size), and the compute behind")
    made = [(e["made by"] or "").partition(" (")[0] for e in layers]  # without the module, which the name tells
    rows = [
        (e["name"], shape(["N", *e["shape"]]), share(e).rjust(7), _short_gradient(e), short(operator, 14))
        for e, operator in zip(layers, made, strict=True)
    ]
    print(fitted(rows, (0, 4)) or "  none")
    for why in dict.fromkeys(e["no gradient"] for e in layers if e["no gradient"]):
        names = ", ".join(short(e["name"], 40) for e in layers if e["no gradient"] == why)
        print("\n" + columns([("no gradient", f"{names}: {why}")]))
    approximate = dict.fromkeys(what for e in layers for what in e["approximate"])
    if approximate:
        print("\n" + columns([("approximate", what) for what in approximate]))


def _short_gradient(layer: dict[str, Any]) -> str:
    return gradient(layer).replace("approximate gradient", "approximate")


def share(layer: dict[str, Any]) -> str:
    """What lies behind a layer, in per cent."""
    return "?" if layer["share behind"] is None else percent(layer["share behind"])


def gradient(layer: dict[str, Any]) -> str:
    """What kind of gradient a layer has."""
    if not layer["gradient"]:
        return "no gradient"
    return "approximate gradient" if layer["approximate"] else "gradient"


def _show_methods(methods: dict[str, Any]) -> None:
    print("\nmethods, what a map costs in forward passes, and what that is")
    print(columns([(name, *_verdict(m)) for name, m in methods.items()]) or "  none")
    for group in same_maps(methods):
        print("\n" + columns([("the same map, up to scale:", ", ".join(group))]))
    for why in dict.fromkeys(m["why not"] for m in methods.values() if m["why not"]):
        names = ", ".join(n for n, m in methods.items() if m["why not"] == why)
        print("\n" + columns([("no", f"{names}: {why}")]))


def same_maps(methods: dict[str, Any]) -> list[tuple[str, ...]]:
    """The groups of methods that are provably the same here."""
    groups = (tuple(sorted([n, *m["same map as"]])) for n, m in methods.items() if m["same map as"])
    return list(dict.fromkeys(groups))


def _verdict(method: dict[str, Any]) -> tuple[str, str, str]:
    if not method["possible"]:
        return "no", "", ""
    factor = method["forward passes"]
    return "works", ("?" if factor is None else times(factor)).rjust(5), extras(method["cost"])


def extras(cost: str) -> str:
    """What comes on top of the forward pass, which all take."""
    more = cost.removeprefix("one forward pass").removeprefix(", and ")
    return f"+ {more}" if more else "one forward pass"


def _show_metadata(entries: Sequence[dict[str, Any]]) -> None:
    if not entries:
        return
    print("\nmetadata, and how many characters each entry has")
    digits = len(str(max(e["length"] for e in entries)))
    rows = [(e["key"], str(e["length"]).rjust(digits), e["value"]) for e in entries[:_ENTRIES]]
    print(fitted(rows, (0, 2)))
    if len(entries) > _ENTRIES:
        print(f"  and {len(entries) - _ENTRIES} more (--json)")


def fitted(rows: Sequence[Sequence[str]], flexible: Sequence[int], *, room: int | None = None) -> str:
    """Rows in aligned columns, one line each; where that is too wide, the longest of some columns are shortened.

    Parameters
    ----------
    rows : sequence of sequence of str
    flexible : sequence of int
        The columns that may be shortened.
    room : int, optional
        The width of the terminal.
    """
    room = room or shutil.get_terminal_size((80, 24)).columns
    cells = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    while sum(widths) + 2 * len(widths) > room:
        longest = max(flexible, key=lambda i: widths[i])
        if widths[longest] <= _LEAST:
            break
        widths[longest] -= 1
    lines = ("  ".join(short(c, w).ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(f"  {line}".rstrip() for line in lines)
