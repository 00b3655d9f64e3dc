"""Explain pictures: an overlay for each, maps.npz and result.json.

examples:
  camcore explain model.onnx cat.jpg
  camcore explain model.onnx photos/ 'more/*.png' --classes top3 --preprocess tf -o out
  camcore explain model.onnx cat.jpg --classes "Egyptian cat" --labels names.txt --json
  camcore explain model.onnx cat.jpg --method gradcam,layercam,scorecam -o compared
  camcore explain tagger.onnx street.jpg --together 0.4 --label-masks
  camcore explain --torch torchvision.models:vgg16 cat.jpg --method layercam \\
      --layer features.15 --layer features.22 --layer features.29 --fusion 0.4,0.4,0.2 --scaling tanh
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from camcore import figures
from camcore.colormaps import COLORMAPS
from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible
from camcore.explanation import Explanation
from camcore.normalize import NORMALIZATIONS
from camcore.pictures import Picture, find_pictures, load_picture
from camcore.preprocess import PRESETS
from camcore.results import ResultFolder
from camcore.smoothing import SMOOTHINGS
from camcore_tools.compare import stack_sheets
from camcore_tools.console import Progress, note, print_json, safe
from camcore_tools.explainers import leave_out, note_alike, open_explainers, possible_ones
from camcore_tools.sources import add_model_options, open_model

SUMMARY = "explain pictures: overlays, raw maps and result.json"
_BATCH = 16


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_options(parser)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders and glob patterns")
    parser.add_argument(
        "-o", "--output", default="camcore-out", metavar="DIR", help="folder for the results (%(default)s)"
    )
    add_method_options(parser)
    add_preprocess_options(parser)
    parser.add_argument(
        "--classes", default=None, metavar="WHICH", help="top1 (default), top5, all, an index or a name"
    )
    parser.add_argument("--top", type=int, default=3, metavar="K", help="names in the caption (%(default)s)")
    add_present_options(parser)
    add_look_options(parser)
    parser.add_argument("--json", action="store_true", help="print result.json instead of a list")


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


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Which method, where, on what."""
    parser.add_argument(
        "--method",
        default="auto",
        metavar="NAME[,NAME]",
        help="see camcore methods; each of several gets a folder, and all share a sheet "
        "(auto: cam where the head allows it, else gradcam)",
    )
    add_map_options(parser)
    parser.add_argument("--labels", metavar="FILE", help="class names: one a line, or JSON")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Options of the method, and where it looks."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_option,
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


def _option(text: str) -> tuple[str, Any]:
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


def run(args: argparse.Namespace) -> int:
    """Explain all pictures; those that cannot be read are reported and left out."""
    if args.torch and args.model:  # with --torch every positional is a picture
        args.images, args.model = [args.model, *args.images], None
    _check_style(args)
    model = open_model(args)
    if not args.images:
        raise InputError("no pictures were given; expected files, folders or glob patterns")
    paths = find_pictures(args.images)
    explainers = open_explainers(args, model)
    several = len(explainers) > 1
    done, failed = _explain_all(explainers, paths, args)
    if several:
        stack_sheets([pictures for _, pictures in done.values()], Path(args.output))
    if several and failed < len(paths):
        note_alike({name: explainers[name] for name in done})
    if args.json and done:
        documents = {name: document for name, (document, _) in done.items()}
        print_json(documents if several else next(iter(documents.values())))
    elif done:
        print(f"{len(paths) - failed} of {len(paths)} pictures explained; results in {args.output}")
    return 2 if failed or len(done) < len(explainers) else 0


def _explain_all(
    explainers: Mapping[str, Explainer], paths: list[Path], args: argparse.Namespace
) -> tuple[dict[str, tuple[dict[str, Any], list[Path]]], int]:
    """For each method that could be done its document and pictures; and how many pictures could not be."""
    several = len(explainers) > 1
    done: dict[str, tuple[dict[str, Any], list[Path]]] = {}
    failed = 0
    for name, explainer in (possible_ones(explainers, paths) if several else explainers).items():
        folder = Path(args.output) / name if several else Path(args.output)
        try:
            results, left_out = _explain(explainer, paths, folder, args, quiet=args.json or bool(done))
        except (MethodNotPossible, InputError) as error:
            if not several or (isinstance(error, InputError) and not done):  # it is no fault of this method
                raise
            leave_out(name, error)
        else:
            done[name], failed = (results.document(), results.pictures), max(failed, left_out)
    return done, failed


