from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.serving.media import Camera, PictureFolder, Video, open_source, read_picture, shown_picture
from PIL import Image

from camcore.errors import InputError
from camcore.pictures import load_picture


def test_camera() -> None:
    assert open_source("camera").config() == {"kind": "camera"}
    assert isinstance(open_source("Camera"), Camera)


def test_a_folder_is_listed_by_ids(folder: Path) -> None:
    source = open_source(str(folder))
    assert isinstance(source, PictureFolder)
    listing = source.listing()
    assert [entry["name"] for entry in listing] == ["a.png", "c.jpg", str(Path("deep", "b.tiff"))]
    assert all(set(entry["id"]) <= set("0123456789abcdef") for entry in listing)
    assert all(entry["url"] == f"pictures/{entry['id']}" for entry in listing)
    assert [source.find(entry["id"]).name for entry in listing] == ["a.png", "c.jpg", "b.tiff"]
    assert str(source) == f"3 pictures of {folder}"


def test_ids_stay_when_pictures_come(folder: Path) -> None:
    source = PictureFolder(folder)
    before = {entry["name"]: entry["id"] for entry in source.listing()}
    (folder / "aa.png").write_bytes((folder / "a.png").read_bytes())
    after = {entry["name"]: entry["id"] for entry in source.listing()}
    assert before.items() < after.items()
    assert len(set(after.values())) == 4


def test_a_single_picture(folder: Path) -> None:
    source = open_source(str(folder / "a.png"))
    assert isinstance(source, PictureFolder)
    assert [entry["name"] for entry in source.listing()] == ["a.png"]
    assert str(source).startswith("1 picture of")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a.png", "", "..", "deep/b.tiff", "a.png\0"])
def test_only_ids_are_found(folder: Path, name: str) -> None:
    (folder.parent / "secret.png").write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(InputError, match="no such picture any more"):
        PictureFolder(folder).find(name)


def test_links_out_of_the_folder_are_left_out(folder: Path) -> None:
    outside = folder.parent / "secret.png"
    outside.write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to(outside)
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder.parent / "more").mkdir()
    (folder.parent / "more" / "x.png").write_bytes(outside.read_bytes())
    (folder / "linked").symlink_to(folder.parent / "more")
    names = {entry["name"] for entry in PictureFolder(folder).listing()}
    assert "inside.png" in names
    assert not names & {"link.png", "gone.png", str(Path("linked", "x.png"))}


def test_a_file_that_becomes_a_link_out_is_not_found(folder: Path) -> None:
    source = PictureFolder(folder)
    name = source.listing()[0]["id"]
    outside = folder.parent / "secret.png"
    (folder / "a.png").rename(outside)
    (folder / "a.png").symlink_to(outside)
    with pytest.raises(InputError, match="no such picture"):
        source.find(name)


def test_a_folder_that_is_a_link_itself(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    source = PictureFolder(link)
    assert len(source.listing()) == 3
    assert source.find(source.listing()[0]["id"]) == (folder / "a.png").resolve()


@pytest.mark.skipif(os.name != "posix", reason="file names are text here")
def test_a_name_that_is_no_text(folder: Path) -> None:
    (folder / "a.png").rename(folder / os.fsdecode(b"\xff.png"))
    listing = PictureFolder(folder).listing()
    assert "?.png" in {entry["name"] for entry in listing}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "no such file or folder; expected camera, a video or a folder$"),
        ("0", "the browser chooses among cameras: --source camera"),
        ("rtsp://door", "the browser chooses among cameras"),
        ("film.avi", r"browsers play .mp4, .*, not .avi; convert it: ffmpeg"),
        ("film", "not files without a suffix"),
        ("empty", "no pictures in this folder"),
    ],
)
def test_what_is_no_source(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for film in ("film.avi", "film"):
        (tmp_path / film).write_bytes(b"film")
    with pytest.raises(InputError, match=text):
        open_source(name)


def test_video(tmp_path: Path) -> None:
    (tmp_path / "film.WebM").write_bytes(b"film")
    source = open_source(str(tmp_path / "film.WebM"))
    assert isinstance(source, Video)
    assert source.kind == "video/webm"
    assert source.config() == {"kind": "video", "url": "video", "name": "film.WebM"}


def test_what_browsers_do_not_show_becomes_a_png(folder: Path) -> None:
    assert shown_picture(folder / "c.jpg") == (folder / "c.jpg", "image/jpeg")
    body, kind = shown_picture(folder / "deep" / "b.tiff")
    assert kind == "image/png"
    assert isinstance(body, bytes)
    with Image.open(io.BytesIO(body)) as image:
        assert np.array_equal(np.asarray(image), load_picture(folder / "deep" / "b.tiff").pixels)


def test_errors_do_not_say_where_files_lie(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^a\.png: not a picture"):
        read_picture(folder / "a.png")
