from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import equal, fill, recording, without_frames

from camcore.errors import InputError
from camcore.recording.buffer import RecordingBuffer
from camcore.recording.files import RecordingWriter, load_recording, save_recording

LINES = [
    b"garbage\n",
    b"[5]\n",
    b'[5,["loss"]]\n',
    b'[5,{"loss":"high"}]\n',
    b'[1.5,{"loss":1}]\n',
    b'[-3,{"loss":1}]\n',
    b'[3,{"loss":1}]\n',
    b'[99999999999999999999,{"a":1}]\n',
    b'[5,{"loss":1' + b"0" * 5000 + b"}]\n",
    b'[5,{"loss":1}]',
    b"[" * 10_000 + b"\n",
    b"\xff\xfe\n",
]
FILES = ("maps.bin", "frames.bin", "numbers.jsonl")


def written(folder: Path, frames: int = 4) -> RecordingWriter:
    whole = recording(frames)
    writer = RecordingWriter(folder, without_frames(whole))
    fill(writer, whole)
    writer.flush()
    return writer


def upto(step: int) -> Any:
    """What is left of the recording when all after a step is dropped."""
    buffer = RecordingBuffer(recording())
    buffer.cut(step)
    return buffer.recording


class TestFolder:
    def test_has_what_was_given(self, tmp_path: Path) -> None:
        writer = written(tmp_path / "a" / "b")
        assert (len(writer), writer.last) == (4, 30)
        assert equal(writer.recording, recording())
        assert equal(load_recording(tmp_path / "a" / "b"), recording())
        assert isinstance(writer.recording.maps, np.memmap)
        writer.flush(sync=True)

    def test_and_file_are_read_alike(self, tmp_path: Path) -> None:
        written(tmp_path / "folder")
        save_recording(tmp_path / "file.npz", recording())
        assert equal(load_recording(tmp_path / "folder"), load_recording(tmp_path / "file.npz"))

    def test_numbers_that_are_none(self, tmp_path: Path) -> None:
        whole = recording(1)
        writer = RecordingWriter(tmp_path, without_frames(whole))
        writer.append(3, np.full((3, 5, 6), np.nan), np.full(3, np.nan), np.full(3, -1))
        writer.log(4, {"loss": float("nan"), "other": float("inf")})
        writer.flush()
        assert equal(load_recording(tmp_path), writer.recording)
        assert load_recording(tmp_path).total == 4

    def test_may_be_read_while_it_is_written(self, tmp_path: Path) -> None:
        whole = recording()
        writer = RecordingWriter(tmp_path, without_frames(whole))
        with pytest.raises(InputError, match="the recording has no whole frame yet"):
            load_recording(tmp_path)
        reader = []
        for frame in range(4):
            writer.append(10 * frame, whole.maps[frame], whole.probabilities[frame], whole.best[frame])
            reader.append(load_recording(tmp_path))
        writer.cut(-1)
        for frame, read in enumerate(reader):
            np.testing.assert_array_equal(read.maps, whole.maps[: frame + 1])

    @pytest.mark.parametrize("step", [-1, 0, 9, 10, 25, 1000])
    def test_is_cut_and_goes_on(self, tmp_path: Path, step: int) -> None:
        writer = written(tmp_path)
        before = writer.recording
        writer.cut(step)
        fill(writer, recording(), step + 1)
        assert equal(writer.recording, recording())
        writer.flush()
        assert equal(load_recording(tmp_path), recording())
        assert equal(before, recording())

    @pytest.mark.parametrize("step", [-1, 10, 25])
    def test_is_continued_by_another_process(self, tmp_path: Path, step: int) -> None:
        written(tmp_path)
        writer = RecordingWriter(tmp_path, without_frames(recording()))
        assert equal(writer.recording, recording())
        writer.cut(step)
        fill(writer, recording(), step + 1)
        writer.flush()
        assert equal(load_recording(tmp_path), recording())

    def test_frames_that_do_not_fit(self, tmp_path: Path) -> None:
        writer = written(tmp_path)
        with pytest.raises(InputError, match="a frame of step 30 cannot follow that of step 30"):
            writer.append(30, np.zeros((3, 5, 6)), np.zeros(3), np.zeros(3))
        with pytest.raises(InputError, match=re.escape("the maps are (3, 5, 5) and were (3, 5, 6)")):
            writer.append(31, np.zeros((3, 5, 5)), np.zeros(3), np.zeros(3))
        assert equal(load_recording(tmp_path), recording())


