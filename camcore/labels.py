"""Class names, from files and from models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from camcore.errors import InputError

__all__ = ["clean", "escaped", "harmless", "read_labels", "short_name"]

_LIMIT_BYTES = 16 << 20
_LIMIT_NAMES = 1_000_000
_SYNSET = re.compile(r"^n\d{8}(?:\s*[:,]\s*|\s+)(?=\S)")
_NUMBER = re.compile(r"^([0-9]{1,9})(?:\s*[:,]\s*|\s+)(?=\S)")
# Besides what a terminal obeys: what turns the writing direction, what is not seen (but for the two joiners that some
# scripts are written with), and surrogates, which no file can hold.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)


def read_labels(source: str | PathLike[str] | Sequence[str] | Mapping[Any, str]) -> tuple[str, ...]:
    """Class names in the order of the scores.

    Parameters
    ----------
    source : path, sequence of str, or mapping of index to str
        A text file with one name a line (a leading WordNet id or running number is dropped) or a JSON list or object.

    Raises
    ------
    InputError
        If the file is missing, not text, empty or larger than 16 MiB, or names more than a million classes.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source)
    if not isinstance(source, (str, PathLike)):
        return _listed(source)
    path = Path(source)
    if not path.is_file():
        raise InputError(f"labels: {path}: no such file")
    if path.stat().st_size > _LIMIT_BYTES:
        raise InputError(f"labels: {path}: larger than {_LIMIT_BYTES >> 20} MiB; expected one name a line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"labels: {path}: not a text file in UTF-8") from error
    names = _from_json(path, text) if path.suffix.lower() == ".json" else _from_lines(text)
    if not names:
        raise InputError(f"labels: {path}: no names in it; expected one a line")
    return names


def _listed(names: Sequence[Any]) -> tuple[str, ...]:
    if len(names) > _LIMIT_NAMES:
        raise InputError(f"labels: {len(names)} names; the limit is {_LIMIT_NAMES}")
    return tuple(clean(str(name)) for name in names)


def _from_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if all(_SYNSET.match(line) for line in lines):
        lines = [_SYNSET.sub("", line) for line in lines]
    elif _numbered(lines):
        lines = [_NUMBER.sub("", line) for line in lines]
    return _listed(lines)


def _numbered(lines: Sequence[str]) -> bool:
    """Whether the numbers in front count the lines; those of "50 euro" and "100 euro" belong to the names."""
    numbers = [int(found[1]) for found in map(_NUMBER.match, lines) if found]
    return numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)])


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"labels: {path}: not valid JSON: {error}") from error
    if isinstance(data, dict):
        return _from_mapping(data)
    if isinstance(data, list):
        return _listed(data)
    raise InputError(f"labels: {path}: expected a JSON list of names, or an object of index to name")


def _from_mapping(data: Mapping[Any, Any]) -> tuple[str, ...]:
    try:
        named = {int(k): v[-1] if isinstance(v, list) else v for k, v in data.items()}
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"labels: the keys of the mapping must be class indices: {error}") from error
    if not named or min(named) < 0 or max(named) >= _LIMIT_NAMES:
        raise InputError("labels: the mapping is empty or has indices out of range")
    return tuple(clean(str(named.get(i, f"class {i}"))) for i in range(max(named) + 1))


def clean(name: str, limit: int = 200) -> str:
    """``name`` without characters that control, turn or hide text, at most ``limit`` long."""
    return _CONTROL.sub(" ", name).strip()[:limit]


def harmless(text: str) -> str:
    """``text`` with such characters as spaces; its lines stay lines."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else " ", text)


def escaped(document: str) -> str:
    r"""A JSON document with such characters, which are in its texts only, written as ``\u`` and a number.

    Examples
    --------
    >>> print(escaped('{"name": "a' + chr(0x202E) + 'b"}'))
    {"name": "a\u202eb"}
    """
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else _code(ord(found[0])), document)


def _code(number: int) -> str:
    if number < 1 << 16:
        return f"\\u{number:04x}"
    return f"\\u{0xD800 + (number - 0x10000 >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def short_name(name: str) -> str:
    """The first of several synonyms.

    Examples
    --------
    >>> short_name("tench, Tinca tinca")
    'tench'
    """
    return name.split(",")[0].strip() or name
