"""Evaluate a run of camcore train: accuracy and loss of every checkpoint,
figures of each class, the confusion matrix; then maps of validation pictures,
method by method, and where there are masks how well each finds the object.

The folder (RUN/evaluation) gets eval.json, accuracy.png, confusion.png, and of
each method METHOD-grid.png (true class, three best), METHOD-compact.png and
METHOD-strip.png; of several methods also methods.png, side by side.

examples:
  camcore evaluate camcore-run
  camcore evaluate camcore-run --method cam,layercam,scorecam --count 20
  camcore evaluate camcore-run --pictures cap/0003.png cube/0001.png --style red
  camcore evaluate camcore-run --mistakes --of true
  camcore evaluate camcore-run --method cam,layercam --layer blocks.0 \\
      --layer blocks.1 --layer blocks.2 --masks pictures/masks/val
"""

from __future__ import annotations

import argparse

from camcore.errors import InputError, MissingPackage
from camcore_tools.console import print_json
from camcore_tools.explaining.options import add_look_options, add_map_options
from camcore_tools.threads import let_threads_rest

SUMMARY = "evaluate a run of camcore train: accuracy, confusion, maps method by method"
_LOCALISED = 200  # pictures, unless another number is given


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("run", metavar="RUN", help="the folder that camcore train wrote")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the results (RUN/evaluation)")
    parser.add_argument("--data", metavar="DIR", help="where the pictures are now, if they were moved")
    parser.add_argument(
        "--checkpoint", default="best", metavar="WHICH", help="best (default), last, or the number of an epoch"
    )
    parser.add_argument("--no-others", action="store_true", help="measure no checkpoint but that one")
    _add_picture_options(parser)
    parser.add_argument(
        "--method",
        metavar="NAME[,NAME]",
        help="see camcore methods (cam where the head allows it, else gradcam; and recam where it was trained)",
    )
    add_map_options(parser)
    add_look_options(parser, together=False)
    parser.add_argument("--masks", metavar="DIR", help="masks of the objects, named as the pictures (those of the run)")
    parser.add_argument(
        "--iou-threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="what is above T times the maximum is compared with the mask (%(default)s)",
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="pictures at a time (%(default)s)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print eval.json instead of tables")


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    """Which pictures are shown, and the maps of which class."""
    parser.add_argument("--pictures", nargs="+", metavar="NAME", help="validation pictures to show: cap/0003.png")
    parser.add_argument(
        "--count", type=int, default=12, metavar="N", help="else so many at random, over all classes (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice (%(default)s)")
    parser.add_argument("--mistakes", action="store_true", help="choose among those that the network is wrong about")
    parser.add_argument(
        "--of", choices=("best", "true"), default="best", help="whose maps: the class found, or the true one (best)"
    )
    parser.add_argument(
        "--localise",
        type=int,
        default=_LOCALISED,
        metavar="N",
        help="compare at most so many pictures with their masks (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and draw everything; 2 if a checkpoint or a method could not be done."""
    let_threads_rest()
    _check(args)
    _need_packages()
    from camcore_tools.evaluation.session import evaluate
    from camcore_tools.evaluation.tables import print_evaluation

    try:
        document = evaluate(args)
    except OSError as error:  # a full disk, a folder taken away
        raise InputError(str(error)) from error
    print_json(document) if args.json else print_evaluation(document)
    damaged = any("error" in row for row in document["checkpoints"])
    return 2 if damaged or document["left_out"] else 0


def _check(args: argparse.Namespace) -> None:
    for name, least in (("count", 1), ("seed", 0), ("batch", 1), ("localise", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} is {getattr(args, name)}; expected {least} or more")
    if not 0 < args.iou_threshold <= 1:
        raise InputError(f"--iou-threshold is {args.iou_threshold:g}; expected a share of the maximum, above 0 to 1")
    if args.pictures and args.mistakes:
        raise InputError("--pictures names pictures, and --mistakes chooses others; give one of the two")


def _need_packages() -> None:
    for package in ("torch", "torchvision", "safetensors"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingPackage(f"evaluating a run needs {package} ({error}): pip install 'camcore[all]'") from error
