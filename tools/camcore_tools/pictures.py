"""Draw a picture set to try things on: five kinds of merchandise in class
folders, each picture with an exact mask.

The folder gets train and val with a folder for each kind, and masks with the
same names in masks/train and masks/val: white where the object is. The same
seed gives the same pictures.

examples:
  camcore pictures merchandise
  camcore pictures large --size 224 --count 50 --validation 10
"""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from camcore.errors import InputError
from camcore_tools.console import Progress, columns, print_json, safe

SUMMARY = "draw a picture set to try things on: five kinds of merchandise, with masks"
_LIMITS = {"count": (1, 100_000), "validation": (0, 100_000), "size": (16, 1024), "seed": (0, 2**63)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", metavar="DIR", help="new folder for the pictures")
    parser.add_argument(
        "--count", type=int, default=300, metavar="N", help="pictures of each kind to train on (%(default)s)"
    )
    parser.add_argument(
        "--validation", type=int, default=50, metavar="N", help="of each kind to validate with (%(default)s)"
    )
    parser.add_argument("--size", type=int, default=64, metavar="N", help="side in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Draw them all."""
    for name, (least, most) in _LIMITS.items():
        if not least <= getattr(args, name) <= most:
            raise InputError(f"--{name} is {getattr(args, name)}; expected {least} to {most}")
    sides = _draw(args)
    if args.json:
        print_json({"folder": args.folder, "size": args.size, "seed": args.seed, "pictures": sides})
    else:
        print(_summary(args.folder, sides))
    return 0


def _draw(args: argparse.Namespace) -> dict[str, dict[str, int]]:
    """How many pictures of each kind were written to each side."""
    import numpy as np

    from camcore_tools.merchandise import KINDS
    from camcore_tools.training.outputs import whole_folder

    counts = {"train": args.count, "val": args.validation}
    seeds = np.random.SeedSequence(args.seed).generate_state(2).tolist()  # those of the demo
    total = len(KINDS) * sum(counts.values())
    with (
        whole_folder(Path(args.folder), room=total * args.size**2) as folder,
        Progress(2 * total, "drawing") as bar,
    ):
        return {
            side: _draw_side(folder, side, count, args.size, seed, bar.step)
            for (side, count), seed in zip(counts.items(), seeds, strict=True)
            if count
        }


def _draw_side(
    folder: Path, side: str, count: int, size: int, seed: int, after_each: Callable[[], object]
) -> dict[str, int]:
    from PIL import Image

    from camcore_tools.merchandise import KINDS, picture_set

    drawn, numbers = picture_set(count, size, seed=seed, after_each=after_each), Counter[str]()
    for kind in KINDS:
        (folder / side / kind).mkdir(parents=True)
        (folder / "masks" / side / kind).mkdir(parents=True)
    for pixels, label, mask in zip(drawn.images, drawn.labels, drawn.masks, strict=True):
        kind = KINDS[label]
        numbers[kind] += 1
        name = f"{numbers[kind]:04d}.png"
        Image.fromarray(pixels).save(folder / side / kind / name)
        Image.fromarray(mask).save(folder / "masks" / side / kind / name)
        after_each()
    return {kind: numbers[kind] for kind in KINDS}


def _summary(folder: str, sides: dict[str, dict[str, int]]) -> str:
    rows = [(side, f"{sum(kinds.values())} pictures: {', '.join(kinds)}") for side, kinds in sides.items()]
    rows.append(("masks", "of all of them, white where the object is"))
    return f"{columns(rows)}\nwritten to {safe(folder)}; try: camcore train {shlex.quote(folder)}"
