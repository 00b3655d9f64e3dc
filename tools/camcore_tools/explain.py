"""Explain pictures: an overlay for each, maps.npz and result.json.

examples:
  camcore explain model.onnx cat.jpg
  camcore explain model.onnx photos/ 'more/*.png' --classes top3 --preprocess tf -o out
  camcore explain model.onnx cat.jpg --classes "Egyptian cat" --labels names.txt --json
  camcore explain model.onnx cat.jpg --method gradcam,layercam,scorecam -o compared
  camcore explain model.onnx photos/ --workers 4 --preprocess imagenet -o maps
  camcore explain tagger.onnx street.jpg --together 0.4 --label-masks
  camcore explain --torch torchvision.models:vgg16 cat.jpg --method layercam \\
      --layer features.15 --layer features.22 --layer features.29 --fusion 0.4,0.4,0.2 --scaling tanh
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible
from camcore.explanation import Explanation
from camcore.pictures import Picture, find_pictures, load_picture
from camcore.results import ResultFolder
from camcore_tools.bulk.options import add_bulk_options, check_few_options
from camcore_tools.bulk.run import run_bulk
from camcore_tools.compare import stack_sheets
from camcore_tools.console import Progress, note, print_json, safe
from camcore_tools.explainers import leave_out, note_alike, open_explainers, possible_ones
from camcore_tools.explaining.options import (
    add_look_options,
    add_method_options,
    add_preprocess_options,
    add_present_options,
    look_of,
)
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
    add_bulk_options(parser)
    parser.add_argument("--json", action="store_true", help="print result.json instead of a list")


def run(args: argparse.Namespace) -> int:
    """Explain all pictures; those that cannot be read are reported and left out."""
    if args.torch and args.model:  # with --torch every positional is a picture
        args.images, args.model = [args.model, *args.images], None
    _check_style(args)
    model = open_model(args)
    if not args.images:
        raise InputError("no pictures were given; expected files, folders or glob patterns")
    if args.workers is not None:
        return run_bulk(args, model)
    check_few_options(args)
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
