"""Pictures, arrays and JSON files that mean harm: refused before they are unpacked."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.cli import main
from hostile import cheaply
from onnx_graphs import classifier, onnx_bytes
from PIL import Image

from camcore.errors import InputError
from camcore.labels import read_labels
from camcore.pictures import load_mask, load_picture
from camcore.preprocess import Preprocess, preprocess
from camcore.recording.npz import read_recording


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    """A grey one of 8 bits."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many of them, packed."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)), packer.flush()])


class TestPictures:
    @pytest.mark.parametrize("read", [load_picture, load_mask])
    @pytest.mark.parametrize("size", [(14_143, 14_142), (200_000_000, 1), (2**31 - 1, 2**31 - 1), (10_001, 10_000)])
    def test_two_hundred_megapixels(self, tmp_path, read, size):
        path = tmp_path / "large.png"
        path.write_bytes(png(*size))
        with cheaply(megabytes=10), pytest.raises(InputError, match=r"megapixels.*reduce the picture first"):
            read(path)

    def test_a_picture_that_really_holds_them(self, tmp_path):
        """200 kB that unpack to 200 MB."""
        path = tmp_path / "bomb.png"
        path.write_bytes(png(14_142, 14_142, rows=zeros(14_143 * 14_142)))
        assert path.stat().st_size < 300_000
        with cheaply(megabytes=10), pytest.raises(InputError, match="more than 100 megapixels"):
            load_picture(path)

    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
    def test_a_text_of_64_megabytes(self, tmp_path, kind):
        path = tmp_path / "text.png"
        packed = zeros(64 << 20)
        words = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind] + packed
        path.write_bytes(png(4, 4, chunk(kind, words), rows=zlib.compress(bytes(20))))
        with cheaply(megabytes=30):
            self.is_read_or_refused(path)

    def test_a_plain_text_of_64_megabytes(self, tmp_path):
        path = tmp_path / "text.png"
        path.write_bytes(png(4, 4, chunk(b"tEXt", b"k\0" + bytes(64 << 20)), rows=zlib.compress(bytes(20))))
        with cheaply():
            self.is_read_or_refused(path)

    def is_read_or_refused(self, path):
        """As this version of Pillow has it; anything else that it raises passes through."""
        try:
            assert load_picture(path).pixels.shape == (4, 4, 3)
        except InputError as error:
            refusal = str(error)
            assert "the picture is damaged and cannot be decoded" in refusal

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.eps"])
    def test_what_would_start_a_program(self, tmp_path, name):
        """Pillow hands PostScript to Ghostscript."""
        path = tmp_path / name
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        with pytest.raises(InputError, match="not a picture that can be read"):
            load_picture(path)

    @pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
    @pytest.mark.parametrize("kind", ["zero", "pipe"])
    def test_what_has_no_end(self, tmp_path, kind):
        path = tmp_path / "endless.png"
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
        with cheaply(), pytest.raises(InputError, match="no such file"):
            load_picture(path)

    def test_a_film_of_many_frames(self, tmp_path):
        """Only the first is decoded."""
        path = tmp_path / "film.gif"
        frames = [Image.new("L", (50, 50), i) for i in range(200)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with cheaply(seconds=1):
            assert load_picture(path).pixels.shape == (50, 50, 3)


class TestArrays:
    def packed(self, path: Path, name: str, header: str, content: bytes = b"") -> Path:
        """An .npz file with one array of this header."""
        text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + content)
        return path

    def test_a_recording_that_unpacks_to_gigabytes(self, tmp_path):
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("about.npy", "w") as file:
            for _ in range(256):
                file.write(bytes(1 << 20))
        assert path.stat().st_size < 1 << 20
        with cheaply(megabytes=10), pytest.raises(InputError, match="are compressed, and may be of any size"):
            read_recording(path)

    @pytest.mark.parametrize("shape", ["(1073741824, 1073741824)", "(-1,)", "(1,) * 9", "()"])
    def test_a_recording_whose_shapes_lie(self, tmp_path, shape):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
        path = tmp_path / "lies.npz"
        text = header.encode().ljust(117) + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("about.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text)
        with cheaply(megabytes=10), pytest.raises(InputError):
            read_recording(path)

    def test_a_recording_with_objects(self, tmp_path):
        """They would be unpickled, which runs what they say."""
        path = tmp_path / "objects.npz"
        np.savez(path, about=np.array([print], object))
        with pytest.raises(InputError):
            read_recording(path)


class TestTexts:
    def test_labels_without_end(self, tmp_path):
        path = tmp_path / "names.txt"
        path.touch()
        os.truncate(path, 20 << 20)
        with cheaply(megabytes=1), pytest.raises(InputError, match="larger than 16 MiB; expected one name a line"):
            read_labels(path)

    @pytest.mark.parametrize("text", ["[" * 10**6, "1" * 10**6, '{"1e999": "x"}', '{"9999999": "x"}', "{}", '"x"', "7"])
    def test_labels_that_are_hard_to_parse(self, tmp_path, text):
        path = tmp_path / "names.json"
        path.write_text(text)
        with cheaply(), pytest.raises(InputError, match="labels"):
            read_labels(path)

    def test_many_short_lines(self, tmp_path):
        path = tmp_path / "names.txt"
        path.write_text("x\n" * 1_000_001)
        with cheaply(seconds=10), pytest.raises(InputError, match="1000001 names; the limit is 1000000"):
            read_labels(path)

    @pytest.mark.parametrize(
        "spec", [{"size": (10**9, 10**9)}, {"scale": float("nan")}, {"mean": [1e400]}, {"evil": 1}, {"std": "x"}]
    )
    def test_preprocessing(self, spec):
        def apply() -> None:
            preprocess(spec)(np.zeros((9, 9, 3), np.uint8))

        with cheaply(), pytest.raises(InputError):
            apply()

    @pytest.mark.parametrize("data", [[], 7, "x", None, {"size": "ab"}, {"mean": {}}])
    def test_preprocessing_of_another_kind(self, data):
        with pytest.raises(InputError, match="cannot be read"):
            Preprocess.from_json(data)


def test_one_bomb_among_pictures(tmp_path, capsys):
    """The others are explained, and the exit status says that one was not."""
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(classifier(size=(6, 6))))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bomb.png").write_bytes(png(30_000, 30_000))
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "PNG")
    (tmp_path / "in" / "good.png").write_bytes(stream.getvalue())
    words = ["explain", str(tmp_path / "model.onnx"), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main([*words, "--preprocess", "imagenet"]) == 2
    streams = capsys.readouterr()
    assert "more than 100 megapixels" in streams.out + streams.err
    assert json.loads((tmp_path / "out" / "result.json").read_text())
    assert (tmp_path / "out" / "good.png").exists()
