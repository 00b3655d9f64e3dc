from __future__ import annotations

import numpy as np
import pytest
from camcore_torch import TorchBackend
from torch_networks import network

from camcore import InputError


@pytest.mark.parametrize(
    ("name", "layer", "layers"),
    [
        ("resnet18", "layer4", ["layer1", "layer2", "layer3", "layer4"]),
        (
            "densenet121",
            "relu(features)",
            ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features"],
        ),
        ("squeezenet1_0", "classifier.2", ["features.1", "features.5", "features.10", "classifier.2"]),
        ("googlenet", "inception5b", ["conv3", "inception3b", "inception4e", "inception5b"]),
        ("mobilenet_v2", "features", ["features.3", "features.6", "features.13", "features"]),
    ],
)
def test_names_are_those_of_the_outermost_modules(name: str, layer: str, layers: list[str]) -> None:
    backend = TorchBackend(network(name))
    assert backend.tap().layer == layer
    assert [entry.name for entry in backend.layers()][-4:] == layers


def test_recording_starts_right_before_the_features() -> None:
    """So that the calls after the first cost a few operations, not a copy of every one."""
    backend = TorchBackend(network("resnet18"))
    backend.tap()
    study = backend._study
    assert study is not None
    assert study.point is not None
    assert study.point.place.path.startswith("layer4.1")
    assert study.point.offset <= 1


def test_a_study_knows_what_each_module_returns() -> None:
    backend = TorchBackend(network("resnet18"))
    out = backend.observe(
        np.zeros((1, 3, 64, 64), np.float32), needs=frozenset({"features"}), layers=["layer1.0"], classes=0
    )[0]
    assert out.features is not None
    assert out.features.shape == (1, 64, 16, 16)
    with pytest.raises(InputError, match="no layer is called 'layer9'"):
        backend.tap("layer9")
