"""The headers of ONNX Runtime's C++ interface, which its Python wheel does not have, and the library, which it has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HEADER = "onnxruntime_cxx_api.h"
_USUAL = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include", "/usr/local/include")
_PACKAGE, _SUITE = "libonnxruntime-dev", "trixie"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCE = f"deb [signed-by={_KEYS}] http://deb.debian.org/debian {_SUITE} main\n"


def include_folder() -> Path:
    """Where the headers are: ``ONNXRUNTIME_INCLUDE``, the system, or Debian's package, which is unpacked into a cache.

    The package need not be installed, nor suit the system: it is headers. The test is skipped where there are none.
    """
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    if given:
        assert (Path(given) / HEADER).is_file(), f"ONNXRUNTIME_INCLUDE={given}: there is no {HEADER}"
        return Path(given)
    cached = cache() / "usr" / "include" / "onnxruntime"
    for folder in (*map(Path, _USUAL), cached):
        if (folder / HEADER).is_file():
            return folder
    _fetch()
    assert (cached / HEADER).is_file(), f"{_PACKAGE} of {_SUITE} has no {HEADER}; set ONNXRUNTIME_INCLUDE"
    return cached


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "camcore-tests" / f"{_PACKAGE}-{_SUITE}"


def library() -> Path:
    """The shared library inside the wheel that Python runs."""
    import onnxruntime

    found = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not found:
        pytest.skip("this build of onnxruntime has no libonnxruntime.so to link with")
    return found[-1]


def _fetch() -> None:
    """Download and unpack the package without installing it, as any user."""
    if not (shutil.which("apt-get") and shutil.which("dpkg") and _KEYS.is_file()):
        pytest.skip("no headers of ONNX Runtime: set ONNXRUNTIME_INCLUDE to the folder with onnxruntime_cxx_api.h")
    cache().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache().parent) as name:
        work = Path(name)
        try:
            _download(work)
            subprocess.run(["dpkg", "-x", *map(str, work.glob("*.deb")), "unpacked"], cwd=work, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no headers of ONNX Runtime: Debian's {_PACKAGE} cannot be had ({error})")
        if not cache().exists():  # another worker may have been faster
            (work / "unpacked").rename(cache())


def _download(work: Path) -> None:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    (work / "sources.list").write_text(_SOURCE)
    settings = {
        "Dir::Etc::SourceList": work / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": 15,
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for words in (["update", "-qq"], ["download", "-qq", _PACKAGE]):
        subprocess.run(["apt-get", *options, *words], cwd=work, check=True, timeout=180, stdout=subprocess.DEVNULL)
