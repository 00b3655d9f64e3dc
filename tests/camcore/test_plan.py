"""The planner: which method, or why not, before any image is seen."""

from __future__ import annotations

import re

import pytest
from numpy_network import PooledNetwork

from camcore import METHODS, HeadNotFound, InputError, Method, MethodNotPossible, Tap
from camcore.plan import make_plan, obstacle, possible

GREEDY = Method("greedy", lambda **given: None, frozenset({"features", "tail", "gradients"}), True, "", "")  # type: ignore[arg-type, return-value]


def test_auto_is_cam_where_there_is_a_head() -> None:
    plan = make_plan("auto", PooledNetwork())
    assert plan.method is METHODS["cam"]
    assert plan.layer is None
    assert plan.tap.layer == "relu"
    assert str(plan) == "cam at relu, head mean -> linear: closed form, one forward pass"


def test_a_plan_without_a_head_does_not_name_one() -> None:
    plan = make_plan("activationmap", PooledNetwork(), "images")
    assert str(plan) == "activationmap at images: closed form, one forward pass"
    assert plan.layer == "images"


@pytest.mark.parametrize("name", ["auto", "cam"])
def test_without_a_head_the_obstacle_and_what_works_are_named(name: str) -> None:
    text = "cam is not possible here: the layer 'relu' is not linear. Methods that work on this model: activationmap."
    with pytest.raises(HeadNotFound, match=re.escape(text)):
        make_plan(name, PooledNetwork(), "images")


def test_what_the_backend_cannot_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camcore.plan.method", lambda name: GREEDY)
    text = "greedy is not possible here: needs gradients, tail, which this backend does not give. Methods that work on"
    with pytest.raises(MethodNotPossible, match=text) as caught:
        make_plan("greedy", PooledNetwork())
    assert not isinstance(caught.value, HeadNotFound)


def test_where_nothing_works_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camcore.plan.METHODS", {"cam": METHODS["cam"]})
    with pytest.raises(HeadNotFound, match=r"No method works on this model\.$"):
        make_plan("cam", PooledNetwork(), "images")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"method 'cams' is not known\. Did you mean 'cam'"):
        make_plan("cams", PooledNetwork())
    with pytest.raises(InputError, match=r"layer 'rely' is not known\. Did you mean 'relu'\?"):
        make_plan("cam", PooledNetwork(), "rely")


def test_every_method_with_what_stands_in_its_way() -> None:
    assert set(possible(PooledNetwork())) == set(METHODS)
    assert possible(PooledNetwork())["cam"] == ""
    assert possible(PooledNetwork(), "images")["cam"] == "the layer 'relu' is not linear."
    assert possible(PooledNetwork(), "images")["activationmap"] == ""


def test_an_obstacle_of_a_method_without_a_head() -> None:
    assert obstacle(METHODS["activationmap"], Tap("x", None, obstacle="no head")) == ""
    assert obstacle(METHODS["cam"], Tap("x", None, obstacle="no head")) == "no head"
    assert obstacle(GREEDY, Tap("x")) == "needs gradients, tail, which this backend does not give."
