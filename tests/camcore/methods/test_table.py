"""The table of methods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

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
    names |= {"gradcam-elementwise", "shapleycam", "eigencam", "eigengradcam", "kpcacam", "activationmap", "fem"}
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