def _explain(
    explainer: Explainer, paths: list[Path], folder: Path, args: argparse.Namespace, *, quiet: bool
) -> tuple[ResultFolder, int]:
    """Explain all pictures with one method; gives what was written and how many could not be."""
    failed = 0
    with (
        _never_left_empty(folder),
        ResultFolder(
            folder, top=args.top, together=args.together, label_masks=args.label_masks, **look_of(args)
        ) as results,
        Progress(len(paths), "explaining") as bar,
    ):
        explainer.report = lambda done, total: bar.step(0, f"{done}/{total} runs")
        for start in range(0, len(paths), _BATCH):
            chosen = paths[start : start + _BATCH]
            failed += _batch(explainer, chosen, args, results, quiet)
            bar.step(len(chosen))
    return results, failed


@contextmanager
def _never_left_empty(folder: Path) -> Iterator[None]:
    """Folders that are made meanwhile, and into which nothing was written, are gone afterwards."""
    made = [path for path in (folder, *folder.parents) if _is_absent(path)]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # it holds something, or was never made
                path.rmdir()


def _is_absent(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # may not be looked at
        return False


def look_of(args: argparse.Namespace) -> dict[str, Any]:
    """Of what is not given the drawing knows what is best."""
    names = ("style", "cmap", "alpha", "normalization", "threshold", "gain", "boxes")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _check_style(args: argparse.Namespace) -> None:
    for name in ("style", "cmap"):
        if args.together is not None and getattr(args, name) is not None:
            raise InputError(f"--{name} has no effect with --together, where colours mean classes; leave it out")


def _batch(
    explainer: Explainer, paths: list[Path], args: argparse.Namespace, results: ResultFolder, quiet: bool
) -> int:
    """Explain some pictures; gives how many could not be."""
    pictures: list[Picture] = []
    failed = 0
    for path in paths:
        try:
            pictures.append(load_picture(path))
        except InputError as error:
            failed += _report(results, path, error)
    for group in _groups(explainer, pictures):
        try:
            for out in _explanations(explainer, group, args):
                _tell(out, results, quiet)
        except InputError as error:
            if len(paths) == 1 or _concerns_all(error):
                raise
            failed += sum(_report(results, Path(p.path or p.name), error) for p in group)
    return failed


def _explanations(explainer: Explainer, group: list[Picture], args: argparse.Namespace) -> list[Explanation]:
    """All at once; one by one where each picture has classes of its own."""
    if args.classes is not None or (args.together is None and args.label_masks is None):
        return [explainer(group, args.classes)]
    return explainer.present(group, 0.5 if args.together is None else args.together)


def _groups(explainer: Explainer, pictures: list[Picture]) -> list[list[Picture]]:
    """With ``--resize none`` pictures of one size go together."""
    if explainer.preprocess is None or explainer.preprocess.resize != "none":
        return [pictures] if pictures else []
    sizes = dict.fromkeys(p.pixels.shape for p in pictures)
    return [[p for p in pictures if p.pixels.shape == size] for size in sizes]


def _concerns_all(error: InputError) -> bool:
    return not str(error).startswith("images have")


def _report(results: ResultFolder, path: Path, error: Exception) -> int:
    note(f"left out: {error}")
    results.add_error(str(path), str(error))
    return 1


def _tell(out: Explanation, results: ResultFolder, quiet: bool) -> None:
    results.add(out)
    if quiet:
        return
    for n in range(len(out)):
        name = out.pictures[n].path if out.pictures is not None else str(n)
        print(f"{safe(name)}: {'; '.join(results.lines(out, n))}")
