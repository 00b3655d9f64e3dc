"""Each operation of the table against the operation itself: the head that one step makes reproduces what it does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camcore_torch.heads import find_head
from camcore_torch.record import Recorder
from camcore_torch.steps import array
from torch import Tensor

from camcore.head import NormHead, global_mean

C, K = 6, 4
W, B = torch.randn(K, C, generator=torch.manual_seed(0)), torch.randn(K)
V = torch.rand(C) + 0.5
GROUPED = torch.randn(4, 3, 1, 1)

STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "addmm with alpha and beta": lambda f: torch.addmm(B, f, W.t(), beta=0.5, alpha=2.0),
    "mm": lambda f: f @ W.t(),
    "add a vector": lambda f: f + V,
    "add with alpha": lambda f: torch.add(f, V, alpha=3),
    "subtract": lambda f: f - V,
    "subtract from": lambda f: V - f,
    "multiply": lambda f: f * V,
    "multiply by a number": lambda f: f * 2.5,
    "divide": lambda f: f / V,
    "batch norm": lambda f: F.batch_norm(f, V - 1, V, V, B.repeat(2)[:C], training=False),
    "grouped 1x1 convolution": lambda f: F.conv2d(f[:, :, None, None], GROUPED, groups=2).flatten(1),
    "two linear layers": lambda f: F.linear(F.linear(f, W, B), torch.ones(3, K) * V[:3, None]),
}


@pytest.mark.parametrize("name", STEPS)
def test_composed_head_does_what_the_operations_do(name: str) -> None:
    features = torch.randn(3, C, 4, 5)
    record = Recorder()
    with record, torch.no_grad():
        a = features + 0  # something that makes the features
        scores = STEPS[name](a.mean((2, 3)))
    found = find_head(record, record.number(scores), record.number(a))
    assert found.head is not None, found.obstacle
    np.testing.assert_allclose(found.head(global_mean(features.numpy())), scores.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "whole"),
    [
        (lambda a: F.avg_pool2d(a, (4, 5)), True),
        (lambda a: F.avg_pool2d(a, (6, 7), padding=(1, 1)), True),
        (lambda a: F.avg_pool2d(a, (6, 7), padding=(1, 1), count_include_pad=False), True),
        (lambda a: F.avg_pool2d(a, (4, 5), divisor_override=7), True),
        (lambda a: F.avg_pool2d(a, (4, 4)), False),
        (lambda a: F.avg_pool2d(a, (3, 5)), False),
        (lambda a: a[:, :, :3].mean((2, 3), keepdim=True), True),  # of another map: the one that the mean reads
    ],
)
def test_windows(pool: Callable[[Tensor], Tensor], whole: bool) -> None:
    features = torch.randn(2, C, 4, 5)
    record = Recorder()
    with record, torch.no_grad():
        a = features * 1.5
        scores = F.linear(pool(a).flatten(1), W)
    found = find_head(record, record.number(scores), record.number(a))
    assert (found.head is not None) == whole
    if found.head is not None:
        assert found.features is not None
        tapped = array(record.tensors[found.features])
        np.testing.assert_allclose(found.head(global_mean(tapped)), scores.numpy(), rtol=1e-4, atol=1e-5)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooled": lambda a: F.layer_norm(a.mean((2, 3)), (C,), V, V - 1, 0.01),
    "without factor and shift": lambda a: F.layer_norm(a.mean((2, 3)), (C,), eps=0.01),
    "ConvNeXt's permutations": lambda a: (
        F.layer_norm(F.adaptive_avg_pool2d(a, 1).permute(0, 2, 3, 1), (C,), V, V - 1, 0.01).permute(0, 3, 1, 2)
    ).flatten(1),
    "with axes of length one": lambda a: F.layer_norm(a.mean((2, 3), keepdim=True), (C, 1, 1), eps=0.01).flatten(1),
    "of the sum": lambda a: F.layer_norm(a.sum((2, 3)) / 20, (C,), V, V - 1, 0.01),
    "channels last": lambda a: F.layer_norm(a.permute(0, 2, 3, 1).mean((1, 2)), (C,), V, V - 1, 0.01),
    "alone": lambda a: F.layer_norm(a.mean((2, 3)), (C,), V),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("linear", [True, False])
def test_layer_normalisation_behind_the_pooling(name: str, linear: bool) -> None:
    features = torch.randn(3, C, 4, 5)
    record = Recorder()
    with record, torch.no_grad():
        a = features + 0
        normalised = NORMS[name](a)
        scores = F.linear(normalised, W, B) if linear else normalised + 0
    found = find_head(record, record.number(scores), record.number(a))
    assert isinstance(found.head, NormHead), found.obstacle
    np.testing.assert_allclose(found.head(global_mean(features.numpy())), scores.numpy(), rtol=1e-4, atol=1e-5)


def test_layer_normalisation_in_front_of_the_pooling_is_part_of_the_network() -> None:
    record = Recorder()
    with record, torch.no_grad():
        a = torch.randn(3, 4, 5, C) + 0
        normalised = F.layer_norm(a, (C,), V)
        scores = F.linear(normalised.permute(0, 3, 1, 2).mean((2, 3)), W, B)
    found = find_head(record, record.number(scores), record.number(a))
    assert found.head is not None
    assert not isinstance(found.head, NormHead)
    assert found.features is not None
    assert record.made_by(found.features, "native_layer_norm", 2)


@pytest.mark.parametrize(
    ("tail", "text"),
    [
        (lambda a: F.layer_norm(a.mean(3), (4,)).flatten(1), "native_layer_norm normalises 4 values of a 6x4 tensor"),
        (lambda a: F.layer_norm(a.mean(3), (C, 4)).flatten(1), "normalises 6x4 values of a 6x4 tensor"),
        (lambda a: F.layer_norm(a.mean((2, 3)) @ W.t(), (K,)), "mm stands in front of layer_norm"),
        (lambda a: F.layer_norm(a.mean((2, 3)), (C,), a.mean((0, 2, 3))), "has no fixed weight"),
    ],
)
def test_layer_normalisation_that_is_refused(tail: Callable[[Tensor], Tensor], text: str) -> None:
    record = Recorder()
    with record, torch.no_grad():
        a = torch.randn(3, C, 4, 5) + 0
        scores = tail(a)
    found = find_head(record, record.number(scores), record.number(a))
    assert found.head is None
    assert text in found.obstacle


def test_half_precision_becomes_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        assert array(torch.ones(2, dtype=dtype)).dtype == np.float32
    assert array(torch.ones(2, dtype=torch.float64)).dtype == np.float64


def test_scores_that_are_the_images_have_no_head() -> None:
    record = Recorder()
    x = torch.randn(2, 3)
    start = record.number(x)
    with record:
        y = x * 2
    assert "the way back reaches the images" in find_head(record, record.number(y), start).obstacle
