"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore import files
from camcore.errors import InputError
from camcore.files import save_picture, write_atomically


def random_picture(height: int = 9, width: int = 13, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(height: int, width: int, color: tuple[int, int, int] = (200, 30, 60)) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def write_new(path: Path) -> Path:
    return write_atomically(path, lambda file: file.write(b"new"))


class TestWriteAtomically:
    def test_the_file_is_written_or_replaced_and_nothing_else_is_left(self, tmp_path):
        for _ in range(2):
            assert write_new(str(tmp_path / "a.bin")) == tmp_path / "a.bin"
            assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.bin", b"new")]
            (tmp_path / "a.bin").write_bytes(b"an older and longer file")

    @pytest.mark.skipif(os.name != "posix", reason="permissions are of POSIX")
    def test_the_permissions_are_those_of_any_new_file(self, tmp_path):
        before = os.umask(0o027)
        try:
            assert write_new(tmp_path / "a").stat().st_mode & 0o777 == 0o640
        finally:
            os.umask(before)

    def test_a_missing_folder_is_named(self, tmp_path):
        folder = tmp_path / "missing"
        with pytest.raises(
            FileNotFoundError, match=re.escape(f"cannot write 'a.png' in the folder {str(folder)!r}: No")
        ):
            write_new(folder / "a.png")

    def test_a_file_in_place_of_the_folder_is_named(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(NotADirectoryError, match=r"in the folder .*file': Not a directory; choose a folder that"):
            write_new(tmp_path / "file" / "a.png")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
    def test_a_folder_without_permission_is_named(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
            write_new(tmp_path / "a.png")

    def test_a_write_that_fails_midway_leaves_the_older_file_and_nothing_else(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"old")

        def disk_full(file):
            file.write(b"new")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.raises(OSError, match=r"in the folder .*: No space left on device; make room on") as caught:
            write_atomically(tmp_path / "a.png", disk_full)
        assert caught.value.errno == errno.ENOSPC
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]

    @pytest.mark.parametrize(
        ("failure", "text"),
        [
            (PermissionError(errno.EACCES, "no"), r"'a\.png' in the folder '.*': no; choose a folder"),
            (OSError(errno.ENOSPC, "full"), r": full; make room on that disk, or choose a folder on another one$"),
            (OSError("odd"), r"in the folder '.*': odd; choose"),
            (KeyboardInterrupt(), r"^$"),
        ],
    )
    def test_a_rename_that_fails_leaves_no_file(self, tmp_path, monkeypatch, failure, text):
        def refuse(path: Path, target: Path) -> None:
            assert path.exists()
            raise failure

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(type(failure), match=text):
            write_new(tmp_path / "a.png")
        assert not any(tmp_path.iterdir())


class TestSavePicture:
    @pytest.mark.parametrize(
        ("name", "kind", "tolerance"),
        [("a.png", "PNG", 0), ("a.jpg", "JPEG", 6), ("a.JPEG", "JPEG", 6), ("a.webp", "WEBP", 6)],
    )
    def test_the_suffix_says_the_format(self, tmp_path, name, kind, tolerance):
        save_picture(tmp_path / name, plain(24, 32))
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
            np.testing.assert_allclose(np.asarray(image).astype(int), plain(24, 32), atol=tolerance)
        assert os.listdir(tmp_path) == [name]  # noqa: PTH208

    def test_png_gives_back_every_byte(self, tmp_path):
        save_picture(str(tmp_path / "a.png"), random_picture())
        with Image.open(tmp_path / "a.png") as image:
            np.testing.assert_array_equal(np.asarray(image), random_picture())

    def test_an_older_file_is_replaced(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"old")
        save_picture(tmp_path / "a.png", random_picture())
        with Image.open(tmp_path / "a.png") as image:
            assert image.size == (13, 9)

    @pytest.mark.parametrize("name", ["a.bmp", "a", "a.png.txt"])
    def test_another_suffix(self, tmp_path, name):
        text = f"cannot tell the picture format from {name!r}; end it in one of .png, .jpg, .jpeg, .webp"
        with pytest.raises(InputError, match=re.escape(text)):
            save_picture(tmp_path / name, random_picture())
        assert not any(tmp_path.iterdir())


def test_importing_needs_no_pillow():
    code = "import sys, camcore.files; sys.exit('PIL' in sys.modules)"
    root = Path(files.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
