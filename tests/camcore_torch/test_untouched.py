from __future__ import annotations

import random
from collections import OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch.untouched import kept_attributes, kept_generators
from torch import nn


def draw() -> list[float]:
    return [random.random(), float(np.random.random())]  # noqa: NPY002


@pytest.mark.parametrize("error", [False, True])
def test_generators_go_on_as_if_nothing_had_been_drawn(error: bool) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = draw()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    try:
        with kept_generators():
            assert draw() == expected
            if error:
                raise RuntimeError
    except RuntimeError:
        assert error
    assert draw() == expected


def network() -> Any:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.count, model.title = 3, "a"
    model.tensor = torch.zeros(2)
    model.kept = [1, 2]
    model.cache = {"a": torch.ones(1)}
    model.seen = {1}
    model.others = [deque([1]), defaultdict(list, a=[1]), OrderedDict(a=1)]
    model.last, model.by_name, model.order = model.others
    model[0].shared = model[1].shared = model.cache
    return model


def values(model: Any) -> list[Any]:
    names = ("count", "title", "kept", "seen", "last", "by_name", "order")
    return [getattr(model, name) for name in names] + [dict(model.cache), model.tensor.tolist()]


def disturb(model: Any) -> None:
    """What a forward pass may do."""
    model.count += 1
    model.title = "b"
    model.tensor.add_(1)
    model.kept.append(3)
    model[0].shared["b"] = 5
    assert "b" in model.cache  # still the same dict
    assert "b" in model[1].shared
    del model.cache["a"]
    model.seen.clear()
    model.last.append(2)
    model.by_name["b"].append(1)
    model.order["b"] = 2
    model.new = 1
    model[1].new = torch.ones(1)


def test_attributes_are_as_they_were() -> None:
    model, expected = network(), values(network())
    held = model.tensor, model.kept, model.cache
    version = model.tensor._version
    with kept_attributes(model):
        disturb(model)
    assert values(model) == expected
    assert (model.tensor, model.kept, model.cache) == held
    assert model.tensor is held[0]
    assert model[0].shared is model[1].shared is model.cache is held[2]
    assert model.tensor._version == version
    assert not hasattr(model, "new")
    assert not hasattr(model[1], "new")


def test_attributes_are_as_they_were_after_an_error() -> None:
    model, expected = network(), values(network())

    @kept_attributes(model)
    def fail() -> None:
        disturb(model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert values(model) == expected


def test_a_tensor_that_a_graph_holds_can_be_written_to() -> None:
    model: Any = network()
    weight = torch.ones(2, requires_grad=True)
    loss = (weight * model.tensor).sum()
    with kept_attributes(model):
        model.tensor.add_(1)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 0]


def test_generators_of_a_network_go_on_as_if_nothing_had_been_drawn() -> None:
    model: Any = nn.Sequential(nn.Identity())

    def drawn() -> list[float]:
        noise = float(torch.rand((), generator=model.noise))
        return [noise, model[0].old.random_sample(), model.new.random(), model.plain.random()]

    def seed() -> None:
        model.noise, model.plain = torch.Generator().manual_seed(1), random.Random(1)
        model.new, model.old = np.random.default_rng(1), np.random.RandomState(1)
        model[0].old = model.old

    seed()
    expected = drawn()
    seed()
    held = model.noise
    with kept_attributes(model):
        assert model[0].old is model.old
        assert drawn() == expected
    assert model.noise is held
    assert drawn() == expected


def test_attributes_that_are_taken_away_come_back() -> None:
    model: Any = network()
    with kept_attributes(model):
        del model.count
    assert model.count == 3


def test_parameters_buffers_and_flags_are_left_to_others() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    with kept_attributes(model):
        model.eval()
        model[0].register_buffer("other", torch.ones(1))
    assert not model.training
    assert "0.other" in dict(model.named_buffers())
