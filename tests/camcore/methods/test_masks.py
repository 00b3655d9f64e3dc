"""Score-CAM, SS-CAM, IS-CAM and Group-CAM against loops written from the papers, in float64."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import METHODS, InputError, resize
from camcore.methods.masks import group_cam, is_cam, score_cam, ss_cam
from camcore.methods.probes import Probe, Scene

SEEDS = st.integers(0, 2**32 - 1)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
CHOICES: dict[str, dict[str, Any]] = {
    "scorecam": {},
    "sscam": {"samples": 3, "spread": 0.5, "seed": 4},
    "iscam": {"samples": 3},
    "groupcam": {"groups": 2, "percentile": 60.0},
}
NAMES = tuple(CHOICES)

Model = Callable[[np.ndarray], np.ndarray]


@st.composite
def cases(draw: st.DrawFn, channels: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, features, gradients (N, T, C, *S) or with unit axes, and classes."""
    axes = draw(st.integers(1, 3))
    sides = st.lists(st.integers(1, 4), min_size=axes, max_size=axes).map(tuple)
    size, space = tuple(n + 1 for n in draw(sides)), draw(sides)
    rng = np.random.default_rng(draw(SEEDS))
    n, t, colours = (int(x) for x in rng.integers(1, 4, 3))
    c = channels or draw(st.integers(1, 5))
    slopes = space if draw(st.booleans()) else (1,) * axes
    return (
        rng.standard_normal((n, colours, *size)),
        rng.standard_normal((n, c, *space)),
        rng.standard_normal((n, t, c, *slopes)),
        rng.integers(0, 5, (n, t)),
    )


def bent_model(images: np.ndarray, classes: int = 5) -> Model:
    """(M, C0, *S0) to (M, K), not linear."""
    rng = np.random.default_rng(3)
    inner = rng.standard_normal((int(np.prod(images.shape[1:])), 6))
    outer = rng.standard_normal((6, classes))
    return lambda given_: np.tanh(given_.reshape(len(given_), -1) @ inner + 0.2) @ outer


def probe(name: str) -> Probe:
    found = METHODS[name].probe
    assert found is not None
    return found


def shown(name: str, scene: Scene, **options: Any) -> np.ndarray:
    """Every input for one image."""
    options = dict(METHODS[name].options) | options
    return probe(name).inputs(scene, range(probe(name).count(scene, **options)), **options)


