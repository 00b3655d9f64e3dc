"""The facts as one page: a drawing of the tail beside the tables. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore_tools.console import safe
from camcore_tools.inspection.diagram import draw
from camcore_tools.inspection.facts import Subject
from camcore_tools.inspection.picture import Picture
from camcore_tools.inspection.screen import embedded, extras, gradient, same_maps, second_head, share, used_opsets
from camcore_tools.inspection.style import STYLE
from camcore_tools.inspection.tail import tail_of
from camcore_tools.inspection.words import count, kinds, percent, shape, short, size, times

__all__ = ["render_page", "write_page"]

_PORTS = 12
_HALF = 720  # pixels; a drawing that is wider stands above the tables, not beside them


def write_page(path: Path, document: dict[str, Any], subject: Subject, layer: str | None = None) -> None:
    """Write the page.

    Raises
    ------
    InputError
        If ``path`` is a folder, or cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"--html {path}: is a folder; expected the name of a file, such as {path / 'model.html'}")
    page = render_page(document, tail_of(subject, layer))
    try:
        write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))
    except OSError as error:
        raise InputError(f"--html {path}: {error.strerror or error}") from error


def render_page(d: dict[str, Any], picture: Picture | None) -> str:
    """The whole HTML document.

    Parameters
    ----------
    d : dict
        As `describe` gives it.
    picture : Picture or None
        What is drawn; None for models without a graph.
    """
    name = Path(d["file"]).name if "file" in d else d.get("class", d["kind"])
    drawing, wide = _drawing(picture, d) if picture is not None else ("", False)
    ports, beside = _ports(d), drawing and not wide
    left = [drawing if beside else ports, _made_of(d), _metadata(d.get("metadata") or [])]
    right = [ports if beside else "", _layers(d), _methods(d["methods"])]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_e(name)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{_e(name)}</h1>
