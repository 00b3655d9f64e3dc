from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend
from torch import Tensor, nn
from torch_networks import network

import camcore
from camcore import HeadNotFound, InputError


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


class Tokens(nn.Module):
    """Patches, with or without a class token in front, and a pooling over all of them."""

    def __init__(self, prefix: int, *, size: int = 8) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 6, size, stride=size), nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.front, self.fc = nn.Parameter(torch.randn(1, prefix, 6)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.front.expand(len(x), -1, -1), x], 1)
        return self.fc(self.mix(x).mean(1))


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, *shape)).astype(np.float32)


@pytest.mark.parametrize("given", [{}, {"grid": (4, 6), "prefix": 1}, {"prefix": 1}, {"grid": (4, 6)}], ids=str)
def test_a_mean_over_the_class_token_too_is_no_head_of_the_maps(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Tokens(1), pictures(32, 48)
    tap = TorchBackend(model, **given).tap(example=x)
    assert tap.head is None
    assert tap.shape == (6, 4, 6)
    assert tap.layer == "mix"
    with pytest.raises(HeadNotFound, match="the pooling averages class or register tokens too"):
        camcore.explainer(model, method="cam", **given)(x)
    found = camcore.explainer(model, method="gradcam", **given)(x, 1)
    with torch.no_grad():
        tokens = model.mix(torch.cat([model.front.expand(2, -1, -1), patches(model, x)], 1))
    expected = (tokens[:, 1:] @ model.fc.weight[1] / 25).reshape(2, 4, 6).detach().numpy()
    np.testing.assert_allclose(found.maps[:, 0], expected, rtol=1e-5, atol=1e-6)


def patches(model: Tokens, x: np.ndarray) -> Tensor:
    return model.patches(torch.from_numpy(x)).flatten(2).transpose(1, 2)


def test_a_mean_over_the_tokens_of_the_picture_has_a_head() -> None:
    torch.manual_seed(0)
    model, x = Tokens(0), pictures(32, 48)
    tap = TorchBackend(model).tap(example=x)
    assert tap.head is not None
    assert tap.shape == (6, 4, 6)
    found = camcore.explainer(model, method="cam")(x, 1)
    expected = (model.mix(patches(model, x)) @ model.fc.weight[1]).reshape(2, 4, 6).detach().numpy()
    np.testing.assert_allclose(found.maps[:, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "prefix"), [("cam", 0), ("gradcam", 0), ("gradcam", 1), ("ablationcam", 0), ("ablationcam", 1)]
)
def test_tokens_of_images_of_several_sizes(method: str, prefix: int) -> None:
    """Also where the number of tokens is the same."""
    torch.manual_seed(0)
    model = Tokens(prefix)
    explainer = camcore.explainer(model, method=method)
    for size in ((32, 32), (16, 64), (48, 48), (32, 32)):
        grid = (size[0] // 8, size[1] // 8)
        found = explainer(pictures(*size), 1)
        assert found.maps.shape == (2, 1, *grid)
        alone = camcore.explainer(model, method=method, grid=grid, prefix=prefix)(pictures(*size), 1)
        np.testing.assert_array_equal(found.maps, alone.maps)


def test_one_study_serves_convolutions_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, expected in ((network("resnet18"), 1), (Tokens(0), 2)):
        backend, learned = TorchBackend(model), []
        learn = backend._learn
        monkeypatch.setattr(backend, "_learn", lambda x, learn=learn, seen=learned: seen.append(x.shape) or learn(x))
        for _ in range(2):
            for side in (64, 96):
                backend.observe(pictures(side, side), needs=frozenset({"features", "head"}))
        assert len(learned) == expected
