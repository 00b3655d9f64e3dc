"""Apply a plan to one batch of images: evidence from the backend, what is missing from the head or from runs, maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from camcore.checks import check_evidence, check_features, check_maps, check_scores
from camcore.evidence import Backend, Evidence, Finisher
from camcore.fuse import Fusion, fuse
from camcore.head import LinearHead
from camcore.methods import Method
from camcore.plan import Plan, Route
from camcore.scores import Classes, top_count
from camcore.smoothing import Smoothing
from camcore.supply import Report, Supply
from camcore.targets import Aim

__all__ = ["Maps", "Work", "apply"]

Floats = NDArray[np.floating[Any]]

# Classes whose gradients are held at a time: as large as the features, or one number a channel behind a pooled head.
CLASSES, POOLED_CLASSES = 8, 64


@dataclass(frozen=True, eq=False)
class Maps:
    """Of one batch: (N, T, *s) maps, (N, K) scores, (N, T) classes, and whether the head has proved itself on it."""

    maps: Floats
    scores: Floats
    classes: NDArray[np.int64]
    checked: bool


@dataclass(frozen=True, eq=False)
class Work:
    """What stays the same over the batches of one call.

    Attributes
    ----------
    backend : Backend
    plan : Plan
    labels : tuple of str or None
        Class names, for classes given by name.
    fusion, scaling, fusion_size
        How several layers are joined; see :func:`camcore.fuse.fuse`. The size is ``"largest"`` or ``"input"``.
    smoothing : Smoothing or None
    checked : bool
        Whether the head has been seen to reproduce the scores, and cannot have changed since.
    batch_size : int
        Images a forward pass, in runs of the whole model.
    report : callable, optional
        ``report(done, total)`` after each batch of the runs of one image.
    """

    backend: Backend
    plan: Plan
    labels: Sequence[str] | None = None
    fusion: Fusion = "max"
    scaling: str | None = None
    fusion_size: str = "largest"
    smoothing: Smoothing | None = None
    checked: bool = False
    batch_size: int = 32
    report: Report | None = field(default=None, repr=False)


def apply(work: Work, images: Floats, classes: Classes) -> Maps:
    """The maps of one batch, smoothed where that was asked for.

    Gradients that are no closed form are taken of at most ``CLASSES`` classes at a time.
    """
    if _may_be_many(work, classes):
        chosen = _choose(work, images, classes)
        if chosen.shape[1] > CLASSES:
            return _in_parts(work, images, chosen)
        classes = chosen
    seen = _observe(work, images, classes)
    plain = _maps(work, images, seen)
    if work.smoothing is None:
        return plain
    aim = _supply(work, work.plan.routes[0], images, seen[0]).aim(work.plan.target)
    return replace(plain, maps=_smoothed(work, images, plain, aim))


def _may_be_many(work: Work, classes: Classes) -> bool:
    """Whether gradients are wanted of more classes than should be held at once, or of an unknown number."""
    if all(r.closed for r in work.plan.routes) or not work.plan.method.needs & {"gradients", "curvature", "moments"}:
        return False
    if classes is None or isinstance(classes, str):
        return classes == "all" or top_count(classes) > CLASSES
    return np.ndim(classes) == 2 and np.shape(classes)[1] > CLASSES


def _choose(work: Work, images: Floats, classes: Classes) -> NDArray[np.int64]:
    """The (N, T) classes, from a pass for the scores alone."""
    return work.backend.observe(images, needs=frozenset(), classes=classes, labels=work.labels)[0].classes


def _in_parts(work: Work, images: Floats, classes: NDArray[np.int64]) -> Maps:
    parts = [apply(work, images, classes[:, i : i + CLASSES]) for i in range(0, classes.shape[1], CLASSES)]
    return replace(parts[0], maps=np.concatenate([part.maps for part in parts], axis=1), classes=classes)


def _smoothed(work: Work, images: Floats, plain: Maps, aim: Aim) -> Floats:
    """The mean over all copies; the classes, and those to compare with, are chosen on the image itself."""
    assert work.smoothing is not None
    held = replace(work, plan=replace(work.plan, target=aim.held()), smoothing=None)
    size, total, count = plain.maps.shape[2:], np.zeros(plain.maps.shape, np.float64), 0
    with np.errstate(over="ignore", invalid="ignore"):  # maps may hold infinities
        for copy in work.smoothing.copies():
            changed = images if copy.same else copy.of(images)
            maps = plain.maps if copy.same else _maps(held, changed, _observe(held, changed, plain.classes)).maps
            total, count = total + copy.back(maps, size), count + 1
        return (total / count).astype(plain.maps.dtype)


def _observe(work: Work, images: Floats, classes: Classes) -> list[Evidence]:
    asked: dict[str, Any] = {
        "layers": [route.layer for route in work.plan.routes],
        "classes": classes,
        "labels": work.labels,
    }
    finisher = _finisher(work)
    if finisher is not None:
        return finisher.finished(images, work.plan.method, work.plan.sloped, **asked)
    needs = frozenset().union(*(_asked(work, route) for route in work.plan.routes))
    return work.backend.observe(images, needs=needs, target=work.plan.sloped, **asked)


def _finisher(work: Work) -> Finisher | None:
    """The backend, where it makes the maps of gradients itself."""
    if "maps" not in work.backend.gives or any(route.way != "gradient" for route in work.plan.routes):
        return None
    finisher = cast(Finisher, work.backend)
    return finisher if finisher.finishes(work.plan.method, work.plan.sloped) else None


def _asked(work: Work, route: Route) -> frozenset[str]:
    """What the backend must give: the class maps alone where they are all it takes and nothing is left to check."""
    row = work.plan.method
    if _has_short_way(work, route):
        return frozenset({"class_maps"}) | (frozenset() if work.checked else {"features", "head"})
    if route.closed:
        return frozenset({"features", "head"})
    return row.needs & {"features", "head", "gradients", "curvature", "contributions"}


def _has_short_way(work: Work, route: Route) -> bool:
    """Whether the backend sums the features with the class's weights itself, and that is all it takes."""
    if work.plan.method.from_class_maps is None or "class_maps" not in work.backend.gives:
        return False
    linear = isinstance(route.tap.head, LinearHead) and len(work.plan.routes) == 1
    return linear and work.plan.target.plain and (route.closed or "head" in work.plan.method.needs)


