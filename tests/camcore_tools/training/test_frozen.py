"""What a frozen trunk gives is computed once, where that changes nothing; and only there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training import frozen
from camcore_tools.training.feeds import PictureFeed, inputs
from camcore_tools.training.frozen import features_of, trained_part
from camcore_tools.training.loop import Training
from camcore_tools.training.networks import build
from camcore_tools.training.settings import Settings
from tiny_training import RULE, SIDE, split, tiny, weights
from torch import Tensor, nn

SETTINGS = Settings(epochs=2, batch=8, lr=0.05, device="cpu")
DATA = split(train=7)
IMAGES = inputs(DATA.train.pixels([0, 9, 20]), RULE)


def network(**options: Any) -> nn.Module:
    return build("small", 3, **{"freeze": True, "size": (SIDE, SIDE), **options})


@pytest.mark.parametrize("head", ["auto", "gap", "conv1024", "maps"])
def test_the_part_is_the_new_head(head: str) -> None:
    built = network(head=head)
    part = trained_part(built, IMAGES)
    assert part is not None
    assert {id(p) for p in part.parameters()} == {id(p) for p in built.parameters() if p.requires_grad}
    features = features_of(built, part, PictureFeed(DATA.train, RULE), batch=8)
    assert len(features) == 21
    with torch.inference_mode():
        torch.testing.assert_close(part(features[[0, 9, 20]]), built(IMAGES))
    assert not any(module.training for module in built.modules())


@pytest.mark.parametrize("recam", [None, "class", "self"])
def test_the_weights_are_the_same_bits_and_the_trunk_runs_once(recam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, recam=recam)
    short, whole = Training(network(head="maps"), DATA, settings, RULE), None
    short.prepare()
    runs: list[int] = []
    stem = next(iter(short.network.children()))
    stem.register_forward_hook(lambda module, args, result: runs.append(len(args[0])))
    short.run()
    assert not runs
    monkeypatch.setattr(frozen, "_MOST_BYTES", 0)
    whole = Training(network(head="maps"), DATA, settings, RULE)
    whole.run()
    expected = weights(whole.objective)
    for name, values in weights(short.objective).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    assert [replace(row, seconds=0) for row in short.history] == [replace(row, seconds=0) for row in whole.history]
    states = short.state()
    assert states[0].keys() == whole.state()[0].keys()


def test_the_pictures_are_counted_once() -> None:
    training, seen = Training(network(), DATA, SETTINGS, RULE), []
    training.prepare(seen.append)
    training.prepare(seen.append)
    assert sum(seen) == len(DATA.train) + len(DATA.validation)


class Restless(nn.Module):
    """A trunk that is frozen, but not the same each time, or not all that the scores are made of."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = tiny().trunk.requires_grad_(False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images).mean((2, 3))
        if self.kind == "random":
            features = self.drop(features)
        if self.kind == "flag" and self.training:
            features = features * 2
        scores: Tensor = self.head(features)
        if self.kind == "twice":
            scores = scores + self.head(features)
        return scores + 1 if self.kind == "behind" else scores


@pytest.mark.parametrize("kind", ["random", "flag", "twice", "behind"])
def test_where_it_would_change_something_it_is_not_done(kind: str) -> None:
    torch.manual_seed(0)
    assert trained_part(Restless("plain"), IMAGES) is not None
    state = torch.get_rng_state()
    restless = Restless(kind).eval()
    before = weights(restless)
    torch.set_rng_state(state)
    assert trained_part(restless, IMAGES) is None
    assert torch.equal(torch.get_rng_state(), state)
    for name, values in weights(restless).items():
        np.testing.assert_array_equal(values, before[name])


def test_networks_of_which_more_is_trained() -> None:
    assert trained_part(tiny(), IMAGES) is None
    part = tiny()
    part.top[0].requires_grad_(False)
    assert trained_part(part, IMAGES) is None  # the trunk and the head are trained
    assert trained_part(tiny(freeze=True), IMAGES) is None  # top and head are two


def test_pictures_that_are_changed_go_through_the_trunk() -> None:
    training = Training(network(), DATA, replace(SETTINGS, flip=True), RULE)
    seen: list[int] = []
    training.prepare(seen.append)
    assert not seen