class TestDamage:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_files_cut_off_anywhere_keep_their_whole_frames(self, tmp_path: Path, data: st.DataObject) -> None:
        """What a kill in the middle of a write leaves; and a run that goes on there ends as one undisturbed."""
        folder = tmp_path / str(time.monotonic_ns())
        written(folder)
        left = {}
        for name in FILES:
            left[name] = data.draw(st.integers(0, (folder / name).stat().st_size), label=name)
            os.truncate(folder / name, left[name])
        frames = min(left["maps.bin"] // (3 * 5 * 6 * 4), left["frames.bin"] // (8 + 3 * 8 + 3 * 4 + 4))
        logged = (folder / "numbers.jsonl").read_bytes().count(b"\n")
        if frames:
            read = load_recording(folder)
            np.testing.assert_array_equal(read.maps, recording().maps[:frames])
            assert read.steps.tolist() == [0, 10, 20, 30][:frames]
            assert not logged or read.curves["loss"].steps.tolist() == [*range(1, logged + 1)]
        writer = RecordingWriter(folder, without_frames(recording()))
        last = min(10 * (frames - 1), logged) if frames else -1
        writer.cut(last)
        assert equal(writer.recording, upto(last))
        fill(writer, recording(), last + 1)
        writer.flush()
        assert equal(load_recording(folder), recording())

    @pytest.mark.parametrize("name", ["maps.bin", "frames.bin"])
    def test_what_follows_a_frame_with_a_wrong_sum_is_not_there(self, tmp_path: Path, name: str) -> None:
        written(tmp_path)
        raw = bytearray((tmp_path / name).read_bytes())
        raw[len(raw) // 4 * 2 + 20] ^= 1  # in the third frame
        (tmp_path / name).write_bytes(raw)
        assert load_recording(tmp_path).steps.tolist() == [0, 10]

    @pytest.mark.parametrize("line", LINES)
    def test_numbers_that_are_something_else_end_them(self, tmp_path: Path, line: bytes) -> None:
        written(tmp_path)
        lines = (tmp_path / "numbers.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "numbers.jsonl").write_bytes(b"".join([*lines[:4], line, *lines[4:]]))
        assert load_recording(tmp_path).curves["loss"].steps.tolist() == [1, 2, 3, 4]

    def test_names_are_harmless(self, tmp_path: Path) -> None:
        written(tmp_path)
        (tmp_path / "numbers.jsonl").write_bytes(b'[1,{"lo\\u001bss":1}]\n')
        assert list(load_recording(tmp_path).curves) == ["lo ss"]

    def test_of_the_description_is_an_error(self, tmp_path: Path) -> None:
        written(tmp_path)
        (tmp_path / "about.npz").write_bytes(b"nothing")
        for use in (load_recording, lambda folder: RecordingWriter(folder, without_frames(recording()))):
            with pytest.raises(InputError, match=r"about\.npz: not a recording that can be read"):
                use(tmp_path)

    def test_no_recording_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no recording in this folder; expected about\.npz and maps\.bin"):
            load_recording(tmp_path)
        with pytest.raises(InputError, match="no such file"):
            load_recording(tmp_path / "nowhere")

    def test_what_an_unfinished_beginning_left_goes(self, tmp_path: Path) -> None:
        written(tmp_path)
        (tmp_path / "about.npz").unlink()
        writer = RecordingWriter(tmp_path, without_frames(recording()))
        assert len(writer) == 0
        fill(writer, recording())
        writer.flush()
        assert equal(load_recording(tmp_path), recording())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "cam"}, "another method, 'layercam' and not 'cam'"),
        ({"layer": "x"}, "another layer, 'blocks.1, blocks.2' and not 'x'"),
        ({"classes": np.array([9, 9, 9])}, "other classes"),
        ({"pictures": np.zeros((3, 8, 9, 3), np.uint8)}, "other pictures"),
        ({"pictures": np.zeros((3, 9, 9, 3), np.uint8)}, "other pictures"),
        ({"masks": None}, "other masks"),
        ({"labels": None}, "other labels"),
        ({"names": ()}, "other names"),
        ({"rectifies": False}, "another method"),
        ({"maps": np.zeros((0, 3, 7, 6), np.float32)}, "maps (3, 5, 6), here they are (3, 7, 6)"),
    ],
)
def test_another_recording_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    written(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"has a recording of {text}; choose another folder, or delete")):
        RecordingWriter(tmp_path, replace(without_frames(recording()), **change))
    assert equal(load_recording(tmp_path), recording())


