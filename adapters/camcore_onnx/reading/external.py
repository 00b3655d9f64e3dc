"""Weights in files beside a model: only regular files in its folder, and only what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PureWindowsPath

import onnx

from camcore.errors import InputError
from camcore_onnx.reading.limits import graphs_of

__all__ = ["MAX_SHARED", "check_external", "stored_tensors"]

MAX_SHARED = 16
"""How many tensors may lie at one and the same place of a file, as tied weights do."""

_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_LONGEST = 1000  # characters of a location


def stored_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors that a model holds: initialisers, and those in attributes."""
    for top in (proto.graph, *proto.functions):
        for graph, _ in graphs_of(top):
            if isinstance(graph, onnx.GraphProto):
                yield from graph.initializer
                yield from _sparse(graph.sparse_initializer)
            for node in graph.node:
                for attribute in node.attribute:
                    yield from _in_attribute(attribute)


def _in_attribute(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    if attribute.HasField("sparse_tensor"):
        yield from _sparse([attribute.sparse_tensor])
    yield from attribute.tensors
    yield from _sparse(attribute.sparse_tensors)


def _sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def check_external(tensors: Iterable[onnx.TensorProto], name: str, folder: Path | None) -> bool:
    """Whether there are any; those in places where they may not be are refused.

    Parameters
    ----------
    tensors : iterable of TensorProto
    name : str
        Of the model.
    folder : Path or None
        Where it lies; None for a model in memory.

    Raises
    ------
    InputError
    """
    files: dict[str, list[tuple[int, int]]] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        _check_keys(name, tensor)
        for location in _values(tensor, "location") or [""]:
            if folder is None:
                raise InputError(f"{name}: its weights lie in {location!r}; give the path of the .onnx file instead")
            if location not in files:
                _check_place(name, folder, location)
            files.setdefault(location, []).append(_range(name, tensor))
    for location, ranges in files.items():
        assert folder is not None  # see above
        _check_ranges(name, folder / location, location, ranges)
    return bool(files)


def _check_keys(name: str, tensor: onnx.TensorProto) -> None:
    unknown = next((e.key for e in tensor.external_data if e.key not in _KEYS), None)
    if unknown is not None:
        raise InputError(
            f"{name}: the graph is damaged: {tensor.name[:80]!r}, whose numbers lie in another file, has an entry "
            f"{unknown[:80]!r}; expected {', '.join(sorted(_KEYS))}"
        )


def _values(tensor: onnx.TensorProto, key: str) -> list[str]:
    return [entry.value for entry in tensor.external_data if entry.key == key]


def _check_place(name: str, folder: Path, location: str) -> None:
    """No way out of the folder, in the spelling of any system, and no link in it."""
    parts = Path(location.replace("\\", "/")).parts
    windows = PureWindowsPath(location)
    outside = Path(location).is_absolute() or windows.drive or windows.root or ".." in parts
    if not location or outside or len(location) > _LONGEST or any(ord(c) < 32 for c in location):
        raise InputError(
            f"{name}: its weights point outside the model's folder ({location[:200]!r}); refused, for that file is not "
            "part of the model"
        )
    file = folder / location
    if not (file.exists() or file.is_symlink()):
        raise InputError(f"{name}: the file {location[:200]!r} with its weights is missing; put it into {folder}")
    if not file.resolve().is_relative_to(folder.resolve()) or _has_link(folder, location) or not file.is_file():
        raise _is_link(name, folder, location)
    if file.stat().st_nlink > 1:
        raise _is_link(name, folder, location)


def _has_link(folder: Path, location: str) -> bool:
    place = folder
    for part in Path(location).parts:
        place /= part
        if place.is_symlink():
            return True
    return False


def _is_link(name: str, folder: Path, location: str) -> InputError:
    return InputError(
        f"{name}: {location!r} with its weights is a link or no regular file in {folder}; put a copy there"
    )


def _range(name: str, tensor: onnx.TensorProto) -> tuple[int, int]:
    """Offset and length, -1 where the length is not stated; written twice, they could mean two things."""
    offset, length = (_number(name, tensor, key) for key in ("offset", "length"))
    return offset or 0, -1 if length is None else length


def _number(name: str, tensor: onnx.TensorProto, key: str) -> int | None:
    found = _values(tensor, key)
    if not found:
        return None
    text = found[0]
    if len(found) > 1 or len(text) > 19 or not (text.isascii() and text.isdigit()):
        raise InputError(
            f"{name}: the graph is damaged: the {key} of {tensor.name[:80]!r} in its file is "
            f"{', '.join(found)[:60]!r}; expected one whole number of at least 0"
        )
    return int(text)


def _check_ranges(name: str, file: Path, location: str, ranges: list[tuple[int, int]]) -> None:
    size = file.stat().st_size
    ends = [(offset, offset + max(length, 0)) for offset, length in ranges]
    last = max(end for _, end in ends)
    if last > size:
        raise InputError(f"{name}: {location!r} with its weights has {size} bytes of {last}; copy it again")
    counts: dict[tuple[int, int], int] = {}
    for place in ends:
        counts[place] = counts.get(place, 0) + 1
    if max(counts.values()) > MAX_SHARED:
        raise InputError(
            f"{name}: {max(counts.values())} tensors lie at one place of {location!r}; the limit is {MAX_SHARED}. If "
            "you trust the file, raise camcore_onnx.reading.external.MAX_SHARED"
        )
    distinct = sorted(place for place in counts if place[0] < place[1])
    if any(first[1] > second[0] for first, second in pairwise(distinct)):
        raise InputError(f"{name}: the graph is damaged: tensors in {location!r} overlap each other")