def _maps(work: Work, images: Floats, seen: Sequence[Evidence]) -> Maps:
    row, proved = work.plan.method, []
    if row.has_target or "head" in row.needs:
        check_scores(seen[0].scores)
    layers = []
    for route, evidence in zip(work.plan.routes, seen, strict=True):
        check_features(evidence, route.tap)
        if (route.closed or "head" in row.needs) and not work.checked:
            check_evidence(evidence, route.tap, whole=not work.plan.target.plain)
            proved.append(bool(evidence.need_features().any()))  # zeros would prove nothing
        layers.append(_layer_maps(work, route, images, evidence))
    for maps, route in zip(layers, work.plan.routes, strict=True):
        check_maps(maps, images, route.tap)
    maps = layers[0] if len(layers) == 1 else _fused(work, layers, images.shape[2:])
    with np.errstate(over="ignore"):  # beyond float32 there is infinity
        raw = maps.astype(np.float32, copy=False)
    return Maps(raw, seen[0].scores, seen[0].classes, work.checked or (bool(proved) and all(proved)))


def _fused(work: Work, layers: list[Floats], space: tuple[int, ...]) -> Floats:
    scaling = work.scaling or ("relu-max" if work.plan.method.rectifies else "minmax")
    return fuse(layers, work.fusion, scaling=scaling, size=space if work.fusion_size == "input" else None)


def _layer_maps(work: Work, route: Route, images: Floats, evidence: Evidence) -> Floats:
    row = work.plan.method
    if evidence.maps is not None:
        return evidence.maps
    if evidence.class_maps is not None and row.from_class_maps is not None:
        return row.from_class_maps(evidence.class_maps)
    if _can_be_cut(row, route) and evidence.classes.shape[1] > POOLED_CLASSES:
        cuts = range(POOLED_CLASSES, evidence.classes.shape[1], POOLED_CLASSES)
        parts = [replace(evidence, classes=some) for some in np.split(evidence.classes, cuts, axis=1)]
        return np.concatenate([_layer_maps(work, route, images, part) for part in parts], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # float16 features may hold inf: the check has spoken
        maps: Floats = row.formula(**_supply(work, route, images, evidence).given())
    return maps


def _can_be_cut(row: Method, route: Route) -> bool:
    """Whether to take the classes in parts costs nothing: no run of the network serves several."""
    return route.closed and (row.probe is None or row.probe.where == "tail" or row.probe.per_class)


def _supply(work: Work, route: Route, images: Floats, evidence: Evidence) -> Supply:
    return Supply(work.backend, work.plan, route, images, evidence, work.batch_size, work.report)
