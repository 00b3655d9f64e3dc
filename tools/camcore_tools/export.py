"""Write an ONNX file that also returns its features or its heatmap, describes itself, and is verified.

examples:
  camcore export model.onnx -o model.cam.onnx --embed --labels names.txt --preprocess imagenet
  camcore export model.onnx -o model.cam.onnx --embed --classes input --heatmap input --fp16
  camcore export model.onnx -o shown.onnx --labels names.txt --preprocess imagenet
  camcore export --torch torchvision.models:resnet18 --weights w.safetensors -o resnet18.onnx
  camcore export model.onnx --web site/ --labels names.txt --preprocess imagenet
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError
from camcore.preprocess import PRESETS
from camcore_tools.console import columns, note, print_json, safe
from camcore_tools.explaining.options import option
from camcore_tools.sources import add_model_options, open_model
from camcore_tools.web.command import add_web_options, export_web

if TYPE_CHECKING:
    from camcore_onnx.checking.verify import Check
    from camcore_onnx.report import Report

SUMMARY = "write a verified ONNX file with its features or heatmap, labels and preprocessing inside"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_options(parser, positional="source")
    parser.add_argument("-o", "--output", metavar="OUT.onnx", help="the file to write")
    add_web_options(parser)
    parser.add_argument("--layer", metavar="NAME", help="the features; those that the head reads where absent")
    parser.add_argument("--features", default="features", metavar="NAME", help="name of the new output (%(default)s)")
    add_embed_options(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names to record: one a line, or JSON")
    parser.add_argument("--preprocess", choices=sorted(PRESETS), help="preprocessing to record")
    parser.add_argument("--opset", type=int, metavar="N", help="opset to write (18 from PyTorch, else as it is)")
    parser.add_argument("--fp16", action="store_true", help="convert to half precision first, and show its error")
    parser.add_argument(
        "--exporter", choices=("dynamo", "torchscript"), default="dynamo", help="of PyTorch (%(default)s)"
    )
    parser.add_argument(
        "--shape", default="1x3x224x224", metavar="NxCxHxW", help="input with --torch (%(default)s); N is free"
    )
    parser.add_argument("--free-size", action="store_true", help="with --torch: height and width free too")
    parser.add_argument("--no-overwrite", action="store_true", help="do not replace an existing file")
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True, help="run the checks (default)"
    )
    parser.add_argument(
        "--sandbox",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="work in a process of its own, so that a crash of ONNX Runtime is an error (default)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def add_embed_options(parser: argparse.ArgumentParser) -> None:
    """The map inside the file."""
    parser.add_argument(
        "--embed", action="store_true", help="put the map into the graph: output cam, instead of features"
    )
    parser.add_argument("--method", default="auto", metavar="NAME", help="of the map (auto: cam, else gradcam)")
    parser.add_argument(
        "--classes",
        metavar="WHICH",
        help="all; topK, with cam_classes and cam_scores (top5); input: cam_class says which",
    )
    parser.add_argument(
        "--heatmap", metavar="HxW", help="also a map rectified, resized to this or to the 'input', and scaled to 0..1"
    )
    parser.add_argument("--target", metavar="WHAT", help="what is explained: logit, probability, difference:7, ...")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=option,
        help="of the method, see camcore methods",
    )
    parser.add_argument("--name", metavar="NAME", help="of the output (cam)")


def run(args: argparse.Namespace) -> int:
    """Export, print what was found and verified; 1 if a check failed."""
    from camcore_onnx.running.packages import need

    need()
    if not args.output and not args.web:
        raise InputError("nothing to write was given; expected -o OUT.onnx, or --web DIR")
    source = open_model(args, positional="source")
    if not args.json:
        note(f"reading {args.torch or args.source}")
    if args.web:
        return export_web(source, args, _export, _checks)
    report = _export(source, args)
    if args.json:
        print_json(report.to_json())
    else:
        _print(report, args.verify)
    return 0 if report.passed else 1


def _export(source: Any, args: argparse.Namespace) -> Report:
    common = {
        "layer": args.layer,
        "features": args.features,
        "labels": args.labels,
        "preprocess": args.preprocess,
        "overwrite": not args.no_overwrite,
        "verify": args.verify,
        "sandbox": args.sandbox,
        "fp16": args.fp16,
        **_embedding(args),
    }
    if args.torch:
        import camcore_torch

        options: dict[str, Any] = {"exporter": args.exporter, "free_size": args.free_size, "opset": args.opset or 18}
        report: Report = camcore_torch.export(source, _shape(args.shape), args.output, **options, **common)
        return report
    import camcore_onnx

    return camcore_onnx.export(source, args.output, opset=args.opset, **common)


def _embedding(args: argparse.Namespace) -> dict[str, Any]:
    """What is said of the map; nothing of it without --embed."""
    said = {n: getattr(args, n) for n in ("classes", "heatmap", "target", "name") if getattr(args, n) is not None}
    said |= {"method": args.method} if args.method != "auto" else {}
    said |= {"options": dict(args.option)} if args.option else {}
    if said and not args.embed:
        names = ", ".join(f"--{'option' if name == 'options' else name}" for name in said)
        raise InputError(f"{names}: only of a map inside the file; add --embed")
    return {"embed": args.embed, **said}


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise InputError(f"--shape {text!r}: expected numbers such as 1x3x224x224") from error
    if len(shape) < 3 or min(shape) < 1:
        raise InputError(f"--shape {text!r}: expected at least three numbers above 0, such as 1x3x224x224")
    return shape


def _outcome(check: Check) -> str:
    if check.difference is None:
        return check.detail
    return f"{check.difference:.1e} (limit {check.limit:.0e}), {check.detail}"


def _checks(report: Report) -> str:
    return columns([(f"[{'ok' if c.passed else 'FAILED'}] {c.name}", _outcome(c)) for c in report.checks])


def _map(cam: Mapping[str, Any]) -> str:
    which = {"all": "all classes", "input": "the class that the input names"}.get(cam["classes"], cam["classes"])
    return f"{cam['method']} of {which}, {cam['way']}"


def _print(report: Report, verified: bool) -> None:
    facts = [
        ("features", report.layer),
        ("head", report.head or "none"),
        *([] if report.cam is None else [("map", _map(report.cam))]),
        ("outputs", ", ".join(safe(o) for o in report.outputs)),
        ("opset", f"{report.opset}, IR version {report.ir_version}"),
        ("written", f"{report.path} ({report.size / 1e6:.1f} MB)"),
    ]
    print(columns(facts))
    print(_checks(report))
    if not verified:
        print("  not verified")
    elif not report.passed:
        print("verification failed")
    else:
        print(f"next: camcore explain {report.path} IMAGE")
