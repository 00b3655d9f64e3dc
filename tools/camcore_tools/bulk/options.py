"""The options of ``camcore explain --workers``, and those that do not go with it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from camcore.bulk.shards import FORMATS
from camcore.engine import BATCH
from camcore.errors import InputError

__all__ = ["add_bulk_options", "check_bulk_options", "check_few_options", "cores"]

SHARD = 1024

# Of pictures and documents that are not written, with what they are where nothing was given.
_DRAWING: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("together", "label_masks", "style", "cmap", "alpha", "normalization", "boxes")),
        "threshold": 0.0,
        "gain": 1.0,
    }
)


def add_bulk_options(parser: argparse.ArgumentParser) -> None:
    """Many pictures at a time."""
    group = parser.add_argument_group(
        "many pictures",
        "With --workers the maps of any number of pictures are written as they come:\n"
        "float16 maps of the layer's own size in shards, index.jsonl with a line a\n"
        "picture, and no overlays: camcore.bulk.read(DIR) draws those of one picture.\n"
        "Killed, it goes on where it stopped when the same command is given again.",
    )
    group.add_argument("--workers", type=int, metavar="N", help="processes that decode; 0: this one does all")
    group.add_argument("--batch-size", type=int, default=BATCH, metavar="N", help="images a run (%(default)s)")
    group.add_argument("--format", choices=sorted(FORMATS), default="npz", help="of the shards (%(default)s)")
    group.add_argument("--shard-size", type=int, default=SHARD, metavar="N", help="pictures a shard (%(default)s)")


def check_bulk_options(args: argparse.Namespace) -> None:
    """Refuse what makes no sense, or would have no effect.

    Raises
    ------
    InputError
    """
    for name, least in (("workers", 0), ("batch_size", 1), ("shard_size", 1)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least {least}")
    for name, nothing in _DRAWING.items():
        if getattr(args, name) != nothing:
            raise InputError(
                f"--{name.replace('_', '-')} is for overlays, which --workers does not write; leave one of the two out"
            )
    if "," in args.method:
        raise InputError(f"--method {args.method!r} names several; --workers takes one: give each a folder of its own")


def check_few_options(args: argparse.Namespace) -> None:
    """Without ``--workers`` the options beside it have no effect."""
    for name, nothing in (("batch_size", BATCH), ("format", "npz"), ("shard_size", SHARD)):
        if getattr(args, name) != nothing:
            raise InputError(
                f"--{name.replace('_', '-')} goes with --workers, which writes maps and no overlays; give both"
            )


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
