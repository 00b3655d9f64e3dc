"""Principal components against a singular value decomposition, scikit-learn and pytorch-grad-cam."""

from __future__ import annotations

import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.methods import METHODS
from camcore.methods.components import eigen_cam, eigen_grad_cam, kpca_cam
from camcore.methods.gradients import hires_cam

SPACES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)
CLASSES = np.array([[4, 0, 0], [1, 2, 3]])
CENTRED = pytest.mark.parametrize("centred", [False, True])


def case(space: tuple[int, ...], seed: int, *, channels: int = 4, n: int = 2, rectified: bool = True) -> np.ndarray:
    features = np.random.default_rng(seed).standard_normal((n, channels, *space)) + 0.3
    return np.maximum(features, 0) if rectified else features


def slopes(space: tuple[int, ...], seed: int, channels: int = 4, n: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 2, channels, *space))


def paper_component(rows: list[list[float]], centred: bool) -> np.ndarray | None:
    """X v_1 by power iteration on X^T X in loops; None where it has no clear first component, or no clear sign."""
    channels, positions = len(rows), len(rows[0])
    x = [[rows[k][u] for k in range(channels)] for u in range(positions)]
    if centred:
        means = [sum(row) / positions for row in rows]
        x = [[v - m for v, m in zip(line, means, strict=True)] for line in x]
    values = np.linalg.svd(np.array(x), compute_uv=False)
    if values[0] < 1e-10:
        return np.zeros(positions)
    if len(values) > 1 and values[1] > 0.9 * values[0]:
        return None
    v = [1.0 + 0.1 * k for k in range(channels)]
    for _ in range(300):
        xv = [sum(a * b for a, b in zip(line, v, strict=True)) for line in x]
        v = [sum(x[u][k] * xv[u] for u in range(positions)) for k in range(channels)]
        length = sum(a * a for a in v) ** 0.5
        v = [a / length for a in v]
    line = np.array([sum(a * b for a, b in zip(row, v, strict=True)) for row in x])
    agreement = float(line @ np.sum(rows, axis=0))
    if abs(agreement) < 1e-9:
        return None
    return line if agreement > 0 else -line


@CENTRED
@settings(deadline=None, max_examples=25)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 6), rectified=st.booleans())
def test_eigen_cam_is_that_of_the_paper(centred: bool, space, seed: int, channels: int, rectified: bool) -> None:
    features = case(space, seed, channels=channels, n=1, rectified=rectified)
    expected = paper_component(features[0].reshape(channels, -1).tolist(), centred)
    assume(expected is not None)
    maps = eigen_cam(features, centred=centred)
    assert maps.shape == (1, 1, *space)
    np.testing.assert_allclose(maps.ravel(), expected, rtol=1e-7, atol=1e-9)


@CENTRED
@settings(deadline=None, max_examples=25)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 6))
def test_eigen_grad_cam_is_the_component_of_each_class(centred: bool, space, seed: int, channels: int) -> None:
    features, gradients = case(space, seed, channels=channels, n=1), slopes(space, seed + 1, channels, n=1)
    maps = eigen_grad_cam(features, gradients, centred=centred)
    for t in range(2):
        product = (features[0] * gradients[0, t]).reshape(channels, -1)
        expected = paper_component(product.tolist(), centred)
        assume(expected is not None)
        np.testing.assert_allclose(maps[0, t].ravel(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("space", "channels"), [((7, 7), 512), ((7, 7), 20), ((14, 14), 32), ((1, 1), 8), ((9,), 1)])
def test_both_gram_matrices_give_the_singular_vector(space: tuple[int, ...], channels: int) -> None:
    features = case(space, 1, channels=channels)
    for image, maps in zip(features, eigen_cam(features)[:, 0], strict=True):
        u, s, _ = np.linalg.svd(image.reshape(channels, -1).T, full_matrices=False)
        np.testing.assert_allclose(maps.ravel(), np.abs(u[:, 0]) * s[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("space", "channels"), [((40, 40), 4), ((2, 2), 1600)])
def test_only_the_smaller_gram_matrix_is_made(space: tuple[int, ...], channels: int) -> None:
    features = case(space, 20, channels=channels, n=1)
    eigen_cam(features)  # imports are not counted
    tracemalloc.start()
    eigen_cam(features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # the larger one alone has 20 MB


@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 6))
def test_the_map_of_features_that_are_not_negative_is_not_negative(space, seed: int, channels: int) -> None:
    """Perron and Frobenius; the sign needs no luck there."""
    features = case(space, seed, channels=channels)
    maps = eigen_cam(features)
    assert (maps >= -1e-7 * np.abs(maps).max()).all()


@CENTRED
@settings(deadline=None, max_examples=40)
@given(space=SPACES, seed=SEEDS, rectified=st.booleans())
def test_the_sign_agrees_with_what_was_projected(centred: bool, space, seed: int, rectified: bool) -> None:
    features, gradients = case(space, seed, rectified=rectified), slopes(space, seed + 1)
    axes = tuple(range(2, features.ndim))
    sums = features.sum(axis=1, keepdims=True)
    for maps in (eigen_cam(features, centred=centred), kpca_cam(features)):
        assert ((maps * sums).sum(axis=axes) >= -1e-9).all()
    agreement = (eigen_grad_cam(features, gradients, centred=centred) * hires_cam(features, gradients)).sum(axis=axes)
    assert (agreement >= -1e-9).all()


@CENTRED
@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 2)])
def test_unit_axes_mean_the_same_gradient_everywhere(centred: bool, space: tuple[int, ...]) -> None:
    features = case(space, 2)
    unit = slopes(tuple(1 for _ in space), 3)
    wide = np.broadcast_to(unit, (2, 2, 4, *space))
    np.testing.assert_array_equal(
        eigen_grad_cam(features, unit, centred=centred), eigen_grad_cam(features, wide, centred=centred)
    )


