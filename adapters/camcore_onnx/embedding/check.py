"""Prove that the map inside a file is the map that the library makes of the plain model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.explanation import Explanation
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.plain import output_names
from camcore_onnx.runtime import make_session
from camcore_onnx.verify import Check, relative

__all__ = ["check_embedded"]

Floats = NDArray[np.floating[Any]]


def check_embedded(
    path: Path,
    plain: OnnxBackend,
    card: Mapping[str, Any],
    batches: Sequence[Floats],
    *,
    limit: float,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Check]:
    """The map, and the heatmap where there is one, against the explainer's of the model without it.

    Parameters
    ----------
    path : Path
        The file with the map inside.
    plain : OnnxBackend
    card : mapping
        What the file says of its map.
    batches : sequence of (N, C, *S) ndarray
    limit : float
        Of the difference, in parts of the largest value.
    layer, options
        As they were asked for.
    """
    explainer = Explainer(plain, method=card["method"], layer=layer, target=card["target"], options=dict(options or {}))
    session, spec = make_session(str(path), device="cpu"), plain.input
    worst: dict[str, float] = {}
    for images in batches:
        names = [o.name for o in session.get_outputs()]
        found = dict(zip(names, session.run(names, {spec.name: images.astype(spec.dtype)}), strict=True))
        for name, difference in _differences(found, card, explainer, images):
            worst[name] = max(worst.get(name, 0.0), difference)
    return [Check(f"{name}, graph against explainer", d <= limit, card["way"], d, limit) for name, d in worst.items()]


def _differences(
    found: Mapping[str, Floats], card: Mapping[str, Any], explainer: Explainer, images: Floats
) -> list[tuple[str, float]]:
    """By the classes that the file chose: of two scores that are almost the same either may be first."""
    name, _, _, heatmap = output_names(card)
    out: Explanation = explainer(
        images, "all" if card["classes"] == "all" else found[f"{name}_classes"].astype(np.int64)
    )
    seen = [(name, relative(found[name], out.maps))]
    if card["classes"] != "all":
        scores = np.take_along_axis(out.scores, out.classes, axis=1)
        seen.append((f"{name}_scores", relative(found[f"{name}_scores"], scores)))
    if heatmap in found:
        seen.append((heatmap, relative(found[heatmap], out.heatmaps(found[heatmap].shape[2:]))))
    return seen
