"""Show what a model is made of and what can be explained in it.

examples:
  camcore inspect model.onnx
  camcore inspect model.onnx --html model.html    with a drawing of its tail
  camcore inspect model.onnx --size 320           compute for images of this size
  camcore inspect --torch torchvision.models:resnet18 --json

--json prints one document. Its keys: kind, file, bytes, external files,
producer, producer version, ir version, opset, nodes, operators, initializers,
parameters, precision, weights, inputs, outputs, embedded, metadata, compute
(macs, for, not counted, problem), input, obstacle, layer and layers (name,
shape, gradient, no gradient, approximate, macs behind, share behind), head,
second classifier, methods (possible, why not, cost, forward passes, way, same
map as, paper), labels, preprocess, complaints. PyTorch modules have class,
modules, device and trainable parameters instead of what is of a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from camcore.errors import InputError
from camcore_tools.console import note, print_json
from camcore_tools.inspection.facts import describe, look_at
from camcore_tools.inspection.screen import show
from camcore_tools.sources import add_model_options, open_model

SUMMARY = "inputs, outputs, compute, head, layers, and which methods work"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_options(parser)
    parser.add_argument("--layer", metavar="NAME", help="look at this layer instead of the one that is found")
    parser.add_argument(
        "--size", metavar="N|HxW", help="size of the images that compute is counted for, where the model takes any"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page that draws the tail of the graph")


def run(args: argparse.Namespace) -> int:
    """Print what there is to know."""
    subject = look_at(open_model(args), device=args.device, size=_size(args.size))
    document = describe(subject, args.layer)
    if args.html is not None:
        from camcore_tools.inspection.page import write_page

        write_page(args.html, document, subject, args.layer)
        note(f"written: {args.html}")
    if args.json:
        print_json(document)
    elif args.html is None:
        show(document)
    return 0


def _size(text: str | None) -> tuple[int, ...]:
    """``224`` or ``224x320``."""
    if text is None:
        return ()
    words = text.lower().replace("×", "x").split("x")
    if not all(word.isascii() and word.isdigit() and 0 < int(word[:6]) <= 1 << 16 for word in words) or len(words) > 3:
        raise InputError(f"--size {text!r}: expected a length of 1 to 65536, or several such as 224x320")
    return tuple(int(word) for word in words)