def test_one_dominant_channel_is_the_map() -> None:
    features = np.zeros((1, 3, 2, 3))
    features[0, 1] = [[0, 1, 2], [3, 0, 5]]
    np.testing.assert_allclose(eigen_cam(features)[0, 0], features[0, 1], atol=1e-14)
    gradients = np.array([0.0, -2.0, 0.0]).reshape(1, 1, 3, 1, 1)
    np.testing.assert_allclose(eigen_grad_cam(features, gradients)[0, 0], -2 * features[0, 1], atol=1e-14)


# KPCA-CAM


def paper_kernel_pca(rows: list[list[float]], kernel: str, gamma: float, coef0: float) -> np.ndarray:
    """Schoelkopf's kernel PCA in loops: centre in the feature space, first eigenvector times sqrt(eigenvalue)."""
    positions = len(rows[0])
    means = [sum(row) / positions for row in rows]
    x = [[row[u] - m for row, m in zip(rows, means, strict=True)] for u in range(positions)]

    def similar(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        if kernel == "sigmoid":
            return float(np.tanh(gamma * dot + coef0))
        if kernel == "rbf":
            return float(np.exp(-gamma * sum((p - q) ** 2 for p, q in zip(a, b, strict=True))))
        return dot

    k = np.array([[similar(a, b) for b in x] for a in x])
    one = np.full((positions, positions), 1 / positions)
    values, vectors = np.linalg.eigh(k - one @ k - k @ one + one @ k @ one)
    assume(positions > 1 and values[-1] > 1e-6 and values[-1] - values[-2] > 1e-3 * values[-1])
    line = vectors[:, -1] * values[-1] ** 0.5
    agreement = float(line @ np.sum(rows, axis=0))
    assume(abs(agreement) > 1e-6)
    return line if agreement > 0 else -line


@pytest.mark.parametrize(
    ("kernel", "gamma", "coef0"),
    [("sigmoid", None, 1.0), ("sigmoid", 0.3, -0.2), ("rbf", None, 1.0), ("rbf", 0.7, 1.0), ("linear", None, 1.0)],
)
@settings(deadline=None, max_examples=15)
@given(space=SPACES, seed=SEEDS, channels=st.integers(1, 5))
def test_kpca_cam_is_a_kernel_pca(kernel: str, gamma: float | None, coef0: float, space, seed, channels) -> None:
    features = case(space, seed, channels=channels, n=1)
    rows = features[0].reshape(channels, -1).tolist()
    expected = paper_kernel_pca(rows, kernel, 1 / channels if gamma is None else gamma, coef0)
    maps = kpca_cam(features, kernel=kernel, gamma=gamma, coef0=coef0)
    assert maps.shape == (1, 1, *space)
    np.testing.assert_allclose(maps.ravel(), expected, rtol=1e-7, atol=1e-8)


def test_the_linear_kernel_is_the_centred_eigen_cam() -> None:
    features = case((4, 5), 4)
    np.testing.assert_allclose(kpca_cam(features, kernel="linear"), eigen_cam(features, centred=True), atol=1e-11)


def up_to_sign(ours: np.ndarray, theirs: np.ndarray) -> None:
    for a, b in zip(ours, theirs, strict=True):
        b = b if np.vdot(a, b) > 0 else -b
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max())


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
@pytest.mark.parametrize(("space", "channels"), [((6, 7), 12), ((15, 15), 8)])
def test_kpca_cam_equals_scikit_learn_up_to_sign(kernel: str, space: tuple[int, ...], channels: int) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    features = case(space, 5, channels=channels)
    for image, ours in zip(features, kpca_cam(features, kernel=kernel)[:, 0], strict=True):
        x = image.reshape(channels, -1).T
        peer = decomposition.KernelPCA(n_components=1, kernel=kernel)
        theirs = peer.fit_transform(x - x.mean(axis=0)).reshape(space)
        up_to_sign(ours[None], theirs[None])


