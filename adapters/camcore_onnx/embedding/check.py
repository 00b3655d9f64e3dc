"""Prove that the map inside a file is the map that the library makes of the plain model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.checking.comparing_maps import compare_embedded
from camcore_onnx.checking.sides import open_side
from camcore_onnx.checking.verify import Check

__all__ = ["check_embedded"]


def check_embedded(
    path: Path,
    plain: OnnxBackend,
    card: Mapping[str, Any],
    batches: Sequence[NDArray[np.floating[Any]]],
    *,
    limit: float,
) -> list[Check]:
    """The map, its scores and its heatmap, as far as they are there, against the explainer's of the plain model.

    Parameters
    ----------
    path : Path
        The file with the map inside.
    plain : OnnxBackend
    card : mapping
        What the file says of its map.
    batches : sequence of (N, C, *S) ndarray
    limit : float
        Of the difference, in parts of the largest value of an image.
    """
    found = compare_embedded(
        lambda **asked: Explainer(plain, **asked), open_side(path).side, card, batches, limits=(limit, 0.0)
    )
    return [
        Check(f"{part.name}, graph against explainer", part.passed, part.note or card["way"], part.relative, limit)
        for part in found.parts
    ]
