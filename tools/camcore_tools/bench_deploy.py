"""Time a deployed model with its map inside: beside the plain model, and beside what one would do otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import camcore
from camcore.errors import InputError, MissingPackage
from camcore.head import LinearHead
from camcore_tools.console import Progress, columns
from camcore_tools.timing import Run, alternate

__all__ = ["BATCHES", "NETWORKS", "measure", "print_table"]

NETWORKS = ("resnet50", "mobilenet_v2")
BATCHES = {"cpu": (1, 8), "cuda": (1, 32, 256)}
PLAIN, NUMPY, EXPLAINER = "plain model", "features + NumPy, top 5", "camcore.explainer, top 5"
_SIZE = 224
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_FEATURES = "camcore/features"
_WARM = 3
_TOP = 5


@dataclass(frozen=True)
class _Model:
    """An ONNX model to time, and the folder of its external weights."""

    name: str
    data: bytes
    path: Path | None = None

    @property
    def source(self) -> Any:
        return self.data if self.path is None else self.path

    @property
    def folder(self) -> Path | None:
        return None if self.path is None else self.path.resolve().parent


@dataclass(frozen=True)
class _Setting:
    """Where and how sessions run."""

    place: Any
    threads: int | None

    @property
    def memory(self) -> str:
        """Of a device that has some of its own: images are there ahead."""
        return "" if self.place.row is None else str(self.place.row.memory)

    def session(self, data: bytes, model: _Model) -> Any:
        from camcore_onnx.running.runtime import make_session

        return make_session(data, device=self.place.device, threads=self.threads, folder=model.folder)


def measure(
    networks: Sequence[str],
    batches: Sequence[int] | None = None,
    *,
    rounds: int = 15,
    threads: int = 2,
    device: str = "cpu",
    classes: Sequence[str] = ("top5", "all"),
    method: str = "auto",
) -> list[dict[str, Any]]:
    """One row for each network and batch: milliseconds, images a second, and ratios to the plain model.

    On a GPU the images lie there already and the outputs come back; on the CPU both are arrays.

    Parameters
    ----------
    networks : sequence of str
        Names of torchvision, which are exported with random weights, or ``.onnx`` files.
    batches : sequence of int, optional
        Those of ``BATCHES`` for the device where absent.
    rounds, threads : int
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or another that :mod:`camcore_onnx.running.providers` knows.
    classes : sequence of str
        What is embedded: see :func:`camcore_onnx.embed_cam`.
    method : str

    Raises
    ------
    DeviceError
        If ONNX Runtime does not run on the device.
    InputError
        For a model that takes no batch of this size, or whose map cannot be embedded.
    """
    from camcore_onnx.running.providers import place

    where = place(device)  # or the error that tells what is missing, before anything is exported
    setting = _Setting(where, threads if where.row is None else None)
    counts = batches or BATCHES["cpu" if where.row is None else "cuda"]
    rows = []
    with Progress(len(networks) * len(counts) * rounds, "timing deployed models") as bar:
        for name in networks:
            model = _open(name)
            sessions = _sessions(model, setting, classes, method)
            rows += [_row(model, sessions, batch, setting, rounds, bar) for batch in counts]
    return rows


def _open(name: str) -> _Model:
    if name.endswith(".onnx"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--networks {name!r}: no such file")
        return _Model(path.name, path.read_bytes(), path)
    return _Model(name, _exported(name))


def _exported(name: str) -> bytes:
    try:
        import torch
        import torchvision
        from camcore_torch.exporting import to_onnx
    except ImportError as error:
        raise MissingPackage(
            f"to export {name!r} takes PyTorch ({error}): pip install 'camcore[all]', or give an .onnx file"
        ) from error
    if not hasattr(torchvision.models, name):
        raise InputError(
            f"--networks {name!r}: torchvision has no such network; try {', '.join(NETWORKS)}, or an .onnx file"
        )
    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(weights=None).eval()
    return to_onnx(module, (1, 3, _SIZE, _SIZE), exporter="torchscript")


def _sessions(model: _Model, setting: _Setting, classes: Sequence[str], method: str) -> dict[str, Any]:
    """The plain model first, the same with its map inside, and with its features as an output."""
    from camcore_onnx import embed_cam, expose_features

    made = {PLAIN: setting.session(model.data, model)}
    for kind in classes:
        data = embed_cam(model.source, classes=kind, method=method).SerializeToString()
        made[f"map inside, {kind}"] = setting.session(data, model)
    tap = camcore.explainer(model.source, device="cpu").plan.tap
    if isinstance(tap.head, LinearHead) and not tap.head.is_identity:
        data = expose_features(model.source, tap.layer, names=[_FEATURES]).SerializeToString()
        made[NUMPY] = setting.session(data, model)
    return made


def _row(
    model: _Model, sessions: dict[str, Any], batch: int, setting: _Setting, rounds: int, bar: Progress
) -> dict[str, Any]:
    images = _images(sessions[PLAIN], batch)
    runs = {name: _runner(session, images, setting) for name, session in sessions.items()}
    sent = {name: sum(array.nbytes for array in run()) / batch for name, run in runs.items()}
    runs |= _in_python(model, runs, images, setting)
    for _ in range(_WARM):
        for run in runs.values():
            run()
    seconds = alternate(runs, rounds, bar)
    return {
        "network": model.name,
        "batch": batch,
        "ms": {name: round(s * 1e3, 3) for name, s in seconds.items()},
        "ratio": {name: round(s / seconds[PLAIN], 4) for name, s in seconds.items()},
        "images/s": {name: round(batch / s, 1) for name, s in seconds.items()},
        "KiB returned for each image": {name: round(size / 1024, 1) for name, size in sent.items()},
    }


def _images(session: Any, batch: int) -> NDArray[Any]:
    """Random images of the sizes that the model states."""
    taken = session.get_inputs()[0]
    usual = [batch, 3, *[_SIZE] * (len(taken.shape) - 2)]
    shape = [n if isinstance(n, int) and n > 0 else m for n, m in zip(taken.shape, usual, strict=True)]
    if shape[0] != batch:
        raise InputError(f"the model takes batches of {shape[0]}, not of {batch}: give --batches {shape[0]}")
    if taken.type not in _TYPES:
        raise InputError(f"the model takes {taken.type}; only models that take floats are timed")
    return np.random.default_rng(0).standard_normal(shape).astype(_TYPES[taken.type])


def _runner(session: Any, images: NDArray[Any], setting: _Setting) -> Run:
    """Images that stay on a GPU, and outputs that come back; or arrays in and out."""
    name = session.get_inputs()[0].name
    if not setting.memory:
        return lambda: session.run(None, {name: images})
    from camcore_onnx.running.binding import Bound

    bound = Bound(session, setting.memory, setting.place.index)
    feed = {name: bound.put(images)}
    outputs = [output.name for output in session.get_outputs()]
    return lambda: bound.run(outputs, feed)


def _in_python(model: _Model, runs: dict[str, Run], images: NDArray[Any], setting: _Setting) -> dict[str, Run]:
    """Without a map in the graph: its features leave it and NumPy sums them up; or this library does all."""
    explainer = camcore.explainer(model.source, device=setting.place.device, threads=setting.threads)
    found: dict[str, Run] = {EXPLAINER: lambda: explainer(images, f"top{_TOP}")}
    if NUMPY in runs:
        weight = np.asarray(explainer.plan.tap.need_head().weight, np.float32)
        forward = runs[NUMPY]
        found[NUMPY] = lambda: _sums(weight, forward())
    return found


def _sums(weight: NDArray[np.float32], outputs: list[Any]) -> Any:
    """``W[best] @ features``, as a consumer of the features would write it."""
    scores, features = outputs[0], outputs[-1]
    best = np.argsort(-scores.reshape(len(scores), -1), axis=1)[:, :_TOP]
    return np.matmul(weight[best], features.reshape(*features.shape[:2], -1))


def print_table(rows: list[dict[str, Any]]) -> None:
    """For people."""
    for row in rows:
        print(f"\n{row['network']}, batch {row['batch']}")
        print(columns([_cells(row, name) for name in row["ms"]]))


def _cells(row: dict[str, Any], name: str) -> tuple[str, ...]:
    sent = row["KiB returned for each image"].get(name)
    size = "" if sent is None else f"{sent:6.1f} KiB each"
    return name, f"{row['ms'][name]:8.2f} ms", f"{row['ratio'][name]:5.3f} x", f"{row['images/s'][name]:7.1f}/s", size
