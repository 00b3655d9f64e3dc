"""Plans applied: every method against its formula on evidence made by hand, in whatever batches it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from bent_network import ALL, BentNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_network import PooledNetwork, values

from camcore import (
    METHODS,
    CamError,
    Explainer,
    HeadNotFound,
    InputError,
    LinearHead,
    Method,
    fuse,
    method,
    supply,
    target,
)
from camcore import apply as module
from camcore.methods.probes import Scene
from camcore.plan import possible
from camcore.targets import Aim

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = [[0, 3], [2, 2], [4, 1]]
NETWORKS: list[Callable[[], PooledNetwork]] = [PooledNetwork, BentNetwork]
HEAD = LinearHead(values(5, 4, seed=1), values(5, seed=2))

# Options that make a test short, or noise that would change every class.
SMALL: dict[str, dict[str, Any]] = {
    "sscam": {"samples": 2},
    "iscam": {"samples": 3},
    "groupcam": {"groups": 3},
    "smoothgradcam++": {"spread": 3.0},
}


def images(*space: int, n: int = 3, seed: int = 0) -> np.ndarray:
    return values(n, 3, *(space or (4, 3)), seed=seed)


def row_of(name: str, **options: Any) -> Method:
    return method(name, **SMALL.get(name, {}) | options)


def works(model: PooledNetwork) -> list[str]:
    return [name for name, why in possible(model).items() if not why]


# Evidence made by hand, in float64 and without any of what is tested


def tail_value(model: PooledNetwork, batch: np.ndarray, aim: Aim, n: int) -> Callable[[np.ndarray], np.ndarray]:
    """(M, C, *S) features of image n to the (M, T) target values behind them."""
    run = list(model.tails(batch, None))[n]
    return lambda features: aim.of(n, run(features))


def differences(y: Callable[[np.ndarray], np.ndarray], features: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(T, C, *S) slopes of y, every feature moved by itself."""
    shifts = step * np.eye(features.size).reshape(-1, *features.shape)
    slopes = (y(features + shifts) - y(features - shifts)) / (2 * step)
    return slopes.T.reshape(-1, *features.shape)


def hand_gradients(model: PooledNetwork, batch: np.ndarray, aim: Aim, scale: float = 1.0) -> np.ndarray:
    features = scale * model.features(batch).astype(np.float64)
    return np.stack([differences(tail_value(model, batch, aim, n), a) for n, a in enumerate(features)])


def hand_curvature(model: PooledNetwork, batch: np.ndarray, aim: Aim) -> np.ndarray:
    above, below = (hand_gradients(model, batch, aim, 1 + sign * 1e-3) for sign in (1, -1))
    return (above - below) / 2e-3


def hand_moments(model: PooledNetwork, batch: np.ndarray, aim: Aim, row: Method) -> list[np.ndarray]:
    """Classes, and those to compare with, stay those of the clean images."""
    drawn = []
    for sample in range(row.options["samples"]):
        noise = np.random.default_rng([row.options["seed"], sample]).standard_normal(batch.shape[1:])
        noisy = (batch + row.options["spread"] * noise).astype(np.float32)
        drawn.append(hand_gradients(model, noisy, aim.moved(model.scores(noisy).astype(np.float64))))
    return [np.mean([g**power for g in drawn], axis=0) for power in (1, 2, 3)]


def hand_responses(model: PooledNetwork, batch: np.ndarray, aim: Aim, row: Method, gradients: Any) -> np.ndarray:
    """One input after another."""
    assert row.probe is not None
    features, (count, classes) = model.features(batch), aim.classes.shape
    answers: list[Any] = [[None] * classes for _ in range(count)]
    for n, t in np.ndindex(count, classes):
        scene = Scene(batch[n], features[n], None if gradients is None else gradients[n, t])
        y = tail_value(model, batch, aim, n)
        if row.probe.where == "model":
            y = lambda shown, n=n: aim.of(n, model.scores(shown))  # noqa: E731
        total = row.probe.count(scene, **row.options)
        inputs = [row.probe.inputs(scene, [p], **row.options) for p in range(total)]
        answers[n][t] = [float(y(shown)[0, t]) for shown in inputs]
    return np.array(answers)


