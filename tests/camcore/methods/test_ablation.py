"""Ablation-CAM, LIFT-CAM and Recipro-CAM against loops written from the papers, in float64."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import METHODS, InputError, LinearHead, cam, closed_form, normalize
from camcore.head import global_mean
from camcore.methods.ablation import ablation_cam, lift_cam, recipro_cam
from camcore.methods.probes import Probe, Scene
from camcore.targets import TARGETS

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
KERNELS = ("pixel", "gaussian")
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

Tail = Callable[[np.ndarray], np.ndarray]


def bent_tail(channels: int, space: tuple[int, ...], classes: int = 5, seed: int = 7) -> Tail:
    """(M, C, *S) to (M, K), neither linear nor the same at every position."""
    rng = np.random.default_rng(seed)
    inner = rng.standard_normal((channels * int(np.prod(space)), 6))
    outer = rng.standard_normal((6, classes))
    return lambda features: np.tanh(features.reshape(len(features), -1) @ inner + 0.3) @ outer + 0.1


def pooled_tail(head: LinearHead) -> Tail:
    return lambda features: head(global_mean(features))


def case(space: tuple[int, ...], seed: int, n: int = 2, channels: int = 3) -> tuple[np.ndarray, LinearHead, np.ndarray]:
    rng = np.random.default_rng(seed)
    head = LinearHead(rng.standard_normal((5, channels)), rng.standard_normal(5))
    return rng.standard_normal((n, channels, *space)), head, rng.integers(0, 5, (n, rng.integers(1, 4)))


def probe(name: str) -> Probe:
    found = METHODS[name].probe
    assert found is not None
    return found


def scene(features: np.ndarray) -> Scene:
    return Scene(np.zeros((1, *features.shape[1:]), features.dtype), features)


def shown(name: str, features: np.ndarray, **options: Any) -> np.ndarray:
    """Every input for one image's features."""
    one = scene(features)
    return probe(name).inputs(one, range(probe(name).count(one, **options)), **options)


def answers(name: str, tail: Tail, features: np.ndarray, classes: np.ndarray, **options: Any) -> np.ndarray:
    """The (N, T, P) responses of a tail."""
    return np.stack([tail(shown(name, a, **options))[:, c].T for a, c in zip(features, classes, strict=True)])


def explained(name: str, tail: Tail, features: np.ndarray, classes: np.ndarray, **options: Any) -> np.ndarray:
    responses = answers(name, tail, features, classes, **options)
    return METHODS[name].formula(features=features, responses=responses, classes=classes, **options)


def paper_ablation(features: np.ndarray, tail: Tail, classes: np.ndarray, relative: bool) -> np.ndarray:
    """w_k = y - y^(-k), over y in the paper; L = sum_k w_k A_k, before its ReLU."""
    maps = np.zeros((*classes.shape, *features.shape[2:]))
    for n, t in np.ndindex(*classes.shape):
        y = tail(features[n : n + 1])[0, classes[n, t]]
        for k in range(features.shape[1]):
            without = features[n].copy()
            without[k] = 0
            drop = y - tail(without[None])[0, classes[n, t]]
            maps[n, t] += (drop / y if relative else drop) * features[n, k]
    return maps


def paper_recipro(features: np.ndarray, tail: Tail, classes: np.ndarray, kernel: str) -> np.ndarray:
    """L(u) = the target of a feature map that holds F(u), alone or spread over the nearest neighbours."""
    maps = np.zeros((*classes.shape, *features.shape[2:]))
    share = {"pixel": {0: 1.0}, "gaussian": {-1: 0.25, 0: 0.5, 1: 0.25}}[kernel]
    for n, t in np.ndindex(*classes.shape):
        for u in itertools.product(*map(range, features.shape[2:])):
            alone = np.zeros_like(features[n])
            for step in itertools.product(share, repeat=len(u)):
                v = tuple(a + b for a, b in zip(u, step, strict=True))
                if all(0 <= a < length for a, length in zip(v, features.shape[2:], strict=True)):
                    alone[(slice(None), *v)] = features[(n, slice(None), *u)] * np.prod([share[s] for s in step])
            maps[(n, t, *u)] = tail(alone[None])[0, classes[n, t]]
    return maps


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 5), relative=st.booleans())
def test_ablation_cam_is_that_of_the_paper(space: tuple[int, ...], seed: int, channels: int, relative: bool) -> None:
    features, _, classes = case(space, seed, channels=channels)
    tail = bent_tail(channels, space)
    np.testing.assert_allclose(
        explained("ablationcam", tail, features, classes, relative=relative),
        paper_ablation(features, tail, classes, relative),
        rtol=1e-9,
        atol=1e-11,
    )


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 5), kernel=st.sampled_from(KERNELS))
def test_recipro_cam_is_that_of_the_paper(space: tuple[int, ...], seed: int, channels: int, kernel: str) -> None:
    features, _, classes = case(space, seed, channels=channels)
    tail = bent_tail(channels, space)
    np.testing.assert_allclose(
        explained("reciprocam", tail, features, classes, kernel=kernel),
        paper_recipro(features, tail, classes, kernel),
        **CLOSE,
    )


