from __future__ import annotations

import pytest
import torch
from camcore_torch.processes import check_whole, is_first
from torch import nn

from camcore.errors import InputError


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("", True), ("0", True), ("1", False), ("10", False)])
def test_the_environment_says_who_is_first(monkeypatch: pytest.MonkeyPatch, rank: str | None, first: bool) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first() is first


def test_once_they_have_met_they_know_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    assert is_first()


def test_lazy_parameters() -> None:
    with pytest.raises(InputError, match=r"parameter '0.weight' has no shape yet; run a batch through"):
        check_whole(nn.Sequential(nn.LazyConv2d(4, 3)))


def test_parameters_without_values() -> None:
    with pytest.raises(InputError, match=r"parameter '0.weight' is on the device 'meta', without values"):
        check_whole(nn.Sequential(nn.Linear(2, 2, device="meta")))


def test_sharded_parameters() -> None:
    class FlatParameter(nn.Parameter):
        pass

    model = nn.Sequential(nn.Linear(2, 2))
    check_whole(model)
    model[0].weight = FlatParameter(model[0].weight.detach())
    with pytest.raises(InputError, match=r"parameter '0.weight' is spread over several processes"):
        check_whole(model)