class TestTrouble:
    def test_a_second_run_in_the_folder(self, tmp_path: Path) -> None:
        first = written(tmp_path)
        second = RecordingWriter(tmp_path, without_frames(recording()))
        second.cut(-1)
        with pytest.raises(OSError, match=r"maps\.bin is shorter than what was written; does another run record there"):
            first.append(40, recording().maps[0], recording().probabilities[0], recording().best[0])
        with pytest.raises(InputError, match="was changed or taken away meanwhile"):
            _ = first.recording
        assert len(second.recording) == 0

    def test_a_folder_that_is_taken_away(self, tmp_path: Path) -> None:
        writer = written(tmp_path / "a")
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(InputError, match="was changed or taken away meanwhile"):
            _ = writer.recording

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "deep", "/proc/camcore"):
            with pytest.raises(InputError, match=r"the recording cannot be written to '.*': .*; choose"):
                RecordingWriter(folder, without_frames(recording()))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder(self, tmp_path: Path) -> None:
        written(tmp_path)
        for path in (*tmp_path.iterdir(), tmp_path):
            path.chmod(0o500 if path.is_dir() else 0o400)
        with pytest.raises(InputError, match=r"cannot be written to .*: Permission denied"):
            RecordingWriter(tmp_path, without_frames(recording()))
        tmp_path.chmod(0o700)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
    def test_a_full_disk(self, tmp_path: Path) -> None:
        """The frame is not there, all before are; and when there is room again it goes on."""
        whole = recording()
        writer = written(tmp_path, frames=3)
        room = (tmp_path / "maps.bin").read_bytes()
        (tmp_path / "maps.bin").unlink()
        (tmp_path / "maps.bin").symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            writer.append(30, whole.maps[3], whole.probabilities[3], whole.best[3])
        assert len(writer) == 3
        (tmp_path / "maps.bin").unlink()
        (tmp_path / "maps.bin").write_bytes(room + b"half a frame")
        assert load_recording(tmp_path).steps.tolist() == [0, 10, 20]
        writer.append(30, whole.maps[3], whole.probabilities[3], whole.best[3])
        np.testing.assert_array_equal(load_recording(tmp_path).maps, whole.maps)


ENDLESS = """
import sys
import numpy as np
from camcore.recording.buffer import RecordingBuffer
from camcore.recording.files import RecordingWriter, load_recording
about = load_recording(sys.argv[1])
parts = {name: getattr(about, name)[:0] for name in ("steps", "maps", "probabilities", "best")}
from dataclasses import replace
writer = RecordingWriter(sys.argv[2], replace(about, **parts, curves={}))
for step in range(int(sys.argv[3])):
    writer.log(step, {"loss": step / 7})
    writer.append(step, np.full((3, 128, 128), step), np.full(3, step / 9), np.full(3, step % 3))
print(int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1024)
"""


def test_a_process_that_is_killed_leaves_its_whole_frames(tmp_path: Path) -> None:
    save_recording(tmp_path / "about.npz", recording(size=(128, 128)))
    folder = tmp_path / "folder"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, tmp_path / "about.npz", folder, "1000000"])
    rows = folder / "frames.bin"
    deadline = time.monotonic() + 60
    while not (rows.exists() and rows.stat().st_size > 5_000) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    read = load_recording(folder)
    assert len(read) > 50
    assert read.steps.tolist() == read.curves["loss"].steps.tolist()[: len(read)] == [*range(len(read))]
    np.testing.assert_array_equal(read.maps[:, 0, 0, 0], read.steps)
    np.testing.assert_array_equal(read.maps.max(axis=(1, 2, 3)), read.maps.min(axis=(1, 2, 3)))
    shutil.rmtree(folder)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell of memory")
def test_a_long_recording_takes_little_memory(tmp_path: Path) -> None:
    """2,000 frames of 3 maps of 128 x 128: 393 MB on the disk."""
    save_recording(tmp_path / "about.npz", recording(size=(128, 128)))
    command = [sys.executable, "-c", ENDLESS, tmp_path / "about.npz", tmp_path / "folder", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "folder" / "maps.bin").stat().st_size == 2000 * 3 * 128 * 128 * 4
    assert int(done.stdout) < 150
    shutil.rmtree(tmp_path / "folder")
