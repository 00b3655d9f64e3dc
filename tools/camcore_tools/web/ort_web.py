"""ONNX Runtime Web from npm: one version, every file checked before it is used."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore_tools.console import note

__all__ = ["BUILDS", "INTEGRITY", "LICENSE", "VERSION", "cached", "runtime_files"]

VERSION = "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package, as the registry states it."""

BUILDS: Mapping[str, Mapping[str, str]] = {
    "wasm": {
        "main": "ort.wasm.min.mjs",
        "mjs": "ort-wasm-simd-threaded.mjs",
        "wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "main": "ort.webgpu.min.mjs",
        "mjs": "ort-wasm-simd-threaded.asyncify.mjs",
        "wasm": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}
"""What a browser loads to compute on the CPU, and on the GPU."""

_SHA256 = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
_REGISTRY = "https://registry.npmjs.org"
_NAME = f"onnxruntime-web-{VERSION}.tgz"
_LIMIT = 64 << 20
_INSTEAD = (
    f"on a machine with a network, `npm pack onnxruntime-web@{VERSION}` fetches it; bring {_NAME} here and give "
    "--ort-web FILE"
)

LICENSE = """ONNX Runtime Web, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def runtime_files(place: str | None = None) -> dict[str, bytes]:
    """The files that a page loads, by name.

    Parameters
    ----------
    place : path, optional
        The package as npm gives it (.tgz), or a folder with its files; from the cache or the registry where absent.

    Raises
    ------
    InputError
        If it cannot be fetched, is another version, or was changed.
    """
    if place is None:
        return _unpacked(cached() or _downloaded())
    path = Path(place)
    if path.is_dir():
        return _checked(lambda name: _found(path, name), str(path))
    if not path.is_file():
        raise InputError(f"--ort-web {path}: no such file or folder; {_INSTEAD}")
    return _unpacked(path)


def cached() -> Path | None:
    """The package that was fetched before, where it is whole."""
    path = _cache() / _NAME
    return path if path.is_file() and _integrity(path.read_bytes()) == INTEGRITY else None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "camcore"


def _integrity(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def _downloaded() -> Path:
    """Fetch the package into the cache."""
    registry = _registry()
    note(f"fetching onnxruntime-web {VERSION} (33 MB, once) from {registry}")
    data = _from_registry() if registry == _REGISTRY else _by_npm()
    if _integrity(data) != INTEGRITY:
        raise InputError(
            f"what {registry} gives as onnxruntime-web {VERSION} is not that package (its SHA-512 differs) and was "
            f"thrown away; {_INSTEAD}"
        )
    folder = _cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME, or {_INSTEAD}") from error
    return write_atomically(folder / _NAME, lambda file: file.write(data))


def _registry() -> str:
    """That which npm is set to on this machine; the public one where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        return _REGISTRY
    words = [npm, "config", "get", "registry"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return _REGISTRY
    told = done.stdout.strip().rstrip("/")
    return told if done.returncode == 0 and told.startswith(("http://", "https://")) else _REGISTRY


def _from_registry() -> bytes:
    address = f"{_REGISTRY}/onnxruntime-web/-/{_NAME}"
    try:
        with urlopen(Request(address, headers={"User-Agent": "camcore"}), timeout=60) as answer:
            data: bytes = answer.read(_LIMIT + 1)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"onnxruntime-web cannot be fetched from {_REGISTRY} ({reason}); {_INSTEAD}") from error
    return data


def _by_npm() -> bytes:
    npm = shutil.which("npm") or "npm"
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"`npm pack onnxruntime-web@{VERSION}` failed: {error}; {_INSTEAD}") from error
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            told = (done.stderr.strip().splitlines() or ["npm gave no package"])[-1][:300]
            raise InputError(f"`npm pack onnxruntime-web@{VERSION}` failed: {told}; {_INSTEAD}")
        return packages[0].read_bytes()


def _unpacked(package: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(package, "r:gz") as archive:
            return _checked(lambda name: _member(archive, name), str(package))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{package}: not the package of npm ({error}); {_INSTEAD}") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes | None:
    try:
        file = archive.extractfile(f"package/dist/{name}")
    except KeyError:
        return None
    return None if file is None else file.read(_LIMIT)


def _found(folder: Path, name: str) -> bytes | None:
    """In the package's folder, in that with its files, or in one where npm has installed it."""
    for inner in ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist"):
        path = folder / inner / name
        if path.is_file() and path.stat().st_size < _LIMIT:
            return path.read_bytes()
    return None


def _checked(read: Callable[[str], bytes | None], where: str) -> dict[str, bytes]:
    files = {}
    for name, expected in _SHA256.items():
        data = read(name)
        if data is None:
            raise InputError(f"{where}: {name} of onnxruntime-web {VERSION} is missing; {_INSTEAD}")
        if hashlib.sha256(data).hexdigest() != expected:
            raise InputError(f"{where}: {name} is not that of onnxruntime-web {VERSION}; {_INSTEAD}")
        files[name] = data
    return files
