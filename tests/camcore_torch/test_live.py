"""The live head: however a network is written, its features and parameters are the ones that make the scores."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from camcore_torch.live import live_head
from torch import Tensor, nn
from torch_networks import REFUSED, TAILS, Small

from camcore import InputError

MADE_OF = ("scaled scores", "scaled features", "normalised weights")  # no parameter of its own
ENDINGS = {"softmax": torch.log, "log softmax": lambda s: s, "sigmoid": torch.logit}


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 11, 13, generator=torch.Generator().manual_seed(0))


def small(tail: str) -> Small:
    torch.manual_seed(0)
    return Small(TAILS[tail]).eval()


@pytest.mark.parametrize("tail", [name for name in TAILS if name not in MADE_OF])
def test_weight_times_mean_is_the_score(tail: str) -> None:
    model = small(tail)
    head = live_head(model, images().numpy())
    output, features = head.run(model, images())
    matrix, shift = head.matrix(model), head.shift(model)
    assert features.requires_grad
    assert matrix is None or matrix.grad_fn is not None or matrix.is_leaf
    pooled = features.mean(2)
    scores = pooled if matrix is None else pooled @ matrix.t()
    scores = scores if shift is None else scores + shift
    plain = ENDINGS.get(tail, lambda s: s)(output)
    if tail in ("softmax", "log softmax"):  # known up to a constant
        scores, plain = (s - s.mean(1, keepdim=True) for s in (scores, plain))
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-5)
    assert (head.classes, head.channels) == (4, features.shape[1])
    assert not head.odd_bias


@pytest.mark.parametrize("tail", MADE_OF)
def test_a_matrix_that_is_no_parameter(tail: str) -> None:
    with pytest.raises(
        InputError, match=r"its 4 x 6 matrix is none of the parameters fc.weight.*End the network with one"
    ):
        live_head(small(tail), images().numpy())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_a_part_that_equals_the_matrix_before_the_first_step(normed: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), normed(nn.Linear(6, 4)))
    with pytest.raises(InputError, match=r"its 4 x 6 matrix is none of the parameters"):
        live_head(model, images().numpy())


@pytest.mark.parametrize("name", REFUSED)
def test_no_head(name: str) -> None:
    torch.manual_seed(0)
    tail, why = REFUSED[name]
    with pytest.raises(InputError, match=f"nothing can be trained beside the head of this network: .*{why}"):
        live_head(Small(tail).eval(), images().numpy())


def test_the_parameter_of_equal_values_that_is_read() -> None:
    """A twin that the head does not read is not taken for it."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(3, 6, 3)
            self.aside, self.fc = nn.Linear(6, 4), nn.Linear(6, 4)
            for parameter in (*self.aside.parameters(), *self.fc.parameters()):
                nn.init.zeros_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.trunk(x).relu().mean((2, 3)))

    head = live_head(Twins().eval(), images().numpy())
    assert (head.weight, head.bias) == ("fc.weight", "fc.bias")


def test_a_bias_that_is_no_parameter() -> None:
    model = Small(lambda a, fc, conv: nn.functional.linear(a.mean((2, 3)), fc.weight) + 1).eval()
    head = live_head(model, images().numpy())
    assert (head.weight, head.bias, head.odd_bias) == ("fc.weight", "", True)


def test_another_way_than_the_first_time() -> None:
    class Fickle(Small):
        wide = False

        def forward(self, x: Tensor) -> Tensor:
            if self.wide:
                return self.conv(self.trunk(x)).mean((2, 3))
            return super().forward(x)

    model = Fickle(TAILS["mean of two axes"]).eval()
    head = live_head(model, images().numpy())
    model.wide = True
    with pytest.raises(
        InputError, match=re.escape("took another way this time: the features 'relu(norm)' were not met")
    ):
        head.run(model, images())


def test_without_an_example_it_is_noise_of_a_usual_size() -> None:
    model = small("mean of two axes")
    assert live_head(model).weight == "fc.weight"
    line = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))
    with pytest.raises(InputError, match="its input is not a picture: give an example"):
        live_head(line)
    assert live_head(line, np.ones((1, 3, 9), np.float32)).weight == "4.weight"
