from __future__ import annotations

import pytest
import torch
from camcore_torch.record import Place, Recorder, recording_from, scores_of, watching_modules
from torch import Tensor, nn


class Twice(nn.Module):
    """One module called two times, and an in-place operation."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.fc(self.relu(self.fc(x)))) * 2


def test_in_place_operations_make_new_values() -> None:
    record = Recorder()
    x = torch.tensor([-1.0, 2.0])
    before = record.number(x)
    with record:
        x.relu_()
    assert record.number(x) != before
    assert record.calls[0].sources == (before,)
    assert record.calls[0].results == (record.number(x),)
    assert record.calls[0].name == "relu"


def test_dependence_on_the_start() -> None:
    record = Recorder()
    x, w = torch.ones(2), torch.ones(2)
    start = record.number(x)
    with record, torch.no_grad():
        scaled = w * 3
        y = x + scaled
    live = record.depends_on(start)
    assert record.number(y) in live
    assert record.number(scaled) not in live


def test_modules_are_noted_with_the_count_of_their_calls() -> None:
    model, record = Twice(), Recorder()
    with torch.no_grad(), watching_modules(model, record) as events, record:
        model(torch.ones(1, 3))
    relu = [e for e in events if e.path == "relu" and e.kind == "exit"]
    assert [e.nth for e in relu] == [1, 2]
    assert relu[0].index < relu[1].index
    assert events[-1].path == ""


@pytest.mark.parametrize("kind", ["enter", "exit"])
def test_recording_from_a_place_sees_the_tail_only(kind: str) -> None:
    model = Twice()
    whole, tail = Recorder(), Recorder()
    with torch.no_grad():
        with whole:
            model(torch.ones(1, 3))
        with recording_from(model, Place("relu", kind, 2), tail):
            model(torch.ones(1, 3))
    names = [c.name for c in tail.calls]
    assert names == [c.name for c in whole.calls][-len(names) :]
    assert names[-1] == "mul"
    assert ("relu" in names) == (kind == "enter")
    assert not model.relu._forward_hooks
    assert not model.relu._forward_pre_hooks


def test_scores_in_what_a_model_returns() -> None:
    scores, other = torch.ones(2, 5), torch.ones(2, 3, 4, 4)
    assert scores_of(scores) is scores
    assert scores_of((other, scores)) is scores
    assert scores_of({"features": other, "logits": scores}) is scores
    assert scores_of({"a": other, "b": scores}, "b") is scores
    assert scores_of((other, scores), 1) is scores
    assert scores_of("nothing") is None
