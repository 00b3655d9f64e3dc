"""What the demo measures: pictures as the network takes them, PyTorch against ONNX Runtime, peaks on the object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore.explanation import Explanation
from camcore.pictures import Picture
from camcore.preprocess import preprocess
from camcore_tools.merchandise import KINDS, PictureSet, picture_set

if TYPE_CHECKING:
    from camcore_onnx.verify import Check

__all__ = ["LIMIT", "RULE", "SIDE", "Mistake", "best_heat", "compare", "gallery", "inputs", "mistakes", "peaks_on"]

SIDE = 64
LIMIT = 1e-4  # of the largest value: what float32 arithmetic in another order may change
RULE = preprocess("tf", size=(SIDE, SIDE), resize="squash")


def inputs(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) pixels to the (N, 3, 64, 64) input, by the rule that the exported model records."""
    return np.stack([RULE(picture)[0] for picture in pictures])


def gallery(per_kind: int, *, seed: int) -> tuple[list[Picture], PictureSet]:
    """Pictures to look at, larger than the network takes them: kind after kind, named ``cap-1``, ``cap-2`` ..."""
    drawn = picture_set(per_kind, 256, seed=seed)
    order = np.argsort(drawn.labels, kind="stable")
    shown = PictureSet(drawn.images[order], drawn.labels[order], drawn.masks[order])
    names = [f"{kind.replace(' ', '-')}-{n}" for kind in KINDS for n in range(1, per_kind + 1)]
    return [Picture(pixels, name) for pixels, name in zip(shown.images, names, strict=True)], shown


def compare(found: Explanation, expected: Explanation) -> list[Check]:
    """Scores and maps of the same pictures in ONNX Runtime and in PyTorch."""
    from camcore_onnx.verify import Check, relative

    best = found.scores.argmax(axis=1) == expected.scores.argmax(axis=1)
    total = f"{len(found)} validation pictures"
    rows = [("scores", found.scores, expected.scores), ("maps", found.maps, expected.maps)]
    checks = []
    for name, ours, theirs in rows:
        apart = relative(ours, theirs)
        checks.append(Check(f"{name} of all classes", apart <= LIMIT, total, apart, LIMIT))
    return [*checks, Check("best class", bool(best.all()), f"the same in {best.sum()} of {total}")]


def best_heat(out: Explanation) -> NDArray[np.float32]:
    """The (N, H, W) heatmaps of the class that each picture is taken for; ``out`` has the maps of all classes."""
    return out.heatmaps()[np.arange(len(out)), out.scores.argmax(axis=1)]


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
