from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend
from torch import nn
from torch_networks import REFUSED, TAILS, TORCHVISION, Small, network

import camcore
from camcore import HeadNotFound, LinearHead


def images(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


def assert_complete(backend: TorchBackend, x: np.ndarray, limit: float = 1e-5) -> None:
    """mean(CAM) + bias is the score, for every class, and the scores are the network's own."""
    (seen,) = backend.observe(x, needs=frozenset({"features", "head"}))
    assert seen.features is not None
    assert seen.head is not None
    maps = camcore.cam(seen.features, seen.head)
    rebuilt = maps.mean(axis=tuple(range(2, maps.ndim))) + seen.head.bias
    scale = np.abs(seen.scores).max()
    assert np.abs(rebuilt - seen.scores).max() <= limit * scale


@pytest.mark.parametrize("name", TAILS)
def test_head_is_found_however_it_is_written(name: str) -> None:
    torch.manual_seed(1)
    backend = TorchBackend(Small(TAILS[name]))
    for count, side in [(1, 32), (3, 32), (2, 45)]:  # the first call learns, the others use it, also at another size
        assert_complete(backend, images(count, side))


@pytest.mark.parametrize("name", TAILS)
def test_scores_are_those_of_the_network(name: str) -> None:
    model = Small(TAILS[name]).eval()
    x = images(2)
    with torch.no_grad():
        output = model(torch.from_numpy(x)).numpy()
    scores = camcore.explainer(model)(x).scores
    undo = {"softmax": camcore.softmax, "sigmoid": lambda s: 1 / (1 + np.exp(-s))}
    undo["log softmax"] = lambda s: np.log(camcore.softmax(s))
    np.testing.assert_allclose(undo.get(name, lambda s: s)(scores), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_linear_head_is_refused_by_the_obstacle(name: str) -> None:
    tail, text = REFUSED[name]
    with pytest.raises(HeadNotFound, match=text) as error:
        camcore.explainer(Small(tail), method="cam")(images(1))
    assert re.search(r"Methods that work here: .*\bgradcam\b", str(error.value))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks(name: str) -> None:
    backend = TorchBackend(network(name))
    assert_complete(backend, images(2, 96), 1e-4)


def test_densenet_is_tapped_behind_its_functional_relu() -> None:
    backend = TorchBackend(network("densenet121"))
    (seen,) = backend.observe(images(1, 64), needs=frozenset({"features", "head"}))
    assert backend.tap().layer == "relu(features)"
    assert seen.features is not None
    assert seen.features.min() >= 0


def test_features_are_the_tensor_that_the_pooling_reads() -> None:
    model = Small(TAILS["mean of two axes"]).eval()
    x = images(2)
    with torch.no_grad():
        expected = torch.relu(model.norm(model.trunk(torch.from_numpy(x))))
    (seen,) = TorchBackend(model).observe(x, needs=frozenset({"features"}))
    assert seen.features is not None
    np.testing.assert_array_equal(seen.features, expected.numpy())


def test_class_maps_before_the_pooling_are_the_features() -> None:
    model = Small(TAILS["1x1 convolution before the pooling"]).eval()
    head = TorchBackend(model).observe(images(1), needs=frozenset({"features", "head"}))[0].head
    assert head is not None
    assert head.is_identity


@pytest.mark.parametrize(
    ("trunk", "shape"), [(nn.Conv1d(3, 5, 3), (2, 3, 20)), (nn.Conv3d(3, 5, 3), (2, 3, 6, 7, 8))], ids=["1-D", "3-D"]
)
def test_one_and_three_spatial_axes(trunk: nn.Module, shape: tuple[int, ...]) -> None:
    pool = nn.AdaptiveAvgPool1d(1) if len(shape) == 3 else nn.AdaptiveAvgPool3d(1)
    model = nn.Sequential(trunk, nn.ReLU(), pool, nn.Flatten(), nn.Linear(5, 4))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    backend = TorchBackend(model)
    assert_complete(backend, x)
    out = camcore.explainer(model)(x, "top2")
    assert out.heatmaps().shape == (2, 2, *shape[2:])


def test_given_head_is_used_and_checked() -> None:
    model = Small(TAILS["mean of two axes"])
    x = images(2)
    head = LinearHead(model.fc.weight.detach().numpy(), model.fc.bias.detach().numpy())
    expected = camcore.explainer(model)(x).maps
    for given in (head, (model.fc.weight, model.fc.bias), "fc", model.fc):
        np.testing.assert_allclose(camcore.explainer(model, head=given)(x).maps, expected, rtol=1e-6)
    wrong = LinearHead(-head.weight, head.bias)
    with pytest.raises(HeadNotFound, match="does not reproduce the scores"):
        camcore.explainer(model, head=wrong, method="cam")(x)
    assert camcore.explainer(model, head=wrong)(x).method == "gradcam"  # "auto" says what it took


def test_given_head_and_layer_where_none_is_found() -> None:
    """A network whose pooling cannot be followed, but whose head the user knows."""

    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Conv2d(3, 5, 3)
            self.fc = nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.trunk(x)
            pooled = torch.cumsum(maps.flatten(2), dim=2)[..., -1] / maps[0, 0].numel()
            return self.fc(pooled)

    model, x = Opaque(), images(2)
    with pytest.raises(HeadNotFound):
        camcore.explainer(model, method="cam")(x)
    out = camcore.explainer(model, layer="trunk", head="fc")(x, "all")
    np.testing.assert_allclose(out.maps.mean((2, 3)) + model.fc.bias.detach().numpy(), out.scores, rtol=1e-3, atol=1e-4)
