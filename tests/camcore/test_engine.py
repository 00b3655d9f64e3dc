"""The explainer on a network in plain NumPy: what it gives, and what it refuses."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, values
from PIL import Image

import camcore
from camcore import Explainer, HeadNotFound, InputError, LinearHead

NAMES = ("tench", "tabby", "lynx", "crane", "otter")
SPACES = [(12,), (8, 6), (4, 3, 5)]


def network(space: tuple[int, ...] = (8, 6), **options: Any) -> PooledNetwork:
    return PooledNetwork(space=(None,) * len(space), **options)


class TestMaps:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("classes", [None, "top2", "all", 3, [4, 0, 1], [[4, 0], [1, 1], [2, 3]]])
    def test_maps_scores_and_classes(self, space: tuple[int, ...], classes: Any) -> None:
        model, images = network(space), values(3, 3, *space)
        out = Explainer(model)(images, classes)
        features, scores = model.features(images), model.scores(images)
        np.testing.assert_array_equal(out.scores, scores)
        np.testing.assert_array_equal(out.classes, camcore.choose_classes(scores, classes))
        expected = np.einsum("ntk,nk...->nt...", model.head.weight[out.classes], features)
        np.testing.assert_allclose(out.maps, expected, atol=1e-5)
        assert out.maps.dtype == np.float32
        assert (out.input_size, out.method, out.layer, out.device) == (space, "cam", "relu", "cpu")
        # What the map says about the score: its mean is the score without the bias.
        mean = out.maps.mean(axis=tuple(range(2, out.maps.ndim))) + model.head.bias[out.classes]
        np.testing.assert_allclose(mean, np.take_along_axis(scores, out.classes, 1), atol=1e-5)

    def test_an_identity_head(self) -> None:
        model, images = network(head=LinearHead.identity(4)), values(2, 3, 8, 6)
        out = Explainer(model)(images, "all")
        np.testing.assert_array_equal(out.maps, model.features(images))

    def test_another_method_and_layer(self) -> None:
        images = values(2, 3, 8, 6)
        out = Explainer(network(), method="activationmap", layer=["images"])(images)
        np.testing.assert_allclose(out.maps[:, 0], images.mean(axis=1), atol=1e-6)
        assert out.layer == "images"

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
    @pytest.mark.parametrize("classes", [None, "all", 2, [0, 1, 2, 3, 4, 0, 1], np.arange(14).reshape(7, 2) % 5])
    def test_the_batch_size_changes_nothing(self, batch_size: int, classes: Any) -> None:
        model, images = network(), values(7, 3, 8, 6)
        out = Explainer(model, batch_size=batch_size)(images, classes)
        whole = Explainer(network(), batch_size=7)(images, classes)
        assert model.batches == [len(images[i : i + batch_size]) for i in range(0, 7, batch_size)]
        np.testing.assert_array_equal(out.classes, whole.classes)
        np.testing.assert_allclose(out.maps, whole.maps, atol=1e-6)
        np.testing.assert_allclose(out.scores, whole.scores, atol=1e-6)

    def test_eight_threads_give_what_one_gives(self) -> None:
        explain = Explainer(network(), batch_size=2)
        batches = [values(5, 3, 8, 6, seed=seed) for seed in range(24)]
        with ThreadPoolExecutor(8) as pool:
            threaded = list(pool.map(explain, batches))
        for found, images in zip(threaded, batches, strict=True):
            expected = Explainer(network(), batch_size=2)(images)
            np.testing.assert_array_equal(found.maps, expected.maps)
            np.testing.assert_array_equal(found.classes, expected.classes)

    def test_what_comes_in_is_not_changed(self) -> None:
        images = values(2, 3, 8, 6)
        before = images.copy()
        Explainer(network())(images).heatmaps()
        np.testing.assert_array_equal(images, before)

    def test_it_says_what_it_is_and_what_it_will_do(self) -> None:
        explain = Explainer(network())
        assert repr(explain) == "Explainer(numpy on cpu, method auto)"
        assert str(explain.plan).startswith("cam at relu, head mean -> linear: closed form, one forward pass")


class TestClasses:
    def test_labels_name_classes(self) -> None:
        out = Explainer(network(), labels=NAMES)(values(2, 3, 8, 6), ["lynx", "crane"])
        assert out.classes.tolist() == [[2], [3]]
        assert out.labels == [["lynx"], ["crane"]]

    def test_labels_of_the_model_are_used_unless_others_are_given(self, tmp_path: Path) -> None:
        model = network(labels=NAMES)
        assert Explainer(model).labels == NAMES
        (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
        assert Explainer(model, labels=tmp_path / "names.txt").labels == ("a", "b", "c", "d", "e")

    @pytest.mark.parametrize("count", [1, 4, 6, 9])
    def test_another_number_of_labels_than_classes(self, count: int) -> None:
        text = f"{count} class names were given, the model has 5 classes; give one name a class .* a background class"
        with pytest.raises(InputError, match=text):
            Explainer(network(), labels=["x"] * count)(values(1, 3, 8, 6))

    def test_of_a_much_longer_list_the_first_names_count(self) -> None:
        assert Explainer(network(), labels=NAMES * 2)(values(1, 3, 8, 6)).class_names == NAMES

    def test_a_class_out_of_range(self) -> None:
        with pytest.raises(InputError, match="class 5 is out of range: the model has 5 classes, 0 to 4"):
            Explainer(network())(values(1, 3, 8, 6), 5)

    def test_an_unknown_name_offers_the_nearest(self) -> None:
        with pytest.raises(InputError, match=r"no class is called 'taby'\. Did you mean 'tabby'"):
            Explainer(network(), labels=NAMES)(values(1, 3, 8, 6), "taby")

    @pytest.mark.parametrize("shape", [(2,), (3,), (2, 2), (1, 2), (6, 1)])
    def test_classes_for_another_number_of_images(self, shape: tuple[int, ...]) -> None:
        """Also of the length of a part, which would pass there unseen."""
        text = (
            f"classes have shape {shape} for 4 images; expected an int, a list of 4 (one an image) or an array (4, T)"
        )
        with pytest.raises(InputError, match=re.escape(text)):
            Explainer(network(), batch_size=2)(values(4, 3, 8, 6), np.zeros(shape, int))

    def test_a_class_as_an_array_without_axes(self) -> None:
        assert Explainer(network())(values(2, 3, 8, 6), np.array(3)).classes.tolist() == [[3], [3]]


class TestImages:
    @pytest.mark.parametrize(
        ("images", "text"),
        [
            (values(3, 8, 6), "the model takes (N, 3, any, any). Add a batch axis: images[None]."),
            (values(2, 4, 8, 6), "images have 4 channels, the model takes 3"),
            (np.zeros((2, 8, 6, 3), np.uint8), "images are uint8; expected floats as the model takes them"),
            (np.full((1, 3, 8, 6), np.nan), "image 0 has 144 pixels that are NaN or infinite"),
            ([], "no images were given; expected at least one"),
            (None, "a picture cannot be of type NoneType"),
        ],
    )
    def test_what_cannot_be_an_image(self, images: Any, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            Explainer(network(), preprocess="unit")(images)

    def test_a_size_that_the_model_does_not_take(self) -> None:
        with pytest.raises(InputError, match="images have length 9 on axis 3, the model takes 6"):
            Explainer(PooledNetwork(space=(8, 6)))(values(1, 3, 8, 9))

    def test_pictures_without_a_known_preprocessing(self) -> None:
        text = "the model does not say how pictures become its input; give preprocess= one of imagenet, tf, caffe, unit"
        with pytest.raises(InputError, match=text):
            Explainer(network())(np.zeros((8, 6, 3), np.uint8))

    def test_pictures_from_everywhere(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        explain = Explainer(PooledNetwork(space=(8, 8)), preprocess={"crop": 1.0})
        sources = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
        out = explain(sources)
        for n, source in enumerate(sources):
            alone = explain(source)
            np.testing.assert_allclose(alone.maps[0], out.maps[n], atol=1e-6)
            np.testing.assert_array_equal(out.images[n], out.images[0])
        assert out.images.shape == (4, 3, 8, 8)
        assert out.views == [(5, 0, 25, 20)] * 4
        assert out.pictures is not None
        assert [p.name for p in out.pictures] == ["a", "a", "image", "image"]

    def test_the_preprocessing_of_the_model_is_used_unless_another_is_given(self) -> None:
        model = PooledNetwork(space=(8, 8), preprocess=camcore.PRESETS["caffe"])
        white = np.full((8, 8, 3), 255, np.uint8)
        assert Explainer(model)(white).images[0, :, 0, 0].tolist() == [151, 138, 132]
        assert Explainer(model, preprocess="unit")(white).images[0, :, 0, 0].tolist() == [1, 1, 1]

    def test_a_grey_model_sees_grey_pictures(self) -> None:
        model = PooledNetwork(channels=1, space=(8, 8), preprocess=camcore.PRESETS["unit"])
        assert Explainer(model)(np.full((8, 8, 3), 51, np.uint8)).images[0].ravel() == pytest.approx(0.2)

    def test_pictures_of_different_sizes_do_not_make_a_batch(self) -> None:
        explain = Explainer(network(), preprocess={"resize": "none"})
        text = "the pictures have different sizes [(3, 8, 6), (3, 9, 6)]; give them one by one, or resize='squash'"
        with pytest.raises(InputError, match=re.escape(text)):
            explain([np.zeros((8, 6, 3), np.uint8), np.zeros((9, 6, 3), np.uint8)])


class TestTheHeadMustReproduceTheScores:
    def test_a_head_that_does_not(self) -> None:
        text = (
            r"the head found \(mean -> linear\) at relu does not reproduce the scores: they differ by up to 0.5, with "
            "scores up to .* Give layer= and head= by hand, or a method that needs no head"
        )
        with pytest.raises(HeadNotFound, match=text):
            Explainer(network(shift=0.5))(values(2, 3, 8, 6), "all")

    def test_only_the_classes_asked_for_are_looked_at(self) -> None:
        shift = np.array([0, 0, 0, 0, 0.5])
        Explainer(network(shift=shift))(values(2, 3, 8, 6), [[0, 1], [2, 3]])
        with pytest.raises(HeadNotFound, match=r"they differ by up to 0\.5"):
            Explainer(network(shift=shift))(values(2, 3, 8, 6), [[0, 1], [2, 4]])

    def test_a_method_without_a_head_does_not_care(self) -> None:
        assert Explainer(network(shift=0.5), method="activationmap")(values(2, 3, 8, 6)).maps.shape == (2, 1, 8, 6)

    def test_a_model_that_can_change_is_looked_at_each_time(self) -> None:
        model = network(fixed=False)
        explain = Explainer(model)
        explain(values(2, 3, 8, 6))
        model.shift = 0.5
        with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
            explain(values(2, 3, 8, 6))

    @pytest.mark.parametrize("fixed", [True, False])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_scores_that_are_not_finite(self, bad: float, fixed: bool) -> None:
        model = network(fixed=fixed)
        explain = Explainer(model)
        explain(values(2, 3, 8, 6))
        model.shift = np.array([0, 0, bad, 0, 0])
        with pytest.raises(
            InputError, match="the model's scores are NaN or infinite for this input, so there is nothing"
        ):
            explain(values(2, 3, 8, 6))


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"method": "camm"}, "method 'camm' is not known. Did you mean 'cam'"),
            ({"method": None}, "method None is not known. Known: 'cam'"),
            ({"method": ["cam"]}, r"method \['cam'\] is not known. Did you mean 'cam'"),
            ({"method": "fem", "options": {"zed": 1}}, "method 'fem' has no option 'zed'. "),
            ({"options": {"z": 1}}, r"options \['z'\] are of one method; name it, since method 'auto' has none"),
            ({"layer": "rely"}, "layer 'rely' is not known. Did you mean 'relu'"),
            ({"target": "logits"}, "target 'logits' is not known. Did you mean 'logit'"),
            ({"method": "cam", "target": "probability"}, "target 'probability' has no effect on cam"),
        ],
    )
    def test_unknown_names(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            Explainer(network(), **options)(values(1, 3, 8, 6))

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"batch_size": 0}, "batch_size is 0; expected a whole number, at least 1"),
            ({"batch_size": 2.5}, "batch_size is 2.5; expected a whole number, at least 1"),
            ({"batch_size": "4"}, "batch_size is '4'; expected a whole number, at least 1"),
            ({"layer": 3}, "layer is 3; expected the name of a layer, or a list of names"),
            ({"layer": []}, r"layer is \[\]; expected the name of a layer"),
            ({"layer": ["relu", 3]}, r"layer is \['relu', 3\]; expected the name of a layer, or a list of names"),
            ({"fusion": "maxx"}, "fusion 'maxx' is not known. Did you mean 'max'"),
            ({"fusion": [1.0, 2.0]}, r"fusion weights \[1.0, 2.0\] for 1 layer"),
            ({"scaling": "tan"}, "scaling 'tan' is not known. Did you mean 'tanh'"),
            ({"smoothing": "flop"}, "smoothing 'flop' is not known. Did you mean 'flip'"),
            ({"preprocess": "imagenett"}, "preprocessing 'imagenett' is not known. Did you mean 'imagenet'"),
            ({"labels": "missing.txt"}, "labels: missing.txt: no such file"),
        ],
    )
    def test_bad_options_are_refused_at_once(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            Explainer(network(), **options)


class TestPresent:
    IMAGES = values(5, 3, 8, 6)

    def chances(self, model: PooledNetwork, independent: bool) -> np.ndarray:
        scores = model.scores(self.IMAGES).astype(np.float64)
        shared = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return 1 / (1 + np.exp(-scores)) if independent else shared

    @pytest.mark.parametrize("method", ["cam", "activationmap", "scorecam"])
    @pytest.mark.parametrize("independent", [True, False])
    @pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9, 1.0])
    def test_of_each_image_its_own_classes(self, threshold: float, independent: bool, method: str) -> None:
        model = network()
        explainer = Explainer(model, method=method, independent=independent)
        chances, whole = self.chances(model, independent), explainer(self.IMAGES, "all")
        found = explainer.present(self.IMAGES, threshold)
        assert len(found) == 5
        for n, out in enumerate(found):
            expected = [c for c in np.argsort(-chances[n], kind="stable") if chances[n, c] >= threshold]
            assert out.classes.tolist() == [expected]
            np.testing.assert_allclose(out.maps[0].ravel(), whole.maps[n, expected].ravel(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(out.probabilities[0], chances[n], rtol=1e-5)
            np.testing.assert_array_equal(out.images, self.IMAGES[n : n + 1])

    def test_no_more_maps_are_made_than_are_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head = LinearHead(values(1000, 4, seed=1), np.full(1000, 8, np.float32))
        explainer, made = Explainer(network(head=head), independent=True), []
        explain = explainer._explain
        monkeypatch.setattr(explainer, "_explain", lambda *words: made.append(explain(*words)) or made[-1])
        found = explainer.present(self.IMAGES, 0.5)
        assert [out.maps.shape[1] for out in found] == [16] * 5  # all thousand are there
        assert max(out.maps.shape[1] for out in made) == 16
        assert all(out.present().sum() > 900 for out in found)
        assert [out.maps.shape[1] for out in explainer.present(self.IMAGES, 0.5, most=3)] == [3] * 5

    def test_one_pass_is_enough_for_a_few_classes_by_closed_form(self) -> None:
        model = network()
        found = Explainer(model).present(self.IMAGES, 0.4)
        assert model.batches == [5]
        assert max(out.maps.shape[1] for out in found) <= 2
        model = network(head=LinearHead(values(9, 4, seed=1), np.full(9, 8, np.float32)))
        Explainer(model, independent=True).present(self.IMAGES)
        assert model.batches == [5, 5]

    def test_pictures(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(tmp_path / "a.png")
        explainer = Explainer(network(), preprocess="unit")
        (out,) = explainer.present(tmp_path / "a.png", 0)
        assert out.pictures is not None
        assert out.pictures[0].name == "a"
        assert out.classes.shape == (1, 5)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"threshold": 1.5}, "threshold is 1.5; expected a probability, 0 to 1"),
            ({"most": 0}, "most is 0; expected a number of classes, whole and at least 1"),
            ({"most": 1.5}, "most is 1.5; expected a number of classes, whole and at least 1"),
        ],
    )
    def test_what_cannot_be_asked_for(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            Explainer(network()).present(self.IMAGES, **options)

    def test_a_target_that_takes_them_for_shares(self) -> None:
        explainer = Explainer(network(), target="probability", independent=True)
        with pytest.raises(InputError, match="independent=True was given, but target 'probability' is taken through a"):
            explainer(self.IMAGES)


class TestLists:
    def test_a_list_of_arrays_is_a_batch(self) -> None:
        images = values(3, 3, 8, 6)
        explain = Explainer(network())
        np.testing.assert_array_equal(explain(list(images)).maps, explain(images).maps)

    def test_of_different_shapes(self) -> None:
        with pytest.raises(InputError, match=r"the images have different shapes \[\(3, 8, 6\), \(3, 8, 7\)\]"):
            Explainer(network())([np.zeros((3, 8, 6)), np.zeros((3, 8, 7))])
