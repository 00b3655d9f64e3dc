"""The findings as text, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from camcore_tools.console import columns, safe

__all__ = ["show"]

Found = Mapping[str, Any]


def show(found: Found) -> None:
    """Print what was found."""
    if "outputs" in found:
        _show_outputs(found)
    if found.get("layers"):
        if "outputs" in found:
            print()
        _show_gradients(found["layers"])
    if "gradients_not_checked" in found:
        print(columns([("gradients not compared", found["gradients_not_checked"])]))
    if not found["passed"]:
        print("verification failed")


def _show_outputs(found: Found) -> None:
    inputs = found["inputs"]
    size = "x".join(map(str, inputs["shape"]))
    print(columns([(f"{k.upper()}:", f"{found[k]['name']} ({found[k]['precision']})") for k in "ab"], indent=0))
    print(columns([("on:", f"{_images(found)} of {size}, random ones {inputs['random']}")], indent=0))
    print(
        columns(
            [("limit:", f"|a - b| <= {found['rtol']:.1e} x max |a| of an image, or <= {found['atol']:.1e}")], indent=0
        )
    )
    print()
    maps = found["maps"]
    parts = [*found["outputs"], *maps.get("parts", [])]
    head = ["", "output", "largest", "relative", "mean", "where"]
    print(columns([head, *(_row(part) for part in parts)]))
    print()
    print(columns(list(_remarks(found))))


def _images(found: Found) -> str:
    count = found["inputs"]["images"]
    return f"{count} image{'s' if count != 1 else ''}"


def _row(d: Found) -> list[str]:
    state = "[ok]" if d["passed"] else "[FAILED]"
    name = safe(d["name"])[:24]
    if d["note"]:
        return [state, name, "-", "-", "-", d["note"]]
    if d["identical"]:
        return [state, name, "0", "0", "0", "bit-identical"]
    return [state, name, *(_number(d[k]) for k in ("absolute", "relative", "mean")), _place(d["worst"])]


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.1e}"


def _place(at: Found | None) -> str:
    if at is None:
        return ""
    index = ", ".join(map(str, at["index"]))
    a, b = ("not finite" if at[k] is None else f"{at[k]:.5g}" for k in "ab")
    return f"{_short(at['input'])} [{index}]: {a} / {b}"


def _short(place: str) -> str:
    """Of a path the file's name."""
    return PurePath(place).name


def _remarks(found: Found) -> list[tuple[str, str]]:
    remarks = [
        ("matched by position", f"{d['name']} is {d['in_b']} in B") for d in found["outputs"] if d["by_position"]
    ]
    if found["extra"]:
        remarks.append(("only in B", ", ".join(found["extra"])))
    top, maps = found["top1"], found["maps"]
    if top is not None:
        remarks.append(("best class", f"the same for {top['agree']} of {top['of']} ({top['output']})"))
        remarks += [("", f"{_short(d['input'])}: {d['a']} in A, {d['b']} in B") for d in top["differ"]]
    if "not_compared" in maps:
        remarks.append(("maps not compared", maps["not_compared"]))
    else:
        alike = "" if maps["correlation"] is None else f"; least correlation {maps['correlation']:.6f}"
        whose = "inside B against camcore's of A: " if maps["embedded"] else ""
        remarks.append(("maps", f"{whose}{maps['how']}{alike}"))
    remarks += [("left out", f"{path}: {why}") for path, why in found["left_out"].items()]
    return remarks


def _show_gradients(layers: Sequence[Found]) -> None:
    with_maps = any(a["difference of Grad-CAM maps"] is not None for a in layers)
    head = ["layer", "gradient", "limit", "worst image", *(["maps"] if with_maps else []), ""]
    print("Relative difference of gradients, ||difference|| / ||gradient||:\n")
    print(columns([head, *(_gradient_row(a, with_maps) for a in layers)]))
    print()
    print(columns([("compared with", how) for how in dict.fromkeys(a["compared with"] for a in layers)]))


def _gradient_row(a: Found, with_maps: bool) -> list[str]:
    maps = a["difference of Grad-CAM maps"]
    shown = [] if not with_maps else ["" if maps is None else f"{maps:.1e}"]
    numbers = [_number(a[key]) for key in ("difference", "limit", "worst image")]
    return [a["layer"], *numbers, *shown, "ok" if a["passed"] else "FAILED"]
