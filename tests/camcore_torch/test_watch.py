from __future__ import annotations

import threading

import pytest
import torch
from camcore_torch.record import Place
from camcore_torch.study import Point
from camcore_torch.watch import watching
from torch import Tensor, nn

RELU = torch.ops.aten.relu.default


class Net(nn.Module):
    """Two layers, and operations between them that belong to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.seen.append(x.requires_grad)
        x = torch.relu(x.sin()) + torch.relu(x.cos())
        x.mul_(2)
        return self.b(x)


def left(path: str, offset: int | None = None) -> Point:
    return Point(Place(path, "exit", 1), offset, None if offset is None else RELU)


def run(model: nn.Module, points: list[Point], **how: bool) -> tuple[Tensor, list]:  # type: ignore[type-arg]
    x = torch.randn(2, 4, generator=torch.manual_seed(0))
    with torch.no_grad(), watching(model, points, **how) as sights:
        out = model(x)
    assert torch.is_grad_enabled()
    return out, sights


@pytest.mark.parametrize("grad", [False, True])
def test_values_of_modules_and_of_operations_between_them(grad: bool) -> None:
    model = Net()
    out, (a, first, second, b) = run(model, [left("a"), left("a", 0), left("a", 1), left("b")], grad=grad)
    x = torch.randn(2, 4, generator=torch.manual_seed(0))
    with torch.no_grad():
        value = model.a(x)
    torch.testing.assert_close(a.value, value)
    torch.testing.assert_close(first.value, value.sin().relu())
    torch.testing.assert_close(second.value, value.cos().relu())
    torch.testing.assert_close(b.value, out.detach())
    assert all((s.edge is not None) == grad for s in (a, first, second, b))
    assert out.requires_grad == grad
    assert not any(s.value.requires_grad for s in (a, first, second, b))


def test_gradients_arrive_at_each_of_them() -> None:
    model = Net()
    out, sights = run(model, [left("a"), left("a", 0)], grad=True)
    slope = 2 * model.b.weight.sum(0).expand(2, 4)
    a, relu = torch.autograd.grad(out.sum(), [s.edge for s in sights])
    torch.testing.assert_close(relu, slope)
    value = sights[0].value
    torch.testing.assert_close(a, slope * (value.cos() * (value.sin() > 0) - value.sin() * (value.cos() > 0)))


def test_no_graph_in_front_of_the_first_point() -> None:
    model = Net()
    out, _ = run(model, [left("b")], grad=True)
    assert model.seen == [False]
    assert out.requires_grad


def test_the_way_is_free_again_afterwards() -> None:
    class Breaks(Net):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("out of luck")

    model = Breaks()
    for grad in (False, True):
        for points in ([left("a")], [left("a", 0), left("b")]):
            with pytest.raises(RuntimeError, match="out of luck"):
                run(model, points, grad=grad, insist=grad)
            assert torch.is_grad_enabled()
            assert not model.a._forward_hooks
            assert not model.b._forward_hooks
            assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
            assert torch.overrides._get_current_function_mode() is None


def test_a_network_that_takes_another_way_leaves_the_sight_empty() -> None:
    _, (third,) = run(Net(), [left("a", 2)])
    assert third.value is None


def test_other_threads_are_left_alone() -> None:
    model, found = Net(), []
    with torch.no_grad(), watching(model, [left("a")], grad=True) as (sight,):
        thread = threading.Thread(target=lambda: found.append(model.eval()(torch.randn(1, 4)).grad_fn is not None))
        with torch.no_grad():
            thread.start()
            thread.join()
        assert sight.value is None
        model(torch.randn(3, 4))
    assert found == [True]  # its own mode, and not a graph that starts at our layer
    assert sight.value is not None
    assert len(sight.value) == 3
    assert model.seen == [True, True]


def test_another_thread_that_does_not_know_that_the_hook_wants_keywords() -> None:
    """PyTorch keeps the mark in a second dict, which loses it while a thread still goes through the hooks."""
    model, found = Net(), []
    with watching(model, [Point(Place("a", "enter", 1), 0, RELU)], grad=True) as (sight,):
        model.a._forward_pre_hooks_with_kwargs.clear()
        x = torch.randn(1, 4)
        thread = threading.Thread(target=lambda: found.append(model(x)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], model(x))
    assert sight.value is None


def test_a_graph_where_the_network_says_no_grad() -> None:
    class Frozen(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.a(x).sin()
            with torch.inference_mode(False), torch.no_grad():
                return self.b(x)

    model = Frozen()
    out, _ = run(model, [left("a")], grad=True)
    assert not out.requires_grad
    out, (a,) = run(model, [left("a")], grad=True, insist=True)
    (slope,) = torch.autograd.grad(out.sum(), [a.edge])
    torch.testing.assert_close(slope, a.value.cos() * model.b.weight.sum(0))