def by_hand(row: Method, model: PooledNetwork, batch: np.ndarray, classes: Any, wanted: Any = None) -> np.ndarray:
    """The row's formula on evidence as its paper would have it."""
    scores = model.scores(batch).astype(np.float64)
    chosen = np.asarray(classes)
    aim = target(wanted or row.target).aim(scores, chosen)
    sloped = target(row.gradients_of).aim(scores, chosen) if row.gradients_of else aim
    given: dict[str, Any] = {"features": model.features(batch), "head": model.head, "images": batch}
    if row.needs & {"gradients", "curvature"}:
        given["gradients"] = hand_gradients(model, batch, sloped)
    if "curvature" in row.needs:
        given["curvature"] = hand_curvature(model, batch, sloped)
    if "moments" in row.needs:
        given["moments"] = hand_moments(model, batch, sloped, row)
    if "contributions" in row.needs:
        pooled = model.features(batch).mean(axis=tuple(range(2, batch.ndim)))
        given["contributions"] = (aim.slopes() @ model.head.weight) * pooled[:, None]
    if row.probe is not None:
        given["responses"] = hand_responses(model, batch, aim, row, given.get("gradients"))
    kept = {need: array for need, array in given.items() if need in row.needs | {"responses"}}
    return row.formula(classes=chosen, **kept, **row.options)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(np.abs(expected).max(), 1e-12))


