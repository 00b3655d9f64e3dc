"""Read an ONNX model as untrusted data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes.common import InlinePass

from camcore.errors import InputError

__all__ = ["Loaded", "load", "serialize"]

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
MAX_NODES = 500_000


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and where it came from; ``folder`` is set where its weights lie in files of their own."""

    model: ir.Model
    name: str
    path: Path | None = None
    folder: Path | None = None
    size: int = 0


def load(source: Any) -> Loaded:
    """Read a model from a path, bytes, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.

    Weights in external files are not read here. Model-local functions are inlined.

    Raises
    ------
    InputError
        For a missing, empty, damaged or foreign file, custom operators, or external data that is missing or outside
        the model's folder.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        proto = _parse(_read(path), str(path))
        return _loaded(proto, str(path), path.resolve(), path.stat().st_size)
    if isinstance(source, (bytes, bytearray)):
        return _loaded(_parse(bytes(source), "the bytes given"), "model in memory", None, len(source))
    proto = ir.to_proto(source) if isinstance(source, ir.Model) else source
    return _loaded(proto, "model in memory", None, proto.ByteSize())


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected an .onnx file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an .onnx file")
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); expected an .onnx file")
    return data


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{name}: not an ONNX model, or cut off: {_what(data)}") from error
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError(f"{name}: not an ONNX model: {_what(data)}")
    return proto


def _what(data: bytes) -> str:
    head = data[:4]
    kinds = {b"PK\x03\x04": "a zip archive (a PyTorch checkpoint?)", b"\x89HDF": "an HDF5 file (Keras?)"}
    if head in kinds:
        return f"it is {kinds[head]}; export it to ONNX first"
    text = data[:2000]
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in text):
        return f"it is a text file beginning {text[:40].decode(errors='replace')!r}"
    return f"its {len(data)} bytes cannot be parsed; copy or export it again"


def _loaded(proto: onnx.ModelProto, name: str, path: Path | None, size: int) -> Loaded:
    _check_operators(proto, name)
    external = sorted(set(_external_files(proto.graph)))
    if external and path is None:
        raise InputError(f"{name}: its weights lie in {external[0]!r}; give the path of the .onnx file instead")
    folder = path.parent if external and path is not None else None
    for location in external:
        _check_external(name, folder or Path(), location)
    try:
        model = ir.from_proto(proto)
        if folder is not None:
            ir.external_data.set_base_dir(model.graph, str(folder))
        if model.functions:
            model = InlinePass()(model).model
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{name}: the graph is damaged: {error}") from error
    return Loaded(model, name, path, folder, size)


def _check_operators(proto: onnx.ModelProto, name: str) -> None:
    if len(proto.graph.node) > MAX_NODES:
        raise InputError(f"{name}: {len(proto.graph.node)} nodes; the limit is {MAX_NODES}")
    local = {f.domain for f in proto.functions}
    foreign = sorted({n.domain for n in proto.graph.node} - DOMAINS - local)
    if foreign:
        node = next(n for n in proto.graph.node if n.domain == foreign[0])
        raise InputError(
            f"{name}: uses the custom operator {node.domain}::{node.op_type}; custom operators are refused. "
            "Export the model with standard operators"
        )


def _external_files(graph: onnx.GraphProto) -> Iterator[str]:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                yield from _external_files(inner)
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield next((e.value for e in tensor.external_data if e.key == "location"), "")


def _check_external(name: str, folder: Path, location: str) -> None:
    if not location or Path(location).is_absolute() or ".." in Path(location.replace("\\", "/")).parts:
        raise InputError(
            f"{name}: its weights point outside the model's folder ({location!r}); refused, for the file may not be yours"
        )
    file = folder / location
    if not file.exists():
        raise InputError(f"{name}: the file {location!r} with its weights is missing; put it into {folder}")
    if not file.resolve().is_relative_to(folder) or not file.is_file() or file.stat().st_nlink > 1:
        raise InputError(
            f"{name}: {location!r} with its weights is a link or no regular file in {folder}; put a copy there"
        )


def serialize(model: ir.Model) -> bytes:
    """The model as bytes; weights in external files stay there.

    Raises
    ------
    InputError
        If it is larger than the 2 GiB that protobuf allows.
    """
    proto = ir.to_proto(model)
    try:
        data: bytes = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError("the model is larger than 2 GiB; keep its weights in an external file") from error
    return data
