"""Losses and shares on the validation pictures, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_tools.training.feeds import PictureFeed
from camcore_tools.training.measure import measure
from camcore_tools.training.pictures import PictureArray
from tiny_training import RULE, pictures, tiny, weights
from torch import Tensor, nn


class Fixed(nn.Module):
    """Gives scores by the first pixel of an image."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, images: Tensor) -> Tensor:
        number = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        return self.scores[number]


@pytest.mark.parametrize("classes", [2, 4, 8])
def test_losses_and_shares_against_their_definitions(classes: int) -> None:
    random = np.random.default_rng(classes)
    scores = random.integers(0, 6, (40, classes)).astype(np.float32)  # with ties
    labels = random.integers(0, classes, 40)
    images = np.zeros((40, 8, 8, 3), np.uint8)
    images[:, 0, 0] = np.arange(40)[:, None]
    found = measure(Fixed(torch.from_numpy(scores)), PictureFeed(PictureArray(images, labels, (), ()), RULE), batch=13)
    wide = scores.astype(np.float64)
    losses = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(40), labels]
    ranked = np.argsort(-wide, axis=1, kind="stable")
    assert found.loss == pytest.approx(losses.mean())
    for k, share in ((1, found.top1), (3, found.top3), (5, found.top5)):
        assert share == pytest.approx((ranked[:, :k] == labels[:, None]).any(axis=1).mean())


def test_scores_that_are_no_numbers_are_never_right() -> None:
    scores = torch.zeros(6, 3)
    scores[:, 1] = torch.nan
    images = np.zeros((6, 8, 8, 3), np.uint8)
    found = measure(Fixed(scores), PictureFeed(PictureArray(images, np.array([0, 1, 2] * 2), (), ()), RULE))
    assert np.isnan(found.loss)
    assert found.top1 == 0


def test_measuring_leaves_no_trace_and_ignores_autocast() -> None:
    network = tiny()
    network.train()
    before = weights(network)
    plain = measure(network, PictureFeed(pictures(4, 2), RULE))
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(network, PictureFeed(pictures(4, 2), RULE)) == plain
    assert network.training
    assert network.top[3].training
    for name, values in weights(network).items():
        np.testing.assert_array_equal(values, before[name])
