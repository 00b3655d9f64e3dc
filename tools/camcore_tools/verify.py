"""Prove that the gradients of an ONNX file are right: by differences of the file
itself, or by those of the PyTorch network that it was made of.

examples:
  camcore verify model.onnx
  camcore verify model.onnx --layer layer3 --layer layer4 --size 128x128
  camcore verify model.onnx --torch torchvision.models:resnet18 --weights w.safetensors
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore.errors import InputError, MethodNotPossible
from camcore_tools.console import Progress, columns, note, print_json
from camcore_tools.explaining.options import size
from camcore_tools.sources import open_model, torch_module

if TYPE_CHECKING:
    from camcore_onnx import OnnxBackend
    from camcore_onnx.gradients.check import Agreement

    Check = Callable[[str], Agreement]

SUMMARY = "prove that the gradients of an ONNX file are right"
_IMAGES = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")
    parser.add_argument("--gradient", action="store_true", help="check gradients (what is done anyway)")
    parser.add_argument(
        "--torch", metavar="MODULE:FACTORY", help="compare with torch.autograd in this network; its code is run"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for --torch, in safetensors format")
    parser.add_argument(
        "--layer", action="append", metavar="NAME", help="look here; at the last layer of each size where absent"
    )
    parser.add_argument("--size", type=size, metavar="HxW", help="of the images, where the model takes any (224x224)")
    parser.add_argument(
        "--rtol", type=float, metavar="X", help="limit of ||difference|| / ||gradient|| (1e-3; times 50 in float16)"
    )
    parser.add_argument("--atol", type=float, default=0.0, metavar="X", help="limit of ||difference|| (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print how well gradients agree at each layer; 1 if one is beyond the limit."""
    from camcore_onnx.packages import need

    need()
    from camcore_onnx import OnnxBackend

    if args.weights and not args.torch:
        raise InputError("--weights goes with --torch; an .onnx file has its own weights")
    if args.size is not None and min(args.size) < 1:
        raise InputError(f"--size {args.size[0]}x{args.size[1]}: expected two numbers above 0, such as 224x224")
    backend = OnnxBackend(open_model(argparse.Namespace(model=args.model, torch=None, weights=None)), device="cpu")
    check, layers = _by_torch(backend, args) if args.torch else _by_differences(backend, args)
    with Progress(len(layers), "checking") as bar:
        found = [agreement for layer in layers for agreement in _one(check, layer, bar, usual=not args.layer)]
    if not found:
        raise MethodNotPossible(f"no layer could be checked of {', '.join(layers) or 'none'}; choose one by --layer")
    if args.json:
        print_json({"model": args.model, "torch": args.torch, "layers": [_entry(a) for a in found]})
    else:
        _print(found)
    return 0 if all(a.passed for a in found) else 1


def _by_differences(backend: OnnxBackend, args: argparse.Namespace) -> tuple[Check, list[str]]:
    """The check of a layer against the file itself, and the layers to check."""
    from camcore_onnx.gradients.check import against_differences

    images = _images(backend, args)
    layers = args.layer or [layer.name for layer in backend.layers()]
    return lambda layer: against_differences(backend, layer, images, **_limits(args)), layers


def _by_torch(backend: OnnxBackend, args: argparse.Namespace) -> tuple[Check, list[str]]:
    """The check of a layer against the module of the same path, and the modules that the file names."""
    from camcore_onnx.gradients.check import against_reference
    from camcore_onnx.layers import module_paths

    from camcore.opening import open_backend

    images = _images(backend, args)
    network = open_backend(torch_module(args.torch, args.weights), device="cpu")
    network.tap(None, images)
    known = set(module_paths(list(backend.graph)))
    layers = args.layer or [layer.name for layer in network.layers() if layer.name in known]

    def reference(images: Any, layer: str, classes: Any) -> tuple[Any, Any]:
        needs = frozenset({"features", "gradients"})
        seen = network.observe(images, needs=needs, layers=[layer], classes=classes[:, None])[0]
        assert seen.gradients is not None  # asked for
        return seen.need_features(), seen.gradients[:, 0]

    return lambda layer: against_reference(backend, layer, images, reference, **_limits(args)), layers


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    from camcore_onnx.gradients.check import LIMIT

    return {"rtol": LIMIT if args.rtol is None else args.rtol, "atol": args.atol}


def _images(backend: OnnxBackend, args: argparse.Namespace) -> Any:
    """Random images that fit."""
    from camcore_onnx.verify import sample_inputs

    images = np.concatenate([sample_inputs(backend.input, seed=i, size=args.size)[0] for i in range(_IMAGES)])
    return np.rint(images * 40 + 128).clip(0, 255) if backend.input.dtype == "uint8" else images


def _one(check: Check, layer: str, bar: Progress, *, usual: bool) -> Iterator[Agreement]:
    """One layer; of those that nobody asked for, one that has no gradient is left out."""
    try:
        yield check(layer)
    except MethodNotPossible as error:
        if not usual:
            raise
        note(f"left out {layer}: {error}")
    bar.step(1, layer)


def _entry(a: Agreement) -> dict[str, Any]:
    return {
        "layer": a.layer,
        "difference": _finite(a.difference),
        "worst image": _finite(a.worst),
        "limit": a.limit,
        "passed": a.passed,
        "compared with": a.how,
        "difference of Grad-CAM maps": None if a.maps is None else _finite(a.maps),
    }


def _finite(number: float) -> float | None:
    """JSON knows no infinity."""
    return number if math.isfinite(number) else None


def _print(found: list[Agreement]) -> None:
    with_maps = any(a.maps is not None for a in found)
    head = ["layer", "gradient", "limit", "worst image", *(["maps"] if with_maps else []), ""]
    print("Relative difference of gradients, ||difference|| / ||gradient||:\n")
    print(columns([head, *(_row(a, with_maps) for a in found)]))
    print()
    print(columns([("compared with", how) for how in dict.fromkeys(a.how for a in found)]))
    if not all(a.passed for a in found):
        print("verification failed")


def _row(a: Agreement, with_maps: bool) -> list[str]:
    maps = [] if not with_maps else ["" if a.maps is None else f"{a.maps:.1e}"]
    numbers = [f"{number:.1e}" for number in (a.difference, a.limit, a.worst)]
    return [a.layer, *numbers, *maps, "ok" if a.passed else "FAILED"]
