"""Write a model that was edited: without traces of its author's machine, at once or not at all, large weights apart."""

from __future__ import annotations

import filecmp
import os
import shutil
from os import PathLike
from pathlib import Path
from typing import IO, Any

import onnx
import onnx_ir as ir

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore_onnx.reading.load import Loaded, serialize

__all__ = ["clean", "take_in", "target_path", "write_model"]

_PRIVATE = (
    "pkg.torch.onnx.stack_trace",
    "pkg.torch.onnx.fx_node",
    "namespace",
)  # paths and names of the author's machine
_SAFE_IR = 10
_CHUNK = 1 << 24
_ONE_FILE = 1 << 30  # bytes of weights in files of their own that are taken into the model; more stay apart


def target_path(path: str | PathLike[str], *, overwrite: bool, source: Any = None) -> Path:
    """Where a model is to be written.

    Raises
    ------
    InputError
        If that is not possible, not allowed, or if it is the ``source`` itself, whose original would be lost.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: is a folder; expected the name of a file, such as {target / 'model.onnx'}")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or allow to overwrite it")
    if isinstance(source, (str, PathLike)) and target.exists() and Path(source).exists() and target.samefile(source):
        raise InputError(f"{target}: is the model itself, which would be lost; choose another name")
    if target.exists() and not target.stat().st_mode & 0o222:
        raise InputError(f"{target}: may not be written over (it is read-only); choose another name")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder; make it first")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent}: cannot be written to; choose another folder")
    return target


def clean(model: ir.Model) -> None:
    """Drop what tells of its author's machine, and take a version of the format that runtimes know."""
    for node in model.graph:
        for key in _PRIVATE:
            node.metadata_props.pop(key, None)
        node.doc_string = None
    lowest = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items() if d in ("", "ai.onnx.ml")], True
    )
    model.ir_version = max(min(model.ir_version, _SAFE_IR), lowest)


def write_model(model: ir.Model, loaded: Loaded, target: Path) -> int:
    """Write a model atomically; gives its size in bytes.

    Weights in files of their own become part of it up to 1 GiB. More stay apart and are not read: in the file that they
    lie in, of which a copy is put beside ``target`` where that is in another folder.
    """
    apart = _external(model) if loaded.folder is not None else []
    if sum(tensor.nbytes for tensor in apart) <= _ONE_FILE:
        take_in(model)
        apart = []
    for name in dict.fromkeys(str(tensor.location) for tensor in apart):
        _beside(Path(loaded.folder or ".") / name, target.parent / name)
    data = serialize(model)
    write_atomically(target, lambda file: file.write(data))
    return len(data)


def take_in(model: ir.Model) -> None:
    """Weights of external files become part of the model."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)


def _external(model: ir.Model) -> list[ir.ExternalTensor]:
    stored = (value.const_value for value in model.graph.initializers.values())
    return [tensor for tensor in stored if isinstance(tensor, ir.ExternalTensor)]


def _beside(source: Path, copy: Path) -> None:
    """Copy a file of weights, unless it is there already."""
    if copy.exists():
        if not copy.samefile(source) and not filecmp.cmp(source, copy, shallow=False):
            raise InputError(f"{copy}: exists already, and the weights would be written there; choose another folder")
        return
    copy.parent.mkdir(parents=True, exist_ok=True)

    def write(file: IO[bytes]) -> None:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file, _CHUNK)

    write_atomically(copy, write)
