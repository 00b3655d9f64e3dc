"""A folder is written whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from camcore_tools.training.outputs import whole_folder

from camcore import InputError


def fill(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "1.txt").write_text("one")
    (folder / "2.txt").write_text("two")


def fail(out: Path, error: BaseException) -> None:
    with whole_folder(out) as folder:
        fill(folder)
        raise error


@pytest.mark.parametrize("there", [True, False])
def test_all_of_it_appears_at_the_end(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
    with whole_folder(out) as folder:
        fill(folder)
        assert [path.name for path in out.iterdir()] == [folder.name]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == ["2.txt", "a", "a/1.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_after_an_error(tmp_path: Path, there: bool, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(error):
        fail(out, error())
    assert out.exists() == there
    assert not there or list(out.iterdir()) == []


def test_a_full_disk_is_an_answer_and_nothing_is_left(tmp_path: Path) -> None:
    text = (
        f"{tmp_path}/out: cannot be written (No space left on device), and what there was of it is taken away again; "
        "make room on that disk, or choose another folder"
    )
    with pytest.raises(InputError, match="^" + re.escape(text) + "$"):
        fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device", "2.txt"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_full_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2_000_000))
    text = f"{tmp_path}/out: about 3.5 GB are needed, and 2.0 MB are free on that disk; make room, or choose another"
    with pytest.raises(InputError, match="^" + re.escape(text)), whole_folder(tmp_path / "out", room=3_500_000_000):
        raise AssertionError("it began")
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "out", room=2_000_000) as folder:
        fill(folder)


def test_a_folder_with_something_in_it(tmp_path: Path) -> None:
    fill(tmp_path)
    text = f"{tmp_path}: is not empty; give a new folder, or remove this one first"
    with pytest.raises(InputError, match="^" + re.escape(text) + "$"), whole_folder(tmp_path):
        raise AssertionError("it began")
    assert (tmp_path / "2.txt").read_text() == "two"


def test_a_file(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match=r"2\.txt: is a file; give a new folder"), whole_folder(tmp_path / "2.txt"):
        raise AssertionError("it began")


def test_a_place_where_nothing_can_be_written() -> None:
    text = "/proc/nothing/here: cannot be written to (No such file or directory); choose another folder"
    with pytest.raises(InputError, match="^" + re.escape(text) + "$"), whole_folder(Path("/proc/nothing/here")):
        raise AssertionError("it began")


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".abc.unfinished").mkdir()
    fill(tmp_path / ".abc.unfinished")
    with whole_folder(tmp_path) as folder:
        (folder / "1.txt").write_text("one")
    assert [path.name for path in tmp_path.iterdir()] == ["1.txt"]