def explained(
    name: str, model: Model, images: np.ndarray, features: np.ndarray, gradients: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """What an engine does: show the inputs, take the target of each, hand them to the formula."""
    row, options = METHODS[name], CHOICES[name]
    responses = np.stack(
        [
            [
                model(shown(name, Scene(images[n], features[n], gradients[n, t]), **options))[:, classes[n, t]]
                for t in range(classes.shape[1])
            ]
            for n in range(len(images))
        ]
    )
    more = {"gradients": gradients} if "gradients" in row.needs else {}
    return row.formula(features=features, responses=responses, classes=classes, **more, **options)


def upsampled(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Linear, half-pixel centres, one axis after the other."""
    for axis, new in enumerate(size):
        old = mask.shape[axis]
        centres = (np.arange(new) + 0.5) * old / new - 0.5
        mask = np.apply_along_axis(lambda row, at=centres: np.interp(at, np.arange(len(row)), row), axis, mask)
    return mask


def paper_mask(channel: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Upsample, then (x - min) / (max - min)."""
    large = upsampled(channel, size)
    extent = large.max() - large.min()
    return (large - large.min()) / extent if extent > 1e-14 * np.abs(channel).max() else np.zeros(size)


def paper_score_family(
    images: np.ndarray,
    features: np.ndarray,
    classes: np.ndarray,
    model: Model,
    changed: Callable[..., list[np.ndarray]],
) -> np.ndarray:
    """w = softmax of the mean increase over a baseline image; ``changed(mask, k)`` lists the masks of channel k."""
    maps = np.zeros((*classes.shape, *features.shape[2:]))
    channels = features.shape[1]
    for n, t in np.ndindex(*classes.shape):
        baseline = model(np.zeros_like(images[n : n + 1]))[0, classes[n, t]]
        gains = np.zeros(channels)
        for k in range(channels):
            masks = changed(paper_mask(features[n, k], images.shape[2:]), k, channels)
            gains[k] = np.mean([model((images[n] * m)[None])[0, classes[n, t]] - baseline for m in masks])
        weights = np.exp(gains) / np.exp(gains).sum()
        maps[n, t] = sum(weights[k] * features[n, k] for k in range(channels))
    return maps


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_score_cam_is_that_of_the_paper(case: tuple[np.ndarray, ...]) -> None:
    images, features, gradients, classes = case
    model = bent_model(images)
    expected = paper_score_family(images, features, classes, model, lambda mask, k, channels: [mask])
    np.testing.assert_allclose(explained("scorecam", model, images, features, gradients, classes), expected, **CLOSE)


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_is_cam_takes_the_mean_over_a_growing_mask(case: tuple[np.ndarray, ...]) -> None:
    images, features, gradients, classes = case
    model = bent_model(images)
    expected = paper_score_family(
        images, features, classes, model, lambda mask, k, channels: [mask / 3, mask * 2 / 3, mask]
    )
    np.testing.assert_allclose(explained("iscam", model, images, features, gradients, classes), expected, **CLOSE)


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_ss_cam_takes_the_mean_over_noisy_masks(case: tuple[np.ndarray, ...]) -> None:
    images, features, gradients, classes = case
    model = bent_model(images)

    def noisy(mask: np.ndarray, k: int, channels: int) -> list[np.ndarray]:
        draws = [np.random.default_rng([4, i * channels + k]) for i in range(3)]
        return [mask + 0.5 * rng.standard_normal(mask.shape) for rng in draws]

    expected = paper_score_family(images, features, classes, model, noisy)
    np.testing.assert_allclose(explained("sscam", model, images, features, gradients, classes), expected, **CLOSE)


def paper_blur(image: np.ndarray) -> np.ndarray:
    """A Gaussian of 51 x 51 and sigma 50, mirrored at the border, one number at a time along each axis."""
    kernel = np.exp(-0.5 * (np.arange(-25, 26) / 50) ** 2)
    kernel /= kernel.sum()
    for axis in range(1, image.ndim):
        pad = [(25, 25) if a == axis else (0, 0) for a in range(image.ndim)]
        wide = np.pad(image, pad, mode="reflect")
        image = np.apply_along_axis(lambda row: np.convolve(row, kernel, mode="valid"), axis, wide)
    return image


def paper_group_maps(features: np.ndarray, gradients: np.ndarray, groups: int, percentile: float) -> list[np.ndarray]:
    """Of one image and class: weighted, summed in consecutive groups, ReLU, low values out."""
    channels = len(features)
    groups = min(groups, channels)
    bounds = [g * channels // groups for g in range(groups + 1)]
    maps = []
    for first, last in itertools.pairwise(bounds):
        summed = sum(gradients[k].mean() * features[k] for k in range(first, last))
        positive = np.maximum(summed, 0)
        maps.append(np.where(positive >= np.percentile(positive, percentile), positive, 0))
    return maps


@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_group_cam_is_that_of_the_paper(case: tuple[np.ndarray, ...]) -> None:
    images, features, gradients, classes = case
    model = bent_model(images)
    expected = np.zeros((*classes.shape, *features.shape[2:]))
    for n, t in np.ndindex(*classes.shape):
        blurred = paper_blur(images[n])
        least = model(blurred[None])[0, classes[n, t]]
        for group in paper_group_maps(features[n], gradients[n, t], 2, 60.0):
            mask = paper_mask(group, images.shape[2:])
            gain = model((images[n] * mask + blurred * (1 - mask))[None])[0, classes[n, t]] - least
            expected[n, t] += max(gain, 0) * group
    got = explained("groupcam", model, images, features, gradients, classes)
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)
    assert (got >= 0).all()


@settings(deadline=None, max_examples=60)
@given(case=cases(), name=st.sampled_from(NAMES), data=st.data())
def test_an_input_does_not_depend_on_the_range_it_is_asked_in(
    case: tuple[np.ndarray, ...], name: str, data: st.DataObject
) -> None:
    images, features, gradients, _ = case
    scene = Scene(images[0], features[0], gradients[0, 0])
    whole = shown(name, scene, **CHOICES[name])
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    part = probe(name).inputs(scene, range(start, stop), **CHOICES[name])
    assert part.shape == (stop - start, *images[0].shape)
    np.testing.assert_allclose(part, whole[start:stop], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_leave_image_features_and_gradients_alone(name: str) -> None:
    rng = np.random.default_rng(0)
    given_ = [rng.standard_normal((2, 3, 3)), rng.standard_normal((4, 3, 3)), rng.standard_normal((4, 1, 1))]
    before = [a.copy() for a in given_]
    shown(name, Scene(*given_), **CHOICES[name])
    for now, then in zip(given_, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_noise_is_that_of_its_seed_and_index() -> None:
    scene = Scene(np.ones((1, 8, 8)), np.arange(12.0).reshape(3, 2, 2))
    first = shown("sscam", scene, samples=2)
    np.testing.assert_array_equal(first, shown("sscam", scene, samples=2))
    np.testing.assert_array_equal(first, shown("sscam", scene, samples=4)[:6])
    assert len({image.tobytes() for image in first}) == 6
    assert (first != shown("sscam", scene, samples=2, seed=1)).all()
    still = shown("sscam", scene, samples=1, spread=0.0)
    np.testing.assert_array_equal(still, shown("scorecam", scene))


def test_noise_has_the_spread_asked_for() -> None:
    scene = Scene(np.ones((1, 100, 100)), np.arange(4.0).reshape(1, 2, 2))
    noise = shown("sscam", scene, samples=1, spread=3.0) - shown("scorecam", scene)
    assert noise.std() == pytest.approx(3, rel=0.02)
    assert abs(noise.mean()) < 0.1


def test_colours_share_the_noise() -> None:
    image = np.stack([np.ones((5, 5)), 2 * np.ones((5, 5))])
    made = shown("sscam", Scene(image, np.arange(8.0).reshape(2, 2, 2)))
    np.testing.assert_allclose(made[:, 1], 2 * made[:, 0])


def test_one_step_of_is_cam_is_score_cam() -> None:
    rng = np.random.default_rng(1)
    scene = Scene(rng.standard_normal((2, 6, 6)), rng.standard_normal((3, 2, 2)))
    np.testing.assert_array_equal(shown("iscam", scene, samples=1), shown("scorecam", scene))
    last = shown("iscam", scene, samples=10)[-3:]
    np.testing.assert_allclose(last, shown("scorecam", scene))  # the image itself, never brighter


@settings(deadline=None, max_examples=30)
@given(
    seed=SEEDS, channels=st.integers(1, 8), scale=st.sampled_from([1.0, 1e4, 1e-30]), name=st.sampled_from(NAMES[:3])
)
def test_the_weights_are_positive_and_sum_to_one(seed: int, channels: int, scale: float, name: str) -> None:
    features = np.eye(channels, dtype=np.float32)[None]  # so that the map is the weights
    responses = scale * np.random.default_rng(seed).standard_normal((1, 2, channels)).astype(np.float32)
    options = {"samples": 1} if name != "scorecam" else {}
    maps = METHODS[name].formula(features=features, responses=responses, **options)
    assert maps.dtype == np.float32
    assert (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(axis=2), 1, rtol=1e-5)
    best = np.take_along_axis(maps, responses.argmax(axis=2)[..., None], axis=2)[..., 0]
    np.testing.assert_array_equal(best, maps.max(axis=2))


@pytest.mark.parametrize("shift", [1.0, -5.0])
def test_a_baseline_cancels(shift: float) -> None:
    rng = np.random.default_rng(2)
    features, responses = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 2, 6))
    np.testing.assert_allclose(
        score_cam(features, responses[:, :, :3]), score_cam(features, responses[:, :, :3] + shift)
    )
    np.testing.assert_allclose(is_cam(features, responses, samples=2), is_cam(features, responses + shift, samples=2))
    np.testing.assert_allclose(ss_cam(features, responses, samples=2), ss_cam(features, responses + shift, samples=2))


def test_the_mean_is_over_samples_and_not_over_channels() -> None:
    features = np.eye(2)[None]
    responses = np.array([[[0.0, np.log(3.0), 0.0, np.log(3.0)]]])  # channel 1 is always three times channel 0
    np.testing.assert_allclose(ss_cam(features, responses, samples=2), [[[0.25, 0.75]]])
    np.testing.assert_allclose(is_cam(features, responses, samples=2), [[[0.25, 0.75]]])


@pytest.mark.parametrize("value", [0.0, 3.7, -2.0, 1e-30, 1e30])
@pytest.mark.parametrize("space", [(3, 3), (1, 1), (7, 5)])
def test_a_constant_channel_hides_the_image(value: float, space: tuple[int, ...]) -> None:
    """Also where the grid is finer than the image, and no rounding of the resizing is blown up to a mask."""
    scene = Scene(np.ones((1, 4, 6), np.float32), np.full((2, *space), value, np.float32))
    assert not shown("scorecam", scene).any()
    assert not shown("iscam", scene).any()


def test_patterns_finer_than_the_image_hide_it() -> None:
    """Resized they are constant but for rounding, which must not be blown up to a mask."""
    coarse = resize(np.eye(16), (6,)).T
    noise = np.random.default_rng(0).random((40, 16))
    patterns = noise + (0.5 - noise @ coarse.T) @ np.linalg.pinv(coarse).T
    features = patterns.astype(np.float32)
    assert np.ptp(resize(features, (6,)), axis=1).any()
    assert not shown("scorecam", Scene(np.ones((1, 6), np.float32), features)).any()


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30, -1.0])
def test_masks_do_not_depend_on_the_scale_of_the_features(scale: float) -> None:
    features = np.array([[[0.0, 1.0], [2.0, 4.0]]])
    image = np.ones((1, 8, 8), np.float32)
    masks = shown("scorecam", Scene(image, (scale * features).astype(np.float32)))
    plain = shown("scorecam", Scene(image, features.astype(np.float32)))
    assert masks.min() == 0
    assert masks.max() == 1
    np.testing.assert_allclose(
        masks, 1 - plain if scale < 0 else plain, rtol=1e-2 if scale == 1e-42 else 1e-5, atol=1e-6
    )


