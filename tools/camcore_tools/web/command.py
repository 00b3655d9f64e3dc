"""What ``camcore export --web`` does and says."""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError
from camcore.labels import short_name
from camcore_tools.console import columns, note, print_json, safe
from camcore_tools.web.model import WebModel, web_model
from camcore_tools.web.ort_web import VERSION, runtime_files
from camcore_tools.web.site import Site, check_folder, write_site

if TYPE_CHECKING:
    from camcore_onnx.report import Report

__all__ = ["add_web_options", "export_web"]

_LARGE = 100e6
Export = Callable[[Any, argparse.Namespace], Any]


def add_web_options(parser: argparse.ArgumentParser) -> None:
    """``--web DIR`` and what belongs to it."""
    parser.add_argument(
        "--web",
        metavar="DIR",
        help="write a folder that shows the heatmaps of camera and pictures in any browser, without a server behind it",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page of --web; the name of the model where absent")
    parser.add_argument(
        "--ort-web",
        metavar="FILE",
        help=f"with --web: onnxruntime-web {VERSION} as npm packs it, or a folder with it; else it is fetched once",
    )


def export_web(source: Any, args: argparse.Namespace, export: Export, checks: Callable[[Report], str]) -> int:
    """Write the folder; 1 if a check of the model failed.

    Parameters
    ----------
    source : path or module
    args : Namespace
        Of ``camcore export``.
    export : callable
        Writes the model with its map inside to ``args.output``, and tells what was found.
    checks : callable
        The checks of a report, as text.
    """
    if args.classes not in (None, "input") or args.heatmap:
        raise InputError("--classes and --heatmap: with --web the reader chooses the class; leave them out")
    folder = check_folder(args.web, overwrite=not args.no_overwrite)
    runtime = runtime_files(args.ort_web)
    report, model = _model(source, args, export)
    title = args.title or _title(args)
    site = write_site(folder, model, runtime, title=title)
    if len(model.data) > _LARGE:
        note(f"warning: the model has {len(model.data) / 1e6:.0f} MB, which each visitor loads; --fp16 halves it")
    if args.json:
        print_json(_document(site, model, report))
    else:
        _print(site, model, "" if report is None else checks(report), report is None or report.passed)
    return 0 if report is None or report.passed else 1


def _title(args: argparse.Namespace) -> str:
    return safe(args.torch.rpartition(":")[2] if args.torch else Path(args.source).name.removesuffix(".onnx"))


def _model(source: Any, args: argparse.Namespace, export: Export) -> tuple[Report | None, WebModel]:
    """The model with its map inside; one that has such a map already is taken as it is."""
    if not args.torch and _has_map(source):
        return None, web_model(source)
    with tempfile.TemporaryDirectory() as folder:
        inner = copy.copy(args)
        inner.output, inner.embed, inner.classes = args.output or str(Path(folder) / "model.onnx"), True, "input"
        report = export(source, inner)
        return report, web_model(inner.output)


def _has_map(source: Any) -> bool:
    from camcore_onnx import OnnxBackend

    card = OnnxBackend(source, device="cpu").card.cam
    if card is not None and card.get("classes") != "input":
        raise InputError(
            f"{source}: it has a map of classes {card.get('classes')!r} inside already; "
            "give the model that it was made of"
        )
    return card is not None


def _document(site: Site, model: WebModel, report: Report | None) -> dict[str, Any]:
    told = {key: value for key, value in model.description.items() if key != "bytes"}
    return {
        "folder": str(site.folder),
        "files": dict(site.files),
        "model": told,
        "onnxruntime-web": VERSION,
        "checks": [] if report is None else report.to_json()["checks"],
        "passed": report is None or report.passed,
    }


def _print(site: Site, model: WebModel, checks: str, passed: bool) -> None:
    told = model.description
    size = told["preprocess"]["size"]
    names = "no names" if model.labels is None else f"{short_name(model.labels[0])}, ..."
    facts = [
        ("map", f"{told['method']} at {told['layer']}"),
        ("pictures", f"{size[1]} x {size[0]}" if size else "any size"),
        ("classes", f"{told['classes']} ({safe(names)})"),
        *_sizes(site),
    ]
    print(columns(facts))
    if checks:
        print(checks)
    if not passed:
        print("verification failed")
    print(f"next: python -m http.server -d {site.folder} 8000   then open http://localhost:8000")
    print("      (a camera needs https or localhost; any web server of files will do)")


def _sizes(site: Site) -> list[tuple[str, str]]:
    page = sum(size for name, size in site.files.items() if "/" not in name and name != "model.onnx")
    runtime = sum(size for name, size in site.files.items() if "/" in name)
    return [
        ("model.onnx", _megabytes(site.files["model.onnx"])),
        ("ort/", f"{_megabytes(runtime)}, ONNX Runtime Web {VERSION} (MIT licence)"),
        ("page", f"{_megabytes(page)}, index.html and what lies beside it"),
        (
            "a visitor loads",
            f"{_megabytes(site.loaded('wasm'))} (WebAssembly) or {_megabytes(site.loaded('webgpu'))} (WebGPU)",
        ),
    ]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
