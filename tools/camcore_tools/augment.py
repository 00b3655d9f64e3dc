"""Make a picture set many times as large: every picture as it is, and copies of
it, turned, shifted and mirrored at random.

DATA is a folder with a folder for each class, or one with such folders in train
and val; pictures in val stay as they are. Other folders beside these, such as
masks, are left out. A copy of cap/7.jpg is cap/7~1.jpg;
camcore train keeps a picture and its copies on one side of its split. What
comes in over an edge is the picture mirrored at that edge.

camcore train makes such changes on the fly, new ones in every epoch. The set on
the disk is for other programs, and for comparing with work that used one.

Exit status 2 if a picture could not be read; the others are written.

examples:
  camcore augment flowers -o flowers-tenfold
  camcore augment flowers -o turned --times 4 --rotate 45 --shift 0 --no-flip
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import InputError, MissingPackage
from camcore_tools.console import columns, note, print_json, safe

if TYPE_CHECKING:
    from camcore_tools.training.offline import Outcome

SUMMARY = "make a picture set ten times as large: copies turned, shifted and mirrored at random"
_MOST_LISTED = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("data", metavar="DATA", help="folder of class folders, or of train and val with such")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="new folder for the larger set")
    parser.add_argument(
        "--times", type=int, default=10, metavar="N", help="each picture itself and N - 1 copies (%(default)s)"
    )
    parser.add_argument(
        "--rotate", type=float, default=20.0, metavar="DEG", help="most degrees to both sides, 0 to 180 (%(default)g)"
    )
    parser.add_argument(
        "--shift", type=float, default=0.2, metavar="S", help="most shares of the sides, 0 to 1 (%(default)g)"
    )
    parser.add_argument("--no-flip", action="store_true", help="mirror no picture")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the changes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; 2 if pictures had to be left out."""
    _check(args)
    try:
        from camcore_tools.training.augment import Augmentation
        from camcore_tools.training.offline import augment_folder
    except ImportError as error:
        raise MissingPackage(
            "pictures are changed by torch, which cannot be imported: pip install 'camcore[torch]'"
        ) from error
    policy = Augmentation(args.rotate, args.shift, not args.no_flip)
    if not policy.changes:
        raise InputError("--rotate 0, --shift 0 and --no-flip leave nothing to change; expected one of them otherwise")
    outcome = augment_folder(Path(args.data), Path(args.output), times=args.times, policy=policy, seed=args.seed)
    _tell(outcome, args.output)
    print_json(_document(outcome, args)) if args.json else print(_summary(outcome, args.output))
    return 2 if outcome.left_out else 0


def _check(args: argparse.Namespace) -> None:
    for name, least in (("times", 2), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} is {getattr(args, name)}; expected {least} or more")


def _tell(outcome: Outcome, output: str) -> None:
    for text in outcome.notes:
        note(f"note: {safe(text)}")
    count = len(outcome.left_out)
    if count:
        note(f"{count} file{'s' * (count > 1)} left out:")
        note(columns(outcome.left_out[:_MOST_LISTED]))
    if count > _MOST_LISTED:
        note(f"  and {count - _MOST_LISTED} more; --json lists all")


def _summary(outcome: Outcome, output: str) -> str:
    rows = [(name, _counts(outcome.originals[name], outcome.copies[name])) for name in outcome.classes]
    total = sum(outcome.originals.values()) + sum(outcome.copies.values()) + outcome.held_out
    held = f", of which {outcome.held_out} to validate with, as they were" if outcome.held_out else ""
    return f"{columns(rows)}\n{total} pictures in {safe(output)}{held}"


def _counts(pictures: int, copies: int) -> str:
    return f"{pictures} picture{'s' * (pictures > 1)} and {copies} cop{'ies' if copies > 1 else 'y'}"


def _document(outcome: Outcome, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "data": args.data,
        "output": args.output,
        "times": args.times,
        "rotate": args.rotate,
        "shift": args.shift,
        "flip": not args.no_flip,
        "seed": args.seed,
        "classes": {
            name: {"pictures": outcome.originals[name], "copies": outcome.copies[name]} for name in outcome.classes
        },
        "held_out": outcome.held_out,
        "left_out": [{"path": path, "reason": reason} for path, reason in outcome.left_out],
        "notes": outcome.notes,
    }