def lifted(features: np.ndarray, head: LinearHead, classes: np.ndarray) -> np.ndarray:
    """LIFT-CAM with the contributions of a pooled head."""
    aim = TARGETS["logit"].aim(head(global_mean(features)), classes)
    return lift_cam(features, closed_form.contributions(head, features, aim), classes)


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 5))
def test_lift_cam_weighs_a_channel_by_its_share_of_the_score(space: tuple[int, ...], seed: int, channels: int) -> None:
    features, head, classes = case(space, seed, channels=channels)
    expected = np.zeros((*classes.shape, *space))
    for n, t in np.ndindex(*classes.shape):
        shares = [head.weight[classes[n, t], k] * features[n, k].mean() for k in range(channels)]
        assert sum(shares) + head.bias[classes[n, t]] == pytest.approx(pooled_tail(head)(features)[n, classes[n, t]])
        for k in range(channels):
            expected[n, t] += shares[k] * features[n, k]
    np.testing.assert_allclose(lifted(features, head, classes), expected, **CLOSE)


@pytest.mark.parametrize("space", [(6,), (2, 3), (2, 1, 3)])
def test_lift_cam_of_an_identity_head_makes_no_matrix(space: tuple[int, ...]) -> None:
    features, _, _ = case(space, 0, channels=5)
    classes = np.array([[4, 0], [1, 2]])
    expected = lifted(features, LinearHead(np.eye(5)), classes)
    np.testing.assert_allclose(lifted(features, LinearHead.identity(5), classes), expected, **CLOSE)
    assert lifted(np.ones((1, 10**6, 1)), LinearHead.identity(10**6), np.array([[3]])).tolist() == [[[1.0]]]


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, name=st.sampled_from(["ablationcam", "reciprocam"]), kernel=st.sampled_from(KERNELS))
def test_the_short_ways_of_a_pooled_head_are_the_runs(
    space: tuple[int, ...], seed: int, name: str, kernel: str
) -> None:
    features, head, _ = case(space, seed)
    options = {"kernel": kernel} if name == "reciprocam" else {}
    inputs = shown(name, features[0], **options)
    pooled, linear = probe(name).pooled, probe(name).linear
    assert pooled is not None
    assert linear is not None
    np.testing.assert_allclose(pooled(features[0], **options), global_mean(inputs), **CLOSE)
    expected = pooled_tail(head)(inputs).T
    np.testing.assert_allclose(linear(features[0], head.weight, head.bias, **options), expected, **CLOSE)
    rows = np.array([3, 1])
    short = linear(features[0], head.weight[rows], head.bias[rows], **options)
    np.testing.assert_allclose(short, expected[rows], **CLOSE)


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS)
def test_on_a_pooled_head_ablation_is_lift_cam_and_recipro_is_cam(space: tuple[int, ...], seed: int) -> None:
    features, head, classes = case(space, seed)
    tail = pooled_tail(head)
    np.testing.assert_allclose(
        explained("ablationcam", tail, features, classes), lifted(features, head, classes), rtol=1e-8, atol=1e-11
    )
    positions = int(np.prod(space))
    recipro = explained("reciprocam", tail, features, classes)
    biases = head.bias[classes].reshape(*classes.shape, *(1 for _ in space))
    np.testing.assert_allclose(recipro, biases + cam(features, head, classes) / positions, **CLOSE)
    assert METHODS["reciprocam"].kin == METHODS["cam"].kin == "E1"
    assert METHODS["ablationcam"].kin == METHODS["liftcam"].kin == "E4"


def test_options_that_leave_the_group_of_alike_methods() -> None:
    assert METHODS["reciprocam"].set(kernel="gaussian").kin == ""
    assert METHODS["ablationcam"].set(relative=True).kin == ""