class TestFormulas:
    @pytest.mark.parametrize("name", works(PooledNetwork()))
    @pytest.mark.parametrize("space", [(7,), (4, 3), (2, 3, 2)])
    def test_on_a_pooled_head(self, name: str, space: tuple[int, ...]) -> None:
        model, row, batch = PooledNetwork(space=(None,) * len(space)), row_of(name), images(*space)
        out = Explainer(model, method=row)(batch, CLASSES)
        close(out.maps, by_hand(row, model, batch, CLASSES))
        assert (out.method, out.target, out.rectifies) == (name, row.target, row.rectifies)

    @pytest.mark.parametrize("name", works(BentNetwork()))
    def test_on_a_tail_that_bends(self, name: str) -> None:
        model, row, batch = BentNetwork(), row_of(name), images()
        assert "closed form" not in Explainer(model, method=row).plan.way or not row.has_target
        close(Explainer(model, method=row)(batch, CLASSES).maps, by_hand(row, model, batch, CLASSES), 1e-3)

    @pytest.mark.parametrize("wanted", ["logit", "probability", "rest", "finer", "difference", "difference:2"])
    @pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
    @pytest.mark.parametrize("name", ["gradcam++", "shapleycam", "ablationcam", "reciprocam", "scorecam", "groupcam"])
    def test_for_every_target(self, name: str, network: Callable[[], PooledNetwork], wanted: str) -> None:
        model, row, batch = network(), row_of(name), images()
        out = Explainer(model, method=row, target=wanted)(batch, CLASSES)
        close(out.maps, by_hand(row, model, batch, CLASSES, wanted), 1e-3)
        assert out.target == wanted

    def test_a_users_function_is_explained(self) -> None:
        def margin(scores: np.ndarray) -> np.ndarray:
            return scores[:, 1] - np.log(np.exp(scores[:, 2:]).sum(axis=1))

        for model in (PooledNetwork(), BentNetwork()):
            out = Explainer(model, method="gradcam", target=margin)(images(), CLASSES)
            close(out.maps, by_hand(METHODS["gradcam"], model, images(), CLASSES, margin), 1e-3)
            assert out.target == "function margin"

    def test_classes_of_their_own_have_sigmoids(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``p (1 - p) W_c``: no other class has a part in it."""
        from camcore import Tap

        model = PooledNetwork()
        monkeypatch.setattr(
            PooledNetwork, "tap", lambda self, layer, example=None: Tap("relu", self.head, "", "", "independent logit")
        )
        out = Explainer(model, method="gradcam", target="probability")(images(), 3)
        p = 1 / (1 + np.exp(-out.scores[:, 3].astype(float)))
        raw = np.einsum("k,nkhw->nhw", HEAD.weight[3], model.features(images()))
        close(out.maps[:, 0], (p * (1 - p))[:, None, None] * raw / 12)

    @pytest.mark.parametrize("wanted", [None, "difference"])
    @settings(deadline=None, max_examples=10)
    @given(seed=SEEDS)
    def test_noisy_copies_are_not_asked_what_they_show(self, wanted: str | None, seed: int) -> None:
        """The classes of the clean images are explained, though the noise is larger than they are."""
        model, batch = BentNetwork(head=LinearHead(values(5, 4, seed=seed))), images(3, 4, n=2, seed=seed)
        row = row_of("smoothgradcam++", spread=4.0, samples=3)
        out = Explainer(model, method=row, target=wanted)(batch)
        best = model.scores(batch).argmax(axis=1)[:, None]
        np.testing.assert_array_equal(out.classes, best)
        close(out.maps, by_hand(row, model, batch, best, wanted), 1e-3)

    @pytest.mark.parametrize("name", ["cam", "gradcam", "xgradcam", "hirescam"])
    def test_the_maps_of_a_backend_that_sums_them_itself_are_taken(self, name: str) -> None:
        class Summing(PooledNetwork):
            def observe(self, batch: np.ndarray, **asked: Any) -> Any:
                self.asked = asked["needs"]
                (seen,) = super().observe(batch, **asked)
                maps = np.einsum("ntc,nchw->nthw", self.head.weight[seen.classes], self.features(batch))
                return [module.replace(seen, class_maps=maps if "class_maps" in self.asked else None)]

        model = Summing(gives=ALL | {"class_maps"})
        explain = Explainer(model, method=name)
        first = explain(images(), CLASSES)
        assert model.asked == {"class_maps", "features", "head"}  # the head has to prove itself once
        second = explain(images(), CLASSES)
        assert model.asked == {"class_maps"}
        for out in (first, second):
            close(out.maps, by_hand(METHODS[name], PooledNetwork(), images(), CLASSES))
        if name != "cam":
            other = Explainer(model, method=name, target="probability")(images(), CLASSES)
            assert model.asked == {"features", "head"}
            close(other.maps, by_hand(METHODS[name], PooledNetwork(), images(), CLASSES, "probability"))


class TestBatches:
    @pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
    def test_their_size_does_not_matter(
        self, network: Callable[[], PooledNetwork], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = images(n=5)
        whole = {n: Explainer(network(), method=row_of(n))(batch, "top2") for n in works(network())}
        monkeypatch.setattr(supply, "TAIL_BYTES", 100)  # less than the features of one image
        for name, expected in whole.items():
            for batch_size in (1, 2):
                out = Explainer(network(), method=row_of(name), batch_size=batch_size)(batch, "top2")
                close(out.maps, expected.maps, 1e-5)
                np.testing.assert_array_equal(out.classes, expected.classes)

    @pytest.mark.parametrize("classes", ["all", "top12", np.arange(24).reshape(2, 12)])
    @pytest.mark.parametrize("name", ["layercam", "shapleycam", "smoothgradcam++"])
    def test_many_classes_are_those_one_by_one(self, name: str, classes: Any) -> None:
        model, batch = BentNetwork(head=LinearHead(values(24, 4))), images(n=2)
        out = Explainer(model, method=name)(batch, classes)
        for t in range(0, out.classes.shape[1], 5):
            one = Explainer(model, method=name)(batch, out.classes[:, t])
            close(out.maps[:, t], one.maps[:, 0])

    @pytest.mark.parametrize("name", ["gradcam++", "finercam", "ablationcam", "liftcam"])
    def test_many_classes_of_a_pooled_head_are_taken_in_parts(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, batch, held = PooledNetwork(head=LinearHead(values(30, 4))), images(n=2), []
        whole = Explainer(model, method=name)(batch, "all")
        row, passes = METHODS[name], len(model.batches)

        def formula(**given: Any) -> np.ndarray:
            held.append(given["classes"].shape[1])
            return row.formula(**given)

        monkeypatch.setattr(module, "POOLED_CLASSES", 7)
        out = Explainer(model, method=module.replace(row, formula=formula))(batch, "all")
        close(out.maps, whole.maps, 1e-6)
        assert held == [7, 7, 7, 7, 2]
        assert len(model.batches) == 2 * passes == 2

    @pytest.mark.parametrize(("held", "most"), [(1, 1), (3, 3), (100, 13)])
    @pytest.mark.parametrize("name", ["reciprocam", "ablationcam"])
    def test_no_more_features_are_held_than_stated(
        self, name: str, held: int, most: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = BentNetwork()
        monkeypatch.setattr(supply, "TAIL_BYTES", held * 4 * 12 * 4 + 3)  # float32 features of 4 channels at 12 places
        Explainer(model, method=name)(images(), CLASSES)
        total = {"reciprocam": 12, "ablationcam": 5}[name]
        assert max(model.runs) == min(most, total)
        assert sum(model.runs) == 3 * total  # for two classes as for one

    def test_small_features_are_not_all_run_at_once(self) -> None:
        model = BentNetwork()
        Explainer(model, method="reciprocam")(images(40, 30, n=1))
        assert max(model.runs) == 256
        assert sum(model.runs) == 1200

    @pytest.mark.parametrize("name", ["scorecam", "sscam", "iscam", "groupcam"])
    def test_the_model_runs_in_batches_of_images(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []
        real = PooledNetwork.scores
        monkeypatch.setattr(PooledNetwork, "scores", lambda self, batch: sizes.append(len(batch)) or real(self, batch))
        Explainer(PooledNetwork(), method=name, batch_size=3)(images(n=2))
        assert max(sizes) == 3

    @pytest.mark.parametrize(
        ("name", "options", "network", "told"),
        [
            ("reciprocam", {}, BentNetwork, [(7, 12), (12, 12)] * 2),
            ("smoothgradcam++", {"samples": 3}, BentNetwork, [(1, 3), (2, 3), (3, 3)]),
            ("scorecam", {}, PooledNetwork, [(3, 4), (4, 4)] * 2),
            ("gradcam", {}, BentNetwork, []),
            ("reciprocam", {}, PooledNetwork, []),
        ],
    )
    def test_long_work_is_told(
        self, name: str, options: dict[str, Any], network: Any, told: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supply, "TAIL_BYTES", 7 * 4 * 12 * 4)
        heard: list[tuple[int, int]] = []
        explain = Explainer(network(), method=name, options=options, batch_size=3)
        explain.report = lambda done, total: heard.append((done, total))
        explain(images(n=2))
        assert heard == told

    def test_nothing_more_is_asked_than_needed(self) -> None:
        model = BentNetwork()
        for name, needs in [
            ("gradcam", {"features", "gradients"}),
            ("shapleycam", {"features", "gradients", "curvature"}),
            ("ablationcam", {"features"}),
            ("scorecam", {"features"}),
            ("random", {"features"}),
        ]:
            model.asked.clear()
            Explainer(model, method=name)(images())
            assert model.asked == [needs], name
        model.asked.clear()
        Explainer(model, method="smoothgradcam++", options={"samples": 2})(images())
        assert model.asked == [{"features"}, {"gradients"}, {"gradients"}]

    @pytest.mark.parametrize("samples", [0, -2])
    def test_no_noisy_copies(self, samples: int) -> None:
        with pytest.raises(InputError, match=f"samples of smoothgradcam.* is {samples}; expected a whole number"):
            Explainer(BentNetwork(), method="smoothgradcam++", options={"samples": samples})(images())


class TestLayers:
    @pytest.mark.parametrize("name", ["activationmap", "ablationcam", "reciprocam", "scorecam", "eigencam"])
    @pytest.mark.parametrize("fusion", ["max", "mean", "product", [0.3, 0.7]])
    def test_their_maps_are_fused(self, name: str, fusion: Any) -> None:
        alone = [Explainer(PooledNetwork(), method=name, layer=layer)(images(), 1) for layer in ("relu", "images")]
        both = Explainer(PooledNetwork(), method=name, layer=["relu", "images"], fusion=fusion)(images(), 1)
        scaling = "relu-max" if METHODS[name].rectifies else "minmax"
        close(both.maps, fuse([out.maps for out in alone], fusion, scaling=scaling), 1e-5)
        assert both.layer == "relu, images"

    def test_in_one_pass(self) -> None:
        model = PooledNetwork()
        Explainer(model, method="activationmap", layer=["relu", "images"])(images())
        assert model.batches == [3]

    def test_scaled_as_the_user_says(self) -> None:
        alone = [Explainer(PooledNetwork(), method="cam", layer="relu")(images(), 1).maps] * 2
        both = Explainer(PooledNetwork(), method="cam", layer=["relu", "relu"], scaling="tanh")(images(), 1)
        close(both.maps, fuse(alone, scaling="tanh"), 1e-5)

    def test_gradients_of_several_layers(self) -> None:
        alone = Explainer(BentNetwork(), method="layercam")(images(), 1).maps
        both = Explainer(BentNetwork(), method="layercam", layer=["relu", None])(images(), 1)
        close(both.maps, fuse([alone, alone]), 1e-5)


@dataclass
class Lying(BentNetwork):
    """It claims a head that is not there."""

    claims: bool = True
    given: list[np.ndarray] = field(default_factory=list)


class TestDistrust:
    """A head that does not reproduce the scores is not used: gradients or runs are, or there is an error."""

    @pytest.mark.parametrize(
        ("name", "way"), [("gradcam", "gradient"), ("shapleycam", "gradient"), ("ablationcam", "tail runs")]
    )
    @pytest.mark.parametrize("batch_size", [1, 32])
    def test_what_the_network_itself_says_is_taken(self, name: str, way: str, batch_size: int) -> None:
        explain = Explainer(Lying(), method=name, batch_size=batch_size)
        assert explain.plan.way == "closed form"
        out = explain(images(), CLASSES)
        close(out.maps, Explainer(BentNetwork(), method=name)(images(), CLASSES).maps)
        assert explain.plan.way == way
        assert explain.plan.alike == ()
        assert out.head == ""
        np.testing.assert_array_equal(explain(images(), CLASSES).maps, out.maps)

    @pytest.mark.parametrize(("name", "gives"), [("gradcam", {"tail"}), ("ablationcam", {"gradients"}), ("cam", ALL)])
    def test_where_the_network_says_nothing_there_is_an_error(self, name: str, gives: set[str]) -> None:
        text = r"the head found \(mean -> linear\) at relu does not reproduce the scores: they differ by up to "
        with pytest.raises(HeadNotFound, match=text):
            Explainer(Lying(gives=frozenset({"features", "head", *gives})), method=name)(images(), CLASSES)

    def test_auto_takes_gradcam(self) -> None:
        explain = Explainer(Lying())
        out = explain(images(), CLASSES)
        assert out.method == "gradcam"
        close(out.maps, Explainer(BentNetwork(), method="gradcam")(images(), CLASSES).maps)
        with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
            Explainer(Lying(gives=frozenset({"features", "head", "tail"})))(images())

    def test_a_batch_has_one_method(self) -> None:
        """An image of zeros proves and disproves nothing; the next one does, in another part of the batch."""
        batch = images()
        batch[0] = 0
        explain = Explainer(Lying(), batch_size=1)
        assert explain(batch[:1]).method == "cam"
        out = explain(batch, CLASSES)
        assert out.method == "gradcam"
        close(out.maps, Explainer(BentNetwork(), method="gradcam")(batch, CLASSES).maps)

    def test_zeros_do_not_prove_a_head(self) -> None:
        explain = Explainer(Lying(gives=frozenset({"features", "head"})), method="cam")
        explain(0 * images())
        with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
            explain(images())

    def test_nor_does_one_layer_for_another(self) -> None:
        class Two(PooledNetwork):
            """Its layer "bad" is the other one, seen through a mistake; zeros where the first colour is zero."""

            def tap(self, layer: str | None = None, example: Any = None) -> Any:
                return module.replace(super().tap("relu"), layer=layer or "relu")

            def observe(self, batch: np.ndarray, *, layers: Any = (None,), **asked: Any) -> Any:
                (seen,) = super().observe(batch, layers=("relu",), **asked)
                mistake = {"relu": 1, "bad": 2 if batch[:, 0].any() else 0}
                return [module.replace(seen, features=seen.need_features() * mistake[name]) for name in layers]

        weight, batch = values(5, 4), images()
        weight[4], batch[:, 0] = 0, 0  # zeros reproduce the score of class 4
        explain = Explainer(Two(head=LinearHead(weight)), method="cam", layer=["bad", "relu"])
        explain(batch, 4)
        with pytest.raises(HeadNotFound, match="at bad does not reproduce the scores"):
            explain(images(), 3)

    def test_a_probability_needs_all_scores(self) -> None:
        """The score of class 0 is explained by the head; its probability is not, since another score is not."""
        model = PooledNetwork(shift=np.array([0, 0, 0, 0, 0.5]))
        Explainer(model, method="gradcam")(images(), 0)
        with pytest.raises(HeadNotFound, match=r"they differ by up to 0\.5"):
            Explainer(model, method="gradcam", target="probability")(images(), 0)


# The identities of a linear head behind a global average pooling, with features that are not negative


def affine(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether each map is the other up to a positive factor and a constant; not where one is the same everywhere."""
    x, y = (m.reshape(*m.shape[:2], -1).astype(np.float64) for m in (one, other))
    x, y = (m - m.mean(axis=2, keepdims=True) for m in (x, y))
    wide, high = (np.linalg.norm(m, axis=2, keepdims=True) for m in (x, y))
    return bool(wide.all() and high.all()) and bool(np.abs(x / wide - y / high).max() < 1e-4)


class TestIdentities:
    def maps(self, name: str, seed: int, **options: Any) -> np.ndarray:
        head = LinearHead(values(5, 4, seed=seed), values(5, seed=seed + 1))
        return Explainer(PooledNetwork(head=head), method=row_of(name), **options)(images(seed=seed), CLASSES).maps

    def parts(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (N, 1, C, *S), weights and pooled features (N, T or 1, C, 1, 1)."""
        head = LinearHead(values(5, 4, seed=seed), values(5, seed=seed + 1))
        features = PooledNetwork(head=head).features(images(seed=seed))[:, None].astype(np.float64)
        return features, head.weight[CLASSES][..., None, None].astype(np.float64), features.mean((3, 4), keepdims=True)

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 10**6))
    def test_e1_is_the_class_activation_map(self, seed: int) -> None:
        a, w, _ = self.parts(seed)
        raw = (w * a).sum(axis=2)
        close(self.maps("cam", seed), raw)
        for name in ("gradcam", "xgradcam", "hirescam"):
            close(self.maps(name, seed) * 12, raw)
        close(self.maps("shapleycam", seed, target="logit") * 12, raw)
        bias = values(5, seed=seed + 1)[CLASSES][..., None, None]
        close(self.maps("reciprocam", seed), bias + raw / 12)  # E1': up to a constant

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 10**6))
    def test_e2_is_the_positive_part_of_the_weights(self, seed: int) -> None:
        a, w, _ = self.parts(seed)
        expected = (np.maximum(w, 0) * a).sum(axis=2) / 12
        close(self.maps("layercam", seed), expected)
        close(self.maps("gradcam-elementwise", seed), expected)
        official = Explainer(
            PooledNetwork(head=LinearHead(values(5, 4, seed=seed), values(5, seed=seed + 1))),
            method="gradcam++",
            options={"variant": "official"},
        )(images(seed=seed), CLASSES)
        close(official.maps, expected)

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 10**6))
    def test_e3_divides_by_what_a_channel_gives(self, seed: int) -> None:
        a, w, f = self.parts(seed)
        positive = np.maximum(w, 0)
        expected = (positive / (2 + positive * f) * a).sum(axis=2)
        close(self.maps("gradcam++", seed), expected)
        close(self.maps("smoothgradcam++", seed), expected)  # noise changes no weight of a head

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 10**6))
    def test_e4_is_what_a_channel_contributes(self, seed: int) -> None:
        a, w, f = self.parts(seed)
        expected = (w * f * a).sum(axis=2)
        close(self.maps("ablationcam", seed), expected)
        close(self.maps("liftcam", seed), expected)

    @pytest.mark.parametrize("wanted", [None, "logit", "difference", "finer", "probability", "rest"])
    def test_the_plan_names_exactly_those_that_are_alike(self, wanted: str | None) -> None:
        model = PooledNetwork(head=LinearHead(values(5, 16), values(5, seed=1)))
        maps, said = {}, {}
        for name in works(model):
            try:
                explain = Explainer(model, method=name, target=wanted)
                maps[name], said[name] = explain(images(), CLASSES).maps, set(explain.plan.alike)
            except CamError:
                assert wanted not in (None, "logit"), name  # it does not know this target
        assert len(maps) >= 8
        for name in maps:
            assert said[name] == {other for other in maps if other != name and affine(maps[name], maps[other])}, name


def test_a_head_that_changes_is_looked_at_again() -> None:
    """Where weights can change, one call that could not use the head does not decide for the next."""
    model = Lying(fixed=False)
    explain = Explainer(model, method="gradcam")
    assert explain(images(), CLASSES).head == ""
    assert explain.plan.way == "closed form"
