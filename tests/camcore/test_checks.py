"""What must hold of the evidence before it becomes a map."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_network import values

from camcore import Evidence, HeadNotFound, InputError, LinearHead, NormHead, Tap
from camcore.checks import check_evidence, check_features, check_maps, check_scores
from camcore.head import global_mean


def check(tap: Tap, scores: np.ndarray, classes: np.ndarray, features: np.ndarray, *, whole: bool = False) -> None:
    check_evidence(Evidence(scores, classes, features, tap.head), tap, whole=whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(bad: float) -> None:
    scores = values(2, 5)
    check_scores(scores)
    scores[1, 3] = bad
    with pytest.raises(InputError, match="the model's scores are NaN or infinite for this input, so there is nothing"):
        check_scores(scores)


@pytest.mark.parametrize(
    "head", [LinearHead(values(40, 4), values(40, seed=1)), LinearHead.identity(4), NormHead(values(40, 4))], ids=repr
)
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), one=st.integers(0, 3), half=st.booleans())
def test_each_kind_of_head_is_believed_or_not(head: LinearHead | NormHead, seed: int, one: int, half: bool) -> None:
    features = values(2, 4, 3, 3, seed=seed).astype(np.float16 if half else np.float32)
    scores = head(global_mean(features))
    classes = np.array([[one], [3 - one]])
    check(Tap("x", head), scores, classes, features)
    check(Tap("x", head), scores, classes, features, whole=True)
    scores[1, 3 - one] += 2e-2 * np.abs(scores[1]).max()
    with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
        check(Tap("x", head), scores, classes, features)


@pytest.mark.parametrize("few", [True, False])
def test_slack_is_free_for_each_class(few: bool) -> None:
    head, features = LinearHead(values(40, 4), values(40, seed=1)), values(2, 4, 3, 3)
    scores = head(features.mean(axis=(2, 3)))
    scores[:, 7] += 0.5
    slack = np.zeros(40)
    slack[7] = 0.51
    classes = np.array([[7, 8]] * 2) if few else np.tile(np.arange(40), (2, 1))
    check(Tap("x", head, slack=slack), scores, classes, features)
    check(Tap("x", head, slack=0.51), scores, classes, features)
    with pytest.raises(HeadNotFound, match=r"they differ by up to 0\.5"):
        check(Tap("x", head), scores, classes, features)


def test_other_classes_are_looked_at_only_on_demand() -> None:
    head, features = LinearHead(values(40, 4)), values(1, 4, 3, 3)
    scores = head(features.mean(axis=(2, 3)))
    scores[0, 5] += 0.5
    check(Tap("x", head), scores, np.array([[4]]), features)
    with pytest.raises(HeadNotFound, match=r"they differ by up to 0\.5"):
        check(Tap("x", head), scores, np.array([[4]]), features, whole=True)


def test_the_tolerance_is_a_share_of_the_largest_score() -> None:
    head, features = LinearHead.identity(3), np.full((1, 3, 2, 2), 100, np.float32)
    scores, classes = np.array([[100, 100, 101]], np.float32), np.array([[2]])
    check(Tap("x", head, tolerance=2e-2), scores, classes, features)
    with pytest.raises(HeadNotFound, match="they differ by up to 1, with scores up to 101"):
        check(Tap("x", head, tolerance=1e-3), scores, classes, features)


def test_an_image_is_measured_by_its_own_scores() -> None:
    """Else a small image would pass because of a large one in its batch."""
    head, features = LinearHead.identity(2), np.ones((2, 2, 2, 2), np.float32)
    features[1] = 1e6
    scores, classes = np.array([[1, 1.5], [1e6, 1e6]], np.float32), np.array([[1], [1]])
    with pytest.raises(HeadNotFound, match=r"they differ by up to 0\.5"):
        check(Tap("x", head), scores, classes, features)


@pytest.mark.parametrize("bad", [[np.inf], [np.nan], [np.inf, -np.inf]])
def test_features_that_are_not_finite(bad: list[float]) -> None:
    features = np.zeros((1, 3, 2, 2), np.float32)
    features[0, 1, 0, : len(bad)] = bad
    head = LinearHead(np.ones((2, 3)))
    with pytest.raises(HeadNotFound, match=r"they differ by up to (inf|nan)"):
        check(Tap("x", head), np.ones((1, 2), np.float32), np.array([[0]]), features)


@pytest.mark.parametrize(("channels", "classes"), [(3, 6), (4, 5)])
def test_a_head_of_another_network(channels: int, classes: int) -> None:
    text = (
        "the head is for 4 channels and 6 classes, the network has "
        f"{channels} channels at features.29 and {classes} classes"
    )
    with pytest.raises(InputError, match=re.escape(text)):
        check(
            Tap("features.29", LinearHead(values(6, 4))), values(1, classes), np.array([[0]]), values(1, channels, 2, 2)
        )


def test_what_to_do_is_said() -> None:
    text = (
        r"the head found \(mean -> linear\) at relu does not reproduce the scores: they differ by up to 1, with scores "
        "up to 1. So the map would not explain this score. Give layer= and head= by hand, or a method that needs no"
    )
    with pytest.raises(HeadNotFound, match=text):
        check(
            Tap("relu", LinearHead(np.ones((1, 1))), "mean -> linear"),
            np.ones((1, 1), np.float32),
            np.array([[0]]),
            np.zeros((1, 1, 2, 2), np.float32),
        )


def test_features_that_do_not_begin_with_the_batch_are_refused() -> None:
    seen = Evidence(values(2, 5), np.zeros((2, 1), np.int64), values(8, 4, 3, 3))
    with pytest.raises(InputError, match=r"'w' gives \(8, 4, 3, 3\) for 2 images: its first axis is not the"):
        check_features(seen, Tap("w"))


def test_maps_with_other_axes_than_the_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"layer 't' have 1 spatial axes, the images 2, .* grid=\(h, w\), prefix=p"):
        check_maps(values(2, 1, 17), values(2, 3, 8, 8), Tap("t"))
