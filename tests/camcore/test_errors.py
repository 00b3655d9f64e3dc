"""The kinds of error, and the sentence that offers near names."""

from __future__ import annotations

import pytest

from camcore import CamError, DeviceError, HeadNotFound, InputError, MethodNotPossible, MissingPackage
from camcore.errors import suggest


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (InputError, ValueError),
        (MethodNotPossible, CamError),
        (HeadNotFound, MethodNotPossible),
        (DeviceError, RuntimeError),
        (MissingPackage, ImportError),
    ],
)
def test_every_error_can_be_caught_as_camcores_and_as_pythons(kind: type[Exception], base: type[Exception]) -> None:
    assert issubclass(kind, CamError)
    assert issubclass(kind, base)


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("layr4", ["layer4", "conv1"], "Did you mean 'layer4'?"),
        ("laier", ["layer1", "layer2"], "Did you mean 'layer2' or 'layer1'?"),
        ("cat", ["Egyptian cat", "a cat of a very long name", "dog"], "Did you mean 'Egyptian cat' or 'a cat of"),
        ("zzz", ["a", "b", "a"], "Known: 'a', 'b'."),
        ("zzz", [str(n) for n in range(9)], "Known: '0', '1', '2', '3', '4', '5', '6', '7', ..."),
        ("", ["a"], "Known: 'a'."),
        ("zzz", [], "None are known."),
    ],
)
def test_suggestions(name: str, known: list[str], text: str) -> None:
    assert suggest(name, known).startswith(text)


def test_there_are_never_more_than_asked_for() -> None:
    known = [f"layer{n}" for n in range(50)]
    assert suggest("layer", known).count("layer") == 3
    assert suggest("layer", known, limit=1).count("layer") == 1
