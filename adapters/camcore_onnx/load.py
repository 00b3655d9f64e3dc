"""Read an ONNX model as untrusted data."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from camcore.errors import InputError

__all__ = ["Loaded", "as_bytes", "infer_shapes", "load", "serialize"]

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
    try:
        return _understood(proto, name, path, size)
    except InputError:
        raise
    except (
        Exception
    ) as error:  # onnx_ir's exceptions share no base class, and protobuf decodes its texts when they are read
        raise InputError(f"{name}: the graph is damaged: {str(error).strip().splitlines()[0][:300]}") from error


def _understood(proto: onnx.ModelProto, name: str, path: Path | None, size: int) -> Loaded:
    _check_texts(proto)
    _check_operators(proto, name)
    external = list(_external_tensors([proto.graph, *proto.functions]))
    folder = path.parent if external and path is not None else None
    for tensor in external:
        for location in [e.value for e in tensor.external_data if e.key == "location"] or [""]:
            if folder is None:
                raise InputError(f"{name}: its weights lie in {location!r}; give the path of the .onnx file instead")
            _check_external(name, folder, location, _end(tensor))
    model = ir.from_proto(proto)
    if model.functions:
        model = InlinePass()(model).model
    if folder is not None:
        ir.external_data.set_base_dir(model.graph, str(folder))
    model.graph.sort()  # refuses a cycle
    _check_sources(model.graph, name)
    return Loaded(model, name, path, folder, size)


def _check_texts(proto: onnx.ModelProto) -> None:
    """Protobuf gives texts that are not UTF-8 as bytes."""
    for graph in (proto.graph, *proto.functions):
        texts = [t for n in _nodes(graph) for t in (n.name, n.op_type, n.domain, *n.input, *n.output)]
        if isinstance(graph, onnx.GraphProto):
            texts += [v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)]
        for text in (*texts, *(t for entry in proto.metadata_props for t in (entry.key, entry.value))):
            if isinstance(text, bytes):
                raise ValueError(f"the name {text[:40]!r} is not UTF-8")


def _check_operators(proto: onnx.ModelProto, name: str) -> None:
    local = {(f.domain, f.name): f for f in proto.functions}
    own = {domain for domain, _ in local}
    count = 0
    for graph in (proto.graph, *proto.functions):
        for node in _nodes(graph):
            count += 1
            if node.domain not in DOMAINS and node.domain not in own:
                raise InputError(
                    f"{name}: uses the custom operator {node.domain}::{node.op_type}; custom operators are refused. "
                    "Export the model with standard operators"
                )
    count = _unfolded(proto.graph, local, {}) if local else count
    if count > MAX_NODES:
        raise InputError(f"{name}: {count} nodes; the limit is {MAX_NODES}")


def _unfolded(graph: Any, local: Mapping[tuple[str, str], Any], known: dict[tuple[str, str], int]) -> int:
    """How many nodes there are once functions are written out; a function that calls itself ends in RecursionError."""
    count = 0
    for node in _nodes(graph):
        key = (node.domain, node.op_type)
        if key in local and key not in known:
            known[key] = _unfolded(local[key], local, known)
        count += known.get(key, 1)
    return count


def _nodes(graph: Any) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph or function and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(inner)


def _external_tensors(graphs: Iterable[Any]) -> Iterator[onnx.TensorProto]:
    for graph in graphs:
        tensors = [*graph.initializer, *_sparse(graph.sparse_initializer)] if isinstance(graph, onnx.GraphProto) else []
        for node in graph.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                tensors += _sparse([attribute.sparse_tensor, *attribute.sparse_tensors])
                yield from _external_tensors([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])
        yield from (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


def _end(tensor: onnx.TensorProto) -> int:
    """Where in its file a tensor ends, as far as it says so."""
    return sum(int(e.value) for e in tensor.external_data if e.key in ("offset", "length"))


def _check_external(name: str, folder: Path, location: str, end: int) -> None:
    if not location or Path(location).is_absolute() or ".." in Path(location.replace("\\", "/")).parts:
        raise InputError(
            f"{name}: its weights point outside the model's folder ({location!r}); refused, for that file is not part "
            "of the model"
        )
    file = folder / location
    if not file.exists():
        raise InputError(f"{name}: the file {location!r} with its weights is missing; put it into {folder}")
    if not file.resolve().is_relative_to(folder) or not file.is_file() or file.stat().st_nlink > 1:
        raise InputError(
            f"{name}: {location!r} with its weights is a link or no regular file in {folder}; put a copy there"
        )
    if file.stat().st_size < end:
        raise InputError(
            f"{name}: {location!r} with its weights has {file.stat().st_size} bytes of {end}; copy it again"
        )


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
