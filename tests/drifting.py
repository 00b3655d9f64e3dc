"""A recording in which maps walk from a corner to the object while the loss falls."""

from __future__ import annotations

from typing import Any

import numpy as np

from camcore.recording import Curve, Recording

LABELS = ("cap", "cube, Rubik's cube", "шапка")


def drifting(
    frames: int = 6, pictures: int = 3, *, size: tuple[int, int] = (24, 32), every: int = 10, **changes: Any
) -> Recording:
    """Blobs of heat that end on the object, which is in the right half; the second half of the frames is right."""
    steps = np.arange(frames) * every
    logged = np.arange(1, max(int(steps[-1]), 1) + 1)
    masks = np.zeros((pictures, *size), bool)
    masks[:, :, size[1] // 2 :] = True
    walked = np.linspace(0, 1, frames)
    fields: dict[str, Any] = {
        "steps": steps,
        "maps": np.stack([[_blob(share, n) for n in range(pictures)] for share in walked]),
        "probabilities": np.repeat(np.linspace(0.1, 0.9, frames, dtype=np.float32)[:, None], pictures, axis=1),
        "best": np.repeat((np.arange(frames) < frames / 2).astype(np.int64)[:, None], pictures, axis=1),
        "classes": np.zeros(pictures, np.int64),
        "pictures": np.stack([_picture(size, n) for n in range(pictures)]),
        "curves": {
            "loss": Curve(logged, 2 / np.sqrt(logged)),
            "accuracy": Curve(steps, walked),
            "epoch": Curve(logged, np.ceil(logged / every)),
        },
        "labels": LABELS,
        "names": tuple(f"picture-{n}" for n in range(pictures)),
        "masks": masks,
        "layer": "blocks",
    }
    return Recording(**(fields | changes))


def _blob(share: float, picture: int) -> Any:
    y, x = np.mgrid[:6, :8]
    return np.exp(-((y - 1 - picture) ** 2 + (x - 1 - 5 * share) ** 2) / 2).astype(np.float32)


def _picture(size: tuple[int, int], number: int) -> Any:
    """Slow waves of three colours."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin((k + 1) * y / size[0] + (number + 2) * x / size[1] + k * number) for k in range(3)]
    return np.rint(127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
