from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import quiet
from camcore_torch.quiet import undisturbed
from torch import Tensor, nn
from torch_networks import TAILS, Small, network
from torch_traces import no_trace, prepared, same

import camcore
from camcore import HeadNotFound, InputError


def images(count: int = 2, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "mode"), [("resnet18", "eval"), ("resnet18", "caller"), ("googlenet", "eval"), ("densenet121", "eval")]
)
def test_no_trace(name: str, mode: str) -> None:
    model = prepared(network(name))
    with no_trace(model, versions=mode == "eval"):
        explainer = camcore.explainer(model, mode=mode)
        for _ in range(2):
            explainer(images(2, 64), "top3")


@pytest.mark.parametrize("mode", ["eval", "caller"])
def test_no_trace_when_the_forward_raises(mode: str) -> None:
    class Fails(Small):
        fail = False

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            torch.rand(3)
            if self.fail:
                raise RuntimeError("out of luck")
            return out

    model = prepared(Fails(TAILS["mean of two axes"]))
    explainer = camcore.explainer(model, mode=mode)
    with no_trace(model, versions=mode == "eval"):
        explainer(images(2, 64))
    model.fail = True
    with no_trace(model, versions=mode == "eval"), pytest.raises(InputError, match="out of luck"):
        explainer(images(2, 64))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda c: c.__name__)
def test_callers_grad_mode_does_not_matter(context: Callable[[], Any]) -> None:
    model = network("resnet18")
    expected = camcore.explainer(model)(images(2, 64)).maps
    with context():
        np.testing.assert_array_equal(camcore.explainer(model)(images(2, 64)).maps, expected)


def test_active_dropout_is_refused_without_a_trace() -> None:
    model = prepared(Small(TAILS["dropout"]))
    with no_trace(model, versions=False), pytest.raises(HeadNotFound, match=r"dropout is active .* take mode='eval'"):
        camcore.explainer(model, method="cam", mode="caller")(images())


