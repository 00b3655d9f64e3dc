"""The table of methods."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcore.errors import InputError
from camcore.head import LinearHead
from camcore.methods import METHODS, Method, method, register
from camcore.methods import table as module
from camcore.methods.probes import Probe, Scene

ROW = Method("mine", lambda **given: np.zeros(1), frozenset({"features"}), False, "arXiv:0000.00000", "a test")


@pytest.fixture
def table() -> Iterator[None]:
    """Rows that a test adds are gone after it."""
    before = dict(module._TABLE)
    yield
    module._TABLE.clear()
    module._TABLE.update(before)


def row_with(**changes: Any) -> Method:
    fields = {"name": "odd", "formula": ROW.formula, "needs": ROW.needs, "rectifies": False}
    return Method(**{**fields, "paper": ROW.paper, "summary": ROW.summary, **changes})


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_complete(name: str) -> None:
    row = METHODS[name]
    assert row.name == name
    assert row.needs
    assert row.needs <= module.NEEDS
    assert re.fullmatch(r"(arXiv:\d{4}\.\d{4,5}|doi:10\.\S+)", row.paper)
    assert row.summary
    assert "\n" not in row.summary
    assert len(row.summary) < 72


@pytest.mark.parametrize("name", METHODS)
def test_every_formula_has_the_keywords_that_its_row_promises(name: str) -> None:
    row = METHODS[name]
    arrays = (row.needs - {"tail", "model"}) | ({"responses"} if row.probe else set())
    parameters = inspect.signature(row.formula).parameters
    assert set(parameters) == arrays | {"classes"} | set(row.options)
    defaults = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert defaults == dict(row.options)


@pytest.mark.parametrize("space", [(6,), (4, 5), (3, 2, 4)])
@pytest.mark.parametrize("name", METHODS)
def test_every_formula_gives_maps_of_the_classes_of_each_image(name: str, space: tuple[int, ...]) -> None:
    row = METHODS[name]
    rng = np.random.default_rng(0)
    features, gradients = rng.random((2, 3, *space)), rng.standard_normal((2, 2, 3, *space))
    scene = Scene(rng.random((1, *(2 * n for n in space))), features[0], gradients[0, 0])
    given = {
        "images": rng.random((2, 1, 9, 9)),
        "features": features,
        "head": LinearHead(rng.standard_normal((7, 3))),
        "gradients": gradients,
        "curvature": gradients,
        "moments": (gradients, gradients**2, gradients**3),
        "contributions": rng.standard_normal((2, 2, 3)),
        "second_weight": rng.standard_normal((7, 3)),
    }
    arrays: dict[str, Any] = {need: given[need] for need in row.needs & set(given)}
    if row.probe is not None:
        arrays["responses"] = rng.random((2, 2, row.probe.count(scene, **row.options)))
    maps = row.formula(classes=np.array([[0, 6], [1, 2]]), **arrays, **row.options)
    assert maps.shape == (2, 2, *space)
    assert np.isfinite(maps).all()


def test_the_methods_that_a_reader_looks_for_are_there() -> None:
    names = {"cam", "gradcam", "gradcam++", "smoothgradcam++", "xgradcam", "hirescam", "layercam", "finercam"}
    names |= {"ablationcam", "liftcam", "reciprocam", "scorecam", "sscam", "iscam", "groupcam"}
    names |= {
        "recam",
        "gradcam-elementwise",
        "shapleycam",
        "eigencam",
        "eigengradcam",
        "kpcacam",
        "activationmap",
        "fem",
    }
    assert names | {"random"} <= set(METHODS)


@pytest.mark.usefixtures("table")
def test_a_new_row_is_found_by_its_name() -> None:
    assert register(ROW) is ROW
    assert METHODS["mine"] is ROW
    assert method("mine") == ROW


def test_what_a_test_registered_is_gone() -> None:
    assert "mine" not in METHODS


@pytest.mark.usefixtures("table")
def test_a_taken_name_raises() -> None:
    register(ROW)
    with pytest.raises(InputError, match="method 'mine' is already in the table; choose another name"):
        register(ROW)


def test_an_unknown_need_raises() -> None:
    odd = row_with(needs=frozenset({"features", "luck"}))
    with pytest.raises(
        InputError, match=r"method 'odd' needs \['luck'\]; known needs are \['contributions', 'curvature', 'features', "
    ):
        register(odd)
    assert "odd" not in METHODS


def probe(where: str) -> Probe:
    return Probe(where=where, count=lambda scene: 1, inputs=lambda scene, index: scene.features[None])


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("where", ["tail", "model"])
def test_a_row_with_runs_has_a_probe_for_them(where: str) -> None:
    row = row_with(needs=frozenset({"features", where}), probe=probe(where))
    assert register(row) is row
    assert METHODS["odd"].probe is row.probe


@pytest.mark.parametrize(
    ("needs", "given", "said"),
    [
        ({"features", "tail"}, None, r"\['tail'\]"),
        ({"features", "model"}, "tail", r"\['model'\]"),
        ({"tail", "model"}, "tail", r"\['model', 'tail'\]"),
        ({"features"}, "model", "no runs"),
    ],
)
def test_a_probe_for_other_runs_raises(needs: set[str], given: str | None, said: str) -> None:
    odd = row_with(needs=frozenset(needs), probe=None if given is None else probe(given))
    with pytest.raises(InputError, match=f"method 'odd' needs {said}; give a probe for just that"):
        register(odd)
    assert "odd" not in METHODS


def test_options_are_set_on_a_copy() -> None:
    row = method("gradcam++", variant="official")
    assert row.options == {"variant": "official"}
    assert METHODS["gradcam++"].options == {"variant": "paper"}
    assert row.set(variant="paper") == METHODS["gradcam++"]
    assert METHODS["kpcacam"].set(gamma=0.5).options == {"kernel": "sigmoid", "gamma": 0.5, "coef0": 1.0}


def test_an_unknown_option_offers_the_nearest_or_says_that_there_are_none() -> None:
    with pytest.raises(InputError, match=r"method 'kpcacam' has no option 'kernal'\. Did you mean 'kernel'\?"):
        method("kpcacam", kernal="rbf")
    with pytest.raises(InputError, match=r"method 'cam' has no option 'kernel'\. It has none\."):
        METHODS["cam"].set(kernel="rbf")


WHOLE, FINITE = "expected a whole number", "expected a finite number"


@pytest.mark.parametrize(
    ("name", "option", "value", "said"),
    [
        ("sscam", "samples", "ten", "option samples of sscam is 'ten'; expected a whole number, at least 1"),
        ("sscam", "samples", None, "option samples of sscam is None; expected a whole number, at least 1"),
        ("sscam", "seed", -1, "option seed of sscam is -1; expected a whole number, at least 0"),
        ("sscam", "spread", "x", f"option spread of sscam is 'x'; {FINITE}"),
        ("iscam", "samples", 0, f"option samples of iscam is 0; {WHOLE}, at least 1"),
        ("iscam", "samples", True, f"option samples of iscam is True; {WHOLE}, at least 1"),
        ("groupcam", "groups", "a", f"option groups of groupcam is 'a'; {WHOLE}, at least 1"),
        ("groupcam", "groups", 0, f"option groups of groupcam is 0; {WHOLE}, at least 1"),
        ("groupcam", "percentile", "a", f"option percentile of groupcam is 'a'; {FINITE}"),
        ("random", "seed", 1.5, f"option seed of random is 1.5; {WHOLE}, at least 0"),
        ("smoothgradcam++", "samples", 2.5, f"option samples of smoothgradcam++ is 2.5; {WHOLE}, at least 1"),
        ("smoothgradcam++", "seed", -1, f"option seed of smoothgradcam++ is -1; {WHOLE}, at least 0"),
        ("fem", "z", "a", f"option z of fem is 'a'; {FINITE}"),
        ("fem", "z", False, f"option z of fem is False; {FINITE}"),
        ("fem", "z", None, f"option z of fem is None; {FINITE}"),
        ("fem", "z", 1j, f"option z of fem is 1j; {FINITE}"),
        ("fem", "z", math.nan, f"option z of fem is nan; {FINITE}"),
        ("fem", "z", -math.inf, f"option z of fem is -inf; {FINITE}"),
        ("fem", "z", [2.0], f"option z of fem is [2.0]; {FINITE}"),
        ("kpcacam", "gamma", "none", f"option gamma of kpcacam is 'none'; {FINITE} or none"),
        ("kpcacam", "gamma", math.inf, f"option gamma of kpcacam is inf; {FINITE} or none"),
        ("kpcacam", "kernel", ["a"], "option kernel of kpcacam is ['a']; expected a word such as 'sigmoid'"),
        ("reciprocam", "kernel", 3, "option kernel of reciprocam is 3; expected a word such as 'pixel'"),
        ("gradcam++", "variant", ["a"], "option variant of gradcam++ is ['a']; expected a word such as 'paper'"),
        ("ablationcam", "relative", 1, "option relative of ablationcam is 1; expected true or false"),
        ("eigencam", "centred", "yes", "option centred of eigencam is 'yes'; expected true or false"),
    ],
)
def test_a_value_of_another_kind_raises(name: str, option: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        method(name, **{option: value})
    assert str(caught.value) == said


def test_a_whole_number_too_large_for_a_float_is_not_finite() -> None:
    assert method("fem", z=10**308).options == {"z": 1e308}
    with pytest.raises(InputError, match=r"option z of fem is 10{309}; expected a finite number"):
        method("fem", z=10**309)


@pytest.mark.parametrize("name", METHODS)
def test_the_defaults_are_values_that_fit(name: str) -> None:
    row = METHODS[name]
    assert row.set(**row.options).options == dict(row.options)


@pytest.mark.parametrize(
    ("name", "option", "value", "kept"),
    [
        ("iscam", "samples", np.int64(3), 3),
        ("random", "seed", np.uint8(0), 0),
        ("fem", "z", 1, 1.0),
        ("fem", "z", np.float32(-0.5), -0.5),
        ("kpcacam", "gamma", None, None),
        ("kpcacam", "gamma", 2, 2),
        ("kpcacam", "kernel", np.str_("rbf"), "rbf"),
        ("eigencam", "centred", np.bool_(True), True),
    ],
)
def test_numbers_of_numpy_are_numbers(name: str, option: str, value: object, kept: object) -> None:
    found = method(name, **{option: value}).options[option]
    assert found == kept
    assert type(found) is type(kept)


@given(value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.options])
def test_a_value_fits_or_is_said_not_to(name: str, value: object) -> None:
    """What fits has the type of the default and the bounds of its name."""
    for option, default in METHODS[name].options.items():
        try:
            found = method(name, **{option: value}).options[option]
        except InputError as error:
            assert str(error).startswith(f"option {option} of {name} is {value!r}; expected ")  # noqa: PT017
        else:
            assert type(found) is type(default) or (default is None and type(found) in (int, float, type(None)))
            assert isinstance(found, (bool, str, type(None))) or math.isfinite(found)
            assert option not in {"samples", "groups"} or found >= 1
            assert option != "seed" or found >= 0


def test_other_counts_have_no_bound_and_other_types_no_rule() -> None:
    odd = row_with(options={"n": 1, "size": (1, 2)})
    assert odd.set(n=-5, size="any").options == {"n": -5, "size": "any"}
    with pytest.raises(InputError, match=r"^option n of odd is 1\.5; expected a whole number$"):
        odd.set(n=1.5)


def test_kin_is_a_name_or_a_function_of_the_options() -> None:
    assert METHODS["cam"].kin == METHODS["gradcam"].kin == "E1"
    assert METHODS["random"].kin == ""
    odd = row_with(alike=lambda options: f"E{options['n']}", options={"n": 1})
    assert odd.kin == "E1"
    assert odd.set(n=2).kin == "E2"


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"method 'activation' is not known\. Did you mean 'activationmap'"):
        method("activation")


def test_the_public_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        METHODS["cam"] = ROW  # type: ignore[index]
