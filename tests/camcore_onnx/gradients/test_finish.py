"""Formulas of methods as nodes, against those of the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from camcore_onnx.constants import Constants
from camcore_onnx.gradients.facts import Facts
from camcore_onnx.gradients.finish import can_finish, finish, places
from camcore_onnx.gradients.pen import Pen
from camcore_onnx.gradients.tensor import Tensor
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx_graphs import Graph

from camcore import METHODS
from camcore.layout import Layout
from camcore.methods import method

Floats = NDArray[np.floating[Any]]

LIMIT = 1e-5
FINISHED = tuple(name for name, row in METHODS.items() if can_finish(row))
OPSETS = (9, 11, 13, 18)


class Site:
    """A graph whose inputs are arrays, of fixed or free lengths."""

    def __init__(self, arrays: dict[str, Floats], opset: int, *, free: bool) -> None:
        g = Graph(opset)
        for name, array in arrays.items():
            g.out(g.add("Identity", g.image([None] * array.ndim, name)))
        self.loaded, self.arrays = load(g.model()), arrays
        self.graph = self.loaded.model.graph
        values = {v.name: v for v in self.graph.inputs}
        ones = {
            n: tuple(None if free and k > 1 and a != 1 else k for a, k in enumerate(x.shape)) for n, x in arrays.items()
        }
        self.pen = Pen(self.graph, Facts(Constants(self.loaded), {values[n]: shape for n, shape in ones.items()}, {}))
        self.tensors = {name: self.pen.read(values[name]) for name in arrays}

    def run(self, tensor: Tensor) -> Floats:
        self.graph.outputs[:] = [tensor.value]
        session = make_session(serialize(self.loaded.model), device="cpu", threads=1)
        used = {i.name for i in session.get_inputs()}
        found: Floats = session.run(None, {n: a for n, a in self.arrays.items() if n in used})[0]
        return found


def case(positions: int, *, seed: int = 0) -> dict[str, Floats]:
    """Features of either sign, a channel of zeros, gradients at 12 positions or the same at all."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((2, 5, 12)).astype(np.float32)
    features[:, 1] = 0
    gradients, curvature = (random.standard_normal((2, 3, 5, positions)).astype(np.float32) for _ in range(2))
    gradients[:, :, 2] = 0
    return {"features": features, "gradients": gradients, "curvature": curvature}


def expected(name: str, arrays: dict[str, Floats]) -> Floats:
    row = METHODS[name]
    shaped = {
        n: a.reshape(*a.shape[:-1], *((1, 1) if a.shape[-1] == 1 else (3, 4))).astype(float) for n, a in arrays.items()
    }
    maps: Floats = row.formula(**{n: shaped[n] for n in row.needs}, **row.options)
    return maps.reshape(2, 3, 12)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("positions", [12, 1])
@pytest.mark.parametrize("name", FINISHED)
def test_as_the_core(name: str, positions: int, free: bool, opset: int) -> None:
    arrays = case(positions)
    site = Site(arrays, opset, free=free)
    parts = [site.tensors[n] for n in ("features", "gradients", "curvature") if n in METHODS[name].needs]
    found, wanted = site.run(finish(METHODS[name], *parts)), expected(name, arrays)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= LIMIT * np.abs(wanted).max()


@pytest.mark.parametrize("name", FINISHED)
def test_nothing_gives_nothing(name: str) -> None:
    arrays = {n: np.zeros_like(a) for n, a in case(12).items()}
    site = Site(arrays, 17, free=False)
    parts = [site.tensors[n] for n in ("features", "gradients", "curvature") if n in METHODS[name].needs]
    found = site.run(finish(METHODS[name], *parts))
    assert np.isfinite(found).all()
    assert not found.any()


def test_which_there_are() -> None:
    assert set(FINISHED) == {
        *("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "gradcam-elementwise", "finercam", "shapleycam")
    }
    assert not can_finish(method("gradcam++", variant="official"))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout("first"), (5, 3, 4)),
        (Layout("first"), (5, 12)),
        (Layout("first"), (5, 1, 1)),
        (Layout("first"), (5, 2, 3, 2)),
        (Layout("last"), (3, 4, 5)),
        (Layout("last"), (1, 1, 5)),
        (Layout("tokens", grid=(3, 4), prefix=2), (14, 5)),
        (Layout("tokens", grid=(3, 4), prefix=0), (12, 5)),
    ],
)
def test_places(layout: Layout, shape: tuple[int, ...], lead: int, free: bool, opset: int) -> None:
    whole = np.random.default_rng(0).standard_normal((2, 3)[:lead] + shape).astype(np.float32)
    site = Site({"whole": whole}, opset, free=free)
    found = site.run(places(site.tensors["whole"], layout, lead=lead))
    one = int(np.prod(shape)) == 5
    wanted = (
        whole.reshape(*(2, 3)[:lead], 5, 1) if one else layout.maps(whole, lead=lead).reshape(*(2, 3)[:lead], 5, -1)
    )
    np.testing.assert_array_equal(found, wanted)


def test_types_stay() -> None:
    site = Site(case(12), 17, free=False)
    found = finish(METHODS["gradcam"], site.tensors["features"], site.tensors["gradients"])
    assert found.dtype == ir.DataType.FLOAT