@pytest.mark.parametrize("dropout", [False, True])
def test_outputs_of_a_training_step_are_the_same_with_and_without(dropout: bool) -> None:
    def steps(explain: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Small(TAILS["dropout" if dropout else "mean of two axes"]).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            loss = model(torch.randn(4, 3, 32, 32)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if explain:
                camcore.explainer(model, mode="eval" if dropout else "caller")(images())
            optimizer.step()
        return [t.clone() for t in model.state_dict().values()]

    assert same(steps(explain=True), steps(explain=False))


def test_evaluation_mode_is_the_network_that_ships() -> None:
    model = Small(TAILS["dropout"]).train()
    in_training = camcore.explainer(model)(images()).maps
    np.testing.assert_array_equal(camcore.explainer(model.eval())(images()).maps, in_training)


def test_callers_mode_uses_the_statistics_of_the_batch() -> None:
    model = Small(TAILS["mean of two axes"]).train()
    with torch.no_grad():
        features = torch.relu(model.norm(model.trunk(torch.from_numpy(images()))))
    seen = camcore.explainer(model, mode="caller", method="activationmap")(images())
    np.testing.assert_allclose(seen.maps[:, 0], features.mean(1).numpy(), rtol=1e-5, atol=1e-6)


def test_many_threads_share_a_training_model() -> None:
    model = network("squeezenet1_1")
    explainer = camcore.explainer(model)
    x = [np.random.default_rng(i).standard_normal((1, 3, 64, 64)).astype(np.float32) for i in range(8)]
    expected = [explainer(one).maps for one in x]
    found: dict[int, list[np.ndarray]] = {i: [] for i in range(8)}
    with no_trace(model):
        threads = [
            threading.Thread(target=lambda i=i: found[i].extend(explainer(x[i]).maps for _ in range(4)))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(8):
        assert len(found[i]) == 4
        for maps in found[i]:
            np.testing.assert_allclose(maps, expected[i], rtol=1e-6, atol=1e-7)


def test_flags_come_back_only_after_the_last_thread() -> None:
    model = nn.Linear(2, 2).train()
    with undisturbed(model):
        with undisturbed(model):
            assert not model.training
        assert not model.training
    assert model.training


def test_flags_of_shared_parts_come_back_only_after_the_last_network() -> None:
    part = nn.BatchNorm1d(2)
    whole = nn.Sequential(part, nn.Linear(2, 2)).train()
    outer, inner = quiet._evaluation(whole), quiet._evaluation(part)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert not part.training
    assert whole.training
    inner.__exit__(None, None, None)
    assert part.training
    with undisturbed(part), undisturbed(whole):
        assert not whole[1].training
    assert whole[1].training
    assert part.training
    assert not quiet._users


def test_training_that_another_thread_switches_on_meanwhile() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    model[0].train()
    with undisturbed(model):
        model.train()
        with undisturbed(model):
            assert not any(part.training for part in model.modules())
        assert model[1].training
    assert all(part.training for part in model.modules())
    assert not quiet._users


def test_unknown_mode() -> None:
    with pytest.raises(InputError, match="mode is 'test'; expected 'eval' or 'caller'"):
        camcore.explainer(nn.Linear(2, 2), mode="test")


def test_buffers_that_a_network_writes_in_evaluation_mode_come_back() -> None:
    class Counts(Small):
        def __init__(self) -> None:
            super().__init__(TAILS["mean of two axes"])
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counts().eval()
    explainer = camcore.explainer(model)
    for _ in range(3):
        explainer(images())
    assert model.calls.item() == 0


class Replaces(Small):
    """Counts in a buffer by assignment, fills one that is empty, and keeps one as long as a number says."""

    def __init__(self) -> None:
        super().__init__(TAILS["mean of two axes"])
        for name, value in (("calls", torch.zeros(1)), ("table", torch.zeros(1)), ("late", None)):
            self.register_buffer(name, value)
        self.length = 1

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        if self.length < x.shape[2]:
            self.table, self.length = torch.zeros(x.shape[2]), x.shape[2]
        if self.late is None:
            self.late = torch.zeros(1)
        assert len(self.table) >= x.shape[2]
        return super().forward(x)


@pytest.mark.parametrize("method", ["cam", "gradcam", "ablationcam"])
@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("eval", True), ("caller", False), ("caller", True)])
def test_buffers_that_a_network_replaces_come_back(mode: str, training: bool, method: str) -> None:
    model = Replaces().train(training)
    model.norm.eval()
    calls, table = model.calls, model.table
    with no_trace(model, versions=mode == "eval"):
        explainer = camcore.explainer(model, mode=mode, method=method)
        for _ in range(2):
            explainer(images())
    assert model.calls is calls
    assert model.table is table
    assert model.late is None
    assert model.length == 1
    assert calls.item() == 0
    assert explainer.backend.network.restless
    with torch.no_grad():
        model(torch.from_numpy(images()))  # what describes the table came back with it


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda c: c.__name__)
def test_a_graph_of_the_caller_is_not_broken(context: Callable[[], Any]) -> None:
    """Between forward and backward: the statistics are put back, and the graph does not notice."""

    def step(explain: bool) -> list[Tensor | None]:
        torch.manual_seed(0)
        model = Small(TAILS["mean of two axes"]).train()
        loss = model(torch.from_numpy(images(4))).square().mean()
        if explain:
            with context():
                camcore.explainer(model, mode="caller", method="gradcam", layer="trunk")(images(3))
        loss.backward()
        return [*(p.grad for p in model.parameters()), *model.buffers()]

    assert same(step(explain=True), step(explain=False))


def test_weights_that_the_caller_caches_keep_their_graph() -> None:
    model = Small(TAILS["mean of two axes"]).train()
    inner = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    nn.utils.parametrizations.weight_norm(inner)
    with nn.utils.parametrize.cached():
        camcore.explainer(model)(images())
        model(torch.from_numpy(images())).sum().backward()
        assert inner.weight is inner.weight
    assert all(p.grad is not None for p in inner.parameters())


def test_random_numbers_come_back_only_after_the_last_thread() -> None:
    model = nn.Linear(2, 2)
    state = torch.get_rng_state()
    first, second = quiet._random_numbers(model), quiet._random_numbers(model)
    first.__enter__()
    torch.rand(3)
    second.__enter__()
    torch.rand(3)
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_compiled_code_is_switched_on_again_after_the_last_thread() -> None:
    first, second = quiet._uncompiled(), quiet._uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        seen.append("compiled")
        return graph.forward

    torch.compile(nn.Linear(2, 2), backend=backend)(torch.zeros(1, 2))
    assert seen == ["compiled"]
