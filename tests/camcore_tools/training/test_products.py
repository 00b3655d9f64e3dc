"""What is made at the end, also of networks without a pooled head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training import session
from camcore_tools.training.feeds import inputs
from camcore_tools.training.job import Job
from camcore_tools.training.session import carry_out
from camcore_tools.training.settings import Settings
from tiny_training import RULE, split
from torch import nn

import camcore

DATA = split(train=4, validation=2)


def flat(*_: Any, **__: Any) -> nn.Module:
    """Each position has weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolution = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
        return nn.Sequential(convolution, nn.Flatten(), nn.Linear(4 * 49, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_network_without_a_pooled_head_is_exported_with_the_recorded_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "bare_network", flat)
    monkeypatch.setattr(session, "rule_of", lambda job: RULE)
    job = Job("drawn", watch=2, settings=Settings(epochs=1, lr=0.01, device="cpu"))
    document = carry_out(job, tmp_path, pictures=lambda job, rule, data: DATA)
    assert document["recording"]["method"] == "gradcam"
    assert document["model"]["passed"]
    names = [check["name"] for check in document["model"]["checks"]]
    assert names == ["ONNX checker", "ONNX Runtime", "outputs", "scores, PyTorch against ONNX Runtime"]
    images = inputs(DATA.validation.pixels([0, 4]), RULE).numpy()
    out = camcore.explainer(tmp_path / "model.onnx", method="gradcam")(images, DATA.validation.labels[[0, 4]])
    assert out.class_names == DATA.train.classes
    recorded = camcore.load_recording(tmp_path / "recording.npz")
    np.testing.assert_allclose(out.maps[:, 0], recorded.maps[-1], rtol=1e-3, atol=1e-5)
