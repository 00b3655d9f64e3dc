"""The folder: the page, its engine, the runtime and the model."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camcore.errors import InputError
from camcore_tools.page import assets, document
from camcore_tools.web.model import WebModel
from camcore_tools.web.ort_web import BUILDS, LICENSE, VERSION

__all__ = ["Site", "check_folder", "write_site"]

_MODEL, _RUNTIME = "model.onnx", "ort"
_MARK = '<script type="application/json" id="config">'


@dataclass(frozen=True)
class Site:
    """A folder that was written, and its files with their sizes."""

    folder: Path
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Of all files together."""
        return sum(self.files.values())

    def loaded(self, build: str) -> int:
        """What a browser loads that takes one build of the runtime."""
        others = {f"{_RUNTIME}/{name}" for kind in BUILDS.values() for name in kind.values()}
        others -= {f"{_RUNTIME}/{name}" for name in BUILDS[build].values()}
        return sum(size for name, size in self.files.items() if name not in others and not name.endswith(".txt"))


def check_folder(folder: str | Path, *, overwrite: bool = True) -> Path:
    """The folder to write, which may be one that was written before; anything else in the way is refused.

    Raises
    ------
    InputError
        If it is a file, holds something else, has no parent, or is there already and must not be written over.
    """
    path = Path(folder)
    page = path / "index.html"
    if path.exists() and not path.is_dir():
        raise InputError(f"--web {path}: is a file; give a folder")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--web {path}: the folder {path.absolute().parent} is not there; make it first")
    if page.exists() and not overwrite:
        raise InputError(f"--web {path}: has a page already; give another folder, or leave --no-overwrite out")
    if page.exists() and _MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"--web {path}: holds another page (index.html); give another folder")
    if not page.exists() and path.is_dir() and any(path.iterdir()):
        raise InputError(f"--web {path}: holds other files, which might be written over; give a new or an empty folder")
    return path


def write_site(folder: str | Path, model: WebModel, runtime: Mapping[str, bytes], *, title: str) -> Site:
    """Write all files, or none.

    Parameters
    ----------
    folder : path
        Made where it is not there. Other files in it stay.
    model : WebModel
    runtime : mapping
        What :func:`camcore_tools.web.ort_web.runtime_files` gives.
    title : str

    Raises
    ------
    InputError
        As :func:`check_folder`, or if it cannot be written.
    """
    path = check_folder(folder)
    files = {
        **assets("web"),
        _MODEL: model.data,
        **{f"{_RUNTIME}/{name}": data for name, data in runtime.items()},
        f"{_RUNTIME}/LICENSE.txt": LICENSE.encode(),
        "index.html": document(_config(model, title)).encode(),  # the last one: what it loads is there before it
    }
    unfinished = path.absolute().with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        _write(unfinished, files)
        _move(unfinished, path, files)
    except OSError as error:
        raise InputError(f"--web {path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Site(path, {name: len(data) for name, data in files.items()})


def _config(model: WebModel, title: str) -> dict[str, Any]:
    return {
        "engine": "web",
        "title": title,
        "source": {"kind": "drop"},
        "labels": None if model.labels is None else list(model.labels),
        "model": {"url": _MODEL, **model.description},
        "runtime": {
            "version": VERSION,
            **{kind: {part: f"{_RUNTIME}/{name}" for part, name in build.items()} for kind, build in BUILDS.items()},
        },
    }


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _move(unfinished: Path, path: Path, names: Mapping[str, bytes]) -> None:
    if not path.exists():
        unfinished.replace(path)
        return
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).replace(path / name)
