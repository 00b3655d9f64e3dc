"""The table of methods."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from camcore import METHODS, InputError, LinearHead, Method, methods, register

ROW = Method("mine", lambda **given: np.zeros(1), frozenset({"features"}), False, "arXiv:0000.00000", "a test")


@pytest.fixture
def table() -> Iterator[dict[str, Method]]:
    before = dict(methods._TABLE)
    yield methods._TABLE
    methods._TABLE.clear()
    methods._TABLE.update(before)


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_complete(name: str) -> None:
    row = METHODS[name]
    assert row.name == name
    assert row.needs
    assert row.needs <= methods.NEEDS
    assert re.fullmatch(r"(arXiv:\d{4}\.\d{4,5}|doi:10\.\S+)", row.paper)
    assert row.summary
    assert "\n" not in row.summary
    assert len(row.summary) < 80


@pytest.mark.parametrize("name", [n for n, row in METHODS.items() if row.needs <= {"features", "head"}])
def test_every_formula_takes_its_needs_by_keyword(name: str) -> None:
    row = METHODS[name]
    given = {"features": np.ones((2, 3, 4, 5)), "head": LinearHead(np.ones((7, 3)))}
    maps = row.formula(classes=np.array([[0, 6], [1, 2]]), **{need: given[need] for need in row.needs})
    assert maps.shape == (2, 2, 4, 5)


def test_the_methods_of_the_issue_are_there() -> None:
    assert {"cam", "activationmap"} <= set(METHODS)


def test_a_new_row_is_found_by_its_name(table: dict[str, Method]) -> None:
    assert register(ROW) is ROW
    assert METHODS["mine"] is ROW
    assert methods.method("mine") is ROW


def test_a_taken_name_raises(table: dict[str, Method]) -> None:
    register(ROW)
    with pytest.raises(InputError, match="method 'mine' is already in the table; choose another name"):
        register(ROW)


def test_an_unknown_need_raises(table: dict[str, Method]) -> None:
    odd = Method("odd", ROW.formula, frozenset({"features", "luck"}), False, ROW.paper, ROW.summary)
    with pytest.raises(InputError, match=r"method 'odd' needs \['luck'\]; known needs are \['features', 'gradients', "):
        register(odd)
    assert "odd" not in METHODS


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"method 'activation' is not known\. Did you mean 'activationmap'"):
        methods.method("activation")


def test_the_public_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        METHODS["cam"] = ROW  # type: ignore[index]
