"""A folder of class folders as a split: the pixels, the split, and every bad folder with its answer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camcore_tools.training import reading
from camcore_tools.training.folders import FolderPictures, open_folder
from camcore_tools.training.pictures import Split
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import ImageFolder

from camcore import InputError, Preprocess
from camcore.pictures import load_picture
from camcore.preprocess import preprocess

RULE = preprocess("tf", size=(8, 12))


def noise(*key: int) -> NDArray[np.uint8]:
    height, width = 10 + key[-1] % 5, 20 - key[-1] % 7
    return np.random.default_rng(key).integers(0, 256, (height, width, 3), dtype=np.uint8)


def filled(folder: Path, **counts: int) -> Path:
    """So many pictures of each class, in several sizes."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for n in range(count):
            Image.fromarray(noise(label, n)).save(folder / name / f"{n}.png")
    return folder


def pixels_of(pictures: Any) -> NDArray[np.uint8]:
    return pictures.pixels(range(len(pictures)))


def all_names(split: Split) -> list[str]:
    return [*split.train.names, *split.validation.names]


def refused(text: str, data: Path, **options: Any) -> None:
    with pytest.raises(InputError, match="^" + re.escape(text)) as caught:
        open_folder(data, **{"rule": RULE, **options})
    assert "\n" not in str(caught.value)


class TestPixels:
    @pytest.mark.parametrize(
        "rule",
        [RULE, preprocess("imagenet", size=(16, 16)), preprocess("caffe", size=(5, 9), resize="squash")],
        ids=["tf", "imagenet", "caffe"],
    )
    def test_training_sees_what_the_deployed_model_sees(self, tmp_path: Path, rule: Preprocess) -> None:
        split = open_folder(filled(tmp_path, a=5, b=4), rule=rule)
        for pictures in (split.train, split.validation):
            assert isinstance(pictures, FolderPictures)
            for pixels, path in zip(pixels_of(pictures), pictures.paths, strict=True):
                np.testing.assert_array_equal(rule.values(pixels), rule(load_picture(path).pixels)[0])

    def test_without_a_size_it_is_that_of_a_call(self, tmp_path: Path) -> None:
        split = open_folder(filled(tmp_path, a=2, b=2), rule=Preprocess())
        assert pixels_of(split.train).shape == (2, 224, 224, 3)

    @pytest.mark.parametrize("room", [0, 1, 8 * 12 * 3 * 4, 8 * 12 * 3 * 5 + 1])
    def test_pictures_that_do_not_fit_into_the_memory_are_read_again(self, tmp_path: Path, room: int) -> None:
        data = filled(tmp_path, a=6, b=6)
        whole, part = (open_folder(data, rule=RULE, split=0.5, cache_bytes=n) for n in (1 << 20, room))
        order = np.array([3, 0, 5, 3])
        np.testing.assert_array_equal(part.train.pixels(order), pixels_of(whole.train)[order])
        np.testing.assert_array_equal(pixels_of(part.validation), pixels_of(whole.validation))

    def test_what_is_in_memory_is_not_read_again(self, tmp_path: Path) -> None:
        split = open_folder(filled(tmp_path, a=2, b=2), rule=RULE)
        before = pixels_of(split.train)
        for path in split.train.paths:  # type: ignore[attr-defined]
            path.unlink()
        np.testing.assert_array_equal(pixels_of(split.train), before)

    def test_every_kind_of_picture(self, tmp_path: Path) -> None:
        data, grey = filled(tmp_path, a=1, b=1), noise(0, 0)[..., 0]
        turned = Image.Exif()
        turned[0x0112] = 6
        images = {
            "grey.png": Image.fromarray(grey),
            "deep.png": Image.fromarray(grey * np.uint16(257)),
            "opaque.png": Image.fromarray(noise(0, 0)).convert("RGBA"),
            "print.tif": Image.fromarray(noise(0, 0)).convert("CMYK"),
            "two.gif": Image.fromarray(grey),
        }
        for name, image in images.items():
            more = {"save_all": True, "append_images": [Image.new("L", image.size)]} if name == "two.gif" else {}
            image.save(data / "a" / name, **more)
        Image.fromarray(noise(0, 0)).save(data / "a" / "turned.png", exif=turned)
        split = open_folder(data, rule=preprocess("unit", size=(30, 30), resize="squash"), split=0.99)
        found = dict(zip(split.train.names, pixels_of(split.train).astype(int), strict=True))
        found |= dict(zip(split.validation.names, pixels_of(split.validation).astype(int), strict=True))
        for name in ("opaque.png", "print.tif"):
            np.testing.assert_allclose(found[f"a/{name}"], found["a/0.png"], atol=1)
        for name in ("deep.png", "two.gif"):
            np.testing.assert_allclose(found[f"a/{name}"], found["a/grey.png"], atol=1)
        np.testing.assert_array_equal(found["a/grey.png"][..., 0], found["a/grey.png"][..., 2])
        np.testing.assert_allclose(found["a/turned.png"], np.rot90(found["a/0.png"], -1), atol=1)
        assert split.left_out == ()

    def test_sizes_that_are_kept_must_be_equal(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=1, b=1)
        Image.fromarray(noise(0, 35)).save(data / "a" / "1.png")
        Image.fromarray(noise(1, 35)).save(data / "b" / "0.png")
        rule = preprocess("unit", resize="none")
        assert pixels_of(open_folder(data, rule=rule).train).shape == (2, 10, 20, 3)
        Image.fromarray(noise(0, 1)).save(data / "b" / "1.png")
        refused(
            f"{data}/b/1.png: 19 x 11 pixels, and the first picture has 20 x 10; with resize='none' all must have one "
            "size: take 'short' or 'squash'",
            data,
            rule=rule,
        )


