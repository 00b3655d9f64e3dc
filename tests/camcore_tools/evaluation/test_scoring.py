"""Scores of all pictures, and the figures of an epoch, as the training measures them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from camcore_tools.evaluation.scoring import all_scores, score
from camcore_tools.training.feeds import PictureFeed, inputs
from camcore_tools.training.measure import measure
from tiny_training import RULE, pictures, tiny


def test_scores_are_those_of_the_network_in_evaluation_mode_whatever_the_batch() -> None:
    network, drawn = tiny().train(), pictures(3, seed=0)
    counted: list[int] = []
    found = all_scores(network, drawn, RULE, batch=4, after=counted.append)
    assert sum(counted) == len(drawn)
    assert network.training
    with torch.no_grad():
        expected = network.eval()(inputs(drawn.pixels(range(9)), RULE)).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_figures_are_those_of_the_training() -> None:
    network, drawn = tiny(), pictures(6, seed=1)
    theirs = measure(network, PictureFeed(drawn, RULE))
    ours = score(7, all_scores(network, drawn, RULE), drawn.labels)
    assert ours.epoch == 7
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert (ours.top1, ours.top3, ours.top5) == (theirs.top1, theirs.top3, theirs.top5)
