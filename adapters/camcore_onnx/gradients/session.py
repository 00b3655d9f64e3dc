"""A graph with gradients, loaded into ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.evidence import InputSpec
from camcore_onnx.gradients.build import CLASS, SLOPES, Built, Order
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.binding import Placed
from camcore_onnx.running.sessions import Runner, as_rows

__all__ = ["GradientSession", "Pulled", "joined"]

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pulled:
    """What came of one batch; of each layer, with axes as in the model: (N, ...) features and (N, T, ...) others."""

    scores: Floats
    classes: Indices | None
    features: tuple[Floats, ...] = ()
    gradients: tuple[Floats, ...] = ()
    curvatures: tuple[Floats, ...] = ()
    maps: tuple[Floats, ...] = ()


class GradientSession:
    """One graph with gradients, loaded."""

    def __init__(self, loaded: Loaded, spec: InputSpec, order: Order, built: Built, options: Mapping[str, Any]) -> None:
        self._spec, self._order, self._built = spec, order, built
        model = built.model
        scores = next(v for node in model.graph for v in node.outputs if v.name == order.scores)
        if not scores.is_graph_output():
            model.graph.outputs.append(scores)
        self.facts, self.sizes = built.facts, set[tuple[int, ...]]()  # sizes of images for which the facts hold
        self._runner = Runner(model, "images", folder=loaded.folder, **options)

    @property
    def session(self) -> Any:
        """The session of ONNX Runtime."""
        return self._runner.session

    def place(self, images: Floats) -> Floats | Placed:
        """Images for several runs: copied to the device once, where there is one and the batch is free."""
        typed = images.astype(self._spec.dtype, copy=False)
        return typed if self._spec.shape[0] is not None else self._runner.place(typed)

    def __call__(self, images: Floats | Placed, given: Any) -> Pulled:
        """The images' gradients of the classes or slopes ``given``, one column a class."""
        order, built = self._order, self._built
        kinds = ("features", "gradients", "curvatures", "maps")
        names = [order.scores, *(n for kind in kinds for n in getattr(built, kind))]
        names += [built.classes] if built.classes else []
        results = self._runner(names, self._feed(images, given), batch=self._spec.shape[0])
        found = dict(zip(names, results, strict=True))
        scores = as_rows(found[order.scores], order.scores)
        parts: dict[str, Any] = {kind: tuple(_float(found[n]) for n in getattr(built, kind)) for kind in kinds}
        return Pulled(scores, found.get(built.classes), **parts)

    def _feed(self, images: Floats | Placed, given: Any) -> dict[str, NDArray[Any] | Placed]:
        rows = given if self._order.several else given[:, 0]
        name, dtype = (SLOPES, np.float32) if self._order.target is None else (CLASS, np.int32)
        typed = images if isinstance(images, Placed) else images.astype(self._spec.dtype, copy=False)
        return {self._spec.name: typed, name: rows.astype(dtype)}


def joined(parts: Sequence[Pulled]) -> Pulled:
    """The classes of several runs side by side."""

    def beside(kind: str) -> tuple[Floats, ...]:
        columns = zip(*(getattr(part, kind) for part in parts), strict=True)
        return tuple(np.concatenate(column, axis=1) for column in columns)

    classes = (
        None
        if parts[0].classes is None
        else np.concatenate([p.classes for p in parts if p.classes is not None], axis=1)
    )
    return replace(
        parts[0],
        classes=classes,
        gradients=beside("gradients"),
        curvatures=beside("curvatures"),
        maps=beside("maps"),
    )


def _float(array: NDArray[Any]) -> Floats:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
