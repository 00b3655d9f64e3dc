from __future__ import annotations

import numpy as np
import pytest

from camcore import products
from camcore.products import product


@pytest.mark.parametrize("limit", [0, 1 << 40])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (5, 2, 3, 4), (0, 4)])
def test_both_ways_are_the_matrix_product(monkeypatch: pytest.MonkeyPatch, limit: int, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(products, "SMALL", limit)
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal(shape), generator.standard_normal((6, 4)).T
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-12)


def test_the_type_stays() -> None:
    a = np.ones((2, 2), np.float32)
    assert product(a, a).dtype == np.float32
