"""The demo's training: it learns, and the same seed gives the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from camcore_tools.demo.network import make_network, train
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other take far longer where other programs run as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(count: int = 24) -> tuple[Tensor, Tensor]:
    """Dark ones and bright ones."""
    labels = torch.arange(count) % 2
    noise = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    return noise - labels[:, None, None, None].float(), labels


def state(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def trained(seed: int, **options: object) -> nn.Module:
    network = make_network(2, seed=seed)
    images, labels = pictures()
    train(network, images, labels, **{"epochs": 3, "batch": 8, "seed": seed} | options)  # type: ignore[arg-type]
    return network


def test_training_is_the_same_for_the_same_seed() -> None:
    first = state(trained(0))
    torch.rand(7)
    assert torch.equal(state(trained(0)), first)
    assert not torch.equal(state(trained(1)), first)


def test_training_learns_and_counts_its_steps() -> None:
    seen: list[tuple[int, float]] = []
    network = trained(0, epochs=12, batch=10, after_step=lambda *step: seen.append(step))
    images, labels = pictures()
    assert [number for number, _ in seen] == list(range(1, 12 * 3 + 1))
    assert seen[-1][1] < 0.5 * seen[0][1]
    assert network.training
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.9