class TestSplit:
    def test_classes_and_labels_are_those_of_torchvision(self, tmp_path: Path) -> None:
        data = filled(tmp_path, **{"b": 3, "A": 2, "日本": 2, "playing cards": 2})
        theirs, split = ImageFolder(str(data)), open_folder(data, rule=RULE)
        assert list(split.train.classes) == list(split.validation.classes) == theirs.classes
        labels = [*split.train.labels.tolist(), *split.validation.labels.tolist()]
        ours = dict(zip(all_names(split), labels, strict=True))
        assert ours == {str(Path(path).relative_to(data)): label for path, label in theirs.samples}

    def test_nine_tenths_of_each_class(self, tmp_path: Path) -> None:
        split = open_folder(filled(tmp_path, a=20, b=10), rule=RULE)
        assert Counter(split.train.labels.tolist()) == {0: 18, 1: 9}
        assert Counter(split.validation.labels.tolist()) == {0: 2, 1: 1}
        assert split.train.labels.dtype == np.int64
        assert set(split.train.names).isdisjoint(split.validation.names)
        assert (split.left_out, split.notes) == ((), ())

    def test_the_seed_decides(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=20, b=20)
        held = [open_folder(data, rule=RULE, split=0.5, seed=s).validation.names for s in (0, 0, 1)]
        assert held[0] == held[1] != held[2]

    def test_a_class_with_one_picture_is_trained_on(self, tmp_path: Path) -> None:
        split = open_folder(filled(tmp_path, a=4, b=1), rule=RULE)
        assert "b/0.png" in split.train.names
        assert split.notes == ("no picture is left to validate 'b' with",)

    def test_given_sides(self, tmp_path: Path) -> None:
        filled(tmp_path / "train", a=3, b=2, c=1)
        filled(tmp_path / "val", b=2, a=1)
        split = open_folder(tmp_path, rule=RULE)
        assert split.train.names == ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "c/0.png")
        assert split.validation.names == ("a/0.png", "b/0.png", "b/1.png")
        assert split.validation.labels.tolist() == [0, 1, 1]
        expected = [RULE.fit(noise(*key))[0] for key in ((1, 0), (0, 0), (0, 1))]
        np.testing.assert_array_equal(pixels_of(split.validation), expected)
        assert split.notes[-1] == "no picture is left to validate 'c' with"

    def test_the_same_picture_on_both_given_sides_is_told(self, tmp_path: Path) -> None:
        filled(tmp_path / "train", a=3, b=2)
        filled(tmp_path / "val", a=2, b=1)
        Image.fromarray(noise(9, 9)).save(tmp_path / "val" / "b" / "0.png")
        assert open_folder(tmp_path, rule=RULE).notes == (
            "2 validation pictures are trained on as well, byte for byte, so that the accuracy will look too good: "
            f"{tmp_path}/val/a/0.png is {tmp_path}/train/a/0.png",
        )

    def test_copies_stay_on_one_side_and_are_told(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=3, b=3)
        for n in range(3):
            (data / "a" / f"copy-{n}.png").write_bytes((data / "a" / f"{n}.png").read_bytes())
        (data / "b" / "x.png").write_bytes((data / "a" / "1.png").read_bytes())
        split = open_folder(data, rule=RULE, split=0.5)
        held = {name.replace("copy-", "") for name in split.validation.names}
        assert held.isdisjoint(name.replace("copy-", "") for name in split.train.names)
        assert {"a/1.png", "a/copy-1.png", "b/x.png"} <= set(split.train.names)
        assert split.notes == (
            "1 picture lies in another class as well, and all of these are trained on: b/x.png is a/1.png",
            "3 pictures are in the folder more than once; copies stay on one side of the split: "
            "a/copy-0.png is a/0.png",
        )

    def test_changed_copies_are_trained_on_only(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=4, b=4)
        for n in range(4):
            Image.fromarray(noise(5, n)).save(data / "a" / f"{n}~1.png")
        split = open_folder(data, rule=RULE, split=0.75)
        (held,) = (name for name in split.validation.names if name[0] == "a")
        assert held.replace(".", "~1.") not in all_names(split)
        assert len(split.train) == 9
        assert split.notes == (
            f"1 changed copy of pictures to validate with, such as {held.replace('.', '~1.')}, is not used",
        )