def test_kpca_cam_equals_pytorch_grad_cam_up_to_sign() -> None:
    peer = pytest.importorskip("pytorch_grad_cam.kpca_cam").KPCA_CAM
    features = case((6, 7), 6, channels=16)
    me = SimpleNamespace(kernel="sigmoid", gamma=None)
    up_to_sign(kpca_cam(features)[:, 0], peer.get_cam_image(me, None, None, None, features, None, False))


@pytest.mark.parametrize("space", [(6, 7), (2, 3, 4)])
def test_pytorch_grad_cam_centres_eigen_cam(space: tuple[int, ...]) -> None:
    """The paper takes the singular vectors of the features as they are; ``centred=True`` is what that library does."""
    peer = pytest.importorskip("pytorch_grad_cam.eigen_cam").EigenCAM
    features = case(space, 7, channels=10)
    theirs = peer.get_cam_image(None, None, None, None, features, None, False)
    up_to_sign(eigen_cam(features, centred=True)[:, 0], theirs)
    for image, maps in zip(features, eigen_cam(features)[:, 0], strict=True):
        paper = paper_component(image.reshape(10, -1).tolist(), centred=False)
        np.testing.assert_allclose(maps.ravel(), paper, rtol=1e-9)
    assert (theirs < 0).any()  # what a ReLU then removes
    assert (eigen_cam(features) >= 0).all()


def test_pytorch_grad_cam_centres_eigen_grad_cam() -> None:
    peer = pytest.importorskip("pytorch_grad_cam.eigen_grad_cam").EigenGradCAM
    features, gradients = case((6, 7), 8, channels=10), slopes((6, 7), 9, 10)
    theirs = peer.get_cam_image(None, None, None, None, features, gradients[:, 0], False)
    up_to_sign(eigen_grad_cam(features, gradients, centred=True)[:, 0], theirs)


# Sizes, degenerate arrays and precision


@CENTRED
@pytest.mark.parametrize("power", [-500, -60, 60, 400])
def test_maps_scale_with_the_features_to_the_last_bit(centred: bool, power: int) -> None:
    features, gradients = case((4, 4), 10), slopes((4, 4), 11)
    scale = 2.0**power  # the squares of 2^-500 underflow, those of 2^400 are near to overflow
    np.testing.assert_array_equal(
        eigen_cam(features * scale, centred=centred), eigen_cam(features, centred=centred) * scale
    )
    np.testing.assert_array_equal(
        eigen_grad_cam(features, gradients * scale, centred=centred),
        eigen_grad_cam(features, gradients, centred=centred) * scale,
    )


@pytest.mark.parametrize("size", [1e-4, 1e-30])
def test_tiny_gradients_of_float32(size: float) -> None:
    features, gradients = case((4, 4), 12).astype(np.float32), slopes((4, 4), 13).astype(np.float32)
    maps = eigen_grad_cam(features, gradients * np.float32(size))
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps / size, eigen_grad_cam(features, gradients), rtol=1e-4, atol=1e-5)


@CENTRED
@pytest.mark.parametrize("space", [(5,), (3, 3), (2, 2, 2), (1,)])
def test_zeros_give_zeros(centred: bool, space: tuple[int, ...]) -> None:
    zeros, gradients = np.zeros((2, 4, *space)), slopes(space, 14)
    assert (eigen_cam(zeros, centred=centred) == 0).all()
    assert (eigen_grad_cam(zeros, gradients, centred=centred) == 0).all()
    assert (eigen_grad_cam(zeros + 1, gradients * 0, centred=centred) == 0).all()
    assert (kpca_cam(zeros) == 0).all()