<p>{_subtitle(d)}</p>
{_figures(d)}
{_verdict(d)}
</header>
{drawing if wide else ""}
<div class="columns">
<div class="stack">
{_join(left)}
</div>
<div class="stack">
{_join(right)}
</div>
</div>
<footer>Made by <code>camcore inspect</code>.</footer>
</main>
</body>
</html>
"""


def _e(text: Any) -> str:
    return escape(safe(text))


def _join(parts: Iterable[str]) -> str:
    return "\n".join(part for part in parts if part)


def _card(title: str, *parts: str) -> str:
    return f'<section class="card">\n<h2>{escape(title)}</h2>\n{_join(parts)}\n</section>'


def _table(head: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    top = f"<thead><tr>{''.join(head)}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>\n{_join(rows)}\n</tbody></table></div>'


def _subtitle(d: dict[str, Any]) -> str:
    if "file" not in d:
        return f"A PyTorch module on {_e(d.get('device', '?'))}"
    opsets = ", ".join(f"{k or 'onnx'} {v}" for k, v in used_opsets(d).items())
    made = f"{d['producer'] or 'unknown'} {d['producer version']}".strip()
    files = "".join(f" · {size(n)} in {name}" for name, n in d["external files"].items())
    return _e(f"opset {opsets} · IR version {d['ir version']} · made by {short(made, 60)} · {size(d['bytes'])}{files}")


def _figures(d: dict[str, Any]) -> str:
    tiles = []
    if "parameters" in d:
        tiles.append((count(d["parameters"]), "parameters"))
    compute = d.get("compute") or {"macs": None}
    if compute["macs"] is not None:
        images = ", ".join("×".join(map(str, lengths)) for lengths in compute["for"].values())
        tiles.append((count(compute["macs"], "MAC"), f"for an image, counted for {images}"))
    if "precision" in d:
        first, _, rest = d["precision"].partition(", ") if not d["precision"].startswith("mixed") else ("mixed", "", "")
        tiles.append((first, rest or f"{size(sum(d['weights'].values()))} of weights"))
    if d["layer"]:
        lengths = "×".join("?" if n is None else str(n) for n in d["layer"]["shape"])
        tiles.append((lengths, "features of an image"))
    if d["methods"]:
        works = sum(m["possible"] for m in d["methods"].values())
        tiles.append((f"{works} of {len(d['methods'])}", "methods work"))
    return f'<dl class="figures">{"".join(f"<div><dt>{_e(w)}</dt><dd>{_e(f)}</dd></div>" for f, w in tiles)}</dl>'


def _verdict(d: dict[str, Any]) -> str:
    if d.get("obstacle"):
        return f'<p class="verdict obstacle"><strong>Nothing to explain.</strong> {_e(d["obstacle"])}</p>'
    parts = []
    if d["head"]:
        parts.append(f"<strong>The head is linear behind a pooling:</strong> <code>{_e(d['head']['how'])}</code>.")
        parts.append("A class activation map is exact here, and costs one forward pass.")
    else:
        why = d["methods"].get("cam", {}).get("why not")
        parts.append(f"<strong>No linear head behind a pooling.</strong> {_e(why or '')}")
        gradcam = d["methods"].get("gradcam", {})
        if gradcam.get("possible") and gradcam["forward passes"] is not None:
            parts.append(f"Grad-CAM works, at {times(gradcam['forward passes'])} forward passes.")
    if d.get("embedded"):
        parts.append(f"<br><strong>A CAM is in the file:</strong> {_e(embedded(d['embedded']))}.")
    if d["second classifier"]:
        parts.append(f"<br>A second classifier: {_e(second_head(**d['second classifier']))}.")
    return f'<p class="verdict{"" if d["head"] else " partly"}">{" ".join(parts)}</p>'


def _drawing(picture: Picture, d: dict[str, Any]) -> tuple[str, bool]:
    """The drawing, and whether it needs the whole width of the page."""
    roles = {box.role for box in picture.boxes}
    marks = {edge.mark for edge in picture.edges}
    legend = [("--accent", "features")] if "features" in marks else []
    legend += [("--head", "head and scores")] if "head" in roles else []
    legend += [("--cam", "camcore's own nodes")] if "cam" in roles else []
    legend += [("--trunk", "the network")]
    swatches = "".join(f'<span style="--swatch:var({colour})">{text}</span>' for colour, text in legend)
    hidden = "" if "features" in marks or not d["layer"] else "<p>The features lie further up than what is drawn.</p>"
    drawing = draw(picture)
    parts = (f'<div class="legend">{swatches}</div>', hidden, f'<div class="drawing scroll">{drawing.svg}</div>')
    return _card("The tail of the graph", *parts), drawing.width > _HALF


def _ports(d: dict[str, Any]) -> str:
    ports = [("input", p) for p in d.get("inputs", ())] + [("output", p) for p in d.get("outputs", ())]
    if not ports and d["input"]:
        ports = [("input", d["input"])]
    rows = [
        f'<tr><td class="key">{kind}</td><td class="mono">{_e(short(p["name"], 60, "…"))}</td>'
        f'<td class="mono">{_e(shape(p["shape"]))}</td><td class="nowrap">{_e(p["type"])}'
        f"{' <span class=tag>optional</span>' if p.get('optional') else ''}</td></tr>"
        for kind, p in ports[:_PORTS]
    ]
    more = f"<p>And {len(ports) - _PORTS} more.</p>" if len(ports) > _PORTS else ""
    return _card("Inputs and outputs", _table([], rows), more)


def _layers(d: dict[str, Any]) -> str:
    if not d["layers"]:
        return ""
    chosen = d["layer"]["name"] if d["layer"] else None
    head = ("<th>layer</th>", "<th>shape</th>", '<th class="number">behind</th>', '<th class="wide">gradient</th>')
    reasons = dict.fromkeys(e["no gradient"] for e in d["layers"] if e["no gradient"])
    reasons |= dict.fromkeys(what for e in d["layers"] for what in e["approximate"])
    return _card(
        "Layers that can be tapped",
        "<p>Behind: the share of the compute between the layer and the scores, which a gradient or a run of the tail "
        "costs on top of the forward pass.</p>",
        _table(head, (_layer(e, e["name"] == chosen) for e in d["layers"])),
        f'<ul class="plain">{"".join(f"<li>{_e(r)}</li>" for r in reasons)}</ul>' if reasons else "",
    )


def _layer(layer: dict[str, Any], chosen: bool) -> str:
    part = layer["share behind"]
    bar = "" if part is None else f'<span class="bar"><i style="width:{100 * part:.1f}%"></i></span>'
    return (
        f'<tr{" class=chosen" if chosen else ""}><td class="mono">{_e(short(layer["name"], 44, "…"))} '
        f'<span class="faint">{_e(short((layer["made by"] or "").partition(" (")[0], 30, "…"))}</span>{bar}</td>'
        f'<td class="mono nowrap">{_e("×".join("?" if n is None else str(n) for n in layer["shape"]))}</td>'
        f'<td class="number">{_e(share(layer))}</td><td class="wide nowrap">{_e(gradient(layer))}</td></tr>'
    )


def _methods(methods: dict[str, Any]) -> str:
    if not methods:
        return ""
    head = ("<th>method</th>", '<th class="number">forward passes</th>', "<th>what a map takes</th>")
    works = {n: m for n, m in methods.items() if m["possible"]}
    cheap = sorted(works.items(), key=lambda item: _factor(item[1]))
    alike = "".join(f"<li>The same map, up to scale: {_e(', '.join(group))}</li>" for group in same_maps(methods))
    reasons = dict.fromkeys(m["why not"] for m in methods.values() if m["why not"])
    names = {why: ", ".join(n for n, m in methods.items() if m["why not"] == why) for why in reasons}
    refused = [f'<p><span class="no">{_e(names[why])}</span>: {_e(why)}</p>' for why in reasons]
    return _card(
        "Methods",
        _table(head, (_method(name, m) for name, m in _merged(cheap)), "methods"),
        f'<ul class="plain">{alike}</ul>' if alike else "",
        f"<details open><summary>{len(methods) - len(works)} not here</summary>{_join(refused)}</details>"
        if refused
        else "",
    )


def _factor(method: dict[str, Any]) -> float:
    return float("inf") if method["forward passes"] is None else float(method["forward passes"])


def _merged(methods: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Those of the same cost in one row."""
    rows: dict[tuple[Any, Any], list[str]] = {}
    for name, method in methods:
        rows.setdefault((method["forward passes"], method["cost"]), []).append(name)
    return [(", ".join(names), {"forward passes": f, "cost": c}) for (f, c), names in rows.items()]