class TestDamage:
    def test_bad_pictures_are_listed_and_left_out(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=4, b=4)
        whole = (data / "b" / "1.png").read_bytes()
        (data / "a" / "1.png").write_bytes(b"")
        (data / "a" / "2.png").write_text("no picture\n" * 9)
        (data / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
        split = open_folder(data, rule=RULE)
        assert len(split.train) + len(split.validation) == 5
        (first, second, third) = split.left_out
        assert first == (str(data / "a" / "1.png"), "the file is empty (0 bytes); expected a picture")
        assert second[1].startswith("not a picture that can be read (JPEG, PNG")
        assert third[0] == str(data / "b" / "1.png")
        assert third[1].startswith("the picture is damaged and cannot be decoded: ")
        expected = [RULE.fit(load_picture(path).pixels)[0] for path in split.train.paths]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(pixels_of(split.train), expected)

    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data, load = filled(tmp_path, a=2, b=3), reading.load_picture

        def guarded(path: Path) -> Any:
            if path.name == "2.png":
                raise InputError(f"{path}: cannot be read (Permission denied)")
            return load(path)

        monkeypatch.setattr(reading, "load_picture", guarded)
        split = open_folder(data, rule=RULE)
        assert split.left_out == ((str(data / "b" / "2.png"), "cannot be read (Permission denied)"),)

    def test_a_class_of_which_nothing_can_be_read(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=2, b=2)
        for n in range(2):
            (data / "b" / f"{n}.png").write_bytes(b"")
        refused(
            f"{data}: no picture of class 'b' can be read (2 tried; b/0.png: the file is empty (0 bytes); expected a "
            "picture)",
            data,
        )

    def test_nothing_left_to_validate_with(self, tmp_path: Path) -> None:
        text = "no picture is left to validate with; expected at least one class with two different pictures"
        refused(f"{tmp_path}: {text}", filled(tmp_path, a=1, b=1))
        filled(tmp_path / "x" / "train", a=1, b=1)
        filled(tmp_path / "x" / "val", a=1)
        (tmp_path / "x" / "val" / "a" / "0.png").write_bytes(b"")
        refused(f"{tmp_path / 'x'}: {text}", tmp_path / "x")

    @pytest.mark.parametrize("change", ["gone", "empty"])
    def test_a_picture_that_goes_while_it_is_trained_on(self, tmp_path: Path, change: str) -> None:
        split = open_folder(filled(tmp_path, a=3, b=3), rule=RULE, cache_bytes=0)
        path = split.train.paths[1]  # type: ignore[attr-defined]
        path.unlink() if change == "gone" else path.write_bytes(b"")
        what = "no such file" if change == "gone" else r"the file is empty \(0 bytes\)"
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {what}; .* when the training began"):
            pixels_of(split.train)
        assert split.train.pixels([0]).shape == (1, 8, 12, 3)

    def test_a_picture_that_changes_its_size_while_sizes_are_kept(self, tmp_path: Path) -> None:
        data = filled(tmp_path, a=1, b=1)
        Image.fromarray(noise(0, 35)).save(data / "a" / "1.png")
        split = open_folder(data, rule=preprocess("unit", resize="none"), cache_bytes=0)
        for name in ("0.png", "1.png"):
            Image.fromarray(noise(0, 3)).save(data / "a" / name)
        with pytest.raises(InputError, match="17 x 13 pixels, and the first picture has 20 x 10"):
            pixels_of(split.train)


class TestOptions:
    @pytest.mark.parametrize("split", [0, 1, 1.5, -0.1, float("nan"), "0.9", True, None])
    def test_split(self, tmp_path: Path, split: Any) -> None:
        text = f"split is {split!r}; expected the share of each class to train on, between 0 and 1, as 0.9"
        refused(text, filled(tmp_path, a=2, b=2), split=split)

    @pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", 1.5), ("cache_bytes", -1), ("seed", True)])
    def test_whole_numbers(self, tmp_path: Path, name: str, value: Any) -> None:
        refused(f"{name} is {value!r}; expected a whole number of at least 0", tmp_path, **{name: value})

    def test_the_folder_is_checked_before_pictures_are_read(self, tmp_path: Path) -> None:
        refused(f"{tmp_path}: one class only, 'a'", filled(tmp_path, a=1))
