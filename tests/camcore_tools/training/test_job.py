"""A job is checked where it is made, survives JSON, and tells in what it differs from another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from camcore_tools.training.job import Job, differences, recipe
from camcore_tools.training.settings import Settings

from camcore.errors import InputError

JOB = Job("data", size=(32, 48), strip=(0, 5), settings=Settings(lr=0.25, patience=3))


def test_a_job_survives_json() -> None:
    assert Job.from_flat(json.loads(json.dumps(JOB.flat()))) == JOB
    assert Job.from_flat(Job("data").flat()) == Job("data")


def test_settings_are_changed_by_their_own_names() -> None:
    changed = JOB.changed({"lr": 0.5, "arch": "resnet18", "strip": None})
    assert changed == replace(JOB, arch="resnet18", strip=None, settings=replace(JOB.settings, lr=0.5))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"split": 1.0}, "split is 1; expected the share to train on, between 0 and 1"),
        ({"every": 0}, "every is 0; expected 1 or more"),
        ({"watch": -2}, "watch is -2; expected 1 or more"),
        ({"head": "gapp"}, "no head is called 'gapp'. Did you mean 'gap' or 'maps'?"),
        ({"strip": (3, 11)}, "strip is 3,11; expected epochs, 0 to 10"),
        ({"method": "recam"}, "maps of method recam are those of a network that is trained with it: give recam too"),
        ({"lr": 0.0}, "lr is 0.0; expected a number above 0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        Job("data").changed(changes)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "damage", [{"data": 3}, {"size": [1, "x"]}, {"freeze": "no"}, {"maps": "8"}, {"split": None}, {"strip": 5}]
)
def test_a_damaged_job(damage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the configuration of the run cannot be read"):
        Job.from_flat(JOB.flat() | damage)
    with pytest.raises(InputError, match="KeyError"):
        Job.from_flat({})


def test_differences_are_named_but_for_what_changes_no_weights() -> None:
    other = replace(JOB, data="moved", keep=2, export=False, masks="m", maps=8, settings=replace(JOB.settings, lr=0.5))
    assert differences(JOB, other) == ["maps is not set there and 8 here", "lr is 0.25 there and 0.5 here"]
    assert differences(JOB, JOB) == []


def test_recipes_suit_the_network() -> None:
    small, whole, head, scratch = (
        recipe("small"),
        recipe("resnet18"),
        recipe("resnet18", freeze=True),
        recipe("resnet18", scratch=True),
    )
    assert (small.optimizer, whole.optimizer, head.optimizer, scratch.optimizer) == ("adamw", "sgd", "adam", "adamw")
    assert scratch.lr < small.lr
    assert small.schedule == scratch.schedule == "onecycle"
    assert (whole.rotate, whole.shift, whole.flip) == (20.0, 0.2, True)
