"""Compare the maps of two models, and the map that a model has inside with that of the model it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.explanation import Explanation
from camcore_onnx.checking.comparing import Difference, Gauge, Side

__all__ = ["Maps", "compare_embedded", "compare_maps"]

Floats = NDArray[np.floating[Any]]


@dataclass
class Maps:
    """How far apart maps are.

    Attributes
    ----------
    how : str
        Method, layer and classes.
    parts : list of Difference
        The maps; for maps inside a model also its heatmaps and scores.
    correlation : float or None
        Pearson's, of the least alike pair of maps; None where all are constant.
    images : int
    """

    how: str = ""
    parts: list[Difference] = field(default_factory=list)
    correlation: float | None = None
    images: int = 0

    @property
    def passed(self) -> bool:
        return all(part.passed for part in self.parts)

    def correlate(self, a: Floats, b: Floats) -> None:
        """Take the (N, T, *S) maps of some more images into account."""
        if a.shape != b.shape:
            return
        flat_a, flat_b = (m.reshape(-1, int(np.prod(m.shape[2:]))).astype(np.float64) for m in (a, b))
        flat_a, flat_b = (m - m.mean(axis=1, keepdims=True) for m in (flat_a, flat_b))
        sizes = np.linalg.norm(flat_a, axis=1) * np.linalg.norm(flat_b, axis=1)
        uneven = sizes > 0
        if uneven.any():
            least = float(((flat_a * flat_b).sum(axis=1)[uneven] / sizes[uneven]).min())
            self.correlation = least if self.correlation is None else min(least, self.correlation)


def compare_maps(
    a: Explainer, b: Explainer, batches: Iterable[Floats], *, limits: tuple[float, float], top: int = 5
) -> Maps:
    """Explain the same images by both, and the classes that A finds best.

    Parameters
    ----------
    a, b : Explainer
    batches : iterable of (N, C, *S) ndarray
    limits : (rtol, atol)
        See :func:`camcore_onnx.checking.comparing.compare`.
    top : int
        How many classes.

    Raises
    ------
    MethodNotPossible
        If one of them has no such map.
    """
    done, gauge = Maps(), Gauge("maps", "maps", limits)
    done.parts.append(gauge.found)
    for images in batches:
        ours = a(images, classes=f"top{top}")
        theirs = b(images, classes=ours.classes)
        gauge.add(ours.maps, theirs.maps, done.images, len(images))
        done.correlate(ours.maps, theirs.maps)
        done.images += len(images)
        place = ours.layer if ours.layer == theirs.layer else f"{ours.layer} / {theirs.layer}"
        done.how = f"{ours.method} at {place}, {_count(ours)}"
    return done


def _count(out: Explanation) -> str:
    return "the best class" if out.classes.shape[1] == 1 else f"the best {out.classes.shape[1]} classes"


def compare_embedded(
    plain: Callable[..., Explainer],
    side: Side,
    card: Mapping[str, Any],
    batches: Iterable[Floats],
    *,
    limits: tuple[float, float],
) -> Maps:
    """Compare the maps, scores and heatmaps that a model gives with what the library makes of the plain one.

    Parameters
    ----------
    plain : callable
        Gives an explainer of the plain model for ``method=``, ``options=``, ``layer=`` and ``target=``.
    side : Side
        The model with its map inside.
    card : mapping
        What its metadata say of it: see :func:`camcore_onnx.embed_cam`.
    batches : iterable of (N, C, *S) ndarray
    limits : (rtol, atol)

    Raises
    ------
    InputError
        If the model does not give the outputs that its metadata name.
    """
    name = _text(card, "name") or "cam"
    words = {key: _text(card, key) for key in ("layer", "target")}
    explain = plain(method=_text(card, "method") or "auto", options=card.get("options") or {}, **words)
    beside = "heatmap" if name == "cam" else f"{name}_heatmap"
    gauges = {n: Gauge(n, n, limits) for n in (name, f"{name}_scores", beside)}
    done = Maps(how=f"{_text(card, 'method')} at {_text(card, 'layer')}, {_text(card, 'classes')}")
    for images in batches:
        found = side.run(images)
        if name not in found:
            raise InputError(f"{side.name}: its metadata tell of an output {name!r}, which it does not have")
        chosen = found.get(f"{name}_classes")
        ours = explain(images, classes="all" if chosen is None else np.asarray(chosen, np.int64))
        expected = _expected(ours, found, name, beside)
        for output, array in expected.items():
            gauges[output].add(array, found[output], done.images, len(images))
        done.correlate(ours.maps, found[name])
        done.images += len(images)
        done.parts = [gauges[output].found for output in expected]
    return done


def _text(card: Mapping[str, Any], key: str) -> str | None:
    value = card.get(key)
    return value if isinstance(value, str) else None


def _expected(ours: Explanation, found: Mapping[str, Any], name: str, beside: str) -> dict[str, Floats]:
    """What the library gives for each output that is there."""
    wanted: dict[str, Floats] = {name: ours.maps}
    if f"{name}_scores" in found:
        wanted[f"{name}_scores"] = np.take_along_axis(ours.scores, ours.classes, axis=1)
    if beside in found:
        wanted[beside] = ours.heatmaps(found[beside].shape[2:])
    return wanted
