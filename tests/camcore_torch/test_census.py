from __future__ import annotations

from camcore_torch.census import take_census
from torch import nn


def test_parameters_and_modules() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), shared, shared, nn.Linear(4, 2, bias=False))
    model[0].requires_grad_(False)
    found = take_census(model)
    assert found.name == "Sequential"
    assert dict(found.modules) == {"Linear": 2, "Conv2d": 1, "ReLU": 1}  # what is shared counts once
    assert (found.parameters, found.trainable) == (112 + 20 + 8, 28)
    assert found.by_type == {"float32": 560}
    assert found.precision == "float32"


def test_mixed_precision() -> None:
    found = take_census(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False).half()))
    assert found.precision == "mixed: 67% float32, 33% float16"


def test_no_parameters() -> None:
    assert take_census(nn.ReLU()).precision == "no weights"
