"""Set before anything heavy is imported."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("CAMCORE_SANDBOX", "off")  # tests of it ask for it; the others look into their own process
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


_LONG = ("test_repository.py", "test_recipes.py", "test_batch_engines.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests go first, so that at the end no worker waits for one of these alone."""
    items.sort(key=lambda item: item.path.name not in _LONG)