def test_negative_features_give_a_negative_map_and_a_mask_all_the_same() -> None:
    features = np.array([[[-4.0, -1.0]]])
    assert shown("scorecam", Scene(np.ones((1, 2)), features[0])).tolist() == [[[0.0, 1.0]]]
    assert score_cam(features, np.zeros((1, 1, 1))).tolist() == [[[-4.0, -1.0]]]
    assert METHODS["scorecam"].rectifies


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given_as", [np.float16, np.float32, np.float64])
def test_inputs_have_the_precision_of_the_image(name: str, given_as: type) -> None:
    rng = np.random.default_rng(0)
    image, features = rng.standard_normal((2, 9, 9)), 400 * rng.random((4, 3, 3))
    scene = Scene(
        image.astype(given_as), features.astype(np.float16), rng.standard_normal((4, 1, 1)).astype(np.float32)
    )
    made = shown(name, scene, **CHOICES[name])
    assert made.dtype == given_as
    assert np.isfinite(made).all()


@pytest.mark.parametrize(("given_as", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_half_precision_is_computed_in_float32(given_as: type, kept: type) -> None:
    features = np.full((1, 4, 2, 2), 40000, given_as)
    maps = score_cam(features, np.zeros((1, 1, 4), given_as))
    assert maps.dtype == kept
    assert (maps == 40000).all()
    slopes = np.ones((1, 1, 4, 1, 1), np.float32 if given_as is np.float16 else given_as)
    grouped = group_cam(features, slopes, np.array([[[0.0, 1.0]]], kept), groups=1)
    assert grouped.dtype == kept
    assert (grouped == 160000).all()


def test_infinite_features_show_something_finite() -> None:
    features = np.array([[[np.inf, 1.0], [0.0, np.nan]]], np.float32)
    made = shown("scorecam", Scene(np.ones((1, 4, 4), np.float32), features))
    assert np.isfinite(made).all()
    assert made.max() == 1


@pytest.mark.parametrize(("groups", "channels", "count"), [(32, 5, 6), (5, 5, 6), (2, 5, 3), (1, 5, 2), (3, 1, 2)])
def test_there_is_at_most_one_group_a_channel(groups: int, channels: int, count: int) -> None:
    rng = np.random.default_rng(0)
    scene = Scene(np.ones((1, 4, 4)), rng.random((channels, 2, 2)), rng.random((channels, 1, 1)))
    assert probe("groupcam").count(scene, groups=groups, percentile=70.0) == count
    assert len(shown("groupcam", scene, groups=groups)) == count


def test_groups_are_consecutive() -> None:
    features = np.eye(6)[None]
    slopes = np.ones((1, 1, 6, 1))
    maps = group_cam(features, slopes, np.array([[[0.0, 1.0, 10.0, 100.0]]]), groups=3, percentile=0)
    assert maps.tolist() == [[[1, 1, 10, 10, 100, 100]]]


def test_low_values_of_a_group_are_noise() -> None:
    features = np.arange(11.0).reshape(1, 1, 11)
    slopes, responses = np.ones((1, 1, 1, 1)), np.array([[[0.0, 1.0]]])
    assert group_cam(features, slopes, responses, percentile=50)[0, 0].tolist() == [0, 0, 0, 0, 0, 5, 6, 7, 8, 9, 10]
    assert group_cam(features, slopes, responses, percentile=0)[0, 0].tolist() == list(range(11))
    assert group_cam(features, slopes, responses, percentile=100)[0, 0].tolist() == [0] * 10 + [10]


def test_a_group_that_lowers_the_target_does_not_count() -> None:
    features, slopes = np.ones((1, 2, 3)), np.ones((1, 1, 2, 1))
    assert group_cam(features, slopes, np.array([[[0.5, 0.1, 0.5]]])).tolist() == [[[0, 0, 0]]]
    assert group_cam(features, slopes, np.array([[[0.5, 0.1, 1.0]]])).tolist() == [[[0.5, 0.5, 0.5]]]


def test_a_group_without_positive_evidence_shows_the_blurred_image() -> None:
    image = np.random.default_rng(0).random((3, 60, 40))
    scene = Scene(image, np.ones((2, 3, 3)), -np.ones((2, 1, 1)))
    made = shown("groupcam", scene)
    np.testing.assert_array_equal(made[1:], made[:1].repeat(2, axis=0))
    np.testing.assert_allclose(made[0], paper_blur(image), rtol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5,), (3, 2, 4)])
