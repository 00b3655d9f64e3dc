"""What an explanation gives: heatmaps, boxes, names, parts of a batch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy_network import explanation

from camcore import InputError, boxes, figures, mask, normalize, softmax
from camcore.multilabel.together import ClassColors
from camcore.normalize import NORMALIZATIONS
from camcore.pictures import Picture

NAMES = ("tench", "tabby", "lynx", "crane", "otter")


class TestHeatmaps:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS)
    @pytest.mark.parametrize(("space", "maps"), [((40,), (5,)), ((32, 48), (4, 6)), ((8, 9, 10), (2, 3, 4))])
    def test_they_are_of_the_size_of_the_input_and_within_0_and_1(
        self, space: tuple[int, ...], maps: tuple[int, ...], normalization: str
    ) -> None:
        heat = explanation(space, maps, classes=2).heatmaps(normalization=normalization)
        assert heat.shape == (2, 2, *space)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        assert heat.max() <= 1

    def test_the_order_is_resize_then_normalise(self) -> None:
        out = explanation()
        larger = F.interpolate(torch.from_numpy(out.maps), size=(32, 48), mode="bilinear", align_corners=False).numpy()
        low, high = larger.min(axis=(2, 3), keepdims=True), larger.max(axis=(2, 3), keepdims=True)
        np.testing.assert_allclose(out.heatmaps(), (larger - low) / (high - low), atol=1e-5)

    def test_where_the_method_rectifies_it_does_so_first(self) -> None:
        out = explanation(rectifies=True)
        relu = np.maximum(out.maps, 0)
        larger = F.interpolate(torch.from_numpy(relu), size=(32, 48), mode="bilinear", align_corners=False).numpy()
        np.testing.assert_allclose(out.heatmaps(normalization="relu-max"), normalize(larger, "relu-max"), atol=1e-5)

    def test_another_size_and_mode(self) -> None:
        out = explanation()
        assert out.heatmaps((7, 5)).shape == out.heatmaps(np.array([7, 5])).shape == (2, 1, 7, 5)
        larger = F.interpolate(torch.from_numpy(out.maps), size=(9, 11), mode="bicubic", align_corners=False).numpy()
        np.testing.assert_allclose(out.heatmaps((9, 11), mode="cubic"), normalize(larger), atol=1e-5)

    @pytest.mark.parametrize(
        "size", [64, np.int64(64), 7.5, (7,), (7, 7, 7), (), (7, 0), (7, -3), (7, 7.5), "ab", "64"]
    )
    def test_a_size_that_is_none(self, size: Any) -> None:
        text = f"size is {size!r}; expected one length a spatial axis, whole and at least 1, as in (32, 48)"
        with pytest.raises(InputError, match=re.escape(text)):
            explanation().heatmaps(size)

    def test_threshold_and_gain(self) -> None:
        heat = explanation().heatmaps()
        found = explanation().heatmaps(threshold=0.3, gain=1.5)
        np.testing.assert_allclose(found, np.where(heat < 0.3, 0, np.minimum(heat * 1.5, 1)), atol=1e-6)
        assert (found == 1).sum() > 2

    def test_a_constant_map_gives_zeros(self) -> None:
        assert not explanation(maps=(1, 1)).heatmaps().any()
        assert explanation(maps=(1, 1)).boxes() == [[[]], [[]]]

    def test_raw_maps_stay_as_they_are(self) -> None:
        out = explanation()
        before = out.maps.copy()
        out.heatmaps(normalization="tanh", threshold=0.5)
        np.testing.assert_array_equal(out.maps, before)

    def test_an_unknown_normalisation_or_mode(self) -> None:
        with pytest.raises(InputError, match=r"normalisation 'relu' is not known\. Did you mean 'relu-max'"):
            explanation().heatmaps(normalization="relu")
        with pytest.raises(ValueError, match="mode is 'nearest'; expected 'linear' or 'cubic'"):
            explanation().heatmaps(mode="nearest")


class TestRegions:
    def test_boxes_and_masks_are_those_of_each_heatmap(self) -> None:
        out = explanation(classes=2)
        heat = out.heatmaps()
        assert out.boxes(0.5) == [[boxes(heat[n, t], 0.5) for t in range(2)] for n in range(2)]
        np.testing.assert_array_equal(out.masks(0.5), [[mask(heat[n, t], 0.5) for t in range(2)] for n in range(2)])
        assert all(out.boxes()[n][t] for n in range(2) for t in range(2))

    @pytest.mark.parametrize("what", ["boxes", "masks", "overlays"])
    @pytest.mark.parametrize(("space", "maps"), [((40,), (5,)), ((8, 9, 10), (2, 3, 4))])
    def test_they_need_pictures(self, what: str, space: tuple[int, ...], maps: tuple[int, ...]) -> None:
        text = f"{what} need pictures with two spatial axes; this input has {len(space)}: use .maps or .heatmaps()"
        with pytest.raises(InputError, match=re.escape(text)):
            getattr(explanation(space, maps), what)()


class TestNames:
    def test_labels_of_the_classes(self) -> None:
        out = explanation(classes=2, class_names=NAMES)
        assert out.labels == [[NAMES[c] for c in row] for row in out.classes]
        assert out.label(2) == "lynx"

    def test_without_names(self) -> None:
        assert explanation().labels is None
        assert explanation().label(2) == "class 2"

    @pytest.mark.parametrize(
        ("kind", "meant"), [("logit", softmax), ("probability", np.copy), ("log-probability", np.exp)]
    )
    def test_probabilities(self, kind: str, meant: Any) -> None:
        out = explanation(scores_are=kind)
        np.testing.assert_allclose(out.probabilities, meant(out.scores), rtol=1e-6)


class TestParts:
    def whole(self) -> Any:
        pictures = [Picture(np.full((4, 4, 3), n, np.uint8), f"p{n}") for n in range(3)]
        return explanation(images=3, pictures=pictures, views=[(n, 0, 4, 4) for n in range(3)], class_names=NAMES)

    @pytest.mark.parametrize("index", [0, 1, 2, -1, -3, np.int64(1), slice(1, 3), slice(None, None, -1), slice(3, 9)])
    def test_a_part_is_an_explanation(self, index: Any) -> None:
        out = self.whole()
        part = out[index]
        rows = np.atleast_1d(np.arange(3)[index])
        assert len(part) == len(rows)
        for name in ("maps", "scores", "classes", "images"):
            np.testing.assert_array_equal(getattr(part, name), getattr(out, name)[rows])
        assert [p.name for p in part.pictures] == [f"p{n}" for n in rows]
        assert [v[0] for v in part.views] == list(rows)
        assert part.class_names == NAMES

    @pytest.mark.parametrize("index", [3, -4])
    def test_an_image_that_is_not_there(self, index: int) -> None:
        with pytest.raises(IndexError, match=f"image {index} of 3"):
            self.whole()[index]

    def test_one_after_another(self) -> None:
        assert [len(part) for part in self.whole()] == [1, 1, 1]

    def test_it_says_what_it_is(self) -> None:
        assert repr(self.whole()) == "Explanation(cam at relu, maps (3, 1, 4, 6), scores (3, 5))"
        other = replace(self.whole(), method="gradcam", target="difference:3", layer="relu, images")
        text = "Explanation(gradcam of difference:3 at relu, images, maps (3, 1, 4, 6), scores (3, 5))"
        assert repr(other) == text


def test_overlays_are_a_picture_for_each_image_and_class() -> None:
    drawn = explanation(classes=2).overlays(style="matlab")
    assert [len(row) for row in drawn] == [2, 2]
    assert drawn[0][0].dtype == np.uint8
    assert drawn[0][0].shape == (320, 480, 3)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("rectifies", [True, False])
def test_what_is_not_finite_stays_where_it_is(mode: str, rectifies: bool) -> None:
    out = explanation(classes=3, rectifies=rectifies)
    out.maps[0, 0, 1, 1] = np.nan
    out.maps[0, 1] = np.nan
    out.maps[0, 2, 1, 1] = np.inf
    clean = replace(out, maps=out.maps.copy())
    floor = out.maps[0, 0][np.isfinite(out.maps[0, 0])].min()
    clean.maps[0, 0, 1, 1] = max(floor, 0) if rectifies else floor
    clean.maps[0, 1] = 0
    heat = out.heatmaps(mode=mode)
    np.testing.assert_allclose(np.delete(heat, 2, axis=1), np.delete(clean.heatmaps(mode=mode), 2, axis=1), atol=1e-6)
    assert ((heat >= 0) & (heat <= 1)).all()
    assert heat[0, 2, 11, 11] == pytest.approx(1, abs=0.15)  # the centre of the infinite pixel


class TestPresent:
    def test_each_class_by_its_own_probability_or_by_its_share(self) -> None:
        scores = np.array([[2.0, 1.0, -1.0, 0.0, -3.0]], np.float32)
        alone = replace(explanation(images=1, scores_are="independent logit"), scores=scores)
        assert alone.present().tolist() == [[True, True, False, True, False]]
        assert replace(alone, scores_are="logit").present().tolist() == [[True, False, False, False, False]]
        assert replace(alone, scores_are="logit").present(0.2).tolist() == [[True, True, False, False, False]]

    def test_only_those_that_are_there(self) -> None:
        scores = np.array([[2.0, 1.0, -1.0, 3.0, -3.0], [-1.0] * 5], np.float32)
        out = replace(
            explanation(classes=4, scores_are="independent logit"), scores=scores, classes=np.array([[0, 2, 1, 3]] * 2)
        )
        some = out.only_present(0)
        assert some.classes.tolist() == [[3, 0, 1]]
        np.testing.assert_array_equal(some.maps, out.maps[:1, [3, 0, 2]])
        assert out.only_present(0, most=2).classes.tolist() == [[3, 0]]
        none = out.only_present(1)
        assert none.maps.shape == (1, 0, 4, 6)
        assert none.heatmaps().shape == (1, 0, 32, 48)
        assert none.boxes() == [[]]
        assert none.masks().shape == (1, 0, 32, 48)

    def test_all_on_one_picture(self) -> None:
        scores = np.array([[2.0, -1.0, 3.0, 0.0, 0.0], [-1.0, 1.0, 2.0, 0.0, 0.0]], np.float32)
        out = replace(
            explanation(classes=3, scores_are="independent logit"), scores=scores, classes=np.array([[0, 1, 2]] * 2)
        )
        first, second = out.together(0.6, outline=None)
        colors = ClassColors()
        np.testing.assert_array_equal(first, figures.together(out, 0, threshold=0.6, colors=colors, outline=None))
        np.testing.assert_array_equal(second, figures.together(out, 1, threshold=0.6, colors=colors, outline=None))
        with pytest.raises(InputError, match="overlays need pictures with two spatial axes"):
            explanation((9,), (3,)).together()

    def test_label_masks(self) -> None:
        scores = np.array([[2.0, -1.0, 1.0, 1.0, 0.0], [-1.0] * 5], np.float32)
        out = replace(
            explanation(classes=3, scores_are="independent logit"), scores=scores, classes=np.array([[0, 1, 2]] * 2)
        )
        heats = out.heatmaps(normalization="relu-max")[0]
        expected = np.array([0, 1, 3])[np.stack([np.full((32, 48), 0.3), heats[0], heats[2]]).argmax(0)]
        found = out.label_masks(0.3)
        np.testing.assert_array_equal(found, [expected, np.zeros((32, 48))])
        assert set(np.unique(out.label_masks(present=0.1)[0])) == {0, 1, 2, 3}
