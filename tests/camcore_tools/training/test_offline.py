"""The larger set on the disk: what is written, how, and that nothing leaks into what is validated with."""

from __future__ import annotations

import hashlib
import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training import offline
from camcore_tools.training.augment import Augmentation, augmented
from camcore_tools.training.folders import open_folder
from camcore_tools.training.offline import Outcome, augment_folder
from numpy.typing import NDArray
from PIL import Image, ImageCms

from camcore import InputError
from camcore.pictures import load_picture
from camcore.preprocess import preprocess

FULL = Augmentation()


def smooth(seed: int, height: int = 24, width: int = 36) -> NDArray[np.uint8]:
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate(["playing cards/1.jpg", "playing cards/2.png", "кошка/deep/1.jpg", "кошка/2.bmp"]):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(number)).save(path, **({"quality": 71} if name.endswith("jpg") else {}))
    return tmp_path / "data"


def done(data: Path, out: Path, **options: Any) -> Outcome:
    return augment_folder(data, out, **{"times": 3, "policy": FULL, "seed": 0, **options})


def tree(folder: Path) -> dict[str, str]:
    """Every file below, with a digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestWhatIsWritten:
    def test_names_classes_and_formats(self, data: Path, tmp_path: Path) -> None:
        outcome = done(data, tmp_path / "out")
        assert list(tree(tmp_path / "out")) == [
            *(f"playing cards/{name}" for name in ("1.jpg", "1~1.jpg", "1~2.jpg", "2.png", "2~1.png", "2~2.png")),
            *(f"кошка/{name}" for name in ("2.bmp", "2~1.png", "2~2.png")),
            *(f"кошка/deep/{name}" for name in ("1.jpg", "1~1.jpg", "1~2.jpg")),
        ]
        assert outcome.originals == {"playing cards": 2, "кошка": 2}
        assert outcome.copies == {"playing cards": 4, "кошка": 4}
        assert (outcome.left_out, outcome.notes, outcome.held_out) == ([], [], 0)

    def test_originals_keep_every_byte(self, data: Path, tmp_path: Path) -> None:
        done(data, tmp_path / "out")
        written = tree(tmp_path / "out")
        assert tree(data).items() <= written.items()

    def test_copies_are_those_of_the_training_at_full_resolution(self, data: Path, tmp_path: Path) -> None:
        done(data, tmp_path / "out", times=4)
        image = torch.from_numpy(load_picture(data / "playing cards" / "2.png").pixels.transpose(2, 0, 1)[None].copy())
        digest = hashlib.blake2b(b"0/playing cards/2.png", digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest) // 2)
        for number in (1, 2, 3):
            expected = augmented(image.float(), generator, FULL)[0].numpy().transpose(1, 2, 0)
            found = load_picture(tmp_path / "out" / "playing cards" / f"2~{number}.png").pixels
            np.testing.assert_array_equal(found, np.rint(expected))
        assert np.abs(expected - image[0].numpy().transpose(1, 2, 0)).mean() > 5

    def test_the_seed_decides_and_other_pictures_do_not(self, data: Path, tmp_path: Path) -> None:
        done(data, tmp_path / "first")
        done(data, tmp_path / "other", seed=1)
        Image.fromarray(smooth(9)).save(data / "кошка" / "0.png")
        done(data, tmp_path / "again")
        first, again, other = (tree(tmp_path / name) for name in ("first", "again", "other"))
        assert first.items() <= again.items()
        changed = {name for name in first if first[name] != other[name]}
        assert changed == {name for name in first if "~" in name}

    def test_val_stays_as_it_is(self, data: Path, tmp_path: Path) -> None:
        for name in ("train", "val"):
            for path in list(data.rglob("*.*")):
                target = tmp_path / "both" / name / path.relative_to(data)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        (tmp_path / "both" / "val" / "кошка" / "2.bmp").unlink()
        outcome = done(tmp_path / "both", tmp_path / "out")
        assert tree(tmp_path / "out" / "val") == tree(tmp_path / "both" / "val")
        assert len(tree(tmp_path / "out" / "train")) == 12
        assert outcome.held_out == 3

    def test_no_copy_is_validated_with(self, data: Path, tmp_path: Path) -> None:
        for number in range(6):
            Image.fromarray(smooth(20 + number)).save(data / "кошка" / f"more-{number}.png")
        done(data, tmp_path / "out")
        split = open_folder(tmp_path / "out", rule=preprocess("unit", size=(8, 8)), split=0.6)
        held = {name.rpartition(".")[0] for name in split.validation.names}
        assert len(held) == 4
        assert not any("~" in name for name in held)
        assert held.isdisjoint(name.rpartition(".")[0].partition("~")[0] for name in split.train.names)

    def test_stems_that_are_taken(self, data: Path, tmp_path: Path) -> None:
        """Two pictures of one stem, and one that is named as a copy would be."""
        for name in ("a.bmp", "a.png", "A~2.png"):
            Image.fromarray(smooth(len(name))).save(data / "кошка" / name)
        done(data, tmp_path / "out", times=3)
        names = [path.name for path in sorted((tmp_path / "out" / "кошка").glob("[aA]*"))]
        assert names == [
            "A~2.png",
            "A~2~1.png",
            "A~2~2.png",
            "a.bmp",
            "a.png",
            "a~1.png",
            "a~3.png",
            "a~4.png",
            "a~5.png",
        ]


class TestFormats:
    def copy_of(self, data: Path, tmp_path: Path, name: str, image: Image.Image, **options: Any) -> Image.Image:
        image.save(data / "кошка" / name, **options)
        done(data, tmp_path / "out", times=2)
        (path,) = (tmp_path / "out" / "кошка").glob(f"{Path(name).stem}~1.*")
        copy = Image.open(io.BytesIO(path.read_bytes()))
        copy.filename = path.name
        return copy

    @pytest.mark.parametrize(("quality", "subsampling"), [(30, 2), (95, 0)])
    def test_a_jpeg_keeps_its_quality(self, data: Path, tmp_path: Path, quality: int, subsampling: int) -> None:
        options = {"quality": quality, "subsampling": subsampling}
        copy = self.copy_of(data, tmp_path, "x.jpeg", Image.fromarray(smooth(0)), **options)
        assert copy.filename == "x~1.jpeg"
        with Image.open(data / "кошка" / "x.jpeg") as original:
            assert copy.quantization == original.quantization  # type: ignore[attr-defined]
            assert copy.layer == original.layer  # type: ignore[attr-defined]

    def test_grey_stays_grey(self, data: Path, tmp_path: Path) -> None:
        assert self.copy_of(data, tmp_path, "x.jpg", Image.fromarray(smooth(0)).convert("L")).mode == "L"
        assert (
            self.copy_of(data, tmp_path / "2", "y.png", Image.fromarray(smooth(0)[..., 0] * np.uint16(257))).mode == "L"
        )

    @pytest.mark.parametrize("name", ["x.webp", "x.gif", "x.tif"])
    def test_other_formats_become_png(self, data: Path, tmp_path: Path, name: str) -> None:
        copy = self.copy_of(data, tmp_path, name, Image.fromarray(smooth(0)))
        assert (copy.format, copy.filename) == ("PNG", "x~1.png")

    def test_the_content_counts_and_not_the_suffix(self, data: Path, tmp_path: Path) -> None:
        copy = self.copy_of(data, tmp_path, "x.png", Image.fromarray(smooth(0)), format="JPEG")
        assert (copy.format, copy.filename) == ("JPEG", "x~1.jpg")

    def test_a_turned_picture_is_upright_in_its_copies(self, data: Path, tmp_path: Path) -> None:
        turned = Image.Exif()
        turned[0x0112] = 6
        copy = self.copy_of(data, tmp_path, "x.jpg", Image.fromarray(smooth(0)), exif=turned)
        assert (copy.size, dict(copy.getexif())) == ((24, 36), {})

    def test_the_colour_profile_stays(self, data: Path, tmp_path: Path) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for name in ("x.jpg", "y.png"):
            copy = self.copy_of(data, tmp_path / name, name, Image.fromarray(smooth(0)), icc_profile=profile)
            assert copy.info["icc_profile"] == profile

    def test_cmyk_becomes_rgb_without_its_profile(self, data: Path, tmp_path: Path) -> None:
        image = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
        copy = self.copy_of(data, tmp_path, "x.jpg", image, icc_profile=b"profile of a press", quality=90)
        assert (copy.mode, "icc_profile" in copy.info) == ("RGB", False)
        np.testing.assert_allclose(np.asarray(copy)[10, 10].astype(int), [255, 0, 0], atol=6)


class TestBadInput:
    def test_bad_pictures_are_listed_and_left_out(self, data: Path, tmp_path: Path) -> None:
        (data / "кошка" / "bad.jpg").write_bytes(b"")
        (data / "кошка" / "x.heic").write_bytes(b"x")
        outcome = done(data, tmp_path / "out")
        assert outcome.left_out == [
            (str(data / "кошка" / "x.heic"), "HEIC pictures are not read; make it a JPEG or PNG"),
            (str(data / "кошка" / "bad.jpg"), "the file is empty (0 bytes); expected a picture"),
        ]
        assert len(tree(tmp_path / "out")) == 12

    def test_a_class_of_which_nothing_can_be_read(self, data: Path, tmp_path: Path) -> None:
        for path in (data / "кошка").rglob("*.*"):
            path.write_bytes(b"")
        with pytest.raises(InputError, match="data: no picture of class 'кошка' can be read; nothing is written"):
            done(data, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("out", [".", "out", "кошка/out"])
    def test_not_into_the_data(self, data: Path, out: str) -> None:
        before = tree(data)
        text = f"{data / out}: lies in {data}, and would become a part of it; give a folder elsewhere with -o"
        with pytest.raises(InputError, match="^" + re.escape(text) + "$"):
            done(data, data / out)
        assert tree(data) == before

    def test_not_into_the_data_by_a_link(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(data)
        with pytest.raises(InputError, match="would become a part of it"):
            done(data, tmp_path / "link" / "out")

    def test_the_disk_gets_full(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[Path] = []

        def full(pixels: object, path: Path, style: object) -> None:
            written.append(path)
            if len(written) > 2:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(offline, "_save", full)
        with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
            done(data, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_the_work_of_other_threads_ends_soon_after_an_error(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also if it is that of the second picture, while the first is far from done."""
        written: list[Path] = []

        def slow(pixels: object, path: Path, style: object) -> None:
            written.append(path)
            time.sleep(0.005)
            if path.stem.startswith("2"):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(offline, "_THREADS", 2)
        monkeypatch.setattr(offline, "_save", slow)
        with pytest.raises(InputError, match="No space left on device"):
            done(data, tmp_path / "out", times=300)
        assert len(written) < 100

    def test_room_is_asked_for_before_the_work(self, data: Path, tmp_path: Path) -> None:
        text = r"out: about [\d.]+ GB are needed, and [\d.]+ GB are free on that disk"
        with pytest.raises(InputError, match=text):
            done(data, tmp_path / "out", times=10**12 // 4)

    def test_a_class_that_val_alone_has(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "both").mkdir()
        data.rename(tmp_path / "both" / "train")
        (tmp_path / "both" / "val" / "dog").mkdir(parents=True)
        with pytest.raises(InputError, match="class 'dog' is not among the 2 that are trained on"):
            done(tmp_path / "both", tmp_path / "out")
        assert not (tmp_path / "out").exists()
