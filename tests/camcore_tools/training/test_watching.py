"""Which pictures are recorded, and that they are shown as sharp as their files are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.training.folders import open_folder
from camcore_tools.training.watching import for_the_eye, watched
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_training import RULE, pictures

from camcore.preprocess import preprocess


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 15))
def test_watched_pictures_are_spread_over_the_classes(labels: list[int], count: int) -> None:
    classes = np.array(labels, np.int64)
    chosen = watched(classes, count)
    assert len(chosen) == min(count, len(labels))
    assert len(set(chosen.tolist())) == len(chosen)
    assert classes[chosen].tolist() == sorted(classes[chosen].tolist())
    of_each = {c: (classes[chosen] == c).sum() for c in set(labels)}
    for c, number in of_each.items():
        if number < max(of_each.values()) - 1:  # it has no more, or there were not enough for all classes
            assert number == (classes == c).sum() or count < len(of_each)


def test_pictures_in_memory_are_shown_as_they_are() -> None:
    data = pictures(2, 0)
    shown, rule = for_the_eye(data, np.array([1, 4]), RULE)
    np.testing.assert_array_equal(shown, data.images[[1, 4]])
    assert rule == RULE


@pytest.mark.parametrize("resize", ["squash", "short"])
def test_pictures_in_files_are_shown_larger_and_as_the_network_sees_them(tmp_path: Path, resize: str) -> None:
    ramp = np.linspace(0, 255, 200, dtype=np.uint8)
    picture = np.repeat(np.repeat(ramp[None, :, None], 120, axis=0), 3, axis=2)
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture[0, 0] += 1  # a copy would stay with its original
        Image.fromarray(picture).save(tmp_path / name)
    rule = preprocess("unit", size=(16, 16), resize=resize)
    data = open_folder(tmp_path, rule=rule, split=0.5).validation
    shown, larger = for_the_eye(data, np.array([0, 1]), rule)
    assert shown.shape == (2, 200, 200, 3)
    assert larger.size == (200, 200)
    small = data.pixels([0])[0].astype(float)
    blocks = np.linspace(0, 200, 17).astype(int)
    means = [shown[0, :, a:b].mean() for a, b in pairwise(blocks.tolist())]
    np.testing.assert_allclose(means, small[8, :, 0], atol=4)
