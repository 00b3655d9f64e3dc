"""Matrix products that leave the machine's threads to the runtime where they are small."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["SMALL", "product"]

F = TypeVar("F", np.float32, np.float64)

# Below this many multiply-adds a plain loop beats waking BLAS threads: they would fight those of PyTorch or ONNX
# Runtime, which still spin after a forward pass, for much longer than the product takes.
SMALL = 1 << 23


def product(a: NDArray[F], b: NDArray[F]) -> NDArray[F]:
    """``a @ b`` for (..., M, K) and (K, N), or (..., K, N).

    Examples
    --------
    >>> product(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    work = a.size * b.shape[-1]
    return np.matmul(a, b) if work > SMALL else np.einsum("...mk,...kn->...mn", a, b)
