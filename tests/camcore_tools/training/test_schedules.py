"""Each schedule against PyTorch's scheduler of the same name, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from camcore_tools.training.schedules import rate, set_rate
from camcore_tools.training.settings import SCHEDULES, Settings
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

TOTAL, EPOCH = 40, 8

PEERS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
    "inverse": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + 0.25 * n)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=TOTAL),
}


def optimizers(kind: str) -> list[Any]:
    """Two alike."""
    weights = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    if kind == "sgd":
        return [torch.optim.SGD([w], 0.3, momentum=0.9) for w in weights]
    return [torch.optim.AdamW([w], 0.3) for w in weights]


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_against_pytorch(schedule: Any, kind: str) -> None:
    settings = Settings(lr=0.3, schedule=schedule, decay=0.25)
    ours, theirs = optimizers(kind)
    peer = PEERS[schedule](theirs)
    for step in range(TOTAL):
        given = set_rate(ours, settings, step, total=TOTAL, per_epoch=EPOCH)
        mine, other = ours.param_groups[0], theirs.param_groups[0]
        assert given == mine["lr"] == pytest.approx(other["lr"], rel=1e-9, abs=1e-15)
        for name in ("momentum", "betas"):
            assert mine.get(name) == pytest.approx(other.get(name))
        peer.step()


@given(st.sampled_from(["constant", "inverse", "cosine"]), st.floats(0.1, 4.0))
def test_the_warm_up_rises_evenly_to_the_schedule(schedule: Any, epochs: float) -> None:
    plain = Settings(lr=0.3, schedule=schedule, decay=0.25)
    warm = replace(plain, warmup=epochs)
    shares = [
        rate(warm, n, total=TOTAL, per_epoch=EPOCH) / rate(plain, n, total=TOTAL, per_epoch=EPOCH) for n in range(TOTAL)
    ]
    expected = [min(1.0, (n + 1) / (epochs * EPOCH)) for n in range(TOTAL)]
    assert shares == pytest.approx(expected)


@given(st.sampled_from(SCHEDULES), st.integers(1, 12))
def test_short_trainings_have_rates_too(schedule: Any, total: int) -> None:
    settings = Settings(lr=0.3, schedule=schedule)
    assert all(0 < rate(settings, n, total=total, per_epoch=1) <= 0.3 for n in range(total))
