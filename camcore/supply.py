"""What a formula asks for, supplied: from a backend's evidence, from a pooled head, or by running the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import closed_form
from camcore.errors import InputError
from camcore.evidence import Backend, Evidence
from camcore.head import LinearHead
from camcore.methods.probes import Probe, Scene
from camcore.plan import Plan, Route
from camcore.targets import Aim, Target

__all__ = ["TAIL_BYTES", "Report", "Supply"]

Floats = NDArray[np.floating[Any]]
Run = Callable[[Floats], Floats]
Report = Callable[[int, int], None]

# Perturbed features of one image that are held at a time.
TAIL_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Supply:
    """What there is to make one layer's maps of a batch from.

    Attributes
    ----------
    backend : Backend
    plan : Plan
    route : Route
        The layer, and the way to what its maps need.
    batch : (N, C0, *S0) ndarray
        The images.
    evidence : Evidence
        What the backend saw.
    batch_size : int
        Images a forward pass, in runs of the whole model.
    report : callable, optional
        ``report(done, total)`` after each batch of the runs of one image.
    """

    backend: Backend
    plan: Plan
    route: Route
    batch: Floats
    evidence: Evidence
    batch_size: int = 32
    report: Report | None = field(default=None, repr=False)

    def given(self) -> dict[str, Any]:
        """The keyword arguments of the formula: each of its needs by name."""
        row = self.plan.method
        needs = {"responses" if need in ("tail", "model") else need for need in row.needs}
        return {need: getattr(self, need)() for need in needs} | {"classes": self.evidence.classes, **row.options}

    def images(self) -> Floats:
        """(N, C0, *S0) float32."""
        return self.batch.astype(np.float32, copy=False)

    def features(self) -> Floats:
        """(N, C, *S)."""
        return self.evidence.need_features()

    def head(self) -> LinearHead:
        """The linear head; the planner has seen to that."""
        assert isinstance(self.evidence.head, LinearHead)
        return self.evidence.head

    def second_weight(self) -> Floats:
        """(K, C), of a second classifier."""
        return _asked_for(self.backend.second_weight)

    def gradients(self) -> Floats:
        """(N, T, C, *S), or with spatial axes of length one."""
        return self._gradients

    def curvature(self) -> Floats:
        """The Hessian of the target times the features, shaped like the gradients."""
        if self.route.closed:
            return closed_form.curvature(self._pooled_head, self.features(), self._sloped)
        return _asked_for(self.evidence.curvature)

    def moments(self) -> tuple[Floats, ...]:
        """Means of the gradients, their squares and cubes over noisy copies of the images."""
        if self.route.closed:
            return closed_form.moments(self._gradients)
        return self._noisy_moments(**{k: self.plan.method.options[k] for k in ("samples", "spread", "seed")})

    def contributions(self) -> Floats:
        """(N, T, C): what each channel gives the target, by DeepLIFT against features of zero."""
        if self.route.closed:
            return closed_form.contributions(self.head(), self.features(), self._aim)
        return _asked_for(self.evidence.contributions)

    def responses(self) -> Floats:
        """(N, T, P): the target of what the method's probe shows to the tail or to the model."""
        probe, options = self._probe, self.plan.method.options
        if self.route.closed and probe.where == "tail":
            return closed_form.responses(self._pooled_head, probe, self.features(), self._aim, options)
        return np.stack([self._answers(n, run) for n, run in enumerate(self._runs())])

    @cached_property
    def _gradients(self) -> Floats:
        if self.route.closed:
            return closed_form.gradients(self._pooled_head, self.features(), self._sloped)
        return _asked_for(self.evidence.gradients)

    @property
    def _pooled_head(self) -> Any:
        return _asked_for(self.evidence.head)

    @property
    def _probe(self) -> Probe:
        return _asked_for(self.plan.method.probe)

    @cached_property
    def _aim(self) -> Aim:
        return self.aim(self.plan.target)

    @cached_property
    def _sloped(self) -> Aim:
        return self.aim(self.plan.sloped)

    def aim(self, target: Target) -> Aim:
        """A target at the scores and classes of the batch."""
        alone = self.route.tap.scores_are == "independent logit"
        return target.aim(self.evidence.scores, self.evidence.classes, alone=alone)

    def _noisy_moments(self, *, samples: int, spread: float, seed: int) -> tuple[Floats, ...]:
        """The noise is the same for every image, so a map does not depend on the batch that it is computed in."""
        sums: list[Any] = [0.0, 0.0, 0.0]
        for sample in range(samples):
            noise = np.random.default_rng([seed, sample]).standard_normal(self.batch.shape[1:])
            gradients = self._gradients_of((self.batch + spread * noise).astype(self.batch.dtype))
            sums = [total + gradients**power for power, total in enumerate(sums, start=1)]
            self._tell(sample + 1, samples)
        return tuple(total / samples for total in sums)

    def _gradients_of(self, images: Floats) -> Floats:
        """Float64 gradients of other copies of the images, of the same classes."""
        (seen,) = self.backend.observe(
            images,
            needs=frozenset({"gradients"}),
            layers=[self.route.layer],
            classes=self.evidence.classes,
            target=self._sloped.held(),
        )
        return _asked_for(seen.gradients).astype(np.float64)

    def _runs(self) -> Iterable[Run]:
        """For each image, who runs its inputs."""
        if self._probe.where == "tail":
            return self.backend.tails(self.batch, self.route.layer)
        return [self.backend.scores] * len(self.batch)

    def _answers(self, n: int, run: Run) -> Floats:
        """The (T, P) answers for one image; where its inputs depend on the class, each class has its own."""
        parts = [self._run(n, run, scene) for scene in self._scenes(n)]
        return np.stack([part[t] for t, part in enumerate(parts)]) if self._probe.per_class else parts[0]

    def _scenes(self, n: int) -> Iterator[Scene]:
        image, features = self.batch[n], self.features()[n]
        if not self._probe.per_class:
            yield Scene(image, features)
            return
        for gradients in self._gradients[n]:
            yield Scene(image, features, gradients)

    def _run(self, n: int, run: Run, scene: Scene) -> Floats:
        """The (T, P) target values of a scene's inputs, in batches of bounded size."""
        probe, options = self._probe, self.plan.method.options
        total = probe.count(scene, **options)
        size = self.batch_size if probe.where == "model" else _fitting(scene.features)
        answers = np.empty((self.evidence.classes.shape[1], total))
        for start in range(0, total, size):
            index = range(start, min(total, start + size))
            answers[:, index.start : index.stop] = self._aim.of(n, run(probe.inputs(scene, index, **options))).T
            self._tell(index.stop, total)
        return answers

    def _tell(self, done: int, total: int) -> None:
        if self.report is not None:
            self.report(done, total)


def _asked_for(part: Any) -> Any:
    """What a backend must give where the plan asked for it."""
    if part is None:
        raise InputError("the backend did not give what was asked for; see camcore.Backend.observe")
    return part


def _fitting(features: Floats) -> int:
    """How many copies of an image's features are run at a time."""
    return max(1, min(256, TAIL_BYTES // max(1, features.nbytes)))
