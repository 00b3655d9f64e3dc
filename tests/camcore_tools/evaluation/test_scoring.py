"""Scores of all pictures, and the figures of an epoch, as the training measures them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_tools.evaluation.scoring import Scorer, score
from camcore_tools.training.feeds import PictureFeed, inputs
from camcore_tools.training.measure import measure
from tiny_training import RULE, pictures, tiny


def test_scores_are_those_of_the_network_in_evaluation_mode_whatever_the_batch() -> None:
    network, drawn = tiny().train(), pictures(3, seed=0)
    counted: list[int] = []
    found = Scorer(network, drawn, RULE, batch=4)(network, counted.append)
    assert sum(counted) == len(drawn)
    assert network.training
    with torch.no_grad():
        expected = network.eval()(inputs(drawn.pixels(range(9)), RULE)).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_figures_are_those_of_the_training() -> None:
    network, drawn = tiny(), pictures(6, seed=1)
    theirs = measure(network, PictureFeed(drawn, RULE))
    ours = score(7, Scorer(network, drawn, RULE)(network), drawn.labels)
    assert ours.epoch == 7
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert (ours.top1, ours.top3, ours.top5) == (theirs.top1, theirs.top3, theirs.top5)


def test_a_frozen_trunk_sees_each_picture_once() -> None:
    first, second, drawn = tiny(0, freeze=True), tiny(0, freeze=True), pictures(4, seed=2)
    torch.nn.init.normal_(second.head.weight)
    seen: list[int] = []
    for network in (first, second):
        network.top.requires_grad_(False)
        network.trunk.register_forward_hook(lambda *args: seen.append(len(args[2])))
    scorer = Scorer(first, drawn, RULE, batch=5)
    seen.clear()
    for network in (first, second):
        np.testing.assert_allclose(scorer(network), Scorer(network, drawn, RULE, often=False)(network), atol=1e-6)
    assert sum(seen) == 2 * len(drawn)  # by the plain ones alone
