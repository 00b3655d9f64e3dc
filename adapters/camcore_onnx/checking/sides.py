"""An ONNX file as one side of a comparison: run as it is, in a session of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.evidence import InputSpec
from camcore_onnx.checking.comparing import Side
from camcore_onnx.checking.sandbox import doing
from camcore_onnx.ports import image_input
from camcore_onnx.reading.load import Loaded, load
from camcore_onnx.running.runtime import make_session

__all__ = ["Opened", "open_side", "precision"]

_QUANTISED = ("QLinear", "MatMulInteger", "ConvInteger", "MatMulNBits", "QuantizeLinear", "DequantizeLinear", "QGemm")
_HALF = frozenset({"FLOAT16", "BFLOAT16"})


@dataclass(eq=False)
class Opened:
    """A model and its session.

    Attributes
    ----------
    loaded : Loaded
    session : InferenceSession
    """

    loaded: Loaded
    session: Any

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.session.get_outputs()]

    @cached_property
    def input(self) -> InputSpec:
        return image_input(self.loaded)

    @property
    def side(self) -> Side:
        return Side(self.loaded.name, self._run)

    def _run(self, images: NDArray[Any]) -> Mapping[str, Any]:
        """All outputs; where the batch is fixed in parts of that size, the last one filled up."""
        fixed, cast = self.input.shape[0], images.astype(self.input.dtype)
        if fixed in (None, len(cast)):
            return self._outputs(cast)
        assert fixed is not None  # see above
        parts = [self._outputs(_filled(cast[i : i + fixed], fixed)) for i in range(0, len(cast), fixed)]
        return {name: np.concatenate([part[name] for part in parts])[: len(cast)] for name in self.outputs}

    def _outputs(self, images: NDArray[Any]) -> dict[str, Any]:
        names = self.outputs
        return dict(zip(names, self.session.run(names, {self.input.name: images}), strict=True))


def open_side(source: Path | Loaded) -> Opened:
    """A file as it lies on the disk, once it has been found fit to be loaded; or a model that is loaded already."""
    loaded = source if isinstance(source, Loaded) else load(source)
    doing(f"loading {loaded.name}")
    if isinstance(source, Loaded):
        return Opened(loaded, make_session(loaded.model, device="cpu", folder=loaded.folder))
    return Opened(loaded, make_session(str(source), device="cpu"))


def _filled(images: NDArray[Any], count: int) -> NDArray[Any]:
    return np.concatenate([images, np.repeat(images[-1:], count - len(images), axis=0)])


def precision(model: ir.Model) -> str:
    """``"quantised"``, ``"float16"`` or ``"float32"``: the coarsest numbers that the model computes with."""
    if any(node.op_type.startswith(_QUANTISED) for node in model.graph):
        return "quantised"
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    half = any(v.dtype is not None and v.dtype.name in _HALF for v in values)
    return "float16" if half else "float32"
