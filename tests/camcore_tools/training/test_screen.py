"""What is seen while it trains fits into a terminal and tells the best epoch."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from camcore_tools.training.history import Epoch
from camcore_tools.training.loop import Training
from camcore_tools.training.screen import Screen, epoch_line
from camcore_tools.training.settings import Settings
from tiny_training import RULE, split, tiny

SETTINGS = Settings(epochs=2, batch=8, lr=0.05, device="cpu")
DATA = split(train=4, validation=2)


def test_a_line_for_each_epoch_and_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    training = Training(tiny(), DATA, SETTINGS, RULE)
    with Screen(training, label="2/4") as screen:
        training.at_epoch = screen.epoch
        training.run()
    shown = capsys.readouterr().err
    lines = [line.rpartition("\x1b[K")[2] for line in shown.split("\n")]
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/2", "2/2"]
    assert "2/4 [" in shown
    assert "4/4" in shown  # steps
    assert "epoch 2  loss" in shown
    assert shown.endswith("\r\x1b[K")


def test_the_best_epoch_has_a_star_and_lines_are_short() -> None:
    training = Training(tiny(), DATA, replace(SETTINGS, epochs=150), RULE)
    first = Epoch(1, 3, 0.1, 12.3456, None, 12.3456, 1.0, 1.0, 1.0, 1234.56)
    training.history = [first]
    assert epoch_line(training).endswith("*")
    assert len(epoch_line(training)) < 80
    training.history.append(replace(first, epoch=2, top1=0.5))
    assert epoch_line(training).startswith("epoch   2/150  loss 12.3456  validation 12.3456  top-1  50.0%")
    assert not epoch_line(training).endswith("*")
    training.history.append(replace(first, epoch=3, loss=1.25, validation_loss=1.5, recam_loss=0.75))
    assert "loss 1.2500  recam 0.7500  validation 1.5000" in epoch_line(training)
