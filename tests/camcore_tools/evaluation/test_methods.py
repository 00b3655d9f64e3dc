"""The explainers of an evaluation: what is asked for, what fits the training, and what is not possible."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest
from camcore_tools.evaluation.methods import make_explainers
from camcore_tools.explaining.options import add_map_options
from camcore_tools.training.job import Job
from camcore_tools.training.settings import Settings
from camcore_torch.recam import ReCam
from tiny_training import CLASSES, RULE, SIDE, tiny
from torch import nn

from camcore.engine import Explainer
from camcore.errors import InputError

IMAGE = np.random.default_rng(0).random((1, 3, SIDE, SIDE)).astype(np.float32)


def made(
    *words: str, method: str | None = None, network: nn.Module | None = None, **settings: Any
) -> tuple[dict[str, Explainer], dict[str, str]]:
    parser = argparse.ArgumentParser()
    add_map_options(parser)
    args = argparse.Namespace(**vars(parser.parse_args(words)), method=method)
    job = Job("pictures", settings=Settings(**settings))
    return make_explainers(args, job, network or tiny(), classes=CLASSES, rule=RULE, example=IMAGE)


def test_what_fits_is_taken_where_nothing_is_asked_for() -> None:
    assert list(made()[0]) == ["cam"]
    found, obstacles = made(recam="self", recam_mask="minmax")
    assert list(found) == ["cam", "recam"]
    assert not obstacles
    expected = Explainer(
        found["cam"].backend, method="recam", options={"variant": "self", "normalization": "minmax"}, preprocess=RULE
    )
    np.testing.assert_array_equal(found["recam"](IMAGE).maps, expected(IMAGE).maps)


def test_recam_of_a_second_classifier_is_that_of_the_network() -> None:
    network = ReCam(tiny(), example=(2, 3, SIDE, SIDE))
    found, _ = made(network=network, recam="class")
    plain, second = (found[name](IMAGE).maps for name in ("cam", "recam"))
    assert not np.allclose(plain, second)


def test_options_asked_for_go_first() -> None:
    given, _ = made("--option", "normalization=tanh", recam="self", recam_mask="minmax")
    default, _ = made(recam="self", recam_mask="minmax")
    assert not np.array_equal(given["recam"](IMAGE).maps, default["recam"](IMAGE).maps)


def test_what_is_not_possible_is_told_and_the_rest_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    found, obstacles = made(method="recam,gradcam,cam")
    assert list(found) == ["gradcam", "cam"]
    assert "needs the weight of a second classifier" in obstacles["recam"]
    told = capsys.readouterr().err
    assert "left out recam" in told
    assert "note: on this model cam and gradcam give the same raw map" in told


def test_layers_are_for_methods_that_may_look_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = made("--layer", "trunk", "--layer", "top", "--fusion", "mean", method="cam,layercam")
    assert capsys.readouterr().err.startswith("note: cam is at the layer that the head reads")
    assert found["cam"](IMAGE).layer == "top"
    assert "trunk" in found["layercam"](IMAGE).layer


@pytest.mark.parametrize(
    ("words", "method", "text"),
    [
        ((), ",", "no method was named in --method ','"),
        ((), "kam", "kam"),
        (("--option", "gamma=2"), "cam,gradcam", "none of the methods cam, gradcam has an option 'gamma'"),
        (("--layer", "trunc"), "gradcam", "no layer is called 'trunc'"),
    ],
)
def test_wrong_names_are_errors(words: tuple[str, ...], method: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        made(*words, method=method)
