"""Threads rest unless the environment says what they do."""

from __future__ import annotations

import os

import pytest
from camcore_tools.threads import let_threads_rest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_the_environment_comes_first(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    let_threads_rest()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
