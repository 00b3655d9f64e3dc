"""ReCAM's maps against loops in float64, and where a second classifier is wanted."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy_network import PooledNetwork, values

from camcore import METHODS, Explainer, HeadNotFound, InputError, LinearHead, MethodNotPossible, cam, method
from camcore.methods import recam

GIVES = frozenset({"features", "head", "second_weight"})
SPACES = [(6,), (4, 5), (2, 3, 4)]
CLASSES = np.array([[0, 3], [2, 1]])


def scaled(values: list[float], kind: str) -> list[float]:
    """The mask, as the paper and the study write it."""
    if kind == "sigmoid":
        return [1 / (1 + math.exp(-v)) for v in values]
    if kind == "minmax":
        return [(v - min(values)) / (max(values) - min(values)) for v in values]
    positive = [max(v, 0.0) / max(max(values), 1e-300) if max(values) > 0 else 0.0 for v in values]
    return positive if kind == "relu-max" else [math.tanh(2 * v) for v in positive]


def naive(features: Any, weight: Any, second: Any, classes: Any, variant: str, kind: str) -> np.ndarray:
    """One number after the other."""
    flat = features.reshape(*features.shape[:2], -1).astype(float)
    maps = np.zeros((*classes.shape, flat.shape[2]))
    for n, chosen in enumerate(classes):
        for t, c in enumerate(chosen):
            plain = [sum(weight[c, k] * flat[n, k, u] for k in range(flat.shape[1])) for u in range(flat.shape[2])]
            masks = scaled(plain, kind)
            for u in range(flat.shape[2]):
                both = sum(second[c, k] * weight[c, k] * flat[n, k, u] for k in range(flat.shape[1]))
                maps[n, t, u] = both if variant == "class" else plain[u] * masks[u]
    return maps.reshape(*classes.shape, *features.shape[2:])


def features(*space: int) -> np.ndarray:
    return np.maximum(values(2, 4, *space, seed=7), 0)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("variant", "kind"), [("class", "relu-max"), *(("self", k) for k in ("relu-max", "minmax", "sigmoid", "tanh"))]
)
def test_as_written(variant: str, kind: str, space: tuple[int, ...]) -> None:
    weight, second, a = values(5, 4, seed=1), values(5, 4, seed=2), features(*space)
    found = recam(a, LinearHead(weight), second, CLASSES, variant=variant, normalization=kind)
    np.testing.assert_allclose(found, naive(a, weight, second, CLASSES, variant, kind), rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("variant", ["class", "self"])
def test_a_head_without_weights_is_one_with_an_identity_matrix(variant: str) -> None:
    a, second, matrix = features(3, 3), values(4, 4, seed=2), LinearHead(np.eye(4, dtype=np.float32))
    for classes in (CLASSES, None):
        plain = recam(a, LinearHead.identity(4), second, classes, variant=variant)
        np.testing.assert_array_equal(plain, recam(a, matrix, second, classes, variant=variant))


def test_a_second_classifier_of_ones_changes_nothing() -> None:
    head, a = LinearHead(values(5, 4, seed=1)), features(4, 5)
    np.testing.assert_array_equal(recam(a, head, np.ones((5, 4), np.float32)), cam(a, head))


@pytest.mark.parametrize("kind", ["relu-max", "minmax", "sigmoid"])
def test_the_mean_of_the_self_masked_map_is_the_score_of_the_masked_features(kind: str) -> None:
    weight, bias, a = values(5, 4, seed=1), values(5, seed=3), features(4, 5)
    found = recam(a, LinearHead(weight, bias), variant="self", normalization=kind).mean((2, 3)) + bias
    plain = np.einsum("ck,nkhw->nchw", weight, a)
    masks = np.array([[np.reshape(scaled(list(m.ravel()), kind), (4, 5)) for m in image] for image in plain])
    pooled = (a[:, None] * masks[:, :, None]).mean((3, 4))  # (N, classes, channels)
    np.testing.assert_allclose(found, np.einsum("ck,nck->nc", weight, pooled) + bias, rtol=1e-4, atol=1e-5)


@given(exponent=st.integers(-100, 100))
def test_the_unit_of_the_features_does_not_matter(exponent: int) -> None:
    """Both variants are of degree one, as CAM is."""
    head, a = LinearHead(values(5, 4, seed=1).astype(float)), features(4, 5).astype(float)
    for options in ({"variant": "self"}, {"variant": "self", "normalization": "minmax"}):
        expected = np.ldexp(recam(a, head, **options), exponent)
        np.testing.assert_allclose(recam(np.ldexp(a, exponent), head, **options), expected, rtol=1e-12)


class TestSelfOnOddMaps:
    HEAD = LinearHead([[1.0]])

    def masked(self, *row: float, kind: str = "relu-max") -> list[float]:
        with np.errstate(all="raise"):
            return recam(np.array([[row]]), self.HEAD, variant="self", normalization=kind)[0, 0].tolist()

    @pytest.mark.parametrize("kind", ["relu-max", "minmax"])
    def test_zeros_and_constants(self, kind: str) -> None:
        assert self.masked(0.0, 0.0, kind=kind) == [0, 0]
        assert self.masked(-3.0, -3.0, kind=kind) == [0, 0]
        assert self.masked(3.0, 3.0, kind=kind) == ([3, 3] if kind == "relu-max" else [0, 0])

    def test_what_speaks_against_the_class_is_masked(self) -> None:
        assert self.masked(-4.0, 1.0, 2.0) == [0, 0.5, 2]
        assert self.masked(-4.0, -2.0, 0.0, kind="minmax") == [0, -1, 0]

    def test_no_number_stays_where_it_is(self) -> None:
        found = self.masked(math.nan, 1.0, 2.0)
        assert math.isnan(found[0])
        assert found[1:] == [0.5, 2]
        assert self.masked(-math.inf, 1.0, 2.0) == [0, 0.5, 2]


class TestOptions:
    def test_the_variant_decides_what_is_needed(self) -> None:
        row = METHODS["recam"]
        assert row.needs == row.set().needs == row.set(variant="class").needs == GIVES
        assert row.from_class_maps is row.set().from_class_maps is None
        own = row.set(variant="self")
        assert own.needs == {"features", "head"}
        assert not own.has_target
        assert not row.has_target
        assert own.set(variant="class").needs == GIVES

    @pytest.mark.parametrize("kind", ["relu-max", "minmax", "sigmoid"])
    def test_class_maps_alone_make_the_self_masked_map(self, kind: str) -> None:
        row, head, a = method("recam", variant="self", normalization=kind), LinearHead(values(5, 4)), features(4, 5)
        assert row.from_class_maps is not None
        expected = row.formula(features=a, head=head, classes=CLASSES, **row.options)
        np.testing.assert_array_equal(row.from_class_maps(cam(a, head, CLASSES)), expected)

    @pytest.mark.parametrize(
        ("option", "text"),
        [
            ({"variant": "selv"}, "option variant of recam is 'selv'; expected 'class' or 'self'"),
            (
                {"normalization": "max"},
                "option normalization of recam is 'max'; expected 'minmax', 'relu-max', 'tanh' or 'sigmoid'",
            ),
        ],
    )
    def test_unknown_words(self, option: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            method("recam", **option)
        with pytest.raises(InputError, match=re.escape(text)):
            recam(features(2, 2), LinearHead(values(5, 4)), values(5, 4), **option)


class TestSecondClassifier:
    @pytest.mark.parametrize(
        ("second", "text"),
        [
            (None, "recam needs the weight of a second classifier, (K, C). Train one with the network in it (camcore"),
            (values(4, 5), "the second classifier has shape (4, 5); expected that of the first one, (5, 4)"),
            (np.full((5, 4), np.nan), "the second classifier (float64) is not all finite floats; train it anew"),
            (np.ones((5, 4), np.int64), "the second classifier (int64) is not all finite floats"),
        ],
    )
    def test_what_it_must_be(self, second: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            recam(features(2, 2), LinearHead(values(5, 4)), second)

    def test_a_model_without_one_is_told_what_to_do(self) -> None:
        text = (
            "recam is not possible at 'relu': it needs the weight of a second classifier, and this model has none. "
            "Train one with the network in it (camcore train --recam, or camcore_torch.ReCam in a loop of your own), "
            "or take option variant=self, which masks the class maps by themselves. Methods that work here: cam, "
        )
        with pytest.raises(MethodNotPossible, match=re.escape(text)):
            Explainer(PooledNetwork(), method="recam")(values(2, 3, 8, 8))

    def test_nor_is_there_one_elsewhere_than_at_the_head(self) -> None:
        with pytest.raises(HeadNotFound, match=r"recam is not possible at 'images': the layer 'relu' is not linear\."):
            Explainer(PooledNetwork(gives=GIVES), method="recam", layer="images")(values(2, 3, 8, 8))

    def test_from_the_evidence_to_the_map(self) -> None:
        model, images = PooledNetwork(gives=GIVES, second_weight=values(5, 4, seed=9)), values(2, 3, 8, 8)
        out = Explainer(model, method="recam")(images, CLASSES)
        a, weight, second = model.features(images), model.head.weight, values(5, 4, seed=9)
        np.testing.assert_allclose(
            out.maps, naive(a, weight, second, CLASSES, "class", ""), rtol=1e-4, atol=1e-5 * np.abs(out.maps).max()
        )
        assert out.rectifies
        own = Explainer(PooledNetwork(), method="recam", options={"variant": "self"})(images, CLASSES)
        np.testing.assert_allclose(
            own.maps, naive(a, weight, second, CLASSES, "self", "relu-max"), rtol=1e-4, atol=1e-5
        )
