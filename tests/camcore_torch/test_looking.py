from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch.looking import Looker
from torch import Tensor, nn

import camcore
from camcore.errors import InputError
from camcore.recording.watched import watch

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)).numpy()
CLASSES = [2, 0, 1, 2]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.fc = nn.Conv2d(3, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.trunk(x)).mean((2, 3)))


def looker(model: nn.Module, **options: Any) -> Looker:
    explainer = camcore.explainer(model, **options)
    return Looker(explainer, watch(explainer, IMAGES), CLASSES)


@pytest.mark.parametrize("target", [None, "probability"])
def test_a_look_is_what_the_explainer_says(target: str | None) -> None:
    model = Net()
    look = looker(model, target=target)
    for _ in range(2):
        out, seen = camcore.explainer(model, target=target)(IMAGES, CLASSES), look()
        np.testing.assert_array_equal(seen.maps, out.maps[:, 0])
        np.testing.assert_array_equal(seen.best, out.scores.argmax(1))
        np.testing.assert_array_equal(seen.probabilities, out.probabilities[range(4), CLASSES])
        with torch.no_grad():
            model.trunk.weight.mul_(1.5)


def test_a_sigmoid_gives_probabilities_of_their_own() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3), nn.Sigmoid()
    )
    expected = model(torch.from_numpy(IMAGES)).detach().numpy()[range(4), CLASSES]
    np.testing.assert_allclose(looker(model)().probabilities, expected, atol=1e-6)


def test_what_does_not_change() -> None:
    about = looker(Net(), labels=["a", "b", "c"]).about
    assert about.maps.shape == (0, 4, 10, 10)
    assert about.probabilities.shape == about.best.shape == (0, 4)
    assert about.classes.tolist() == CLASSES
    assert (about.method, about.labels, about.rectifies) == ("cam", ("a", "b", "c"), False)


def test_scores_that_are_no_numbers() -> None:
    model = Net()
    look = looker(model, batch_size=3)
    model.fc.bias.requires_grad_(False)[:] = torch.tensor([1e30, float("nan"), 0])
    seen = look()
    assert seen.best.tolist() == [-1] * 4
    assert np.isnan(seen.maps).all()
    assert np.isnan(seen.probabilities).all()


def test_scores_that_are_no_numbers_cost_their_own_pictures_only() -> None:
    class Fragile(Net):
        broken = False

        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            bad = x[:, 0, 0, 0] == float(IMAGES[1, 0, 0, 0])
            return torch.where(bad[:, None], float("inf"), scores) if self.broken else scores

    model = Fragile()
    look = looker(model, method="gradcam", layer="trunk")
    whole = look()
    model.broken = True
    seen = look()
    assert (seen.best == np.where([False, True, False, False], -1, whole.best)).all()
    assert np.isnan(seen.maps[1]).all()
    np.testing.assert_allclose(seen.maps[[0, 2, 3]], whole.maps[[0, 2, 3]], atol=1e-7)
    np.testing.assert_allclose(seen.probabilities[[0, 2, 3]], whole.probabilities[[0, 2, 3]], atol=1e-7)


def test_another_method_is_not_mixed_in() -> None:
    class Bends(Net):
        bent = False

        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return scores**3 if self.bent else scores

    model = Bends()
    look = looker(model)
    model.bent = True
    with pytest.raises(InputError, match="cam is not possible any more, only gradcam; these maps do not mix"):
        look()


def test_several_classes_a_picture() -> None:
    explainer = camcore.explainer(Net())
    with pytest.raises(InputError, match=re.escape("classes are (4, 2); expected one a picture")):
        Looker(explainer, watch(explainer, IMAGES), "top2")
