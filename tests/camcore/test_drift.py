"""Drift against SciPy's own correlation, energy and peaks against the plain definition, and what has no answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from camcore.drift import chance_inside, energy_inside, map_drift, masks_of_boxes, peaks_inside, trends
from camcore.errors import InputError
from camcore.recording import Recording
from camcore.resize import resize

whole_numbers = arrays(np.float64, (3, 2, 3, 4), elements=st.integers(-5, 5).map(float))


def random_maps(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blob(size: tuple[int, int], centre: tuple[float, float], width: float) -> Any:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2)).astype(np.float32)


def some_recording(maps: Any, masks: Any = None) -> Recording:
    frames, pictures = maps.shape[:2]
    return Recording(
        steps=np.arange(frames) * 10,
        maps=maps,
        probabilities=np.full((frames, pictures), 0.5, np.float32),
        best=np.zeros((frames, pictures), np.int64),
        classes=np.zeros(pictures, np.int64),
        pictures=np.zeros((pictures, 32, 32, 3), np.uint8),
        masks=masks,
    )


class TestMapDrift:
    @pytest.mark.parametrize("levels", [3, 1000])  # with and without ties
    def test_is_one_minus_spearman(self, levels: int) -> None:
        maps = np.round(random_maps(5, 4, 6, 7) * levels / 4)
        drift = map_drift(maps)
        flat = maps.reshape(5, 4, -1)
        for f in range(5):
            final = [1 - spearmanr(a, b).statistic for a, b in zip(flat[f], flat[-1], strict=True)]
            assert drift.final[f] == pytest.approx(np.mean(final), abs=1e-12)
            if f:
                previous = [1 - spearmanr(a, b).statistic for a, b in zip(flat[f], flat[f - 1], strict=True)]
                assert drift.previous[f] == pytest.approx(np.mean(previous), abs=1e-12)

    def test_the_first_frame_has_no_previous_and_the_last_is_the_final(self) -> None:
        drift = map_drift(random_maps(4, 3, 5, 5))
        assert np.isnan(drift.previous).tolist() == [True, False, False, False]
        assert drift.final[-1] == 0
        assert drift.previous[-1] == drift.final[-2]

    def test_one_frame(self) -> None:
        drift = map_drift(random_maps(1, 3, 5, 5))
        assert np.isnan(drift.previous).tolist() == [True]
        assert drift.final.tolist() == [0]

    @given(whole_numbers)
    @settings(deadline=None)
    def test_is_within_its_bounds_and_blind_to_rising_functions(self, maps: Any) -> None:
        drift = map_drift(maps)
        assert ((drift.final >= 0) & (drift.final <= 2)).all()
        assert ((drift.previous[1:] >= 0) & (drift.previous[1:] <= 2)).all()
        bent = map_drift(3 * maps**3 + 2 * maps - 40)
        np.testing.assert_array_equal(bent.final, drift.final)
        np.testing.assert_array_equal(bent.previous, drift.previous)

    @given(whole_numbers)
    @settings(deadline=None)
    def test_a_map_and_its_negative_are_opposite(self, maps: Any) -> None:
        varied = np.array([[np.ptp(maps[0, n]) > 0 for n in range(2)]])
        drift = map_drift(np.stack([maps[0], maps[0], -maps[0]]))
        assert drift.previous[1] == 0
        assert drift.previous[2] == pytest.approx(2 * varied.mean(), abs=1e-12)

    def test_it_does_not_depend_on_the_order_of_cells_or_pictures(self) -> None:
        maps = random_maps(3, 4, 30)
        turned = maps[:, [2, 0, 3, 1]][..., np.random.default_rng(0).permutation(30)]
        np.testing.assert_allclose(map_drift(turned).final, map_drift(maps).final, atol=1e-12)

    def test_constant_maps(self) -> None:
        flat, other, varied = np.zeros((1, 4)), np.full((1, 4), 7.0), np.array([[1.0, 2, 3, 4]])
        assert map_drift(np.stack([flat, other, varied, flat])).previous.tolist()[1:] == [0, 1, 1]
        assert map_drift(np.zeros((2, 1, 1, 1))).final.tolist() == [0, 0]

    def test_nan_is_the_smallest_value(self) -> None:
        maps = np.array([[[np.nan, 1, 2, np.inf]], [[-1.0, 1, 2, 3]], [[np.nan] * 4]])
        drift = map_drift(maps)
        # -1 ties with nothing, NaN with the smallest: ranks 1.5 1.5 3 4 against 1 2 3 4.
        assert drift.previous[1] == pytest.approx(1 - spearmanr([1, 1, 2, 3], [1, 2, 3, 4]).statistic)
        assert drift.previous[2] == 1

    def test_maps_in_a_file_are_read_frame_by_frame(self, tmp_path: Path) -> None:
        maps = random_maps(6, 2, 8, 8)
        np.save(tmp_path / "maps.npy", maps)
        mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
        np.testing.assert_array_equal(map_drift(mapped).final, map_drift(maps).final)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_any_floating_type(self, dtype: Any) -> None:
        maps = np.round(random_maps(3, 2, 4, 4) * 8).astype(dtype)
        np.testing.assert_array_equal(map_drift(maps).final, map_drift(maps.astype(np.float64)).final)

    @pytest.mark.parametrize("shape", [(2, 3), (0, 2, 4, 4), (2, 0, 4, 4), (2, 2, 0, 4)])
    def test_without_cells(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(
            InputError, match=re.escape(f"maps have shape {shape}; expected (frames, pictures, *cells)")
        ):
            map_drift(np.zeros(shape))


def plain_energy(values: Any, mask: Any) -> float:
    larger = resize(np.maximum(values.astype(np.float64), 0), mask.shape)
    return float(larger[mask].sum() / larger.sum())


class TestEnergyInside:
    @pytest.mark.parametrize("size", [(5, 7), (19, 30), (3, 4)])
    def test_is_the_share_of_the_resized_map(self, size: tuple[int, int]) -> None:
        maps, masks = random_maps(3, 4, 5, 7), np.random.default_rng(1).random((4, *size)) < 0.4
        found = energy_inside(maps, masks)
        expected = [[plain_energy(maps[f, n], masks[n]) for n in range(4)] for f in range(3)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_array_equal(energy_inside(maps[1], masks), found[1])

    @given(arrays(np.float64, (2, 3, 4), elements=st.integers(-9, 9).map(float)), st.floats(1e-3, 1e3))
    @settings(deadline=None)
    def test_parts_make_the_whole_at_any_scale(self, maps: Any, scale: float) -> None:
        masks = np.zeros((2, 6, 9), bool)
        masks[:, :2] = True
        inside, outside = energy_inside(maps, masks), energy_inside(maps, ~masks)
        positive = (maps > 0).any(axis=(1, 2))
        np.testing.assert_allclose(inside + outside, positive, atol=1e-12)
        np.testing.assert_allclose(energy_inside(maps * scale, masks), inside, atol=1e-12)

    def test_all_none_and_by_chance(self) -> None:
        masks = np.zeros((3, 8, 8), bool)
        masks[:, 2:6, 4:] = True
        maps = np.stack([np.where(masks[0], 2.0, -1.0), np.where(masks[0], -1.0, 2.0), np.ones((8, 8))])
        assert energy_inside(maps, masks).tolist() == [1, 0, 0.25]
        assert chance_inside(masks) == 0.25

    def test_no_positive_energy_is_none_inside(self) -> None:
        masks = np.ones((3, 4, 4), bool)
        assert energy_inside(
            np.stack([np.zeros((4, 4)), -np.ones((4, 4)), np.full((4, 4), np.nan)]), masks
        ).tolist() == [
            0,
            0,
            0,
        ]

    def test_an_unknown_object_is_nan(self) -> None:
        masks = np.stack([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
        assert np.isnan(energy_inside(random_maps(2, 4, 4), masks)).tolist() == [True, False]
        assert chance_inside(masks) == 1
        assert np.isnan(chance_inside(masks[:1]))

    @pytest.mark.parametrize("scale", [1e-320, 1e-30, 1e300])
    def test_tiny_and_huge_values(self, scale: float) -> None:
        maps, masks = np.array([[[1.0, 3.0]]]), np.array([[[False, True]]])
        assert energy_inside(maps * scale, masks) == pytest.approx(0.75, abs=0.01)
        assert energy_inside(np.array([[[1.0, np.inf]]], np.float32), masks) == pytest.approx(1)

    @pytest.mark.parametrize(
        ("maps", "masks", "text"),
        [
            (np.zeros((2, 4)), np.ones((2, 4, 4), bool), "maps have shape (2, 4); expected (N, h, w) or (F, N, h, w)"),
            (
                np.zeros((2, 4, 4)),
                np.ones((3, 4, 4), bool),
                "masks have shape (3, 4, 4) and type bool; expected (2, H, W)",
            ),
            (
                np.zeros((2, 4, 4)),
                np.ones((2, 4, 4)),
                "masks have shape (2, 4, 4) and type float64; expected (2, H, W)",
            ),
            (np.zeros((5, 2, 4, 4)), np.ones((2, 0, 4), bool), "masks have shape (2, 0, 4)"),
        ],
    )
    @pytest.mark.parametrize("measure", [energy_inside, peaks_inside])
    def test_what_does_not_belong_together(self, measure: Any, maps: Any, masks: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            measure(maps, masks)


class TestPeaksInside:
    def test_the_hottest_pixel_of_the_resized_map(self) -> None:
        maps, masks = random_maps(3, 4, 5, 7), np.random.default_rng(1).random((4, 20, 30)) < 0.4
        found = peaks_inside(maps, masks)
        for f in range(3):
            for n in range(4):
                larger = resize(np.maximum(maps[f, n].astype(np.float64), 0), (20, 30))
                hottest = larger == larger.max()
                assert found[f, n] == masks[n][hottest].mean()
                if hottest.sum() == 1:
                    assert found[f, n] == masks[n].ravel()[larger.argmax()]

    def test_equally_hot_pixels_count_by_their_share(self) -> None:
        masks = np.zeros((2, 4, 4), bool)
        masks[:, :, 0] = True
        maps = np.zeros((2, 4, 4))
        maps[0] = 1
        maps[1, 0, :2] = 5
        assert peaks_inside(maps, masks).tolist() == [0.25, 0.5]

    def test_no_positive_value_points_nowhere_and_an_unknown_object_is_nan(self) -> None:
        masks = np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)])
        found = peaks_inside(np.stack([-np.ones((4, 4)), np.ones((4, 4))]), masks)
        assert found[0] == 0
        assert np.isnan(found[1])


class TestMasksOfBoxes:
    def test_a_pixel_belongs_to_a_box_that_holds_its_centre(self) -> None:
        masks = masks_of_boxes([(1, 0, 3, 2), (0.4, 0.6, 1.6, 9)], (3, 4))
        expected = np.zeros((2, 3, 4), bool)
        expected[0, 0:2, 1:3] = True
        expected[1, 1:3, 0:2] = True
        np.testing.assert_array_equal(masks, expected)

    def test_several_boxes_none_and_arrays(self) -> None:
        masks = masks_of_boxes([[(0, 0, 1, 1), (3, 2, 4, 3, 0.9)], []], (3, 4))
        assert np.argwhere(masks).tolist() == [[0, 0, 0], [0, 2, 3]]
        np.testing.assert_array_equal(masks_of_boxes(np.array([[0, 0, 2, 2]]), (3, 4)).sum(), 4)

    @pytest.mark.parametrize(
        "box", [(0, 0, 5), (0, 0, float("nan"), 5), (2, 0, 2, 5), (3, 0, 1, 5), (40, 40, 50, 50), (0.6, 0, 0.9, 5)]
    )
    def test_a_box_that_holds_nothing(self, box: Any) -> None:
        text = r"of picture 1: expected finite \(x0, y0, x1, y1\) that hold a pixel of 8 x 6"
        with pytest.raises(InputError, match=text):
            masks_of_boxes([(0, 0, 5, 5), box], (6, 8))

    @pytest.mark.parametrize("item", [None, {"x0": 1}, 5, "box", [(0, 0, 1, "x")]])
    def test_what_is_no_box(self, item: Any) -> None:
        with pytest.raises(InputError, match=r"boxes of picture 1 are .*; expected \(x0, y0, x1, y1\), or a list"):
            masks_of_boxes([(0, 0, 5, 5), item], (6, 8))


class TestTrends:
    def test_a_map_that_walks_to_the_object(self) -> None:
        places = np.linspace(2, 12, 9)
        maps = np.stack([[blob((16, 16), (p, p), 2.0), blob((16, 16), (p, 14 - p), 2.0)] for p in places])
        masks = masks_of_boxes([(9, 9, 16, 16), (0, 9, 5, 16)], (16, 16))
        found = trends(some_recording(maps, masks))
        assert sorted(found) == ["drift_final", "drift_previous", "energy_inside", "peaks_inside"]
        assert all(curve.steps.tolist() == list(range(0, 90, 10)) for curve in found.values())
        assert (np.diff(found["drift_final"].values) < 0).all()
        assert (np.diff(found["energy_inside"].values) > 0).all()
        assert found["energy_inside"].values[0] < 0.01 < 0.8 < found["energy_inside"].values[-1]
        assert found["peaks_inside"].values[[0, -1]].tolist() == [0, 1]

    def test_without_masks_there_is_no_object(self) -> None:
        assert sorted(trends(some_recording(random_maps(2, 2, 4, 4)))) == ["drift_final", "drift_previous"]

    def test_pictures_without_an_object_do_not_count(self) -> None:
        maps, masks = random_maps(3, 2, 4, 4), np.zeros((2, 4, 4), bool)
        recording = some_recording(maps, masks)
        assert np.isnan(trends(recording)["energy_inside"].values).all()
        masks[1, 1] = True
        known = trends(replace(recording, masks=masks))
        np.testing.assert_array_equal(known["energy_inside"].values, energy_inside(maps, masks)[:, 1])
        np.testing.assert_array_equal(known["peaks_inside"].values, peaks_inside(maps, masks)[:, 1])
