"""Pictures by the million: the same as find_pictures, in the same order, without a list."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import InputError
from camcore.bulk.places import count_pictures, walk_pictures
from camcore.pictures import find_pictures


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@settings(max_examples=25)
@given(names=st.sets(st.from_regex(r"([ab.]/){0,2}[abAB.-]{1,3}\.(jpg|PNG|txt)", fullmatch=True), max_size=12))
def test_the_order_of_find_pictures(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("walk")
    make(folder, "z.jpg", *names)
    assert list(walk_pictures([folder])) == [str(path) for path in find_pictures([folder])]


def test_several_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.jpg", "a/b/2.jpg", "c/3.png", "c/4.gif", "5.jpg", "notes.txt")
    monkeypatch.chdir(tmp_path)
    assert list(walk_pictures(["c", "a/b/2.jpg", "a", "5.jpg", "c", "a/*.jpg"])) == [
        *("c/3.png", "c/4.gif", "a/1.jpg", "a/b/2.jpg", "5.jpg"),
    ]
    assert list(walk_pictures(["*/3.*", "absent.jpg", "notes.txt"])) == ["c/3.png", "absent.jpg", "notes.txt"]
    assert list(walk_pictures(["."])) == ["5.jpg", "a/1.jpg", "a/b/2.jpg", "c/3.png", "c/4.gif"]
    assert count_pictures([Path("c"), "a"]) == 4


def test_it_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *(f"{n}/{n}.jpg" for n in range(9)))
    scanned: list[str] = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (scanned.append(folder), scan(folder))[1])
    assert len(list(islice(walk_pictures([tmp_path]), 3))) == 3
    assert len(scanned) == 4


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "2.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    assert [Path(p).name for p in walk_pictures([tmp_path])] == ["1.jpg", "2.jpg"]


def test_nothing_found(tmp_path: Path) -> None:
    make(tmp_path, "a/notes.txt")
    with pytest.raises(InputError, match="no pictures in this folder"):
        count_pictures([tmp_path])
    with pytest.raises(InputError, match="the pattern matches no file"):
        count_pictures([tmp_path / "*.jpg"])


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.jpg", "secret/2.jpg")
    scan = os.scandir

    def refuse(folder: str) -> object:
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"secret: cannot be read \(Permission denied\)"):
        count_pictures([tmp_path])