@pytest.mark.parametrize(("space", "edge"), [((5,), 3 / 4), ((4, 5), 9 / 16), ((3, 3, 3), 27 / 64), ((1, 1), 1 / 4)])
def test_the_gaussian_is_cut_off_at_the_border(space: tuple[int, ...], edge: float) -> None:
    features = np.ones((1, 2, *space))
    head = LinearHead([[1.0, 1.0]])
    maps = explained("reciprocam", pooled_tail(head), features, np.zeros((1, 1), int), kernel="gaussian")[0, 0]
    maps *= np.prod(space) / 2
    assert maps[(0,) * len(space)] == pytest.approx(edge)
    assert maps[(-1,) * len(space)] == pytest.approx(edge)
    if min(space) > 2:
        assert maps[(1,) * len(space)] == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, data=st.data(), name=st.sampled_from(["ablationcam", "reciprocam"]))
def test_an_input_does_not_depend_on_the_range_it_is_asked_in(
    space: tuple[int, ...], seed: int, data: st.DataObject, name: str
) -> None:
    features, _, _ = case(space, seed)
    one = scene(features[0])
    whole = shown(name, features[0])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    part = probe(name).inputs(one, range(start, stop))
    assert part.shape == (stop - start, *features[0].shape)
    np.testing.assert_array_equal(part, whole[start:stop])


def test_inputs_leave_the_features_alone() -> None:
    features, _, _ = case((2, 2), 0)
    before = features.copy()
    shown("ablationcam", features[0])
    shown("reciprocam", features[0])
    np.testing.assert_array_equal(features, before)


def test_an_input_without_channel_k_has_all_others_as_they_were() -> None:
    features = np.arange(1.0, 13).reshape(3, 4)
    inputs = shown("ablationcam", features)
    assert inputs[0].tolist() == features.tolist()
    assert inputs[2].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [9, 10, 11, 12]]
    assert shown("reciprocam", features)[2].tolist() == [[0, 0, 3, 0], [0, 0, 7, 0], [0, 0, 11, 0]]
    spread = shown("reciprocam", features[:1], kernel="gaussian")
    assert spread[:, 0].tolist() == [[0.5, 0.25, 0, 0], [0.5, 1, 0.5, 0], [0, 0.75, 1.5, 0.75], [0, 0, 1, 2]]


def test_a_negative_score_keeps_the_sign_of_the_map_unless_it_is_divided_by() -> None:
    features, head = np.ones((1, 2, 2, 2)), LinearHead([[1.0, -4.0]])
    classes = np.zeros((1, 1), int)
    assert (explained("ablationcam", pooled_tail(head), features, classes) == -3).all()
    assert (explained("ablationcam", pooled_tail(head), features, classes, relative=True) == 1).all()


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, -1e-310])
def test_a_score_of_nothing_is_not_divided_by(value: float) -> None:
    features = np.array([[[1.0, 3.0]]])
    maps = ablation_cam(features, np.array([[[value, -2.0]]]), relative=True)
    assert maps.tolist() == [[[2.0, 6.0]]]


@pytest.mark.parametrize("relative", [False, True])
def test_no_drop_at_all_gives_zeros(relative: bool) -> None:
    features = np.ones((1, 2, 3))
    assert not ablation_cam(features, np.zeros((1, 1, 3)), relative=relative).any()


def test_features_of_zero() -> None:
    features, head = np.zeros((1, 3, 2, 2)), case((2, 2), 0)[1]
    classes = np.array([[2]])
    assert not explained("ablationcam", pooled_tail(head), features, classes).any()
    assert not lifted(features, head, classes).any()
    assert (explained("reciprocam", pooled_tail(head), features, classes) == head.bias[2]).all()


def test_constant_and_negative_features() -> None:
    features, head = np.full((1, 2, 2, 2), -1.0), LinearHead([[1.0, 2.0]])
    classes = np.array([[0]])
    assert (explained("ablationcam", pooled_tail(head), features, classes) == 3).all()  # two negatives
    assert (lifted(features, head, classes) == 3).all()
    assert (explained("reciprocam", pooled_tail(head), features, classes) == -3 / 4).all()


def test_one_position() -> None:
    features, head, classes = case((1, 1), 3)
    expected = cam(features, head, classes) + head.bias[classes][:, :, None, None]
    np.testing.assert_allclose(explained("reciprocam", pooled_tail(head), features, classes), expected, **CLOSE)


