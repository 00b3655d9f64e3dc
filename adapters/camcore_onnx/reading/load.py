"""Read an ONNX model as untrusted data."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from camcore.errors import InputError
from camcore_onnx.reading.external import check_external, stored_tensors
from camcore_onnx.reading.limits import MAX_FILE, check_structure, nodes_of
from camcore_onnx.reading.stored import check_stored
from camcore_onnx.reading.wire import Unreadable, survey

__all__ = ["Loaded", "as_bytes", "infer_shapes", "load", "serialize"]


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


def as_bytes(source: Any) -> bytes:
    """A model in memory, serialized.

    Raises
    ------
    InputError
        If it is larger than the 2 GiB that protobuf allows.
    """
    if isinstance(source, ir.Model):
        return serialize(source)
    try:
        data: bytes = source.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError("the model is larger than 2 GiB; save it with its weights in an external file") from error
    return data


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected an .onnx file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an .onnx file")
    if path.stat().st_size >= MAX_FILE:
        raise InputError(
            f"{path}: the file has {path.stat().st_size} bytes, and no ONNX model is larger than 2 GiB without the "
            "weights in files of their own; save them there"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); expected an .onnx file")
    return data


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        survey(data, name)
        proto.ParseFromString(data)
    except (DecodeError, Unreadable) as error:
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
    try:
        return _understood(proto, name, path, size)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # onnx_ir's exceptions share no base class, and protobuf decodes its texts when they are read
        raise InputError(f"{name}: the graph is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """Of the error underneath: those around it name onnx_ir's own functions."""
    while isinstance(error, ir.serde.SerdeError) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _understood(proto: onnx.ModelProto, name: str, path: Path | None, size: int) -> Loaded:
    _check_texts(proto)
    check_structure(proto, name)
    tensors = list(stored_tensors(proto))
    folder = path.parent if path is not None else None
    external = check_external(tensors, name, folder)
    for tensor in tensors:
        check_stored(tensor, name)
    model = ir.from_proto(proto)
    if model.functions:
        model = InlinePass()(model).model
    if external:
        ir.external_data.set_base_dir(model.graph, str(folder))
    model.graph.sort()  # refuses a cycle
    _check_sources(model.graph, name)
    return Loaded(model, name, path, folder if external else None, size)


def _check_texts(proto: onnx.ModelProto) -> None:
    """Protobuf gives texts that are not UTF-8 as bytes."""
    for graph in (proto.graph, *proto.functions):
        texts = [t for n, _ in nodes_of(graph) for t in (n.name, n.op_type, n.domain, *n.input, *n.output)]
        if isinstance(graph, onnx.GraphProto):
            texts += [v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)]
        for text in (*texts, *(t for entry in proto.metadata_props for t in (entry.key, entry.value))):
            if isinstance(text, bytes):
                raise ValueError(f"the name {text[:40]!r} is not UTF-8")


def _check_sources(graph: ir.Graph, name: str) -> None:
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if (
                value is not None
                and value.producer() is None
                and not (value.is_graph_input() or value.is_initializer())
            ):
                raise InputError(
                    f"{name}: the graph is damaged: {node.op_type} reads {value.name!r}, which nothing makes"
                )


def infer_shapes(model: ir.Model) -> None:
    """State the shapes and types of all tensors in the model, as far as onnx can tell them."""
    logger = logging.getLogger("onnx_ir")  # it prints the traceback of what it catches itself
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.suppress(Exception):  # shapes are a help, not a need; onnx raises many kinds
            ShapeInferencePass()(model)
    finally:
        logger.setLevel(level)


def serialize(model: ir.Model) -> bytes:
    """The model as bytes; weights in external files stay there.

    Raises
    ------
    InputError
        If it is larger than the 2 GiB that protobuf allows.
    """
    try:
        data: bytes = ir.to_proto(model).SerializeToString()
    except (EncodeError, ValueError) as error:
        raise InputError("the model is larger than 2 GiB; keep its weights in an external file") from error
    except ir.serde.SerdeError as error:
        raise InputError(f"the graph is damaged: {error.__cause__ or error}") from error
    return data
