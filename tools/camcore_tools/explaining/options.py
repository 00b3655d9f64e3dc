"""The options of commands that explain pictures: the method, the preprocessing, the look."""

from __future__ import annotations

import argparse
import json
from typing import Any

from camcore import figures
from camcore.colormaps import COLORMAPS
from camcore.normalize import NORMALIZATIONS
from camcore.preprocess import PRESETS
from camcore.smoothing import SMOOTHINGS

__all__ = [
    "add_look_options",
    "add_map_options",
    "add_method_options",
    "add_preprocess_options",
    "add_present_options",
    "look_of",
    "option",
    "size",
]


def add_look_options(parser: argparse.ArgumentParser, *, together: bool = True) -> None:
    """How heat is drawn; ``together`` where several classes may be in one picture."""
    opacity, scale = ("; 0.85 at the most with --together", "; relu-max with --together") if together else ("", "")
    parser.add_argument("--style", choices=figures.STYLES, help="the look of the overlay (alpha)")
    parser.add_argument("--cmap", choices=sorted(COLORMAPS), help="colours (jet)")
    parser.add_argument(
        "--alpha", type=_alpha, metavar="A", help=f"opacity, 0 to 1 or heat (0.5; heat with --style red{opacity})"
    )
    parser.add_argument("--normalization", choices=sorted(NORMALIZATIONS), help=f"(minmax{scale})")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="T", help="leave out heat below this, 0 to 1")
    parser.add_argument("--gain", type=float, default=1.0, metavar="G", help="multiply the heat, then clamp to 1")
    parser.add_argument(
        "--boxes", type=float, nargs="?", const=0.5, metavar="T", help="outline what is above T times the maximum (0.5)"
    )


def add_present_options(parser: argparse.ArgumentParser) -> None:
    """Several classes in one picture."""
    parser.add_argument(
        "--together",
        type=float,
        nargs="?",
        const=0.5,
        metavar="P",
        help="one picture with the heat of all classes of at least this probability, each in its own colour (0.5)",
    )
    parser.add_argument(
        "--label-masks",
        type=float,
        nargs="?",
        const=0.2,
        metavar="SCORE",
        help="write to which of these classes each pixel belongs, as an indexed PNG; SCORE is the background's (0.2)",
    )
    parser.add_argument(
        "--independent",
        action="store_true",
        default=None,
        help="each class has a probability of its own (multi-label); known where the model ends in a sigmoid",
    )


def add_method_options(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """Which method, or several, where, on what."""
    more = "; each of several gets a folder, and all share a sheet" if several else ""
    parser.add_argument(
        "--method",
        default="auto",
        metavar="NAME[,NAME]" if several else "NAME",
        help=f"see camcore methods{more} (auto: cam where the head allows it, else gradcam)",
    )
    add_map_options(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names: one a line, or JSON")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1; for ONNX tensorrt too"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Options of the method, and where it looks."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=option,
        help="as camcore methods NAME lists them; of several methods each takes those that it has",
    )
    parser.add_argument(
        "--target", metavar="WHAT", help="logit, probability, log-probability, difference, difference:7, finer"
    )
    parser.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="tensor, node or PyTorch module; found where absent; give it several times to fuse layers",
    )
    parser.add_argument(
        "--fusion", type=_fusion, default="max", metavar="HOW", help="max, mean, product, or a weight a layer: .4,.4,.2"
    )
    parser.add_argument(
        "--fusion-size", choices=("largest", "input"), default="largest", help="size of the fused map (%(default)s)"
    )
    parser.add_argument("--scaling", choices=sorted(NORMALIZATIONS), help="of each layer's map before they are fused")
    parser.add_argument("--smooth", choices=sorted(SMOOTHINGS), help="average the maps of changed copies of the image")


def add_preprocess_options(parser: argparse.ArgumentParser) -> None:
    """How pictures become the input."""
    parser.add_argument("--preprocess", choices=sorted(PRESETS), help="preset; what the model says, else imagenet")
    parser.add_argument(
        "--mean", type=_numbers, metavar="A,B,C", help="mean of pixels in 0..1, instead of the preset's"
    )
    parser.add_argument("--std", type=_numbers, metavar="A,B,C", help="deviation of pixels in 0..1")
    parser.add_argument("--size", type=size, metavar="HxW", help="input size, where the model leaves it free (224x224)")
    parser.add_argument(
        "--resize", choices=("short", "squash", "none"), help="short keeps the aspect ratio and crops (default)"
    )


def option(text: str) -> tuple[str, Any]:
    """``samples=10`` as a number, ``variant=official`` as a text, ``centred=true`` as a truth value, ``gamma=none``."""
    name, found, value = text.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as samples=10")
    if value.lower() == "none":
        return name, None
    try:
        return name, json.loads(value.lower())
    except ValueError:
        return name, value


def _fusion(text: str) -> str | tuple[float, ...]:
    return text if text.isalpha() else _numbers(text)


def _alpha(text: str) -> float | str:
    return text if text == "heat" else float(text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.5,0.5") from error


def size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 224x224") from error


def look_of(args: argparse.Namespace) -> dict[str, Any]:
    """Of what is not given the drawing knows what is best."""
    names = ("style", "cmap", "alpha", "normalization", "threshold", "gain", "boxes")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
