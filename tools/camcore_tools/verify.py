"""Prove that two models are the same, output by output and map by map; or that the
gradients of an ONNX file are right.

examples:
  camcore verify model.onnx model.cam.onnx            a model and what was made of it
  camcore verify fp32.onnx int8.onnx --images photos  on random images and on these
  camcore verify model.onnx --torch torchvision.models:resnet18 --weights w.safetensors
  camcore verify model.onnx                           gradients, by differences
"""

from __future__ import annotations

import argparse
from typing import Any

from camcore.errors import InputError
from camcore.preprocess import PRESETS
from camcore_tools.console import Progress, note, print_json, safe
from camcore_tools.explaining.options import size
from camcore_tools.verifying.printing import show

SUMMARY = "prove that two models are the same, or that gradients of one are right"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="A", help="an .onnx file: the reference, or the only one")
    parser.add_argument("other", metavar="B", nargs="?", help="the .onnx file to compare with it")
    parser.add_argument(
        "--torch", metavar="MODULE:FACTORY", help="compare the one file with this network; its code is run"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for --torch, in safetensors format")
    _input_options(parser)
    parser.add_argument("--method", metavar="M", help="compare maps of this method (of cam, where both have a head)")
    parser.add_argument(
        "--layer", action="append", metavar="NAME", help="look here; at the last layer of each size where absent"
    )
    parser.add_argument(
        "--gradient",
        action=argparse.BooleanOptionalAction,
        help="check gradients (default, but for two files)",
    )
    parser.add_argument(
        "--rtol", type=float, metavar="X", help="limit relative to the largest value; of gradients to their norm (1e-3)"
    )
    parser.add_argument("--atol", type=float, metavar="X", help="limit of the difference itself; of gradients 0")
    parser.add_argument(
        "--sandbox",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run it in a process of its own, so that a crash is an error (default)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _input_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PLACE", help="pictures and folders of them to compare on too")
    parser.add_argument("--preprocess", choices=sorted(PRESETS), help="of pictures; what the models say where absent")
    parser.add_argument("--size", type=size, metavar="HxW", help="of the images, where the model takes any (224x224)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random images (%(default)s)")


_EPILOG = """A is the reference: the network of --torch, or the first file. Its outputs are
matched with those of B by name, else by position; B may have more. For each image
every number of an output must obey |a - b| <= max(atol, rtol x max |a|), the
maximum over that output. Limits (rtol, atol) go by the coarser model: float32
1e-4, 1e-6; float16 1e-2, 1e-3; quantised 0.15, 1e-2. Exit status 1 beyond them.

A file that may come from anybody is loaded in a process of its own, for at most
30 minutes (CAMCORE_SANDBOX_SECONDS) and with three quarters of the memory
(CAMCORE_SANDBOX_GB), so that a crash, a hang or greed of ONNX Runtime is an
error. CAMCORE_SANDBOX=off, or --no-sandbox, loads it in this one.
"""


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 if something is beyond its limit."""
    _check(args)
    found = _found(args)
    if args.json:
        print_json(found)
    else:
        show(found)
    for path, why in found.get("left_out", {}).items():
        note(f"left out {safe(path)}: {safe(why)}")
    return 1 if not found["passed"] else 2 if found.get("left_out") else 0


def _check(args: argparse.Namespace) -> None:
    if args.size is not None and min(args.size) < 1:
        raise InputError(f"--size {args.size[0]}x{args.size[1]}: expected two numbers above 0, such as 224x224")
    for name in ("rtol", "atol"):
        limit = getattr(args, name)
        if limit is not None and not limit >= 0:
            raise InputError(f"--{name} {limit}: expected a number of at least 0")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected a number of at least 0")


def _found(args: argparse.Namespace) -> dict[str, Any]:
    from camcore_onnx.checking.sandbox import run_apart, run_here, wanted

    options = {key: value for key, value in vars(args).items() if key not in ("command", "json", "sandbox")}
    progress = _Told()
    try:
        call = run_apart if wanted(args.sandbox) else run_here
        found: dict[str, Any] = call("camcore_tools.verifying.work:work", options, hear=progress)
    finally:
        progress.clear()
    return found


class _Told:
    """Shows what the work says: notes, and a bar for each part of it."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __call__(self, message: dict[str, Any]) -> None:
        if "total" in message:
            self.clear()
            self._bar = Progress(message["total"], message["label"])
        if "note" in message:
            self.clear()
            note(safe(message["note"]))
        if "step" in message and self._bar is not None:
            self._bar.step(message["step"], safe(message["text"]))

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.clear()
