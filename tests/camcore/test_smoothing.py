"""The mean over changed copies of an image."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from bent_network import BentNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_network import PooledNetwork, values

from camcore import Explainer, InputError, InputSpec, LinearHead, Smoothing, resize
from camcore.smoothing import SMOOTHINGS, Copy, smoothing

SPACES = [(12,), (8, 6), (4, 3, 5)]


def network(space: tuple[int, ...] = (8, 6), **options: Any) -> PooledNetwork:
    return PooledNetwork(space=(None,) * len(space), **options)


class TestCopies:
    def test_every_flip_with_every_scale_and_gain_and_the_image_first(self) -> None:
        made = list(Smoothing(True, (0.5, 1.0), (1.1, 1.0)).copies())
        assert len(made) == len(set(made)) == 8
        assert made[0] == Copy()
        assert made[0].same
        assert not any(copy.same for copy in made[1:])

    def test_the_image_itself_need_not_be_one_of_them(self) -> None:
        assert list(Smoothing(False, (0.5,)).copies()) == [Copy(scale=0.5)]

    @pytest.mark.parametrize(("name", "count"), [("flip", 2), ("scales", 4), ("flip+scales", 8), ("flip+gains", 6)])
    def test_those_with_a_name(self, name: str, count: int) -> None:
        assert len(list(SMOOTHINGS[name].copies())) == count
        assert smoothing(name) is SMOOTHINGS[name]

    @settings(deadline=None, max_examples=40)
    @given(
        flip=st.booleans(),
        scale=st.sampled_from([0.1, 0.5, 1.0, 1.5]),
        gain=st.sampled_from([0.9, 1.0, 2.0]),
        kind=st.sampled_from([np.float16, np.float32, np.float64]),
        space=st.sampled_from(SPACES),
    )
    def test_a_copy_is_resized_flipped_and_dimmed(
        self, flip: bool, scale: float, gain: float, kind: type, space: tuple[int, ...]
    ) -> None:
        images = values(2, 3, *space).astype(kind)
        before = images.copy()
        found = Copy(flip, scale, gain).of(images)
        expected = resize(images, tuple(max(1, round(n * scale)) for n in space)) * np.float32(gain)
        expected = expected[..., ::-1] if flip else expected
        assert found.dtype == kind
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, expected, rtol=2e-3 if kind is np.float16 else 1e-6, atol=1e-6)
        np.testing.assert_array_equal(images, before)

    def test_the_way_back(self) -> None:
        maps = values(1, 2, 3, 4)
        np.testing.assert_array_equal(Copy(flip=True).back(maps, (3, 4)), maps[..., ::-1])
        np.testing.assert_array_equal(Copy(scale=0.5).back(maps, (6, 8)), resize(maps, (6, 8)))


class TestMaps:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("method", ["cam", "gradcam++", "eigencam", "ablationcam", "scorecam"])
    def test_a_flip_changes_nothing_where_the_network_does_not_mind(self, method: str, space: tuple[int, ...]) -> None:
        images = values(2, 3, *space)
        plain = Explainer(network(space), method=method)(images, "top2")
        smooth = Explainer(network(space), method=method, smoothing="flip")(images, "top2")
        scale = np.abs(plain.maps).max()
        np.testing.assert_allclose(smooth.maps, plain.maps, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_array_equal(smooth.scores, plain.scores)
        assert smooth.maps.dtype == np.float32

    def test_where_it_minds_the_map_is_the_mean_of_both(self) -> None:
        images = values(2, 3, 8, 6)
        plain = Explainer(BentNetwork(), method="layercam")
        smooth = Explainer(BentNetwork(), method="layercam", smoothing="flip")
        here, there = plain(images, 1).maps, plain(images[..., ::-1], 1).maps[..., ::-1]
        assert np.abs(here - there).max() > 0.1 * np.abs(here).max()
        np.testing.assert_allclose(smooth(images, 1).maps, (here + there) / 2, rtol=1e-5, atol=1e-7)

    def test_gains_of_a_positively_homogeneous_network(self) -> None:
        """CAM is linear in the features of a ReLU network without biases, and the gains have mean one."""
        images = values(2, 3, 8, 6)
        plain = Explainer(network())(images)
        smooth = Explainer(network(), smoothing="flip+gains")(images)
        np.testing.assert_allclose(smooth.maps, plain.maps, rtol=1e-4, atol=1e-5)

    def test_scales_are_the_mean_of_what_each_size_gives(self) -> None:
        model, images = network(), values(1, 3, 8, 6)
        found = Explainer(model, smoothing="scales")(images, 2).maps
        parts = []
        for scale in (1.0, 0.5, 1.5, 2.0):
            resized = resize(images, (round(8 * scale), round(6 * scale)))
            parts.append(resize(Explainer(network())(resized, 2).maps, (8, 6)))
        np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)

    def test_nothing_is_random(self) -> None:
        images = values(2, 3, 8, 6)
        explain = Explainer(BentNetwork(), method="smoothgradcam++", smoothing="flip")
        np.testing.assert_array_equal(explain(images).maps, explain(images).maps)

    def test_the_classes_are_those_of_the_image_itself(self) -> None:
        """Also where a copy would be taken for something else, and the classes to compare with too."""
        model, images = BentNetwork(head=LinearHead(values(5, 4, seed=1))), values(12, 3, 3, 4)
        flipped = images[..., ::-1]
        best, other = model.scores(images).argmax(1), model.scores(flipped).argmax(1)
        assert (best != other).any()
        out = Explainer(model, method="gradcam", target="difference", smoothing="flip")(images)
        np.testing.assert_array_equal(out.classes[:, 0], best)
        rivals = np.argsort(-model.scores(images), axis=1)[:, 1]
        for n in range(12):
            one = Explainer(model, method="gradcam", target=f"difference:{rivals[n]}", smoothing="flip")
            np.testing.assert_allclose(out.maps[n], one(images[n : n + 1], int(best[n])).maps[0], rtol=1e-4, atol=1e-6)

    def test_maps_beyond_float32_pass(self) -> None:
        model, images = network(head=LinearHead(np.full((2, 4), 4))), np.zeros((1, 3, 8, 6), np.float32)
        images[0, :, 0, 0] = 9
        images *= 2e38 / model.features(images).max()
        out = Explainer(model, smoothing=Smoothing(scales=(1.0, 0.5)))(images, 0)
        assert np.isinf(out.maps).any()
        assert np.isfinite(out.scores).all()
        assert np.isfinite(out.heatmaps()).all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"scales": ()}, "smoothing scales () and gains (1.0,); expected positive numbers"),
            ({"gains": ()}, "smoothing scales (1.0,) and gains (); expected positive numbers"),
            ({"scales": (1.0, 0.0)}, "smoothing scales (1.0, 0.0) and gains (1.0,); expected positive numbers"),
            ({"gains": (np.nan,)}, "and gains (nan,); expected positive numbers"),
            ({"gains": (np.inf, -1)}, "and gains (inf, -1); expected positive numbers"),
        ],
    )
    def test_numbers_that_make_no_copy(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            Smoothing(**options)

    @pytest.mark.parametrize("wanted", ["flips", 3, True, ["flip"]])
    def test_unknown_names(self, wanted: Any) -> None:
        with pytest.raises(InputError, match=re.escape(f"smoothing {wanted!r} is not known.")):
            smoothing(wanted)

    def test_none_and_ones_own(self) -> None:
        own = Smoothing(gains=(0.5,))
        assert smoothing(None) is None
        assert smoothing(own) is own

    def test_a_model_of_one_size_has_no_other_scales(self) -> None:
        text = (
            "smoothing with scales (1.0, 0.5, 1.5, 2.0) needs a model that takes images of any size; this one takes "
            "any x 6. Take smoothing='flip'"
        )
        with pytest.raises(InputError, match=re.escape(text)):
            Explainer(PooledNetwork(space=(None, 6)), smoothing="flip+scales")
        Explainer(PooledNetwork(space=(8, 6)), smoothing="flip+gains")

    def test_a_model_of_whole_pixels_is_only_flipped(self) -> None:
        spec = InputSpec("images", (None, 3, None, None), "uint8")
        SMOOTHINGS["flip"].check(spec)
        for name in ("flip+gains", "scales"):
            with pytest.raises(InputError, match="the model takes whole pixels"):
                SMOOTHINGS[name].check(spec)
