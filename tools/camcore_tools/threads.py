"""How PyTorch's threads wait for each other: to be said before PyTorch is imported."""

from __future__ import annotations

import os

__all__ = ["let_threads_rest"]

_SPIN = "10000"  # turns of a loop, some microseconds


def let_threads_rest() -> None:
    """Let OpenMP's threads spin for a moment only before they sleep, unless the environment says otherwise.

    GNU OpenMP lets them spin for a millisecond, which makes a training of a small network about five times slower
    where other programs want the processor too; without any spinning it is half as slow again on an idle one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)
