"""The front door: which adapter opens a model, and which options go where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, values

import camcore
from camcore import Explainer, InputError, opening


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two adapters, of which the second takes text; the options that it was given."""
    options: list[dict[str, Any]] = []

    def open_it(model: Any, **given: Any) -> PooledNetwork:
        options.append(given)
        return PooledNetwork(space=(None, None))

    never = SimpleNamespace(accepts=lambda model: False)
    texts = SimpleNamespace(accepts=lambda model: isinstance(model, str), backend=open_it)
    entries = [SimpleNamespace(name="b", load=lambda: never), SimpleNamespace(name="a", load=lambda: texts)]
    monkeypatch.setattr(opening, "entry_points", lambda group: entries if group == "camcore.backends" else [])
    return options


def test_the_first_that_accepts_opens_the_model(asked: list[dict[str, Any]]) -> None:
    explain = camcore.explainer("model", method="cam", device="cpu", threads=3, batch_size=2)
    assert asked == [{"device": "cpu", "threads": 3}]
    assert explain(values(3, 3, 8, 6)).maps.shape == (3, 1, 8, 6)
    assert explain.batch_size == 2


def test_options_of_the_method_stay_here_and_others_go_to_the_model(asked: list[dict[str, Any]]) -> None:
    explain = camcore.explainer("model", method="fem", z=0.5, mode="x")
    assert asked == [{"device": "auto", "mode": "x"}]
    assert explain.plan.method.options == {"z": 0.5}
    camcore.explainer("model", method=camcore.method("fem", z=0.5), z=0.7)
    assert asked[1] == {"device": "auto"}
    camcore.explainer("model", z=0.7)
    assert asked[2] == {"device": "auto", "z": 0.7}  # "auto" has none


def test_what_is_explained_and_how_is_handed_on(asked: list[dict[str, Any]]) -> None:
    explain = camcore.explainer(
        "model", method="gradcam", layer=["relu", None], target="difference", fusion=[1, 3], scaling="tanh"
    )
    out = explain(values(2, 3, 8, 6))
    assert (out.method, out.target, out.layer) == ("gradcam", "difference", "relu, relu")
    same = Explainer(PooledNetwork(space=(None, None)), method="gradcam", target="difference")(values(2, 3, 8, 6))
    np.testing.assert_allclose(out.maps, 4 * camcore.normalize(same.maps, "tanh"), rtol=1e-5, atol=1e-6)
    smooth = camcore.explainer("model", method="gradcam", target="difference", smoothing="flip")
    np.testing.assert_allclose(smooth(values(2, 3, 8, 6)).maps, same.maps, rtol=1e-4, atol=1e-6)


def test_a_model_that_none_accepts(asked: list[dict[str, Any]]) -> None:
    text = "a model of type int cannot be explained; expected a path to an .onnx file, .* (adapters installed: a, b)"
    with pytest.raises(InputError, match=text.replace("(", r"\(").replace(")", r"\)")):
        camcore.explainer(5)


def test_the_installed_adapters_are_found() -> None:
    with pytest.raises(InputError, match=r"\(adapters installed: onnx, torch\)"):
        camcore.explainer(object())
