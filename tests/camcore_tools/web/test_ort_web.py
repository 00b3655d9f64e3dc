"""ONNX Runtime Web: pinned, checked, and from wherever it is at hand."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
from camcore_tools.web import ort_web

from camcore.errors import InputError

FILES = {name: name.encode() * 3 for build in ort_web.BUILDS.values() for name in build.values()}


def package(files: dict[str, bytes]) -> bytes:
    """An archive as npm packs it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A small package takes the place of the real one; the cache is empty."""
    data = package(FILES)
    monkeypatch.setattr(ort_web, "_SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in FILES.items()})
    monkeypatch.setattr(ort_web, "INTEGRITY", ort_web._integrity(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ort_web, "_registry", lambda: "https://registry.npmjs.org")
    return data


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | Exception], list[str]]:
    """Makes the registry answer; gives the addresses that were asked for."""

    def answer(given: bytes | Exception) -> list[str]:
        asked: list[str] = []

        def urlopen(request: object, timeout: float) -> io.BytesIO:
            asked.append(request.full_url)  # type: ignore[attr-defined]
            if isinstance(given, Exception):
                raise given
            return io.BytesIO(given)

        monkeypatch.setattr(ort_web, "urlopen", urlopen)
        return asked

    return answer


def test_fetched_once_and_told(
    registry: Callable[[bytes | Exception], list[str]], pinned: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = registry(pinned)
    assert ort_web.cached() is None
    assert ort_web.runtime_files() == FILES
    assert ort_web.runtime_files() == FILES
    assert asked == ["https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"]
    assert capsys.readouterr().err.count("fetching onnxruntime-web 1.30.0 (33 MB, once) from https://registry") == 1


def test_what_was_changed_is_thrown_away(registry: Callable[[bytes | Exception], list[str]], tmp_path: Path) -> None:
    registry(package(FILES | {"ort.wasm.min.mjs": b"evil"}))
    with pytest.raises(InputError, match=r"its SHA-512 differs\) and was thrown away; .* --ort-web FILE"):
        ort_web.runtime_files()
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_fetched_again(
    registry: Callable[[bytes | Exception], list[str]], pinned: bytes, tmp_path: Path
) -> None:
    asked = registry(pinned)
    ort_web.runtime_files()
    (file,) = (tmp_path / "cache" / "camcore").iterdir()
    file.write_bytes(pinned[:-9])
    assert ort_web.runtime_files() == FILES
    assert len(asked) == 2
    assert file.read_bytes() == pinned


def test_without_a_network(registry: Callable[[bytes | Exception], list[str]]) -> None:
    registry(URLError("Name or service not known"))
    with pytest.raises(InputError, match=r"cannot be fetched .*Name or service not known\); on a machine with a net"):
        ort_web.runtime_files()


def test_another_registry_is_asked_by_npm(monkeypatch: pytest.MonkeyPatch, pinned: bytes) -> None:
    monkeypatch.setattr(ort_web, "_registry", lambda: "https://npm.example.org")
    calls = []

    def run(words: list[str], **options: object) -> SimpleNamespace:
        calls.append(words)
        Path(words[-1], "onnxruntime-web-1.30.0.tgz").write_bytes(pinned)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(ort_web.subprocess, "run", run)
    assert ort_web.runtime_files() == FILES
    assert calls[0][1:3] == ["pack", "onnxruntime-web@1.30.0"]


def test_what_npm_says_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_web, "_registry", lambda: "https://npm.example.org")
    failed = SimpleNamespace(returncode=1, stdout="", stderr="npm error 401\nnpm error Unauthorized\n")
    monkeypatch.setattr(ort_web.subprocess, "run", lambda *words, **options: failed)
    with pytest.raises(InputError, match=r"npm pack onnxruntime-web@1\.30\.0` failed: npm error Unauthorized"):
        ort_web.runtime_files()

    def late(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("npm", 600)

    monkeypatch.setattr(ort_web.subprocess, "run", late)
    with pytest.raises(InputError, match=r"failed: Command 'npm' timed out after 600 seconds; on a machine with"):
        ort_web.runtime_files()
    monkeypatch.undo()
    monkeypatch.setattr(ort_web.subprocess, "run", late)
    assert ort_web._registry() == "https://registry.npmjs.org"


@pytest.mark.parametrize(
    ("told", "status", "found"),
    [
        ("https://npm.example.org/\n", 0, "https://npm.example.org"),
        ("https://registry.npmjs.org/\n", 0, "https://registry.npmjs.org"),
        ("undefined\n", 0, "https://registry.npmjs.org"),
        ("https://npm.example.org/\n", 1, "https://registry.npmjs.org"),
    ],
)
def test_the_registry_that_npm_is_set_to(told: str, status: int, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: "/usr/bin/npm")
    done = subprocess.CompletedProcess(["npm"], status, told, "")
    monkeypatch.setattr(ort_web.subprocess, "run", lambda *words, **options: done)
    assert ort_web._registry() == found
    monkeypatch.setattr(ort_web.shutil, "which", lambda name: None)
    assert ort_web._registry() == "https://registry.npmjs.org"


@pytest.mark.parametrize("inner", ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_that_holds_it(inner: str, tmp_path: Path) -> None:
    for name, data in FILES.items():
        path = tmp_path / "here" / inner / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert ort_web.runtime_files(str(tmp_path / "here")) == FILES
    path.write_bytes(b"another version")
    with pytest.raises(InputError, match=f"{path.name} is not that of onnxruntime-web 1.30.0"):
        ort_web.runtime_files(str(tmp_path / "here"))
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name} of onnxruntime-web 1.30.0 is missing"):
        ort_web.runtime_files(str(tmp_path / "here"))


def test_a_package_that_was_brought(tmp_path: Path, pinned: bytes) -> None:
    path = tmp_path / "onnxruntime-web-1.30.0.tgz"
    path.write_bytes(pinned)
    assert ort_web.runtime_files(str(path)) == FILES
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not the package of npm"):
        ort_web.runtime_files(str(path))
    with pytest.raises(InputError, match="no such file or folder; on a machine with a network, `npm pack"):
        ort_web.runtime_files(str(tmp_path / "nothing.tgz"))
