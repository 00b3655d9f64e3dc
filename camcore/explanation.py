"""What an explainer gives back: raw maps, scores, classes, and everything drawn from them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camcore import multilabel, regions
from camcore.errors import InputError
from camcore.normalize import finite, normalize, postprocess, rectify
from camcore.pictures import Picture
from camcore.preprocess import View
from camcore.resize import resize
from camcore.scores import probabilities

__all__ = ["Explanation", "heatmaps_of"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Class activation maps of a batch of N images, T classes each.

    Attributes
    ----------
    maps : (N, T, *s) float32 ndarray
        Raw and signed.
    scores : (N, K) float32 ndarray
        Of all classes; ``scores_are`` says whether they are logits, probabilities or log-probabilities.
    classes : (N, T) int64 ndarray
    method, layer, head : str
        What was computed, where, and the operations that make the scores of the features.
    input_size : tuple of int
        The spatial size of the network's input.
    rectifies : bool
        Whether heatmaps start from ReLU(map).
    class_names : tuple of str or None
        The names of all K classes.
    images : (N, C, *S) ndarray
        What the network saw.
    pictures, views : lists or None
        The pictures that the images were made of, and the part of each that the network saw (x0, y0, x1, y1).
    device : str
    target : str
        What was explained: ``"logit"``, ``"probability"``, ...
    """

    maps: NDArray[np.float32]
    scores: Floats
    classes: NDArray[np.int64]
    scores_are: str
    method: str
    layer: str
    head: str
    input_size: tuple[int, ...]
    rectifies: bool
    images: Floats
    class_names: tuple[str, ...] | None = None
    pictures: Sequence[Picture] | None = None
    views: Sequence[View] | None = None
    device: str = "cpu"
    target: str = "logit"

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int | slice) -> Explanation:
        """The explanation of some of the images; an int keeps the batch axis."""
        part = index if isinstance(index, slice) else self._slice(operator.index(index))
        return replace(
            self,
            maps=self.maps[part],
            scores=self.scores[part],
            classes=self.classes[part],
            images=self.images[part],
            pictures=None if self.pictures is None else self.pictures[part],
            views=None if self.views is None else self.views[part],
        )

    def _slice(self, index: int) -> slice:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return slice(index, index + 1 or None)

    def __repr__(self) -> str:
        of = "" if self.target == "logit" else f" of {self.target}"
        return f"Explanation({self.method}{of} at {self.layer}, maps {self.maps.shape}, scores {self.scores.shape})"

    @property
    def labels(self) -> list[list[str]] | None:
        """(N, T) class names, or None where the model has none."""
        if self.class_names is None:
            return None
        names = self.class_names
        return [[names[c] for c in row] for row in self.classes.tolist()]

    @property
    def probabilities(self) -> Floats:
        """(N, K) values in [0, 1]: the scores through softmax (a single logit through the logistic function)."""
        return probabilities(self.scores, self.scores_are)

    def label(self, index: int) -> str:
        """The name of a class, or ``class 7`` where names are not known."""
        return self.class_names[index] if self.class_names is not None else f"class {index}"

    def heatmaps(
        self,
        size: Sequence[int] | None = None,
        *,
        normalization: str = "minmax",
        mode: str = "linear",
        threshold: float = 0.0,
        gain: float = 1.0,
    ) -> NDArray[np.float32]:
        """The maps rectified (where the method says so), resized and scaled to [0, 1].

        Parameters
        ----------
        size : sequence of int, optional
            One length a spatial axis; the input's where absent.
        normalization : str
            See :func:`camcore.normalize`.
        mode : {"linear", "cubic"}
        threshold, gain : float
            See :func:`camcore.postprocess`.

        Returns
        -------
        (N, T, *size) float32 ndarray
            In [0, 1], and never NaN:

            - a map that is the same everywhere, also one of zeros or of a single position, gives zeros; so does one
              that is nowhere positive where the method rectifies;
            - raw maps of 1e-30 or 1e30 look like those of 1: only what float32 cannot hold is lost;
            - infinity counts as the largest float, NaN as the smallest value of its map; a map of nothing but NaN gives
              zeros.

        Raises
        ------
        InputError
            For a size that is not one whole number, at least 1, for each axis; or an unknown normalisation.
        """
        size = self._size(size)
        options: dict[str, Any] = {"normalization": normalization, "mode": mode, "threshold": threshold, "gain": gain}
        return heatmaps_of(self.maps, size, rectifies=self.rectifies, **options)

    def _size(self, size: Any) -> tuple[int, ...]:
        """What a user gives as a size, checked."""
        if size is None:
            return self.input_size
        try:
            lengths = tuple(operator.index(n) for n in size)
        except TypeError:
            lengths = ()
        if len(lengths) != len(self.input_size) or min(lengths) < 1:
            raise InputError(
                f"size is {size!r}; expected one length a spatial axis, whole and at least 1, as in {self.input_size}"
            )
        return lengths

    def boxes(self, threshold: float = 0.2) -> list[list[list[regions.Box]]]:
        """For each image and class the boxes of the heatmap above ``threshold`` times its maximum.

        In pixels of the network's input; the largest component first.
        """
        self._need_pictures("boxes")
        return [[regions.boxes(heat, threshold) for heat in row] for row in self.heatmaps()]

    def masks(self, threshold: float = 0.2) -> NDArray[np.bool_]:
        """(N, T, *S) bool: where the heatmap reaches ``threshold`` times its maximum."""
        self._need_pictures("masks")
        return regions.mask(self.heatmaps(), threshold)

    def present(self, threshold: float = 0.5) -> NDArray[np.bool_]:
        """(N, K) bool: which classes are there, by their probability."""
        return multilabel.present(self.probabilities, threshold)

    def only_present(self, n: int, threshold: float = 0.5, *, most: int | None = None) -> Explanation:
        """Image ``n`` with the maps of the classes that are there only, the most probable first; there may be none."""
        places = multilabel.in_order(self.probabilities[n], self.classes[n].tolist(), threshold, most)
        one = self[n]
        return replace(one, maps=one.maps[:, places], classes=one.classes[:, places])

    def label_masks(
        self, threshold: float = 0.2, *, present: float = 0.5, normalization: str = "relu-max"
    ) -> NDArray[np.int32]:
        """(N, *S) int32: to each pixel the class of the strongest heat + 1, or 0; see :func:`camcore.label_mask`.

        Parameters
        ----------
        threshold : float
            The background score.
        present : float
            Only classes of at least this probability take part; of those that have maps.
        normalization : str
            See :func:`camcore.normalize`.
        """
        each = [self.only_present(n, present) for n in range(len(self))]
        heats = [one.heatmaps(normalization=normalization)[0] for one in each]
        return np.stack(
            [multilabel.label_mask(h, one.classes[0], threshold=threshold) for h, one in zip(heats, each, strict=True)]
        )

    def overlays(self, **style: Any) -> list[list[NDArray[np.uint8]]]:
        """For each image and class the heatmap over the picture, (H, W, 3) uint8.

        The options are those of :func:`camcore.figures.overlays`.
        """
        from camcore import figures

        self._need_pictures("overlays")
        return [figures.overlays(self, n, **style) for n in range(len(self))]

    def together(self, threshold: float = 0.5, **style: Any) -> list[NDArray[np.uint8]]:
        """For each image one picture with the heat of all classes that are there, (H, W, 3) uint8.

        A class has the same colour in all. The options are those of :func:`camcore.figures.together`.
        """
        from camcore import figures
        from camcore.multilabel.together import ClassColors

        self._need_pictures("overlays")
        given = {"threshold": threshold, "colors": ClassColors(), **style}
        return [figures.together(self, n, **given) for n in range(len(self))]

    def save(self, folder: str | PathLike[str], **style: Any) -> list[Path]:
        """Write overlays, ``maps.npz`` and ``result.json`` into a folder; gives the files written."""
        from camcore.results import ResultFolder

        with ResultFolder(folder, **style) as results:
            results.add(self)
        return results.files

    def _need_pictures(self, what: str) -> None:
        if len(self.input_size) != 2:
            raise InputError(
                f"{what} need pictures with two spatial axes; this input has {len(self.input_size)}: "
                "use .maps or .heatmaps()"
            )


def heatmaps_of(
    maps: Floats,
    size: tuple[int, ...],
    *,
    rectifies: bool,
    normalization: str = "minmax",
    mode: Literal["linear", "cubic"] = "linear",
    threshold: float = 0.0,
    gain: float = 1.0,
) -> NDArray[np.float32]:
    """(N, T, *s) raw maps as (N, T, *size) heatmaps; see :meth:`Explanation.heatmaps`."""
    if not maps.size:  # of no class
        return np.zeros((*maps.shape[:2], *size), np.float32)
    maps = rectify(maps) if rectifies else maps
    maps = finite(maps, tuple(range(2, maps.ndim)))  # before resizing, which would spread one NaN over rows
    with np.errstate(over="ignore", invalid="ignore"):
        larger = resize(maps, size, mode=mode)
    heat = normalize(larger, normalization, spatial=len(size))
    if threshold or gain != 1.0:
        heat = postprocess(heat, threshold=threshold, gain=gain)
    return heat.astype(np.float32, copy=False)
