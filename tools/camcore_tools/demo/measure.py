"""What the demo measures: pictures as the network takes them, PyTorch against ONNX Runtime, peaks on the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import camcore
from camcore.explanation import Explanation
from camcore.pictures import Picture
from camcore.preprocess import preprocess
from camcore_tools.merchandise import KINDS, PictureSet, picture_set

if TYPE_CHECKING:
    from camcore_onnx.checking.verify import Check
    from torch import nn

__all__ = [
    "LIMIT",
    "RULE",
    "SIDE",
    "Data",
    "Findings",
    "Mistake",
    "best_heat",
    "compare",
    "draw_data",
    "inputs",
    "measure",
    "mistakes",
    "peaks_on",
]

SIDE = 64
LIMIT = 1e-4  # of the largest value: what float32 arithmetic in another order may change
RULE = preprocess("tf", size=(SIDE, SIDE), resize="squash")


def inputs(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) pixels to the (N, 3, 64, 64) input, by the rule that the exported model records."""
    return np.stack([RULE(picture)[0] for picture in pictures])


@dataclass(frozen=True, eq=False)
class Data:
    """The pictures of the demo; those of the gallery are larger than the network takes them, for the eye.

    Attributes
    ----------
    training, validation : PictureSet
    pictures : list of Picture
        The gallery, kind after kind, named ``cap-1``, ``cap-2`` ...
    labels : (len(pictures),) ndarray
        Their kinds.
    """

    training: PictureSet
    validation: PictureSet
    pictures: list[Picture]
    labels: NDArray[np.int64]


def draw_data(*, training: int, validation: int, gallery: int, seed: int) -> Data:
    """Draw three disjoint sets, each with so many pictures of every kind."""
    first, second, third = (int(word) for word in np.random.SeedSequence(seed).generate_state(3))
    drawn = picture_set(gallery, 256, seed=third)
    order = np.argsort(drawn.labels, kind="stable")
    names = [f"{kind.replace(' ', '-')}-{n}" for kind in KINDS for n in range(1, gallery + 1)]
    pictures = [Picture(pixels, name) for pixels, name in zip(drawn.images[order], names, strict=True)]
    return Data(
        picture_set(training, SIDE, seed=first),
        picture_set(validation, SIDE, seed=second),
        pictures,
        drawn.labels[order],
    )


@dataclass(frozen=True)
class Findings:
    """What the exported model was found to do on the validation pictures.

    Attributes
    ----------
    accuracy : float
        Share of them that is right.
    on_object, pictures : int
        In how many of how many the peak of the map lies on the object.
    by_chance : float
        The share that a random pixel would reach: the mean area of the objects.
    checks : list of Check
        PyTorch against ONNX Runtime.
    mistakes : list of Mistake
    everything : Explanation
        The maps of all classes in ONNX Runtime.
    gallery : Explanation
        The gallery in ONNX Runtime, from pictures to maps of the best class.
    """

    accuracy: float
    on_object: int
    pictures: int
    by_chance: float
    checks: list[Check]
    mistakes: list[Mistake]
    everything: Explanation
    gallery: Explanation


def measure(network: nn.Module, model: Path, data: Data, *, threads: int | None = None) -> Findings:
    """Explain the validation pictures with the exported model and with the network that it was exported from."""
    images, labels, masks = inputs(data.validation.images), data.validation.labels, data.validation.masks
    shipped = camcore.explainer(model, device="cpu", threads=threads)
    found = shipped(images, "all")
    return Findings(
        accuracy=float((found.scores.argmax(axis=1) == labels).mean()),
        on_object=int(peaks_on(best_heat(found), masks).sum()),
        pictures=len(labels),
        by_chance=float(masks.mean()),
        checks=compare(found, camcore.explainer(network, device="cpu")(images, "all")),
        mistakes=mistakes(found, labels),
        everything=found,
        gallery=shipped(data.pictures),
    )


def compare(found: Explanation, expected: Explanation) -> list[Check]:
    """Scores and maps of the same pictures in ONNX Runtime and in PyTorch."""
    from camcore_onnx.checking.verify import Check, relative

    total = f"{len(found)} validation pictures"
    checks = []
    for name, ours, theirs in (("scores", found.scores, expected.scores), ("maps", found.maps, expected.maps)):
        apart = relative(ours, theirs)
        checks.append(Check(f"{name} of {total}", apart <= LIMIT, "all classes", apart, LIMIT))
    same = found.scores.argmax(axis=1) == expected.scores.argmax(axis=1)
    return [*checks, Check(f"best class of {total}", bool(same.all()), f"the same in {same.sum()} of {len(found)}")]


def best_heat(out: Explanation) -> NDArray[np.float32]:
    """The (N, H, W) heatmaps of the class that each picture is taken for; ``out`` has the maps of all classes."""
    heats: NDArray[np.float32] = out.heatmaps()[np.arange(len(out)), out.scores.argmax(axis=1)]
    return heats


def peaks_on(heats: NDArray[np.floating[Any]], masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the hottest pixel of each (N, H, W) heatmap lies on the mask.

    Examples
    --------
    >>> peaks_on(np.array([[[0.0, 1.0]], [[1.0, 0.0]]]), np.array([[[False, True]], [[False, True]]])).tolist()
    [True, False]
    """
    peaks = heats.reshape(len(heats), -1).argmax(axis=1)
    found: NDArray[np.bool_] = masks.reshape(len(masks), -1)[np.arange(len(masks)), peaks]
    return found


@dataclass(frozen=True)
class Mistake:
    """A picture taken for something else: its number, both classes, and the probability given to each."""

    picture: int
    taken_for: int
    truth: int
    chance_taken: float
    chance_truth: float


def mistakes(out: Explanation, labels: Sequence[int] | NDArray[np.int64]) -> list[Mistake]:
    """The misclassified pictures, the most confident mistake first."""
    chances, best = out.probabilities, out.scores.argmax(axis=1)
    found = [
        Mistake(n, int(best[n]), int(labels[n]), float(chances[n, best[n]]), float(chances[n, labels[n]]))
        for n in np.flatnonzero(best != labels).tolist()
    ]
    return sorted(found, key=lambda m: -m.chance_taken)