@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7, 1e-20, 12345.678])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_constants_leave_no_rounding_behind(value: float, kind: type) -> None:
    features = np.full((1, 5, 7, 7), value, kind) * np.arange(1, 6, dtype=kind).reshape(5, 1, 1)
    assert (eigen_cam(features, centred=True) == 0).all()
    assert (eigen_grad_cam(features, np.full((1, 1, 5, 1, 1), 0.3, kind), centred=True) == 0).all()
    for kernel in ("sigmoid", "rbf", "linear"):
        assert (kpca_cam(features, kernel=kernel) == 0).all(), kernel
    length = abs(value) * 55**0.5  # of (1, 2, 3, 4, 5)
    np.testing.assert_allclose(eigen_cam(features), np.full((1, 1, 7, 7), np.sign(value) * length), rtol=1e-5)


def test_one_pixel() -> None:
    features = np.array([[[[3.0]], [[-4.0]]]])
    np.testing.assert_allclose(eigen_cam(features), [[[[-5.0]]]])
    assert eigen_cam(features, centred=True).tolist() == [[[[0.0]]]]
    assert kpca_cam(features).tolist() == [[[[0.0]]]]


def test_negative_features_have_negative_maps() -> None:
    features = -case((4, 4), 15) - 0.1
    np.testing.assert_allclose(eigen_cam(features), -eigen_cam(-features), rtol=1e-12)
    assert (eigen_cam(features) < 0).all()


@pytest.mark.parametrize(("given_as", "kept"), [(np.float16, np.float32), (np.float32, np.float32), (float, float)])
def test_precision_and_classes(given_as: type, kept: type) -> None:
    features, gradients = case((3, 4), 16).astype(given_as), slopes((3, 4), 17).astype(given_as)
    for formula in (eigen_cam, kpca_cam):
        maps = formula(features, CLASSES)
        assert maps.shape == (2, 3, 3, 4)
        assert maps.dtype == formula(features).dtype == kept
        np.testing.assert_array_equal(maps, np.repeat(formula(features), 3, axis=1))
        np.testing.assert_allclose(maps, formula(features.astype(float), CLASSES), rtol=1e-6, atol=1e-6)
    assert eigen_grad_cam(features, gradients).dtype == kept


def test_half_precision_does_not_overflow() -> None:
    features = np.full((1, 64, 3, 3), 60000, np.float16)
    np.testing.assert_allclose(eigen_cam(features), 60000.0 * 8, rtol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_the_map_of_its_image_nan(bad: float) -> None:
    features, gradients = case((3, 3), 18), slopes((3, 3), 19)
    clean = eigen_cam(features), kpca_cam(features), eigen_grad_cam(features, gradients)
    spoilt = features.copy()
    spoilt[0, 1, 2, 2] = bad
    for maps, before in zip(
        (eigen_cam(spoilt), kpca_cam(spoilt), eigen_grad_cam(spoilt, gradients)), clean, strict=True
    ):
        assert np.isnan(maps[0]).all()
        np.testing.assert_array_equal(maps[1], before[1])
    gradients[1, 0, 0, 0, 0] = bad
    spoilt[1, 0, 0, 0] = 1
    maps = eigen_grad_cam(np.where(np.isfinite(spoilt), spoilt, 0), gradients)
    assert np.isnan(maps[1, 0]).all()
    assert np.isfinite(maps[1, 1]).all()


def test_an_unknown_kernel_offers_the_known() -> None:
    with pytest.raises(InputError, match=r"kernel 'sigmoidal' of kpcacam is not known\. Did you mean 'sigmoid'\?"):
        kpca_cam(np.ones((1, 2, 3)), kernel="sigmoidal")


def test_more_pairs_of_positions_than_memory_are_refused() -> None:
    with pytest.raises(InputError, match=r"the layer has 50176 \(224x224\); choose a deeper layer, with at most 5000"):
        kpca_cam(np.ones((1, 2, 224, 224), np.float32))


def test_gradients_of_another_layer() -> None:
    text = "gradients have shape (1, 1, 5, 3); features of shape (1, 2, 3) ask for (N, T, C, *S) = (1, T, 2, 3)"
    with pytest.raises(InputError, match=re.escape(text)):
        eigen_grad_cam(np.ones((1, 2, 3)), np.ones((1, 1, 5, 3)))


def test_rows() -> None:
    for name, formula in [("eigencam", eigen_cam), ("eigengradcam", eigen_grad_cam), ("kpcacam", kpca_cam)]:
        assert METHODS[name].formula is formula
        assert METHODS[name].kin == ""
    assert METHODS["eigengradcam"].rectifies  # negative evidence of a class, as in Grad-CAM
    assert not METHODS["eigencam"].rectifies