def test_tiny_features() -> None:
    """Of first degree they stay; of second degree they are zero in float32 and stay in float64."""
    features, head = np.full((1, 2, 2), 1e-30, np.float32), LinearHead(np.ones((1, 2), np.float32))
    classes = np.array([[0]])
    tail = pooled_tail(head)
    np.testing.assert_allclose(explained("reciprocam", tail, features, classes), 1e-30, rtol=1e-6)
    np.testing.assert_allclose(explained("ablationcam", tail, features, classes, relative=True), 1e-30, rtol=1e-6)
    assert not lifted(features, head, classes).any()
    assert not explained("ablationcam", tail, features, classes).any()
    np.testing.assert_allclose(lifted(features.astype(float), head, classes), 2e-60, rtol=1e-6)


@pytest.mark.parametrize(("given_as", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_half_precision_is_computed_in_float32(given_as: type, kept: type) -> None:
    features = np.full((1, 400, 2, 2), 400, given_as)  # their sum, 160000, exceeds float16
    head = LinearHead(np.ones((1, 400), kept))
    classes = np.array([[0]])
    lift = lifted(features, head, classes)
    assert lift.dtype == kept
    assert (lift == 64e6).all()
    assert shown("ablationcam", features[0]).dtype == given_as
    assert shown("reciprocam", features[0], kernel="gaussian").dtype == given_as
    linear, pooled = probe("reciprocam").linear, probe("reciprocam").pooled
    assert linear is not None
    assert pooled is not None
    assert pooled(features[0]).dtype == kept
    assert (linear(features[0], head.weight, head.bias) == 40000).all()
    responses = np.array([[[160000.0] + 400 * [160000 - 400.0]]])
    maps = ablation_cam(features, responses)
    assert maps.dtype == kept
    assert (maps == 64e6).all()
    assert recipro_cam(features, np.zeros((1, 1, 4))).dtype == kept


def test_drops_of_a_large_score_are_not_rounded_away() -> None:
    """2048 channels and a bias of 9000: float32 scores would leave three digits of a drop."""
    rng = np.random.default_rng(0)
    features = rng.random((2048, 7, 7), np.float32)
    weight, bias = rng.random((1, 2048), np.float32), np.float32([9e3])
    linear = probe("ablationcam").linear
    assert linear is not None
    responses = linear(features, weight, bias)
    exact = global_mean(features[None]).astype(float) * weight
    np.testing.assert_allclose(responses[:, :1] - responses[:, 1:], exact, rtol=1e-9, atol=1e-11)


def test_an_unknown_kernel() -> None:
    features = np.ones((1, 2, 2))
    with pytest.raises(InputError, match=r"kernel 'gauss' is not known\. Did you mean 'gaussian'\?"):
        shown("reciprocam", features, kernel="gauss")
    pooled = probe("reciprocam").pooled
    assert pooled is not None
    with pytest.raises(InputError, match=r"kernel 3 is not known\. Known: 'pixel', 'gaussian'"):
        pooled(features, kernel=3)


def test_ablation_cam_of_pytorch_grad_cam() -> None:
    """The same map where the score is positive and features are zero somewhere, as its ablation wants."""
    pytest.importorskip("pytorch_grad_cam")
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import AblationCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    torch.manual_seed(0)
    nn = torch.nn
    trunk = nn.Sequential(nn.Conv2d(2, 6, 3, stride=4), nn.ReLU())
    tail = nn.Sequential(nn.Conv2d(6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    tail[-1].bias.data += 1  # scores above zero
    model = nn.Sequential(trunk, tail).double().eval()
    images = torch.randn(1, 2, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        features = trunk(images)
        chosen = int(tail(features).argmax())
        assert tail(features)[0, chosen] > 0
    theirs = AblationCAM(model, [trunk]).get_cam_weights(
        images, trunk, [ClassifierOutputTarget(chosen)], features.numpy(), None
    )

    def ours(given_: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return tail(torch.from_numpy(given_)).numpy()

    classes = np.array([[chosen]])
    maps = explained("ablationcam", ours, features.numpy(), classes)
    expected = np.einsum("nc,nchw->nhw", theirs, features.numpy())
    np.testing.assert_allclose(normalize(maps[0]), normalize(expected), rtol=1e-4, atol=1e-5)
    relative = explained("ablationcam", ours, features.numpy(), classes, relative=True)
    np.testing.assert_allclose(relative[0], expected, rtol=1e-4, atol=1e-6)
