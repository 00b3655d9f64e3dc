"""Prove that an exported model is the model it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from camcore.errors import CamError, InputError
from camcore.evidence import InputSpec
from camcore.head import head_error
from camcore.methods import cam
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.checking.comparing import compare, relative
from camcore_onnx.checking.sandbox import doing
from camcore_onnx.checking.sides import Opened, open_side
from camcore_onnx.reading.load import Loaded

__all__ = ["Check", "check_against", "check_model", "check_second_weight", "relative", "sample_inputs"]

Floats = NDArray[np.floating[Any]]
# Takes images, gives (scores, maps of all classes): the network that the model was exported from.
Reference = Callable[[Floats], tuple[Floats, Floats]]
_IDENTICAL = 1e-5


@dataclass(frozen=True)
class Check:
    """One thing that was verified: what, whether it holds, the largest difference seen, and the limit."""

    name: str
    passed: bool
    detail: str
    difference: float | None = None
    limit: float | None = None


def sample_inputs(spec: InputSpec, *, seed: int = 0, size: Sequence[int] | None = None) -> list[Floats]:
    """Random batches that fit a model: of 1 and of 3 images where the batch is free."""
    generator = np.random.default_rng(seed)
    space = size or [224 if n is None else n for n in spec.shape[2:]]
    batches = [1, 3] if spec.shape[0] is None else [spec.shape[0]]
    return [generator.standard_normal((n, spec.channels or 3, *space)).astype(np.float32) for n in batches]


def check_model(
    path: Path,
    original: Loaded | None,
    *,
    features: str,
    batches: Sequence[Floats],
    head: bool = True,
    limit: float | None = None,
) -> list[Check]:
    """The checks that need no PyTorch: ONNX checker, a run, original outputs unchanged, mean(CAM) + bias = scores.

    The last one only where there is a ``head`` that the features go through alone. ``limit`` is how far the outputs may
    be from the original ones: half precision on the CPU rounds wherever a tensor is read once more.
    """
    steps: list[Callable[[], Check]] = [
        lambda: _checker(path),
        lambda: _runs(path, batches),
        lambda: _same_outputs(path, original, features, batches, _IDENTICAL if limit is None else limit),
        lambda: _completeness(path, batches),
    ]
    steps = steps if head else steps[:-1]
    done: list[Check] = []
    for step in steps if original is not None else [s for i, s in enumerate(steps) if i != 2]:
        done.append(step())
        if not done[-1].passed and len(done) <= 2:
            break  # what does not load cannot be compared
    return done


def _checker(path: Path) -> Check:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        return Check("ONNX checker", False, str(error).strip().splitlines()[0][:200])
    return Check("ONNX checker", True, "the file is valid")


def _runs(path: Path, batches: Sequence[Floats]) -> Check:
    doing(f"verifying {path}")
    try:
        backend = OnnxBackend(path, device="cpu")
        for images in batches:
            backend.scores(images)
    except CamError as error:
        return Check("ONNX Runtime", False, str(error))
    return Check("ONNX Runtime", True, f"runs batches of {' and '.join(str(len(b)) for b in batches)}")


def _same_outputs(path: Path, original: Loaded | None, features: str, batches: Sequence[Floats], limit: float) -> Check:
    assert original is not None  # asked for only where there is one
    new, old = open_side(path), open_side(original)
    wrong = _misnamed(new, old, features)
    if wrong:
        return Check("outputs", False, wrong)
    try:
        found = compare(old.side, new.side, batches, rtol=limit, atol=0.0)
    except InputError as error:
        return Check("outputs", False, f"cannot be compared: {error}")
    detail = "original outputs bit-identical" if found.worst == 0 else "original outputs unchanged"
    return Check("outputs", found.worst <= limit, detail, found.worst, limit)


def _misnamed(new: Opened, old: Opened, features: str) -> str:
    """What is wrong with the names of the outputs; empty where nothing is."""
    names, found = old.outputs, new.outputs
    if found[: len(names)] != names or (features and features not in found):
        return f"expected {names} and then {features!r}, the file gives {found}"
    return ""


def _completeness(path: Path, batches: Sequence[Floats]) -> Check:
    """The strongest check that needs no reference: the map of every class, averaged, is its score."""
    backend = OnnxBackend(path, device="cpu")
    tap = backend.tap()
    if tap.head is None:
        return Check("mean(CAM) + bias = scores", False, tap.obstacle)
    worst = beyond = 0.0
    for images in batches:
        seen = backend.observe(images, needs=frozenset({"features", "head"}))[0]
        assert seen.features is not None  # asked for
        worst = max(worst, head_error(tap.head, seen.features, seen.scores, span=tap.span))
        beyond = max(beyond, head_error(tap.head, seen.features, seen.scores, tap.slack, span=tap.span))
    detail = "for every class" if worst <= tap.tolerance else "for every class, within the steps of quantisation"
    return Check("mean(CAM) + bias = scores", beyond <= tap.tolerance, detail, worst, tap.tolerance)


def check_against(
    path: Path, reference: Reference, batches: Sequence[Floats], *, limit: float = 1e-4, head: bool = True
) -> list[Check]:
    """Scores, and with a ``head`` maps of all classes, against the network that the model was exported from."""
    backend = OnnxBackend(path, device="cpu")
    scores = maps = 0.0
    agree = True
    for images in batches:
        expected_scores, expected_maps = reference(images)
        found = backend.scores(images)
        scores = max(scores, relative(found, expected_scores))
        agree = agree and bool((found.argmax(axis=1) == expected_scores.argmax(axis=1)).all())
        if head:
            maps = max(maps, relative(_maps(backend, images), expected_maps))
    best = f"best class {'agrees' if agree else 'differs'}"
    done = [Check("scores, PyTorch against ONNX Runtime", scores <= limit, best, scores, limit)]
    if head:
        done.append(Check("maps, PyTorch against ONNX Runtime", maps <= limit, "all classes", maps, limit))
    return done


def _maps(backend: OnnxBackend, images: Floats) -> Floats:
    seen = backend.observe(images, needs=frozenset({"features", "head"}))[0]
    assert seen.features is not None  # asked for
    return cam(seen.features, backend.tap().need_head())


def check_second_weight(path: Path, expected: Floats) -> Check:
    """The weight of the second classifier that is read back is the one given, as float32."""
    name = "weight of the second classifier"
    try:
        found = OnnxBackend(path, device="cpu").second_weight
    except CamError as error:
        return Check(name, False, str(error))
    difference = relative(found, expected)
    return Check(
        name, difference <= _IDENTICAL, f"{found.shape[0]} x {found.shape[1]}, for recam", difference, _IDENTICAL
    )
