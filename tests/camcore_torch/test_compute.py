from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend
from camcore_torch.compute import count_macs
from torch import Tensor, nn


class Two(nn.Module):
    """A convolution, a block, a side way that no score depends on, and a head; batch normalisation counts batches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU())
        self.aside = nn.Conv2d(4, 50, 1)
        self.head = nn.Linear(6, 5)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.aside(x)
        pooled: Tensor = self.head(self.block(x).mean((2, 3)))
        return pooled


def test_products_are_counted() -> None:
    """By hand: output numbers times what each is a sum of."""
    backend = TorchBackend(Two())
    backend.tap(example=np.zeros((1, 3, 20, 30), np.float32))
    found = count_macs(backend)
    stem, block, aside, head = 600 * 4 * 27, 150 * 6 * 18, 600 * 50 * 4, 30
    assert found.shape == (1, 3, 20, 30)
    assert found.total == stem + block + aside + head
    assert {path: found.behind[path] for path in ("stem", "block", "head")} == {
        "stem": block + head,
        "block": head,
        "head": 0,
    }
    assert found.missing == ()


def test_nothing_is_left_behind() -> None:
    model = Two().train()
    backend = TorchBackend(model)
    backend.tap()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    count_macs(backend)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "giga"),
    [("resnet18", 1.8141), ("mobilenet_v2", 0.3008), pytest.param("vit_b_32", 4.4092, marks=pytest.mark.slow)],
)
def test_known_networks(name: str, giga: float) -> None:
    """The figures of torchvision's tables, to more places."""
    models = pytest.importorskip("torchvision").models
    backend = TorchBackend(getattr(models, name)(weights=None))
    assert count_macs(backend).total == pytest.approx(giga * 1e9, rel=2e-4)


class Attends(nn.Module):
    """In evaluation mode PyTorch runs this layer as one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        scores: Tensor = self.head(tokens.mean(1))
        return scores


def test_attention_in_one_operation() -> None:
    backend = TorchBackend(Attends())
    backend.tap(example=np.zeros((1, 3, 16, 16), np.float32))
    tokens, width = 16, 8
    attention = tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width
    assert count_macs(backend).total == tokens * 8 * 48 + attention + 40
