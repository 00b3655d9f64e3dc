"""Time the recorder: what a step of a training costs with it, beside one without, in one run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore_tools.console import Progress, columns
from camcore_tools.timing import Run, alternate

if TYPE_CHECKING:
    from camcore_torch import CamRecorder

__all__ = ["measure", "print_table"]

_SIDE, _CLASSES, _BATCH, _WATCHED = 64, 5, 32, 12
_STEPS = 10
_PLAIN, _FRAME = "a step of the training", "a frame alone"
KINDS: dict[str, dict[str, Any]] = {
    "recorded every 10 steps": {},
    "recorded every 10 steps, to a folder": {"folder": True},
    "recorded every 10 steps, gradcam at blocks.1": {"method": "gradcam", "layer": "blocks.1"},
    "recorded every 10 steps, layercam at 3 layers": {
        "method": "layercam",
        "layer": ["blocks.0", "blocks.1", "blocks.2"],
    },
    "recorded every step": {"every": 1},
}


def measure(rounds: int) -> dict[str, Any]:
    """The `small` network, batches of 32 pictures of 64 x 64, 12 pictures watched; times in milliseconds.

    In each round every kind makes 10 steps of a training of its own, so ``every=10`` takes one frame in a round.
    """
    with TemporaryDirectory() as folder, Progress(rounds, "timing the recorder") as bar:
        runs: dict[str, Run] = {_PLAIN: _training(None)}
        for number, (name, options) in enumerate(KINDS.items()):
            place = {"folder": Path(folder) / str(number)} if "folder" in options else {}
            runs[name] = _training({**options, **place})
        runs |= _parts()
        for run in runs.values():
            run()  # what is done once
        seconds = alternate(runs, rounds, bar, turns=1)
    each = {name: s / (_STEPS if name in KINDS or name == _PLAIN else 1) for name, s in seconds.items()}
    return {
        "ms": {name: round(s * 1e3, 3) for name, s in each.items()},
        "ratio": {name: round(s / each[_PLAIN], 4) for name, s in each.items()},
        "a frame every 10 steps adds": round(each[_FRAME] / each[_PLAIN] / 10, 4),
    }


def _training(options: dict[str, Any] | None) -> Run:
    """Ten steps; with a recorder where options are given."""
    import torch

    from camcore_tools.training.small import make_network

    images, labels = map(torch.from_numpy, _pictures(_BATCH * _STEPS))
    network = make_network(_CLASSES, seed=0)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    recorder = None if options is None else _recorder(network, **options)

    def steps() -> None:
        network.train()
        for start in range(0, len(images), _BATCH):
            chosen = slice(start, start + _BATCH)
            loss = torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(loss=loss)

    return steps


def _recorder(network: Any, **options: Any) -> CamRecorder:
    from camcore_torch import CamRecorder

    images, labels = _pictures(_WATCHED)
    return CamRecorder(network, images, labels, **options)


def _parts() -> dict[str, Run]:
    """A frame alone, and the forward pass that no recorder can do without."""
    import torch

    from camcore_tools.training.small import make_network

    network = make_network(_CLASSES, seed=0)
    recorder, still = _recorder(network), make_network(_CLASSES, seed=0).eval()
    images = torch.from_numpy(_pictures(_WATCHED)[0])

    def frame() -> None:
        recorder.steps += 1
        recorder.frame()

    def forward() -> Any:
        with torch.no_grad():
            return still(images)

    return {_FRAME: frame, "a plain forward pass of the 12 pictures": forward}


def _pictures(count: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    images = generator.standard_normal((count, 3, _SIDE, _SIDE)).astype(np.float32)
    return images, generator.integers(0, _CLASSES, count)


def print_table(table: dict[str, Any]) -> None:
    """For people."""
    print(columns([(name, f"{ms:9.2f} ms", f"{table['ratio'][name]:7.3f} x") for name, ms in table["ms"].items()]))
    print(f"\nBy its own time, a frame every 10 steps adds {table['a frame every 10 steps adds']:.1%} to the training.")
