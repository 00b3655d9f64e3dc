from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend
from camcore_torch import gradients as module
from camcore_torch.gradients import curvatures, gradients
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch_autograd import EXPLAINED, relative
from torch_networks import TAILS, Small, network

from camcore.targets import Aim, target

GRADIENTS = frozenset({"gradients"})


def images(count: int = 2, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


def aim(scores: Tensor, classes: list[list[int]], wanted: Any = "logit") -> Aim:
    return target(wanted).aim(scores.detach().float().numpy(), np.array(classes))


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "efficientnet_b0"])
def test_all_classes_at_once_are_those_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(name)
    layers = [layer.name for layer in TorchBackend(model).layers()][-2:-1]
    calls: list[int] = []
    batched = module._all_at_once
    monkeypatch.setattr(module, "_all_at_once", lambda *a: calls.append(len(a[2])) or batched(*a))
    many = TorchBackend(model).observe(images(), needs=GRADIENTS, layers=layers, classes="top5")[0]
    monkeypatch.setattr(module, "_all_at_once", module._one_by_one)
    single = TorchBackend(model).observe(images(), needs=GRADIENTS, layers=layers, classes=many.classes)[0]
    assert calls == [5]
    assert many.gradients is not None
    assert single.gradients is not None
    assert relative(many.gradients, single.gradients) <= 1e-5
    one = TorchBackend(model).observe(images(), needs=GRADIENTS, layers=layers, classes=many.classes[:, 3])[0]
    assert one.gradients is not None
    assert relative(many.gradients[:, 3], one.gradients[:, 0]) <= 1e-5


class Cubes(torch.autograd.Function):
    """An operation of the user's own that looks at its numbers, so that it has no batched form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g if float(g.abs().max()) > 0 else torch.zeros_like(x)


def test_operations_without_a_batched_form() -> None:
    model = Small(lambda a, fc, conv: fc(Cubes.apply(a).mean((2, 3)))).double().eval()  # type: ignore[no-untyped-call]
    usual = Small(lambda a, fc, conv: fc((a**3).mean((2, 3)))).double().eval()
    usual.load_state_dict(model.state_dict())
    both = [TorchBackend(m).observe(images(), needs=GRADIENTS, layers=["norm"], classes="all") for m in (model, usual)]
    (own,), (expected,) = both
    assert own.gradients is not None
    assert expected.gradients is not None
    assert relative(own.gradients, expected.gradients) <= 1e-9


def test_half_precision_keeps_small_gradients() -> None:
    """Far below 6e-8, the smallest number of float16."""
    x = torch.rand(1, 2, 8, 8).half().requires_grad_(True)
    scores = x.float().mean((2, 3)).mul(1e-6).half() @ torch.ones(2, 2).half()
    (plain,) = torch.autograd.grad(scores[0, 0], x, retain_graph=True)
    assert not plain.any()
    (kept,) = gradients(scores, [get_gradient_edge(x)], aim(scores, [[0, 1]]))
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, 1e-6 / 64, rtol=0.1)


def test_half_precision_does_not_overflow() -> None:
    x = torch.rand(1, 2, 2, 2).half().requires_grad_(True)
    scores = x.mul(400).sum((2, 3))
    (found,) = gradients(scores, [get_gradient_edge(x)], aim(scores, [[1]]))
    np.testing.assert_array_equal(found[0, 0, 1], 400)
    np.testing.assert_array_equal(found[0, 0, 0], 0)


@pytest.mark.parametrize("wanted", EXPLAINED)
def test_curvature_is_how_the_gradient_changes_along_the_features(wanted: str) -> None:
    """Both parts of the Hessian: of the target over the scores, and of the scores over the layer."""
    torch.manual_seed(0)
    weight, line = torch.randn(5, 4).double(), EXPLAINED[wanted][1]

    def scores_of(a: Tensor) -> Tensor:
        return torch.tanh(a).square().mean((2, 3)) @ weight.t() * 3

    a = torch.randn(2, 4, 3, 3).double().requires_grad_(True)
    scores = scores_of(a)
    (found,) = curvatures(
        scores, [get_gradient_edge(a)], [a.detach()], aim(scores, [[0, 3], [4, 1]], EXPLAINED[wanted][0])
    )

    def slope(n: int, c: int, step: float) -> Tensor:
        moved = (a.detach() * (1 + step)).requires_grad_(True)
        return torch.autograd.grad(line(scores_of(moved)[n], c), moved)[0][n]

    for n, row in enumerate([[0, 3], [4, 1]]):
        for t, c in enumerate(row):
            expected = (slope(n, c, 1e-5) - slope(n, c, -1e-5)) / 2e-5
            assert relative(found[n, t], expected.numpy()) <= 1e-4


def test_nothing_accumulates() -> None:
    model = Small(TAILS["mean of two axes"])
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    TorchBackend(model).observe(images(), needs=frozenset({"gradients", "curvature"}), layers=["trunk"], classes="all")
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())


def test_curvature_through_fused_attention() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.trunk(x).flatten(2).transpose(1, 2)
            x = torch.nn.functional.scaled_dot_product_attention(x, x * 2, x)
            return self.fc(x.mean(1))

    torch.manual_seed(0)
    model = Attends().double()
    x = torch.from_numpy(images()).double()
    seen = TorchBackend(model).observe(x.numpy(), needs=frozenset({"curvature"}), layers=["trunk"], classes=[[1], [1]])[
        0
    ]
    a = model.trunk(x).detach().requires_grad_(True)
    q = a.flatten(2).transpose(1, 2)
    scores = model.fc(((q @ (2 * q).transpose(1, 2) / 8**0.5).softmax(-1) @ q).mean(1))
    (slope,) = torch.autograd.grad(scores[:, 1].sum(), a, create_graph=True)
    (bend,) = torch.autograd.grad((slope * a.detach()).sum(), a)
    assert seen.curvature is not None
    assert relative(seen.curvature[:, 0], bend.numpy()) <= 1e-9
