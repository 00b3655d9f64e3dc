"""Which pictures are shown: by name, or at random and evenly over the classes."""

from __future__ import annotations

import numpy as np
import pytest
from camcore_tools.evaluation.choosing import at_random, by_name

from camcore.errors import InputError

NAMES = ("cap/0001.png", "cap/0002.png", "cube/0002.png", "cube/sub/0003.png")


def test_names_and_unique_ends_of_names_in_the_order_asked_for() -> None:
    assert by_name(NAMES, ["cube/0002.png", "0003.png", "cap/0001.png"]) == [2, 3, 0]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("cap/001.png", "no validation picture is called 'cap/001.png'. Did you mean 'cap/0001.png'"),
        ("0002.png", "2 validation pictures are called '0002.png': cap/0002.png, cube/0002.png; give the folder too"),
        ("2.png", "no validation picture is called '2.png'"),
    ],
)
def test_names_that_are_of_none_or_of_several_are_answered(wanted: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        by_name(NAMES, [wanted])


def test_a_choice_is_even_over_the_classes_sorted_and_the_same_for_the_same_seed() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 3, 20]))
    chosen = at_random(labels, 12, seed=4)
    assert len(set(chosen)) == 12
    assert np.bincount(labels[chosen]).tolist() in ([5, 3, 4], [4, 3, 5])
    assert sorted(chosen, key=lambda n: (labels[n], n)) == chosen
    assert at_random(labels, 12, seed=4) == chosen != at_random(labels, 12, seed=5)


def test_no_more_are_chosen_than_there_are() -> None:
    assert at_random(np.array([1, 0]), 9, seed=0) == [1, 0]
    assert at_random(np.zeros(0, np.int64), 9, seed=0) == []
