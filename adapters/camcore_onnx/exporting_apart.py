"""An export in a process of its own: the model is read, converted, run and verified there, and only there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.labels import read_labels
from camcore.preprocess import Preprocess
from camcore_onnx.checking.sandbox import run_apart
from camcore_onnx.checking.verify import Check
from camcore_onnx.report import Report

__all__ = ["can_be_sent", "export_apart", "export_sent"]

_ARRAYS = ("second_weight", "batches", "reference")


def can_be_sent(order: Mapping[str, Any]) -> bool:
    """Whether the arguments of an export can go to another process: what is no text, number or array cannot."""
    if order["reference"] is not None and order["batches"] is None:
        return False  # a function, of inputs that are chosen over there
    try:
        json.dumps(_plain(order))
    except (TypeError, ValueError):
        return False
    return True


def export_apart(source: Any, path: str | os.PathLike[str], **order: Any) -> Report:
    """As :func:`camcore_onnx.export`.

    Raises
    ------
    CrashError
        If the process died; ``path`` may have been written, and is not verified then.
    InputError
        If an argument cannot be sent there.
    """
    if not can_be_sent(order):
        raise InputError("an argument of the export is an object that cannot be sent to another process; sandbox=False")
    with tempfile.TemporaryDirectory(prefix="camcore-") as folder:
        np.savez(Path(folder) / "arrays.npz", allow_pickle=False, **_arrays(order))
        words = _plain(order) | {"path": os.fspath(path), "source": _sent(source, Path(folder))}
        told = run_apart("camcore_onnx.exporting_apart:export_sent", folder, words)
    checks = [Check(**check) for check in told.pop("checks")]
    return Report(**told | {"path": Path(told["path"]), "checks": checks})


def _plain(order: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold, for the rest is in files."""
    words = {key: value for key, value in order.items() if key not in (*_ARRAYS, "labels", "preprocess")}
    rule, labels = order["preprocess"], order["labels"]
    words["rule"] = rule.to_json() if isinstance(rule, Preprocess) else None
    words["preprocess"] = None if isinstance(rule, Preprocess) else rule
    return words | {"labels": None if labels is None else list(read_labels(labels))}


def _arrays(order: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Also what the reference gives for each batch."""
    batches: Sequence[NDArray[Any]] = [] if order["batches"] is None else order["batches"]
    found = {f"batch{i}": np.asarray(batch) for i, batch in enumerate(batches)}
    if order["second_weight"] is not None:
        found["second_weight"] = np.asarray(order["second_weight"])
    if order["reference"] is not None:
        for i, batch in enumerate(batches):
            found[f"scores{i}"], found[f"maps{i}"] = order["reference"](batch)
    return found


def _sent(source: Any, folder: Path) -> str | None:
    """The path of a file; another model is written into the folder."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if not isinstance(source, (bytes, bytearray)):
        from camcore_onnx.reading.load import as_bytes

        source = as_bytes(source)
    (folder / "model.onnx").write_bytes(source)
    return None


def export_sent(folder: str, words: dict[str, Any]) -> dict[str, Any]:
    """The other process."""
    from dataclasses import asdict

    from camcore_onnx.exporting import export

    source, rule = words.pop("source"), words.pop("rule")
    words["preprocess"] = words["preprocess"] if rule is None else Preprocess.from_json(rule)
    with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as file:
        arrays = dict(file)
    batches = [arrays[f"batch{i}"] for i in range(len(arrays)) if f"batch{i}" in arrays]
    report = export(
        (Path(folder) / "model.onnx").read_bytes() if source is None else source,
        **words,
        second_weight=arrays.get("second_weight"),
        batches=batches or None,
        reference=_remembered(arrays, batches) if "scores0" in arrays else None,
        sandbox=False,
    )
    return asdict(report) | {"path": str(report.path)}


def _remembered(arrays: Mapping[str, NDArray[Any]], batches: Sequence[NDArray[Any]]) -> Callable[[Any], Any]:
    """The reference, of the batches that it has seen."""

    def reference(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        index = next(i for i, batch in enumerate(batches) if batch is images or np.array_equal(batch, images))
        return arrays[f"scores{index}"], arrays[f"maps{index}"]

    return reference
