"""What a killed run has left: how much of it is done, and whether it was made with the same settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcore.bulk.index import whole_lines
from camcore.bulk.shards import FORMATS, rows_of, shard_name
from camcore.errors import InputError

__all__ = ["INDEX", "RUN", "VERSION", "Found", "differences", "read_run", "scan"]

INDEX, RUN = "index.jsonl", "run.json"
VERSION = 1


@dataclass(frozen=True)
class Found:
    """Of the shards that are whole and have all their lines: pictures, errors, shards, and bytes of the index."""

    done: int = 0
    errors: int = 0
    shards: int = 0
    end: int = 0


def scan(index: Path, kind: str, size: int, total: int | None) -> Found:
    """Read an index and the shards beside it, as far as they are good.

    Parameters
    ----------
    index : path
    kind : str
        The format of the shards.
    size : int
        Pictures a shard.
    total : int, optional
        Pictures of a run that has ended, whose last shard may be a short one.
    """
    found = Found()
    for part in _parts(index, kind):
        done = found.done + part.done
        if part.done != size and done != total:
            break
        if rows_of(index.with_name(shard_name(found.shards, kind))) != part.done:
            break
        found = Found(done, found.errors + part.errors, found.shards + 1, found.end + part.end)
    return found


def _parts(index: Path, kind: str) -> Iterator[Found]:
    """The lines of each shard, as long as they follow each other."""
    number, part = 0, Found()
    for record, length in whole_lines(index):
        place = record["shard"], record["row"]
        if part.done and place == (shard_name(number + 1, kind), 0):
            yield part
            number, part = number + 1, Found()
        elif place != (shard_name(number, kind), part.done):
            break
        part = Found(part.done + 1, part.errors + ("error" in record), 1, part.end + length)
    if part.done:
        yield part


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json``: its ``settings``, and ``finished`` with the numbers of a run that has ended.

    Raises
    ------
    InputError
        If it is missing, damaged, or of another kind.
    """
    path = folder / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        settings, finished = found["settings"], found["finished"]
        good = found["camcore bulk"] == VERSION and settings["format"] in FORMATS and int(settings["shard_size"]) > 0
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no {RUN} in it; expected a folder of camcore explain --workers") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); it was not written by camcore explain") from error
    if not good or not isinstance(finished, (dict, type(None))):
        raise InputError(f"{path}: of another version or format; update camcore, or explain again into another folder")
    return {"settings": settings, "finished": finished}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two settings, in words."""
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return [f"{name} was {_short(was.get(name))}, is {_short(now.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
