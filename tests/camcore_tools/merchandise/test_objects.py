"""Every kind, posed at random, is within the picture and of the size that its recipe says."""

import numpy as np
import pytest
from camcore_tools.merchandise.objects import RECIPES, posed
from camcore_tools.merchandise.parts import random_paints


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("seed", range(4))
def test_a_posed_object_fits(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    recipe = RECIPES[kind]
    points = np.concatenate([part.points for part in posed(recipe, random_paints(rng), rng)])
    assert points.min() >= 0
    assert points.max() <= 1
    assert 0.8 * recipe.least < np.ptp(points, axis=0).max() <= recipe.most