def test_small_images_are_blurred(size: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random((2, *size))
    scene = Scene(image, np.zeros((1, *size)), np.zeros((1, *size)))
    np.testing.assert_allclose(shown("groupcam", scene)[0], paper_blur(image), rtol=1e-12)


def test_zero_features_and_zero_gradients_give_zeros() -> None:
    zeros = np.zeros((1, 3, 2, 2))
    assert not score_cam(zeros, np.ones((1, 1, 3))).any()
    assert not group_cam(zeros, np.ones((1, 1, 3, 1, 1)), np.array([[[0.0, 1.0, 1.0, 1.0]]])).any()
    assert not group_cam(zeros + 1, np.zeros((1, 1, 3, 1, 1)), np.array([[[0.0, 1.0, 1.0, 1.0]]])).any()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("sscam", {"samples": 0}, "samples is 0; expected a whole number, at least 1"),
        ("iscam", {"samples": 2.5}, r"samples is 2\.5; expected a whole number, at least 1"),
        ("groupcam", {"groups": -1}, "groups is -1; expected a whole number, at least 1"),
        ("groupcam", {"percentile": 101}, "percentile is 101; expected 0 to 100"),
        ("groupcam", {"percentile": float("nan")}, "percentile is nan; expected 0 to 100"),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict[str, Any], text: str) -> None:
    scene = Scene(np.ones((1, 4, 4)), np.ones((2, 2, 2)), np.ones((2, 1, 1)))
    with pytest.raises(InputError, match=text):
        probe(name).count(scene, **(dict(METHODS[name].options) | options))