def _method(names: str, method: dict[str, Any]) -> str:
    factor = "?" if method["forward passes"] is None else times(method["forward passes"])
    return f'<tr><td>{_e(names)}</td><td class="number"><b>{factor}</b></td><td>{_e(extras(method["cost"]))}</td></tr>'


def _made_of(d: dict[str, Any]) -> str:
    if "precision" not in d:
        return ""
    whole = sum(d["weights"].values())
    types = ", ".join(f"{name} {percent(n / whole)}" for name, n in d["weights"].items()) if whole else "none"
    rows = [("precision", d["precision"]), ("weights' bytes", types)]
    if "initializers" in d:
        stored = d["initializers"]
        outside = (
            f", {size(stored['external bytes'])} of them in files of their own" if stored["external bytes"] else ""
        )
        rows.append(("initialisers", f"{stored['count']} of {size(stored['bytes'])}{outside}"))
        rows.append(("operators", f"{d['nodes']} nodes: {kinds(d['operators'], 12)}"))
    else:
        rows.append(("layers", kinds(d["modules"], 12)))
    compute = d.get("compute") or {}
    if compute.get("problem") or compute.get("not counted"):
        rows.append(("compute", compute.get("problem") or f"without {', '.join(compute['not counted'])}"))
    rows.append(("labels", d["labels"] if d["labels"] is not None else "none recorded"))
    rows.append(("preprocessing", "recorded" if d["preprocess"] else "none recorded"))
    rows += [("note", text) for text in d.get("complaints", ())]
    return _card("Made of", _table([], (f'<tr><td class="key">{k}</td><td>{_e(v)}</td></tr>' for k, v in rows)))


def _metadata(entries: Sequence[dict[str, Any]]) -> str:
    if not entries:
        return ""
    rows = (
        f'<tr><td class="mono entry">{_e(short(e["key"], 60, "…"))}</td><td class="number">{e["length"]}</td>'
        f'<td class="mono faint">{_e(e["value"])}</td></tr>'
        for e in entries
    )
    return _card("Metadata", _table(("<th>key</th>", '<th class="number">characters</th>', "<th>value</th>"), rows))
