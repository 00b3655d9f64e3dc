"""Preprocessing against torchvision's transforms, the way back to the picture, and untrusted descriptions."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from camcore import PRESETS, InputError, Preprocess
from camcore.preprocess import preprocess

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width"), [(300, 400), (400, 300), (256, 256), (255, 257), (31, 77), (223, 500), (641, 427), (7, 5)]
)
def test_imagenet_is_that_of_torchvision(height: int, width: int) -> None:
    picture = noise(height, width)
    reference = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    found, _ = PRESETS["imagenet"](picture)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, reference(Image.fromarray(picture)).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_squash_stretches_the_whole_picture(size: tuple[int, int]) -> None:
    reference = transforms.Compose([transforms.Resize(size), transforms.ToTensor()])
    found, view = preprocess("unit", size=size, resize="squash")(PICTURE)
    np.testing.assert_allclose(found, reference(Image.fromarray(PICTURE)).numpy(), atol=1e-6)
    assert view == (0, 0, 60, 40)


def test_none_leaves_the_picture_as_it_is() -> None:
    found, view = preprocess("unit", resize="none")(PICTURE)
    np.testing.assert_allclose(found, PICTURE.transpose(2, 0, 1) / 255, atol=1e-7)
    assert view == (0, 0, 60, 40)


def test_without_a_size_it_is_224() -> None:
    assert PRESETS["unit"](PICTURE)[0].shape == (3, 224, 224)


def test_the_presets_are_their_published_formulas() -> None:
    red, green, blue = PICTURE.astype(np.float64).transpose(2, 0, 1)
    expected = {
        "tf": [red / 127.5 - 1, green / 127.5 - 1, blue / 127.5 - 1],
        "caffe": [blue - 104, green - 117, red - 123],
        "unit": [red / 255, green / 255, blue / 255],
        "imagenet": [(red / 255 - 0.485) / 0.229, (green / 255 - 0.456) / 0.224, (blue / 255 - 0.406) / 0.225],
    }
    assert set(expected) == set(PRESETS)
    for name, channels in expected.items():
        np.testing.assert_allclose(PRESETS[name].values(PICTURE), channels, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [*PRESETS.values(), preprocess("unit", size=(20, 30), resize="squash")])
def test_the_geometry_alone_and_then_the_values_are_a_call(rule: Preprocess) -> None:
    pixels, view = rule.fit(PICTURE)
    values, seen = rule(PICTURE)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(rule.values(pixels), values)
    assert view == seen


@pytest.mark.parametrize("resize", ["short", "squash"])
def test_a_mask_goes_the_way_of_its_picture_and_stays_one(resize: str) -> None:
    """A disc in the picture and in the mask: after both were fitted they still lie on one another."""
    y, x = np.mgrid[:120, :180]
    mask = ((x - 70) ** 2 + (y - 60) ** 2 < 40**2) * np.uint8(255)
    rule = preprocess("unit", size=(48, 48), resize=resize)
    fitted, view = rule.fit(mask, nearest=True)
    pixels, same = rule.fit(np.repeat(mask[..., None], 3, axis=2))
    assert (fitted.shape, set(np.unique(fitted)), view) == ((48, 48), {0, 255}, same)
    assert ((pixels[..., 0] > 127) != (fitted > 127)).mean() < 0.02


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.5])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 48)])
@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (50, 50), (301, 127)])
def test_the_view_leads_back_to_a_marked_place(shape: tuple[int, int], size: tuple[int, int], crop: float) -> None:
    picture_size, input_size = np.array(shape), np.array(size)
    shown = input_size / max(input_size / crop / picture_size)  # what the crop leaves of the picture
    mark = picture_size / 2 + np.array([0.2, -0.25]) * shown
    place = np.moveaxis(np.mgrid[: shape[0], : shape[1]] + 0.5, 0, -1)
    blob = 255 * np.exp(-0.5 * ((place - mark) ** 2).sum(axis=2) / (0.07 * shown.min()) ** 2)
    image, (x0, y0, x1, y1) = preprocess("unit", size=size, crop=crop)(
        np.rint(blob[..., None].repeat(3, 2)).astype(np.uint8)
    )

    assert image.shape == (3, *size)
    place = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = (image[0] * place).sum(axis=(1, 2)) / image[0].sum()
    found = y0 + y * (y1 - y0) / size[0], x0 + x * (x1 - x0) / size[1]
    np.testing.assert_allclose(found, mark, atol=0.1)
    np.testing.assert_allclose((y1 - y0, x1 - x0), shown, rtol=0.02)  # the resized picture has whole pixels
    assert 0 <= x0 < x1 <= shape[1] + 1e-9
    assert 0 <= y0 < y1 <= shape[0] + 1e-9


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_smallest_pictures(shape: tuple[int, int]) -> None:
    image, (x0, y0, x1, y1) = PRESETS["imagenet"](np.full((*shape, 3), 128, np.uint8))
    np.testing.assert_allclose(image[0], (128 / 255 - 0.485) / 0.229, rtol=1e-5)
    assert 0 <= x0 < x1 <= shape[1]
    assert 0 <= y0 < y1 <= shape[0]


@pytest.mark.parametrize(
    ("shape", "rule", "text"),
    [
        (
            (1, 20000),
            PRESETS["imagenet"],
            "of 20000 x 1 pixels would have to be resized to 5120000 x 256; crop it first",
        ),
        (
            (40, 60),
            preprocess("unit", size=(10**9, 10**9), resize="squash"),
            "resized to 1000000000 x 1000000000; crop",
        ),
    ],
)
def test_what_would_fill_the_memory_is_refused(shape: tuple[int, int], rule: Preprocess, text: str) -> None:
    with pytest.raises(InputError, match=text):
        rule(np.zeros((*shape, 3), np.uint8))


def test_one_channel_is_the_luma_and_takes_the_mean_of_the_colours() -> None:
    grey = np.asarray(Image.fromarray(PICTURE).convert("L"), np.float64)
    found = PRESETS["imagenet"].values(PICTURE, channels=1)
    mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found[0], (grey / 255 - mean) / std, atol=1.01 / 255 / std)  # Pillow rounds otherwise


def test_four_channels_are_refused() -> None:
    text = "the model takes 4 channels; a picture has 3 (or 1 as grey): give a float array"
    with pytest.raises(InputError, match=re.escape(text)):
        PRESETS["unit"](PICTURE, channels=4)


def test_two_means_for_three_channels_are_refused() -> None:
    with pytest.raises(InputError, match="2 values of mean or std for 3 channels; give 1 or 3"):
        preprocess({"mean": [0.1, 0.2]})(PICTURE)


class TestSpecification:
    def test_names_rules_and_dicts(self) -> None:
        assert preprocess("tf") is not None
        assert preprocess("tf") == PRESETS["tf"]
        assert preprocess(PRESETS["tf"], size=(96, 96)).size == (96, 96)
        found = preprocess({"mean": [0.1, 0.2, 0.3], "size": [64, 32]}, crop=1.0)
        assert found == Preprocess(mean=(0.1, 0.2, 0.3), size=(64, 32), crop=1.0)

    @pytest.mark.parametrize("mean", [0.5, (0.5,), [0.5], np.array([0.5]), np.float32(0.5)])
    def test_numbers_in_any_form(self, mean: Any) -> None:
        assert preprocess({"mean": mean}).mean == (0.5,)

    @pytest.mark.parametrize(
        ("spec", "text"),
        [
            ("imagnet", "preprocessing 'imagnet' is not known. Did you mean 'imagenet'?"),
            (5, "preprocessing is of type int; expected a name, a Preprocess or a dict"),
            ({"maen": 0.5}, "'maen'; known are scale, mean, std, order, size, resize, crop"),
            ({"resize": "stretch"}, "resize is 'stretch'; expected 'short', 'squash' or 'none'"),
            ({"order": "RBG"}, "channel order is 'RBG'; expected 'RGB' or 'BGR'"),
            ({"std": [1, 0, 1]}, "std is (1.0, 0.0, 1.0); every value must be above 0"),
            ({"std": []}, "std is (); expected finite numbers, one a channel or one for all"),
            ({"mean": [float("nan")]}, "mean is (nan,); expected finite numbers"),
            ({"mean": "grey"}, "mean is 'grey'; expected finite numbers"),
            ({"scale": float("inf")}, "scale is inf; expected finite numbers"),
            ({"crop": 0}, "crop is 0; expected a share of the short side, above 0 and at most 1"),
            ({"crop": 1.5}, "crop is 1.5; expected a share"),
            ({"size": 224}, "size is 224; expected (H, W), whole numbers of at least 1"),
            ({"size": [224, 0]}, "size is (224, 0); expected (H, W), whole numbers"),
            ({"size": [224.0, 224.0]}, "size is (224.0, 224.0); expected (H, W), whole numbers"),
        ],
    )
    def test_what_does_not_fit(self, spec: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            preprocess(spec)


class TestJson:
    @pytest.mark.parametrize("rule", [*PRESETS.values(), preprocess("tf", size=(96, 64), resize="squash", crop=1.0)])
    def test_it_comes_back_the_same(self, rule: Preprocess) -> None:
        assert Preprocess.from_json(json.loads(json.dumps(rule.to_json()))) == rule

    @pytest.mark.parametrize("document", ["[]", "null", "5", '"tf"', "{}", '{"scale": 1}'])
    def test_another_document(self, document: str) -> None:
        with pytest.raises(InputError, match="the preprocessing recorded in the model cannot be read: "):
            Preprocess.from_json(json.loads(document))

    @pytest.mark.parametrize(
        "change",
        [
            '"scale": NaN',
            '"scale": "big"',
            '"mean": {}',
            '"mean": [1e999]',
            '"mean": [' + "9" * 400 + "]",
            '"mean": [[1]]',
            '"std": [-1]',
            '"std": []',
            '"order": ["RGB"]',
            '"size": [Infinity, 1]',
            '"size": [-1, 5]',
            '"size": 5',
            '"size": [1]',
            '"resize": {}',
            '"crop": null',
            '"crop": NaN',
        ],
    )
    def test_hostile_fields(self, change: str) -> None:
        good = json.dumps(PRESETS["imagenet"].to_json())
        with pytest.raises(InputError, match="the preprocessing recorded in the model cannot be read: "):
            Preprocess.from_json(json.loads(f"{good[:-1]}, {change}}}"))  # the last of two equal keys counts
