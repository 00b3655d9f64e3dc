"""Recordings that the tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from camcore.recording import Curve, Recording
from camcore.recording.buffer import Store


def recording(frames: int = 4, pictures: int = 3, *, size: tuple[int, int] = (5, 6), seed: int = 0) -> Recording:
    """Random maps of some pictures, with names in several scripts, masks and two curves."""
    rng = np.random.default_rng(seed)
    steps = np.arange(frames) * 10
    logged = np.arange(1, max(10 * frames, 2))
    return Recording(
        steps=steps,
        maps=rng.standard_normal((frames, pictures, *size)).astype(np.float32),
        probabilities=rng.random((frames, pictures)).astype(np.float32),
        best=rng.integers(0, 3, (frames, pictures)),
        classes=rng.integers(0, 3, pictures),
        pictures=rng.integers(0, 256, (pictures, 8, 9, 3), np.uint8),
        curves={
            "loss": Curve(logged, 1 / np.sqrt(logged)),
            "accuracy": Curve(logged[::5], np.linspace(0, 1, len(logged[::5]))),
        },
        labels=("cap", "Würfel", "玩具"),
        names=tuple(f"picture <{n}>" for n in range(pictures)),
        masks=rng.random((pictures, 4, 4)) > 0.5,
        method="layercam",
        layer="blocks.1, blocks.2",
        rectifies=True,
    )


def without_frames(whole: Recording) -> Recording:
    """What of it does not change."""
    parts = {name: getattr(whole, name)[:0] for name in ("steps", "maps", "probabilities", "best")}
    return replace(whole, **parts, curves={})


def equal(a: Recording, b: Recording) -> bool:
    """Whether two recordings hold the same, NaN included."""
    return _told(a) == _told(b)


def _told(recording: Recording) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in vars(recording).items():
        if name == "curves":
            told[name] = {k: (c.steps.tolist(), np.asarray(c.values).tobytes()) for k, c in value.items()}
        else:
            array = isinstance(value, np.ndarray)
            told[name] = (value.dtype, value.shape, value.tobytes()) if array else value
    return told


def fill(store: Store, whole: Recording, start: int = 0) -> None:
    """All frames and numbers, in the order in which a training would give them."""
    for step in range(start, whole.total + 1):
        numbers = {n: float(c.values[c.steps == step][0]) for n, c in whole.curves.items() if step in c.steps}
        if numbers:
            store.log(step, numbers)
        for frame in np.flatnonzero(whole.steps == step).tolist():
            store.append(step, whole.maps[frame], whole.probabilities[frame], whole.best[frame])
