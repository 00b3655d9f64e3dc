"""Picture files: every kind that is read, and every bad one, with its answer."""

from __future__ import annotations

import errno
import io
import re
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from camcore import InputError
from camcore.pictures import find_pictures, load_mask, load_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def jpeg(**options: Any) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(PIXELS).save(encoded, "JPEG", **options)
    return encoded.getvalue()


def png(width: int, height: int, depth: int, kind: int, pixels: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    row = len(pixels) // height
    rows = zlib.compress(b"".join(b"\0" + pixels[y * row : (y + 1) * row] for y in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hollow_png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, so small that only its header says how large it is."""
    return png(width, height, 1, 0, bytes((width + 7) // 8 * height))


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data with entries of (tag, type, count, four bytes)."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHI4s", *tag) for tag in tags) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory


class TestGoodFiles:
    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp"])
    def test_lossless_files_give_every_byte_back(self, tmp_path: Path, name: str) -> None:
        options = {"lossless": True} if name.endswith("webp") else {}
        picture = load_picture(saved(tmp_path, name, Image.fromarray(PIXELS), **options))
        np.testing.assert_array_equal(picture.pixels, PIXELS)
        assert (picture.name, picture.path, picture.pixels.dtype) == ("a", str(tmp_path / name), np.uint8)

    def test_jpeg_is_close(self, tmp_path: Path) -> None:
        smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
        path = saved(tmp_path, "a.jpg", Image.fromarray(smooth), quality=95)
        np.testing.assert_allclose(load_picture(str(path)).pixels.astype(int), smooth, atol=8)

    def test_the_content_counts_and_not_the_suffix(self, tmp_path: Path) -> None:
        path = saved(tmp_path, "a.jpg", Image.fromarray(PIXELS), format="PNG")
        np.testing.assert_array_equal(load_picture(path).pixels, PIXELS)

    def test_a_palette(self, tmp_path: Path) -> None:
        image = Image.fromarray(PIXELS).quantize(16)
        picture = load_picture(saved(tmp_path, "a.png", image))
        np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
        assert len(np.unique(picture.pixels.reshape(-1, 3), axis=0)) > 8

    def test_a_palette_with_a_transparent_colour_is_laid_on_white(self, tmp_path: Path) -> None:
        image = Image.new("P", (3, 1))
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        image.putdata([0, 1, 2])
        picture = load_picture(saved(tmp_path, "a.png", image, transparency=1))
        assert picture.pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_opacity_is_laid_on_white(self, tmp_path: Path, mode: str) -> None:
        color: Any = (100, 100, 100) if mode == "RGBA" else (100,)
        image = Image.new(mode, (3, 1))
        image.putdata([(*color, 0), (*color, 255), (*color, 51)])  # 51 / 255 is a fifth
        assert load_picture(saved(tmp_path, "a.png", image)).pixels[0, :, 0].tolist() == [255, 100, 224]

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize("peak", [200, 65535])  # a dark one stays dark
    def test_16_bits_are_scaled_from_their_full_range(self, tmp_path: Path, suffix: str, peak: int) -> None:
        deep = np.linspace(0, peak, 60).reshape(6, 10).astype(np.uint16)
        picture = load_picture(saved(tmp_path, f"a.{suffix}", Image.fromarray(deep)))
        expected = np.rint(deep / 65535 * 255)
        np.testing.assert_array_equal(picture.pixels, np.repeat(expected[..., None], 3, axis=2))

    @pytest.mark.parametrize("most", [200, 65535])
    def test_16_bits_in_a_portable_greymap(self, tmp_path: Path, most: int) -> None:
        deep = np.linspace(0, most, 60).reshape(6, 10).astype(">u2")
        (tmp_path / "a.pgm").write_bytes(b"P5 10 6 65535\n" + deep.tobytes())
        expected = np.rint(deep / 65535 * 255)
        np.testing.assert_array_equal(load_picture(tmp_path / "a.pgm").pixels[..., 0], expected)

    @pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
    def test_16_bits_of_several_channels(self, tmp_path: Path, kind: int, channels: int) -> None:
        deep = np.random.default_rng(0).integers(0, 65536, (6, 10, channels)).astype(">u2")
        if kind != 2:
            deep[..., -1] = 65535  # opaque
        (tmp_path / "a.png").write_bytes(png(10, 6, 16, kind, deep.tobytes()))
        expected = deep[..., :1].repeat(3, axis=2) if channels == 2 else deep[..., :3]
        np.testing.assert_allclose(load_picture(tmp_path / "a.png").pixels, expected / 65535 * 255, atol=1)

    @pytest.mark.parametrize("high", [1.0, 255.0, 65535.0])
    def test_floating_point_is_scaled_from_the_range_it_seems_to_use(self, tmp_path: Path, high: float) -> None:
        values = (np.linspace(0, 1, 60) * high).reshape(6, 10).astype(np.float32)
        values[0, 0] = np.nan
        picture = load_picture(saved(tmp_path, "a.tif", Image.fromarray(values)))
        np.testing.assert_allclose(picture.pixels[..., 1], np.linspace(0, 255, 60).reshape(6, 10), atol=0.51)

    def test_cmyk(self, tmp_path: Path) -> None:
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        np.testing.assert_allclose(
            load_picture(saved(tmp_path, "a.jpg", image)).pixels[8, 8].astype(int), [255, 0, 0], atol=3
        )

    def test_grey_and_black_and_white(self, tmp_path: Path) -> None:
        grey = load_picture(saved(tmp_path, "a.png", Image.fromarray(GREY)))
        np.testing.assert_array_equal(grey.pixels, np.stack([GREY] * 3, axis=2))
        binary = load_picture(saved(tmp_path, "b.png", Image.fromarray(GREY > 127)))
        np.testing.assert_array_equal(binary.pixels[..., 2], np.where(GREY > 127, 255, 0))

    def test_the_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
        path = saved(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
        assert load_picture(path).pixels[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("orientation", range(10))  # 1 to 8 have a meaning
    def test_it_is_turned_as_its_exif_data_say(self, tmp_path: Path, orientation: int) -> None:
        data = Image.Exif()
        data[0x0112] = orientation
        path = saved(tmp_path, "a.png", Image.fromarray(PIXELS), exif=data)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(load_picture(path).pixels, expected)
        assert expected.shape == ((18, 12, 3) if orientation in (5, 6, 7, 8) else (12, 18, 3))

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_tiff_is_turned_once(self, tmp_path: Path, orientation: int, compression: str) -> None:
        """Pillow turns it while it decodes."""
        data = Image.Exif()
        data[0x0112] = orientation
        turned = load_picture(saved(tmp_path, "a.png", Image.fromarray(PIXELS), exif=data)).pixels
        tags = {0x0112: orientation}
        path = saved(tmp_path, "a.tif", Image.fromarray(PIXELS), tiffinfo=tags, compression=compression)
        np.testing.assert_array_equal(load_picture(path).pixels, turned)
        with Image.open(path) as image:
            np.testing.assert_array_equal(load_picture(image).pixels, turned)

    def test_the_first_picture_of_a_phone_that_stores_two(self, tmp_path: Path) -> None:
        data = Image.Exif()
        data[0x0112] = 6
        frames = [Image.new("RGB", (16, 8), "red"), Image.new("RGB", (8, 4), "blue")]
        path = saved(tmp_path, "a.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:], exif=data)
        picture = load_picture(path)
        assert picture.pixels.shape == (16, 8, 3)
        np.testing.assert_allclose(picture.pixels[4, 4].astype(int), [255, 0, 0], atol=3)

    @pytest.mark.parametrize("odd", [(0x0100, 2, 1, b"x\0\0\0"), (0x011A, 7, 4, b"abcd"), (0x8769, 2, 2, b"a\0\0\0")])
    def test_odd_exif_data_do_not_spoil_the_picture(self, tmp_path: Path, odd: tuple[int, int, int, bytes]) -> None:
        (tmp_path / "a.jpg").write_bytes(jpeg(exif=exif(odd, (0x0112, 3, 1, b"\6\0\0\0"))))
        assert load_picture(tmp_path / "a.jpg").pixels.shape == (18, 12, 3)


def test_many_threads_leave_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    """Pillow warns of these EXIF data; here a warning is an error, also afterwards."""
    (tmp_path / "a.jpg").write_bytes(jpeg(exif=exif((0x0112, 3, 1, b"\6\0\0\0"))[:-9]))
    with pytest.warns(UserWarning, match="EXIF"), Image.open(tmp_path / "a.jpg") as image:
        image.getexif()
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        shapes = {picture.pixels.shape for picture in pool.map(load_picture, [tmp_path / "a.jpg"] * 60)}
    assert shapes == {(12, 18, 3)}
    assert [f for f in warnings.filters if "PIL" not in str(f[3])] == before
    with pytest.raises(UserWarning, match="of another"):
        warnings.warn("of another", stacklevel=1)


class TestBadFiles:
    def refused(self, path: Path, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + text) as caught:
            load_picture(path)
        assert "\n" not in str(caught.value)

    def test_a_missing_one(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.jpg", "no such file; expected a picture file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "is a folder; expected a picture file")

    def test_an_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").touch()
        self.refused(tmp_path / "a.jpg", r"the file is empty \(0 bytes\); expected a picture")

    def test_a_text_with_the_suffix_of_a_picture(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("This is no picture.\n" * 50)
        self.refused(tmp_path / "a.png", r"not a picture that can be read \(JPEG, PNG, WEBP")

    def test_a_kind_that_is_never_opened(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
        self.refused(tmp_path / "a.png", "not a picture that can be read")

    def test_one_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "a.jpg")

        (tmp_path / "a.jpg").write_bytes(jpeg())
        monkeypatch.setattr(Image, "open", refuse)
        self.refused(tmp_path / "a.jpg", r"cannot be read \(Permission denied\)$")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
    @pytest.mark.parametrize("share", [0.5, 0.8])
    def test_one_that_is_cut_off(self, tmp_path: Path, suffix: str, share: float) -> None:
        path = saved(tmp_path, f"a.{suffix}", Image.fromarray(np.tile(PIXELS, (9, 9, 1))))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        self.refused(path, "not a picture that can be read|the picture is damaged and cannot be decoded: ")

    def test_a_jpeg_that_is_cut_off_says_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(jpeg()[:-100])
        self.refused(tmp_path / "a.jpg", "the picture is damaged and cannot be decoded: .*truncated")

    @pytest.mark.parametrize("seed", range(5))
    def test_random_damage_is_an_answer_or_a_picture(self, tmp_path: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        outcomes = set()
        for _ in range(40):
            data = bytearray(jpeg(exif=exif((0x0112, 3, 1, b"\6\0\0\0"))))
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            (tmp_path / "a.jpg").write_bytes(data)
            try:
                outcomes.add(load_picture(tmp_path / "a.jpg").pixels.ndim)
            except InputError:
                outcomes.add(0)
        assert outcomes <= {0, 3}
        assert 3 in outcomes

    @pytest.mark.parametrize(
        ("width", "height", "text"),
        [
            (
                20000,
                10000,
                "more than 100 megapixels .*200000000 pixels.*: reduce the picture first",
            ),  # Pillow's own limit
            (12000, 10000, "12000 x 10000 = 120 megapixels; the limit is 100: reduce the picture first"),
        ],
    )
    def test_a_huge_one_is_refused_before_it_is_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, text: str
    ) -> None:
        def decoded(self: ImageFile.ImageFile) -> None:
            raise AssertionError("the pixels were decoded")

        monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
        (tmp_path / "a.png").write_bytes(hollow_png(width, height))
        assert (tmp_path / "a.png").stat().st_size < 50_000
        self.refused(tmp_path / "a.png", text)

    def test_the_limit_is_an_option(self, tmp_path: Path) -> None:
        path = saved(tmp_path, "a.png", Image.fromarray(PIXELS))
        assert load_picture(path, max_pixels=216).pixels.shape == (12, 18, 3)
        with pytest.raises(InputError, match="18 x 12 = 0 megapixels; the limit is 0"):
            load_picture(path, max_pixels=215)


class TestMasks:
    DISC = np.hypot(*(np.mgrid[:30, :40] - np.array([14, 20])[:, None, None])) < 11

    @pytest.mark.parametrize("value", [1, 255])
    @pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.pgm", "a.gif"])
    def test_what_is_not_black(self, tmp_path: Path, name: str, value: int) -> None:
        path = saved(tmp_path, name, Image.fromarray(self.DISC * np.uint8(value)))
        found = load_mask(path)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, self.DISC)

    def test_one_bit_and_sixteen(self, tmp_path: Path) -> None:
        for image in (Image.fromarray(self.DISC), Image.fromarray(self.DISC * np.uint16(256))):
            np.testing.assert_array_equal(load_mask(saved(tmp_path, "a.png", image)), self.DISC)

    @pytest.mark.parametrize("black", [0, 1])
    def test_the_colours_of_a_palette_count_and_not_their_numbers(self, tmp_path: Path, black: int) -> None:
        image = Image.fromarray((bool(black) != self.DISC).astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0] if black == 0 else [128, 0, 0, 0, 0, 0])
        np.testing.assert_array_equal(load_mask(saved(tmp_path, "a.png", image)), self.DISC)

    def test_what_is_transparent_is_none(self, tmp_path: Path) -> None:
        pixels = np.full((30, 40, 4), 200, np.uint8)
        pixels[..., 3] = self.DISC * 255
        np.testing.assert_array_equal(load_mask(saved(tmp_path, "a.png", Image.fromarray(pixels))), self.DISC)

    @pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
    def test_lossy_formats_bleed_into_the_black(self, tmp_path: Path, name: str) -> None:
        path = saved(tmp_path, name, Image.fromarray(self.DISC * np.uint8(255)), quality=60)
        assert (load_picture(path).pixels.any(axis=2) != self.DISC).mean() > 0.1
        assert (load_mask(path) != self.DISC).mean() < 0.01

    def test_it_is_turned_as_its_picture_is(self, tmp_path: Path) -> None:
        data = Image.Exif()
        data[0x0112] = 6
        path = saved(tmp_path, "a.png", Image.fromarray(self.DISC), exif=data)
        np.testing.assert_array_equal(load_mask(path), np.rot90(self.DISC, -1))

    def test_a_bad_one_is_told_as_a_picture_is(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        with pytest.raises(InputError, match=r"a.png: the file is empty \(0 bytes\); expected a picture"):
            load_mask(tmp_path / "a.png")


class TestOtherSources:
    def test_a_pil_image(self, tmp_path: Path) -> None:
        picture = load_picture(Image.fromarray(GREY))
        np.testing.assert_array_equal(picture.pixels, np.stack([GREY] * 3, axis=2))
        assert (picture.name, picture.path) == ("image", None)
        with Image.open(saved(tmp_path, "b.png", Image.fromarray(PIXELS))) as image:
            assert load_picture(image).name == "b"

    def test_a_pil_image_of_a_damaged_file(self) -> None:
        with (
            Image.open(io.BytesIO(jpeg()[:-100])) as image,
            pytest.raises(InputError, match=r"^image: the picture is damaged and cannot be decoded: .*truncated"),
        ):
            load_picture(image)

    def test_arrays_of_bytes(self) -> None:
        np.testing.assert_array_equal(load_picture(PIXELS).pixels, PIXELS)
        np.testing.assert_array_equal(load_picture(GREY).pixels, np.stack([GREY] * 3, axis=2))

    def test_a_picture_stays_what_it_is(self) -> None:
        picture = load_picture(PIXELS)
        assert load_picture(picture) is picture

    @pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3), (0, 4, 3), (4, 0)])
    def test_an_array_of_another_shape(self, shape: tuple[int, ...]) -> None:
        text = f"a picture array must be (H, W, 3) or (H, W) uint8, got {shape} uint8"
        with pytest.raises(InputError, match=re.escape(text)):
            load_picture(np.zeros(shape, np.uint8))

    def test_an_array_of_another_type(self) -> None:
        with pytest.raises(InputError, match=r"must be .* uint8, got \(4, 4, 3\) float64"):
            load_picture(np.zeros((4, 4, 3)))

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_the_bytes_of_a_file(self, kind: Any, tmp_path: Path) -> None:
        (tmp_path / "same.jpg").write_bytes(jpeg())
        picture = load_picture(kind(jpeg()))
        np.testing.assert_array_equal(picture.pixels, load_picture(tmp_path / "same.jpg").pixels)
        assert (picture.name, picture.path) == ("image", None)

    @pytest.mark.parametrize("data", [b"", b"bytes", jpeg()[:-100]])
    def test_bytes_of_no_picture(self, data: bytes) -> None:
        text = "the picture is damaged and cannot be decoded" if len(data) > 9 else "not a picture that can be read"
        with pytest.raises(InputError, match=f"^the picture: {text}"):
            load_picture(data)

    def test_bytes_of_a_picture_that_is_too_large(self) -> None:
        with pytest.raises(InputError, match=r"^the picture: 18 x 12 = 0 megapixels; the limit is 0"):
            load_picture(jpeg(), max_pixels=200)

    @pytest.mark.parametrize("source", [None, 5])
    def test_something_else(self, source: Any) -> None:
        kind = type(source).__name__
        text = f"a picture cannot be of type {kind}; expected a path, its bytes, a PIL image or a uint8 array"
        with pytest.raises(InputError, match=text):
            load_picture(source)


class TestFindPictures:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("b.jpg", "a.PNG", "notes.txt", "deep/er/c.webp", "deep/d.tiff", "odd[1].jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.jpg").mkdir()
        return tmp_path

    def names(self, folder: Path, *places: str) -> list[str]:
        return [p.relative_to(folder).as_posix() for p in find_pictures(str(folder / place) for place in places)]

    def test_a_folder_is_searched_to_the_bottom(self, folder: Path) -> None:
        assert self.names(folder, ".") == ["a.PNG", "b.jpg", "deep/d.tiff", "deep/er/c.webp", "odd[1].jpg"]

    def test_a_file_named_outright_is_taken_whatever_it_is(self, folder: Path) -> None:
        assert self.names(folder, "notes.txt", "odd[1].jpg", "missing.jpg") == [
            "notes.txt",
            "odd[1].jpg",
            "missing.jpg",
        ]

    def test_patterns(self, folder: Path) -> None:
        assert self.names(folder, "*.jpg") == ["b.jpg", "odd[1].jpg"]
        assert self.names(folder, "**/*.webp") == ["deep/er/c.webp"]

    def test_nothing_is_named_twice_and_the_order_is_kept(self, folder: Path) -> None:
        assert self.names(folder, "deep", "b.jpg", "*.jpg") == ["deep/d.tiff", "deep/er/c.webp", "b.jpg", "odd[1].jpg"]

    def test_a_folder_without_pictures(self, folder: Path) -> None:
        with pytest.raises(
            InputError, match=r"folder.jpg: no pictures in this folder \(\.bmp, \.gif, \.jfif, \.jpe, \.jpeg"
        ):
            find_pictures([folder / "folder.jpg"])

    def test_a_pattern_that_matches_nothing(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"\*\.bmp: the pattern matches no file"):
            self.names(folder, "*.bmp")
