"""The built-in network: shapes, a pooled linear head, and the same weights for the same seed."""

from __future__ import annotations

import torch
from camcore_tools.training.small import make_network
from torch import Tensor, nn


def state(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def test_scores_and_features_have_the_stated_shapes() -> None:
    network = make_network(5, seed=0).eval()
    images = torch.zeros(2, 3, 64, 64)
    assert network(images).shape == (2, 5)
    assert network.blocks(network.stem(images)).shape == (2, 64, 16, 16)
    assert 50_000 < sum(p.numel() for p in network.parameters()) < 300_000


def test_scores_are_linear_in_the_pooled_features() -> None:
    network = make_network(5, seed=0).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    pooled = network.blocks(network.stem(images)).mean((2, 3))
    torch.testing.assert_close(network(images), pooled @ network.head.weight.T + network.head.bias)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first, before = state(make_network(5, seed=3)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(state(make_network(5, seed=3)), first)
    assert not torch.equal(state(make_network(5, seed=4)), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "PyTorch's own random state was moved"
