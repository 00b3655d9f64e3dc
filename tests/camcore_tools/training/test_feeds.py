"""Batches hold what was asked for, as the rule makes it."""

from __future__ import annotations

import numpy as np
import torch
from camcore_tools.training.feeds import PictureFeed, TensorFeed, batches, inputs
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import RULE, pictures


@given(st.integers(1, 60), st.integers(1, 20))
def test_batches_hold_each_picture_once_and_none_stands_alone(count: int, size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    groups = batches(order, size)
    assert np.concatenate(groups).tolist() == order.tolist()
    assert all(len(group) in (size, size + 1) for group in groups[:-1])
    assert len(groups[-1]) <= size + 1
    assert len(groups[-1]) > 1 or count == 1 or size == 1


def test_inputs_follow_the_rule() -> None:
    pixels = pictures(2, 0).pixels([0, 3])
    np.testing.assert_array_equal(inputs(pixels, RULE)[1].numpy(), RULE.values(pixels[1]))


def test_feeds_give_the_groups_in_their_order() -> None:
    data = pictures(3, 0)
    groups = [np.array([4, 0]), np.array([8, 1, 2])]
    feed = PictureFeed(data, RULE)
    images = list(feed.read(groups))
    for group, batch in zip(groups, images, strict=True):
        assert torch.equal(batch, inputs(data.pixels(group), RULE))
    whole = TensorFeed(inputs(data.pixels(range(9)), RULE), data.labels)
    assert all(torch.equal(a, b) for a, b in zip(images, whole.read(groups), strict=True))
    assert feed.labels is whole.labels
