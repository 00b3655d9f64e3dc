"""Tensors with what is known about them in one file: safetensors, so that nothing is run when it is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from camcore.errors import InputError, MissingPackage
from camcore.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "epoch_file", "find_checkpoints", "load_tensors", "read_info", "save_tensors"]

_KEY = "camcore"
_FILE = re.compile(r"epoch-(\d{4,})\.safetensors")


@dataclass(frozen=True, order=True)
class Checkpoint:
    """What was learned after so many epochs."""

    epoch: int
    path: Path


def epoch_file(epoch: int) -> str:
    """The name of the file of an epoch.

    Examples
    --------
    >>> epoch_file(7)
    'epoch-0007.safetensors'
    """
    return f"epoch-{epoch:04d}.safetensors"


def find_checkpoints(folder: str | PathLike[str]) -> list[Checkpoint]:
    """Those of a folder, by their epochs."""
    found = ((_FILE.fullmatch(path.name), path) for path in Path(folder).glob("epoch-*.safetensors"))
    return sorted(Checkpoint(int(match[1]), path) for match, path in found if match)


def save_tensors(path: str | PathLike[str], tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Path:
    """Write tensors and a JSON document, whole or not at all, and onto the disk before it has its name.

    Raises
    ------
    OSError
        As :func:`camcore.files.write_atomically`.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(info)  # NaN and infinity as Python writes them: a diverged loss is history too
    return write_atomically(path, lambda file: _write(file, _unshared(plain), {_KEY: text}))


def _write(file: IO[bytes], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """By way of memory: ``save_file`` writes a file of its own beside, which a kill would leave there."""
    from safetensors.torch import save

    file.write(save(dict(tensors), metadata))
    file.flush()
    os.fsync(file.fileno())


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own: safetensors refuses weights that are tied."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def load_tensors(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`save_tensors` wrote, on the CPU.

    Raises
    ------
    InputError
        If the file is missing, damaged or not one of camcore's.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _info(path, file.metadata())  # noqa: SIM118


def read_info(path: str | PathLike[str]) -> dict[str, Any]:
    """The JSON document alone."""
    with _opened(path) as file:
        return _info(path, file.metadata())


def _opened(path: str | PathLike[str]) -> Any:
    _need_safetensors()
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint of a training")
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: the checkpoint is damaged ({error}); take another one, or train again") from error


def _need_safetensors() -> None:
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise MissingPackage("checkpoints need safetensors: pip install 'camcore[all]'") from error


def _info(path: str | PathLike[str], metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        info = json.loads((metadata or {})[_KEY])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: was not written by camcore train, or is damaged: {error!r}") from error
    if not isinstance(info, dict):
        raise InputError(f"{path}: was not written by camcore train: it describes itself as {type(info).__name__}")
    return info
