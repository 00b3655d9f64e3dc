"""What becomes of features that no network should have, from the explainer to the heatmap: stated here for each method.

The features are the images themselves, behind them a linear head without a bias. Warnings are errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, values

from camcore import METHODS, Explainer, Explanation, InputError, LinearHead
from camcore.head import global_mean

CLASSES = [[0, 3], [2, 1]]
EACH = pytest.mark.parametrize("name", METHODS)
USUAL = np.abs(values(2, 4, 4, 3, seed=5)) + np.float32(0.1)
WEIGHT, BIAS, SECOND = values(5, 4, seed=1), values(5, seed=2), values(5, 4, seed=4)

# What is given: "zeros", "constant" maps; "noise"; "varied" ones, which are finite; "nan", where some position is none;
# "same" heatmaps as of the usual features. The first line is for methods that are not named.
STATED: dict[str, dict[str, str]] = {
    "zeros": {"": "zeros", "random": "noise"},
    "constant": {"": "constant", "random": "noise", "kpcacam": "zeros", "groupcam": "zeros"},
    "one position": {"": "constant", "kpcacam": "zeros", "groupcam": "zeros"},
    # Degree two underflows; a kernel or a probability does not notice. Others weigh channels that count the same.
    "tiny": {
        "": "same",
        "random": "noise",
        **dict.fromkeys(["ablationcam", "liftcam", "kpcacam", "groupcam"], "zeros"),
        **dict.fromkeys(["shapleycam", "gradcam++", "smoothgradcam++", "scorecam", "sscam", "iscam"], "varied"),
    },
    # Degree two overflows, and infinities of both signs cancel to NaN; a probability of one cannot be raised.
    "huge": {
        "": "same",
        "random": "noise",
        **dict.fromkeys(["ablationcam", "liftcam"], "nan"),
        "groupcam": "zeros",
        **dict.fromkeys(["shapleycam", "gradcam++", "smoothgradcam++", "scorecam", "sscam", "iscam"], "varied"),
        "kpcacam": "varied",
    },
}
# Of features that are all negative these have no positive value, so that their heatmaps are zeros.
DARK = {"layercam", "gradcam++", "smoothgradcam++", "scorecam", "sscam", "iscam"}
# Those that look at no score; with NaN at one position of the features: "there" alone, in the whole "image", or "no".
SPREAD = {"activationmap": "there", "fem": "image", "eigencam": "image", "kpcacam": "image", "random": "no"}


class Seen(PooledNetwork):
    """Its features are its images, but for what a test hides in those of the first one."""

    hidden: Any = None

    def features(self, images: np.ndarray) -> np.ndarray:
        features = images.copy()
        if self.hidden is not None:
            features[0, 1, 2, 1] = self.hidden
        return features

    def scores(self, images: np.ndarray) -> np.ndarray:
        return self.head(global_mean(self.features(images)))


def explained(name: str, images: np.ndarray, bias: Any = None, hidden: Any = None) -> Explanation:
    model = Seen(channels=4, head=LinearHead(WEIGHT, bias), second_weight=SECOND)
    model.gives |= {"second_weight"}
    model.hidden = hidden
    return Explainer(model, method=name)(images, CLASSES)


def heat_of(out: Explanation) -> np.ndarray:
    heat = out.heatmaps()
    assert out.maps.dtype == heat.dtype == np.float32
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() <= 1
    return heat


def flat(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(*maps.shape[:2], -1)


def check(name: str, kind: str, images: np.ndarray) -> None:
    out, stated = explained(name, images), STATED[kind].get(name, STATED[kind][""])
    heat, maps = heat_of(out), flat(out.maps)
    with np.errstate(invalid="ignore"):
        extent, largest = np.ptp(maps, axis=2), np.abs(maps).max(axis=2)
    if stated in ("zeros", "constant"):
        assert (largest == 0).all() if stated == "zeros" else (largest > 0).all()
        assert (extent <= 1e-6 * largest).all()
        assert not heat.any()
    elif stated == "nan":
        assert np.isnan(maps).any()
    else:
        assert np.isfinite(maps).all()
        assert (extent > 0).all()
    if stated == "same":
        np.testing.assert_allclose(heat, explained(name, USUAL).heatmaps(), atol=1e-4)


@EACH
def test_zeros(name: str) -> None:
    check(name, "zeros", 0 * USUAL)


def test_zeros_before_a_bias() -> None:
    """Recipro-CAM's map is the score itself, everywhere."""
    out = explained("reciprocam", 0 * USUAL, BIAS)
    np.testing.assert_array_equal(out.maps, np.broadcast_to(BIAS[CLASSES][..., None, None], out.maps.shape))
    assert not heat_of(out).any()


@EACH
def test_the_same_everywhere(name: str) -> None:
    check(name, "constant", np.broadcast_to(USUAL[:, :, :1, :1], USUAL.shape).copy())


@EACH
def test_one_position(name: str) -> None:
    check(name, "one position", USUAL[:, :, :1, :1])


@EACH
def test_one_bright_position_is_the_brightest_or_none_is(name: str) -> None:
    images = np.zeros_like(USUAL)
    images[:, :, 2, 1] = USUAL[:, :, 2, 1]
    heat = flat(heat_of(explained(name, images)))
    if name == "random":
        return
    for one in heat.reshape(-1, heat.shape[2]):
        at_it, elsewhere = one[7], np.delete(one, 7)
        assert at_it in (0, 1)
        assert (elsewhere == (0 if at_it else elsewhere[0])).all()


@EACH
def test_tiny(name: str) -> None:
    check(name, "tiny", USUAL * np.float32(1e-30))


@EACH
def test_huge(name: str) -> None:
    check(name, "huge", USUAL * np.float32(1e30))


@EACH
def test_nothing_but_negative(name: str) -> None:
    out = explained(name, -USUAL)
    assert np.isfinite(out.maps).all()
    if name in DARK:
        assert out.rectifies
        assert out.maps.max() <= 0
        assert not heat_of(out).any()
    else:
        assert heat_of(out).max() == 1


@EACH
def test_half_precision_looks_the_same(name: str) -> None:
    half = USUAL.astype(np.float16)
    wide = half.astype(np.float32)
    np.testing.assert_allclose(heat_of(explained(name, half)), heat_of(explained(name, wide)), atol=2e-2)


@EACH
@pytest.mark.parametrize("hidden", [np.nan, np.inf])
def test_what_is_no_number(name: str, hidden: float) -> None:
    """Scores made of it are refused; a map that is made without them keeps it to its image."""
    if name not in SPREAD:
        with pytest.raises(InputError, match="the model's scores are NaN or infinite for this input, so there is noth"):
            explained(name, USUAL, hidden=hidden)
        return
    out, clean = explained(name, USUAL, hidden=hidden), explained(name, USUAL)
    np.testing.assert_array_equal(out.maps[1], clean.maps[1])
    np.testing.assert_array_equal(heat_of(out)[1], heat_of(clean)[1])
    bad = ~np.isfinite(out.maps[0])
    if SPREAD[name] == "image":
        assert bad.all()
        assert not heat_of(out)[0].any()
    elif SPREAD[name] == "there":
        assert np.argwhere(bad).tolist() == [[0, 2, 1], [1, 2, 1]]
        assert (heat_of(out)[0, :, 2, 1] == (1 if hidden == np.inf else 0)).all()
    elif SPREAD[name] == "no":
        assert not bad.any()
