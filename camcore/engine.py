"""The engine: what a backend sees, as a method makes maps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import labels as label_files
from camcore import multilabel
from camcore import preprocess as preprocessing
from camcore.apply import Maps, Work, apply
from camcore.errors import HeadNotFound, InputError, MethodNotPossible
from camcore.evidence import Backend, accept_images
from camcore.explanation import Explanation
from camcore.fuse import Fusion, check_fusion
from camcore.inputs import as_list, fitting_names, is_array, layer_names, part_of, stacked
from camcore.methods import Method
from camcore.pictures import Picture, load_picture
from camcore.plan import Plan, make_plan
from camcore.preprocess import Preprocess, View
from camcore.scores import Classes, kind_of_scores
from camcore.smoothing import Smoothing
from camcore.smoothing import smoothing as smoothing_of
from camcore.supply import Report

__all__ = ["BATCH", "Explainer"]

Floats = NDArray[np.floating[Any]]
BATCH = 32


@dataclass(frozen=True, eq=False)
class _Seen:
    """A batch as the model takes it, and the pictures that it was made of."""

    images: Floats
    pictures: Sequence[Picture] | None = None
    views: Sequence[View] | None = None


class Explainer:
    """Explains images of one model with one method. Holds no state of a call, so threads may share it.

    Parameters
    ----------
    backend : Backend
    method, layer, target, fusion, scaling, fusion_size, smoothing, labels, preprocess, independent
        See :func:`explainer`.
    options : mapping, optional
        Of the method.
    batch_size : int
        Images a forward pass; larger batches are cut, so that no more than this many features are held.

    Attributes
    ----------
    report : callable or None
        Set it to be told of long work: ``report(done, total)`` after each batch of the runs that one image takes.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        method: str | Method = "auto",
        layer: str | Sequence[str] | None = None,
        target: Any = None,
        options: Mapping[str, Any] | None = None,
        fusion: Fusion = "max",
        scaling: str | None = None,
        fusion_size: str = "largest",
        smoothing: str | Smoothing | None = None,
        labels: Any = None,
        preprocess: str | Preprocess | Mapping[str, Any] | None = None,
        independent: bool | None = None,
        batch_size: int = BATCH,
    ) -> None:
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}; expected a whole number, at least 1")
        self.backend = backend
        self.labels = backend.labels if labels is None else label_files.read_labels(labels)
        self.preprocess = backend.preprocess if preprocess is None else preprocessing.preprocess(preprocess)
        self.batch_size = batch_size
        self.report: Report | None = None
        self.independent = independent
        self._wanted: dict[str, Any] = {
            "wanted": method,
            "layers": layer_names(layer),
            "aim": target,
            "options": dict(options or {}),
        }
        self._mixing: dict[str, Any] = {"fusion": fusion, "scaling": scaling, "fusion_size": fusion_size}
        self._mixing["smoothing"] = smoothing_of(smoothing)
        check_fusion(fusion, scaling, fusion_size, len(self._wanted["layers"]))
        if self._mixing["smoothing"] is not None:
            self._mixing["smoothing"].check(backend.input)
        self._plan: Plan | None = None
        self._checked = False

    @property
    def plan(self) -> Plan:
        """What will be done."""
        return self._planned(None)

    def _planned(self, example: Floats | None) -> Plan:
        """Made at the first need, since a PyTorch model must be run once to be understood."""
        if self._plan is None:
            self._plan = make_plan(backend=self.backend, example=example, **self._wanted)
        return self._plan

    def __repr__(self) -> str:
        return f"Explainer({self.backend.kind} on {self.backend.device}, method {_name(self._wanted['wanted'])})"

    def __call__(self, images: Any, classes: Classes = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (N, C, *S) float array or a list of N, or path(s), PIL image(s), (H, W, 3) uint8 array(s)
            Arrays are taken exactly as the model takes them. Pictures need a known preprocessing.
        classes : None, str, int, list or (N, T) array
            See :func:`camcore.choose_classes`: None is the best class of each image, ``"top5"`` the best five.

        Raises
        ------
        InputError
            If an image or a class cannot be used.
        MethodNotPossible
            If the model cannot give what the method needs.
        """
        return self._explain(self._seen(images), classes)

    def present(self, images: Any, threshold: float = 0.5, *, most: int = multilabel.MOST) -> list[Explanation]:
        """Explain of each image the classes that are there: those whose probability reaches a threshold.

        Costs a forward pass for the scores before those of the maps; only where the maps come by closed form and no
        image has more than four such classes there is but one.

        Parameters
        ----------
        images
            As in a call.
        threshold : float
            In [0, 1].
        most : int
            Of more classes the most probable ones are explained. No more maps than this are made of an image.

        Returns
        -------
        list of Explanation
            Each of one image, with a number of classes of its own, the most probable first. None is a number, too.

        Raises
        ------
        InputError
            As a call; and for a threshold or a number out of range.
        """
        multilabel.check(threshold, most)
        seen = self._seen(images)
        guess = min(multilabel.FEW, most) if self._planned(seen.images).way == "closed form" else 0
        out = self._explain(seen, f"top{guess}") if guess else self._without_maps(seen)
        count = min(most, int(out.present(threshold).sum(axis=1).max()))
        if count > guess:
            out = self._explain(seen, f"top{count}")
        return [out.only_present(n, threshold, most=most) for n in range(len(out))]

    def _seen(self, images: Any) -> _Seen:
        images = stacked(images)
        if is_array(images):
            return _Seen(accept_images(images, self.backend.input))
        pictures = [load_picture(p) for p in as_list(images)]
        batch, views = self.prepare(pictures)
        return _Seen(batch, pictures, views)

    @property
    def rule(self) -> Preprocess:
        """The preprocessing, at the size that the model takes.

        Raises
        ------
        InputError
            Where none is known.
        """
        if self.preprocess is None:
            raise InputError(
                "the model does not say how pictures become its input; give preprocess= one of "
                f"{', '.join(preprocessing.PRESETS)} or a dict with mean and std, or pass a float array (N, C, H, W)"
            )
        size = self.preprocess.size or self.backend.input.size
        return preprocessing.preprocess(self.preprocess, size=size)

    def prepare(self, pictures: Sequence[Picture]) -> tuple[Floats, list[View]]:
        """Preprocess pictures into one (N, C, H, W) batch, and say which part of each it shows."""
        rule, spec = self.rule, self.backend.input
        done = [rule(p.pixels, channels=spec.channels or 3) for p in pictures]
        shapes = {image.shape for image, _ in done}
        if len(shapes) > 1:
            raise InputError(
                f"the pictures have different sizes {sorted(shapes)}; give them one by one, or resize='squash'"
            )
        batch = np.stack([image for image, _ in done])
        return accept_images(batch, spec), [view for _, view in done]

    def _explain(self, seen: _Seen, classes: Classes) -> Explanation:
        plan, parts = self._applied(seen.images, classes)
        maps, scores, chosen = (
            _concatenated([getattr(p, name) for p in parts]) for name in ("maps", "scores", "classes")
        )
        return self._explanation(seen, plan, maps, scores, chosen)

    def _without_maps(self, seen: _Seen) -> Explanation:
        """Scores alone."""
        starts, count = range(0, len(seen.images), self.batch_size), len(seen.images)
        scores = _concatenated([self.backend.scores(seen.images[i : i + self.batch_size]) for i in starts])
        maps = np.zeros((count, 0, *(1 for _ in seen.images.shape[2:])), np.float32)
        return self._explanation(seen, self._planned(seen.images), maps, scores, np.zeros((count, 0), np.int64))

    def _explanation(
        self, seen: _Seen, plan: Plan, maps: Floats, scores: Floats, classes: NDArray[np.int64]
    ) -> Explanation:
        return Explanation(
            maps=maps,
            scores=scores,
            classes=classes,
            scores_are=kind_of_scores(plan.tap.scores_are, self.independent, target=plan.target.name),
            method=plan.method.name,
            layer=", ".join(route.tap.layer for route in plan.routes),
            target=plan.target.name,
            head=plan.tap.how,
            input_size=seen.images.shape[2:],
            rectifies=plan.method.rectifies,
            images=seen.images,
            class_names=fitting_names(self.labels, scores.shape[1]),
            pictures=seen.pictures,
            views=seen.views,
            device=self.backend.device,
        )

    def _applied(self, images: Floats, classes: Classes) -> tuple[Plan, list[Maps]]:
        """The maps of all parts of a batch, by one plan."""
        plan = self._planned(images)
        try:
            return plan, self._parts(plan, images, classes)
        except HeadNotFound as error:
            other = self._without_head(images, str(error))
            if other is None:
                raise
        except MethodNotPossible:  # the backend has learned what stands in the way: the planner tells it to the end
            make_plan(backend=self.backend, example=images, **self._wanted)
            raise
        if self.backend.fixed:  # else the next call may find the head as it should be
            self._plan = other
        return other, self._parts(other, images, classes)

    def _parts(self, plan: Plan, images: Floats, classes: Classes) -> list[Maps]:
        parts = []
        for start in range(0, len(images), self.batch_size):
            work = Work(
                self.backend,
                plan,
                labels=self.labels,
                checked=self._checked and self.backend.fixed,
                batch_size=self.batch_size,
                report=self.report,
                **self._mixing,
            )
            chosen = part_of(classes, start, self.batch_size, len(images))
            parts.append(apply(work, images[start : start + self.batch_size], chosen))
            self._checked = self._checked or parts[-1].checked
        return parts

    def _without_head(self, images: Floats, why: str) -> Plan | None:
        """The plan that does not rely on the head found, where that does not reproduce the scores."""
        try:
            return make_plan(backend=self.backend, example=images, distrust=why, **self._wanted)
        except MethodNotPossible:
            return None


def _concatenated(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _name(method: str | Method) -> str:
    return method if isinstance(method, str) else method.name
