"""The folder that is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from camcore_tools.page import assets
from camcore_tools.web.model import WebModel
from camcore_tools.web.ort_web import BUILDS
from camcore_tools.web.site import check_folder, write_site

from camcore.errors import InputError

RUNTIME = {name: b"x" * 1000 for build in BUILDS.values() for name in build.values()}
MODEL = WebModel(b"m" * 500, {"bytes": 500, "classes": 2}, ("cat", "dog"))


def config(folder: Path) -> dict[str, object]:
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = re.search(r'id="config">(.*?)</script>', text, re.DOTALL)
    assert found
    document: dict[str, object] = json.loads(found[1])
    return document


def test_the_files_and_what_a_visitor_loads(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", MODEL, RUNTIME, title="Pets")
    there = {str(p.relative_to(site.folder)): p.stat().st_size for p in site.folder.rglob("*") if p.is_file()}
    assert there == site.files
    assert there.keys() >= {"index.html", "model.onnx", "ort/LICENSE.txt", *assets("web")}
    common = sum(size for name, size in there.items() if not name.startswith("ort/"))
    assert site.loaded("wasm") == site.loaded("webgpu") == common + 3000
    assert site.size == common + 6000 + there["ort/LICENSE.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["site"]


def test_the_page_finds_everything_by_relative_addresses(tmp_path: Path) -> None:
    site = write_site(tmp_path / "site", MODEL, RUNTIME, title="Pets")
    told = config(site.folder)
    assert told["labels"] == ["cat", "dog"]
    assert told["model"] == {"url": "model.onnx", "bytes": 500, "classes": 2}
    runtime = told["runtime"]
    assert isinstance(runtime, dict)
    for build in BUILDS:
        assert all((site.folder / address).is_file() for address in runtime[build].values())


def test_a_folder_is_renewed_and_what_else_is_in_it_stays(tmp_path: Path) -> None:
    write_site(tmp_path / "site", MODEL, RUNTIME, title="Pets")
    (tmp_path / "site" / "robots.txt").write_text("mine")
    write_site(tmp_path / "site", WebModel(b"n", {}, None), RUNTIME, title="Other")
    assert (tmp_path / "site" / "robots.txt").read_text() == "mine"
    assert (tmp_path / "site" / "model.onnx").read_bytes() == b"n"
    assert config(tmp_path / "site")["title"] == "Other"
    with pytest.raises(InputError, match="has a page already; give another folder, or leave --no-overwrite out"):
        check_folder(tmp_path / "site", overwrite=False)


def test_what_is_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("<h1>My page</h1>")
    with pytest.raises(InputError, match="is a file; give a folder"):
        write_site(tmp_path / "file", MODEL, RUNTIME, title="")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.onnx").write_text("precious")
    with pytest.raises(InputError, match="holds other files, which might be written over; give a new or an empty"):
        check_folder(tmp_path / "data")
    with pytest.raises(InputError, match="holds another page"):
        write_site(tmp_path / "mine", MODEL, RUNTIME, title="")
    with pytest.raises(InputError, match="is not there; make it first"):
        write_site(tmp_path / "a" / "b", MODEL, RUNTIME, title="")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "model.onnx":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_site(tmp_path / "site", MODEL, RUNTIME, title="")
    assert list(tmp_path.iterdir()) == []