def test_features_that_are_not_laid_out_as_the_image() -> None:
    scene = Scene(np.ones((3, 8, 8)), np.ones((5, 50)))
    text = r"the features have 1 spatial axes, the images 2: no mask can be made of them\. Give layer="
    with pytest.raises(InputError, match=text):
        shown("scorecam", scene)


def test_group_cam_explains_probabilities_unless_told_otherwise() -> None:
    assert METHODS["groupcam"].target == "probability"
    assert probe("groupcam").per_class
    assert not any(probe(name).per_class for name in NAMES[:3])


def test_score_cam_of_pytorch_grad_cam_and_torchcam() -> None:
    """The same weights where features are as large as the image, so that how they resize does not matter."""
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("torchcam")
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import ScoreCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        from torchcam.methods import ScoreCAM as TorchcamScoreCAM
    torch.manual_seed(0)
    nn = torch.nn
    trunk = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
    model = nn.Sequential(trunk, nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = model.double().eval()
    with torch.no_grad():
        model[-1].weight.mul_(50)  # weights far from even
        images = torch.randn(1, 2, 10, 12, dtype=torch.float64)
        features = trunk(images)
    theirs = ScoreCAM(model, [trunk]).get_cam_weights(
        images, trunk, [ClassifierOutputTarget(1)], features.numpy(), None
    )
    with TorchcamScoreCAM(model, trunk, input_shape=(2, 10, 12)) as extractor:
        with torch.no_grad():
            model(images)
        also_theirs = extractor._get_weights(1)[0].numpy()
    scene = Scene(images[0].numpy(), features[0].numpy())
    with torch.no_grad():
        responses = model(torch.from_numpy(shown("scorecam", scene))).numpy()[None, None, :, 1]
    one_hot = np.eye(6)[None]  # so that the map is the weights
    ours = score_cam(one_hot, responses)[0]
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours, theirs.reshape(1, 6), rtol=1e-5)
    np.testing.assert_allclose(ours, also_theirs, rtol=1e-5)
