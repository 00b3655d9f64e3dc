"""Look again and again at the same pictures with a network that is being trained, also when it diverges."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import CamError, InputError
from camcore.explanation import Explanation
from camcore.recording import Recording
from camcore.recording.watched import Watched
from camcore.scores import probabilities

__all__ = ["Look", "Looker"]


class Look(NamedTuple):
    """(N, *s) raw maps, (N,) probabilities of their classes, and (N,) best classes."""

    maps: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    best: NDArray[np.int64]


class Looker:
    """Maps, probabilities and best classes of some pictures, whenever asked for, by one forward pass.

    Parameters
    ----------
    explainer : Explainer
    watched : Watched
    classes
        One a picture, as the explainer takes them. They are fixed now.

    Attributes
    ----------
    first : Look
        Now. Here all is checked.
    about : Recording
        What does not change, without frames.

    Raises
    ------
    InputError, MethodNotPossible
        As a call of the explainer.
    """

    def __init__(self, explainer: Explainer, watched: Watched, classes: Any) -> None:
        self._explainer, self._images = explainer, watched.images
        out = explainer(watched.images, classes)
        if out.classes.shape[1] != 1:
            raise InputError(f"classes are {out.classes.shape}; expected one a picture, the true one as a rule")
        self._classes, self._kind = np.ascontiguousarray(out.classes[:, 0]), out.scores_are
        self.first = self._of(out)
        self.about = _about(out, watched, self.first, self._classes)

    def __call__(self) -> Look:
        """As the network is now.

        Where scores are not finite, the picture has no best class (-1), and map and probability are NaN.

        Raises
        ------
        CamError
            If the network has become another one, which cannot be explained as before.
        """
        try:
            out = self._explainer(self._images, self._classes)
        except CamError:
            look = self._what_is_left()
            if (look.best >= 0).all():  # then something else is wrong
                raise
            return look
        if out.method != self.about.method:
            raise InputError(f"{self.about.method} is not possible any more, only {out.method}; these maps do not mix")
        return self._of(out)

    def _of(self, out: Explanation) -> Look:
        return Look(out.maps[:, 0], *self._taken_for(out.scores))

    def _what_is_left(self) -> Look:
        """Scores of all pictures, and maps of those whose scores are numbers."""
        size, backend = self._explainer.batch_size, self._explainer.backend
        parts = [backend.scores(self._images[i : i + size]) for i in range(0, len(self._images), size)]
        chances, best = self._taken_for(np.concatenate(parts))
        maps, fine = np.full_like(self.first.maps, np.nan), best >= 0
        if fine.any() and not fine.all():
            with suppress(CamError):
                maps[fine] = self._explainer(self._images[fine], self._classes[fine]).maps[:, 0]
        return Look(maps, chances, best)

    def _taken_for(self, scores: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with np.errstate(all="ignore"):
            chances = probabilities(scores, self._kind)[np.arange(len(scores)), self._classes]
        fine = np.isfinite(scores).all(axis=1)
        best = np.where(fine, np.argmax(np.nan_to_num(scores), axis=1), -1)
        return np.where(fine, chances, np.nan).astype(np.float32), best


def _about(out: Explanation, watched: Watched, look: Look, classes: NDArray[np.int64]) -> Recording:
    return Recording(
        steps=np.empty(0, np.int64),
        maps=np.empty((0, *look.maps.shape), np.float32),
        probabilities=np.empty((0, len(classes)), np.float32),
        best=np.empty((0, len(classes)), np.int64),
        classes=classes,
        pictures=watched.pictures,
        labels=out.class_names,
        names=watched.names,
        masks=watched.masks,
        method=out.method,
        layer=out.layer,
        rectifies=out.rectifies,
    )
