"""What the command line says becomes a job, and what it does not say does not."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from camcore_tools.training.job import Job, recipe
from camcore_tools.training.options import add_options, job_from, options_given
from camcore_tools.training.settings import Settings

from camcore.errors import InputError


def given(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return options_given(parser.parse_args(words))


def test_there_is_an_option_for_everything_in_a_job_and_nothing_else() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    names = {action.dest for action in parser._actions} - {"help", "augment"}
    assert names == {f.name for f in (*fields(Job), *fields(Settings))} - {"settings"}


def test_what_is_not_said_is_not_given() -> None:
    assert given() == {}
    with pytest.raises(InputError, match="no pictures were given; expected DATA, a folder of class folders"):
        job_from({})


def test_a_new_job_has_the_recipe_of_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = job_from(given("flowers"))
    assert small == Job(str(tmp_path / "flowers"), settings=recipe("small"))
    whole = job_from(given("flowers", "--arch", "resnet18", "--epochs", "3"))
    assert whole.weights == "default"
    assert whole.settings == Settings(**{**recipe("resnet18").to_json(), "epochs": 3})
    fresh = job_from(given("flowers", "--arch", "resnet18", "--weights", "random"))
    assert (fresh.weights, fresh.settings) == (None, recipe("resnet18", scratch=True))
    frozen = job_from(given("flowers", "--arch", "vgg16", "--freeze", "--weights", "vgg.pth"))
    assert (frozen.weights, frozen.settings) == (str(tmp_path / "vgg.pth"), recipe("vgg16", freeze=True))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--early-stop"], {"stop_ratio": 2.0}),
        (["--stop-ratio", "1.5"], {"stop_ratio": 1.5}),
        (["--early-stop", "off"], {"stop_ratio": None}),
        (["--patience", "off"], {"patience": None}),
        (["--no-augment"], {"rotate": 0.0, "shift": 0.0, "flip": False}),
        (["--no-augment", "--flip"], {"rotate": 0.0, "shift": 0.0, "flip": True}),
        (["--recam"], {"recam": "class"}),
        (["--recam", "off"], {"recam": None}),
        (["--size", "32"], {"size": (32, 32)}),
        (["--size", "32x48", "--strip", "5,50"], {"size": (32, 48), "strip": (5, 50)}),
        (["--no-export", "--keep", "3"], {"export": False, "keep": 3}),
    ],
)
def test_words(words: list[str], expected: dict[str, Any]) -> None:
    assert given(*words) == expected


def test_maps_of_recam_need_a_training_with_it() -> None:
    assert job_from(given("flowers", "--method", "recam")).settings.recam == "class"
    assert job_from(given("flowers", "--method", "recam", "--recam", "self")).settings.recam == "self"
    with pytest.raises(InputError, match="give recam too"):
        job_from(given("flowers", "--method", "recam", "--recam", "off"))


def test_strips_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given("--strip", "5,last")
    assert "'5,last' is not a list of epochs such as 5,50" in capsys.readouterr().err
