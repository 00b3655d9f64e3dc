"""Explanations as rows of one shape: an image that cannot be explained is a row with its error; the rest is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible
from camcore.evidence import Floats
from camcore.explanation import Explanation
from camcore.preprocess import Preprocess

__all__ = ["Facts", "RowExplainer", "Rows"]

SEED = 20_240_229


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of N images, T classes each; a row of an error holds NaN, and -1 as its classes.

    Attributes
    ----------
    maps : (N, T, *s) float32 ndarray
        Raw and signed.
    classes : (N, T) int64 ndarray
    scores, probabilities : (N, T) float32 ndarray
    errors : list of str
        Empty texts where all is well.
    """

    maps: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    errors: list[str]

    @classmethod
    def empty(cls, shape: tuple[int, ...], errors: Sequence[str]) -> Rows:
        """Rows without any explanation; ``shape`` is (T, *s)."""
        count = len(errors)
        numbers = np.full((count, shape[0]), np.nan, np.float32)
        return cls(
            np.full((count, *shape), np.nan, np.float32),
            np.full((count, shape[0]), -1, np.int64),
            numbers,
            numbers.copy(),
            list(errors),
        )

    def put(self, places: Sequence[int], rows: Rows) -> None:
        """Write other rows over these."""
        for name in ("maps", "classes", "scores", "probabilities"):
            getattr(self, name)[list(places)] = getattr(rows, name)
        for place, error in zip(places, rows.errors, strict=True):
            self.errors[place] = error


@dataclass(frozen=True)
class Facts:
    """What is the same for all rows.

    Attributes
    ----------
    shape : tuple of int
        (T, *s), of the maps of one image.
    method, layer, target, head, scores_are, device : str
    rectifies : bool
        Whether heatmaps start from ReLU(map).
    input_size : tuple of int
    class_names : tuple of str or None
    """

    shape: tuple[int, ...]
    method: str
    layer: str
    target: str
    head: str
    scores_are: str
    device: str
    rectifies: bool
    input_size: tuple[int, ...]
    class_names: tuple[str, ...] | None


class RowExplainer:
    """Explains batches row by row.

    Parameters
    ----------
    explainer : Explainer
    classes : None, str, int or list
        The same for all images: as :func:`camcore.choose_classes`, but a list names the classes of each image.

    Notes
    -----
    Before its first batch the model is shown noise of the same size. So what no image could change (an unknown layer or
    class, names that do not fit) is raised at once, and is no error of a row; the shape of the maps is known before any
    image is; and whether the head reproduces the scores is settled in the same way in each process.
    """

    def __init__(self, explainer: Explainer, classes: str | int | Sequence[int] | Sequence[str] | None = None) -> None:
        self.explainer = explainer
        self._classes = classes
        self._facts: dict[tuple[int, ...], Facts] = {}

    def facts(self, shape: tuple[int, ...]) -> Facts:
        """What holds for images of a shape (C, *S).

        Raises
        ------
        CamError
            If no image of this shape can be explained.
        """
        if shape not in self._facts:
            out = self._explain(self._noise(shape))
            names = [field.name for field in fields(Facts) if field.name != "shape"]
            self._facts[shape] = Facts(shape=out.maps.shape[1:], **{name: getattr(out, name) for name in names})
        return self._facts[shape]

    def __call__(self, images: Floats) -> Rows:
        """Explain (N, C, *S) images of a shape that :meth:`facts` has seen."""
        shape = self.facts(images.shape[1:]).shape
        if not len(images):
            return Rows.empty(shape, [])
        try:
            return _rows(self._explain(images))
        except (InputError, MethodNotPossible) as error:
            rows = self._one_by_one(images, shape, error)
        if all(rows.errors):  # so that what is no fault of the images, such as a lost device, is not told of each
            self._explain(self._noise(images.shape[1:]))
        return rows

    def _one_by_one(self, images: Floats, shape: tuple[int, ...], error: Exception) -> Rows:
        rows = Rows.empty(shape, [_reason(image, error) for image in images])
        for n in range(len(images) if len(images) > 1 else 0):
            try:
                rows.put([n], _rows(self._explain(images[n : n + 1])))
            except (InputError, MethodNotPossible) as own:
                rows.errors[n] = _reason(images[n], own)
        return rows

    def _explain(self, images: Floats) -> Explanation:
        chosen = self._classes
        if chosen is not None and not isinstance(chosen, (str, int)):
            names = np.asarray(chosen)
            return self.explainer(images, np.broadcast_to(names, (len(images), len(names))))
        return self.explainer(images, chosen)

    def _noise(self, shape: tuple[int, ...]) -> Floats:
        """Two images as they might come."""
        random = np.random.default_rng(SEED)
        pixels = random.integers(0, 256, (2, *shape[1:], 3), dtype=np.uint8)
        rule = self.explainer.preprocess
        if rule is not None and shape[0] in (1, 3) and len(shape) == 3:
            return np.stack([_values(rule, p, shape[0]) for p in pixels])
        noise = random.integers(0, 256, (2, *shape)).astype(np.float32)
        return noise if self.explainer.backend.input.dtype == "uint8" else noise / np.float32(255)


def _values(rule: Preprocess, pixels: NDArray[np.uint8], channels: int) -> NDArray[np.float32]:
    return rule.values(pixels, channels=channels)


def _rows(out: Explanation) -> Rows:
    scores, chances = (np.take_along_axis(v, out.classes, axis=1) for v in (out.scores, out.probabilities))
    single = np.float32
    return Rows(out.maps, out.classes, scores.astype(single), chances.astype(single), [""] * len(out))


def _reason(image: Floats, error: Exception) -> str:
    """Why one image was left out; the engine counts images within a batch."""
    wrong = int((~np.isfinite(image)).sum())
    return f"the image has {wrong} pixels that are NaN or infinite" if wrong else str(error)
