"""The folder of a bulk run: whatever is cut off, a run that goes on ends with the same bytes."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bulk_runs import PATHS, SETTINGS, rows_of, write
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import InputError
from camcore.bulk import folder as folder_module
from camcore.bulk.folder import BulkFolder
from camcore.bulk.resume import differences, read_run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    return contents(folder)


def test_what_is_written(whole: dict[str, bytes]) -> None:
    assert sorted(whole) == ["index.jsonl", *(f"maps-0000{n}.npz" for n in range(3)), "run.json"]
    lines = [json.loads(line) for line in whole["index.jsonl"].splitlines()]
    assert [line["picture"] for line in lines] == PATHS
    assert [(line["shard"][-5], line["row"]) for line in lines] == [(str(n // 4), n % 4) for n in range(11)]
    run = json.loads(whole["run.json"])
    assert run["settings"] == SETTINGS
    assert run["finished"] == {"pictures": 11, "errors": 2, "shards": 3}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_off_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], data: st.DataObject
) -> None:
    """As a kill leaves it, and worse: any file missing or cut off anywhere."""
    folder = tmp_path_factory.mktemp("cut")
    unfinished = json.dumps({"camcore bulk": 1, "settings": SETTINGS, "finished": None}, indent=1, ensure_ascii=False)
    for name, text in whole.items():
        if name == "run.json":
            (folder / name).write_bytes(text if data.draw(st.booleans()) else unfinished.encode() + b"\n")
        elif data.draw(st.integers(0, 3)):
            (folder / name).write_bytes(text[: data.draw(st.one_of(st.just(len(text)), st.integers(0, len(text))))])
    (folder / ".0123456789abcdef.unfinished").write_bytes(b"half")
    (folder / ".lock").write_bytes(b"process 1 on another\n")
    write(folder)
    assert contents(folder) == whole


def test_what_is_done_is_not_made_again(tmp_path: Path) -> None:
    assert write(tmp_path, end=False).done == 8
    with BulkFolder(tmp_path, SETTINGS) as out:
        assert (out.done, out.errors, out.finished) == (8, 1, False)
        assert list(out.pictures_done()) == PATHS[:8]
    write(tmp_path)
    with BulkFolder(tmp_path, SETTINGS) as out:
        assert (out.done, out.errors, out.finished) == (11, 2, True)


def test_a_run_of_nothing_but_whole_shards(tmp_path: Path) -> None:
    write(tmp_path, PATHS[:8])
    before = contents(tmp_path)
    write(tmp_path, PATHS[:8])
    assert contents(tmp_path) == before
    assert "maps-00002.npz" not in before


def test_other_settings_are_told(tmp_path: Path) -> None:
    write(tmp_path, end=False)
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match='run with other settings \\(method was "cam", is "fem"\\); take the same to go on'
    ):
        write(tmp_path, method="fem")
    assert contents(tmp_path) == before


def test_differences_in_words() -> None:
    assert differences({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1], "c": None}) == ["b was [1, 2], is [1]"]
    assert differences({"a": "x" * 200}, {}) == [f'a was "{"x" * 76}..., is null']


def test_maps_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "maps-00000.npz").touch()
    with pytest.raises(InputError, match=r"holds maps-00000.npz but no run.json, .* choose an empty folder"):
        write(tmp_path)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"camcore bulk": 1, "settings": 5, "finished": null}', "\0" * 9])
def test_a_damaged_run_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json: cannot be read"):
        write(tmp_path)


@pytest.mark.parametrize("change", [{"camcore bulk": 2}, {"settings": SETTINGS | {"format": "zip"}}, {"finished": 5}])
def test_a_run_of_another_version(tmp_path: Path, change: dict[str, Any]) -> None:
    document = {"camcore bulk": 1, "settings": SETTINGS, "finished": None} | change
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="of another version or format"):
        read_run(tmp_path)


def test_a_second_run_at_the_same_time(tmp_path: Path) -> None:
    with BulkFolder(tmp_path, SETTINGS), pytest.raises(InputError, match="is writing to it"):
        write(tmp_path)
    write(tmp_path)


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    write(tmp_path, end=False)
    with pytest.raises(InputError, match="other settings"):
        write(tmp_path, method="fem")
    write(tmp_path)


@pytest.mark.parametrize("where", ["shard", "index"])
def test_a_full_disk_is_told_and_the_run_goes_on(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    written = []

    def full(*args: Any) -> None:
        written.append(args)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "cannot write it: No space left on device; make room")
        original(*args)

    if where == "shard":
        original = folder_module.write_shard
        monkeypatch.setattr(folder_module, "write_shard", full)
    else:
        original = BulkFolder._append
        monkeypatch.setattr(BulkFolder, "_append", full)
    with pytest.raises(
        InputError, match=r"No space left on device; make room\. 4 pictures are done and kept: run the same"
    ):
        write(tmp_path)
    monkeypatch.undo()
    write(tmp_path)
    assert contents(tmp_path) == whole


def test_a_line_of_the_index_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the lines get onto the disk: they are taken back."""
    write(tmp_path, end=False)
    before = contents(tmp_path)

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.tell, self.truncate = file, file.tell, file.truncate

        def write(self, text: bytes) -> int:
            if self.tell() > len(before["index.jsonl"]):
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(text[:20])

    with BulkFolder(tmp_path, SETTINGS) as out:
        out._index = Full(out._index)  # type: ignore[assignment]
        out.add(PATHS[8:], rows_of(PATHS[8:]), np.zeros((3, 4)))
        with pytest.raises(
            InputError, match=r"cannot write 'index.jsonl' in the folder .* No space left on device; make room"
        ):
            out.finish()
    assert (tmp_path / "index.jsonl").read_bytes() == before["index.jsonl"]


def test_a_batch_over_the_end_of_a_shard(tmp_path: Path) -> None:
    with BulkFolder(tmp_path, SETTINGS) as out, pytest.raises(ValueError, match="5 pictures reach over the end"):
        out.add(PATHS[:5], rows_of(PATHS[:5]), np.zeros((5, 4)))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; give a folder with -o"):
        write(tmp_path / "file")
