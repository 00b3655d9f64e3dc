"""The network behind a layer, run by itself, against a hook that puts other features into the whole network."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camcore_torch import TorchBackend
from camcore_torch.record import Recorder
from camcore_torch.tails import Tail, check_tail
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_autograd import distrusting, relative
from torch_networks import TAILS, Small, network
from torchvision.models import VisionTransformer

import camcore
import camcore.supply
from camcore import MethodNotPossible


def images(count: int = 2, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


def replaced(model: nn.Module, layer: str, image: np.ndarray, change: Callable[[Tensor], Tensor]) -> np.ndarray:
    """(K,) scores of a network in which a module returns something else."""
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out: change(out.clone()))
    with torch.no_grad():
        scores = model.eval()(torch.tensor(image[None], dtype=next(model.parameters()).dtype))
    handle.remove()
    return scores[0].double().numpy()


def features_of(model: nn.Module, layer: str, image: np.ndarray) -> Tensor:
    found: list[Tensor] = []
    replaced(model, layer, image, lambda a: found.append(a.clone()) or a)
    return found[0][0]


def ablation(model: nn.Module, layer: str, image: np.ndarray, c: int) -> np.ndarray:
    """One run a channel."""
    a, whole = features_of(model, layer, image), replaced(model, layer, image, lambda a: a)

    def without(k: int) -> Callable[[Tensor], Tensor]:
        return lambda a: a.index_fill(1, torch.tensor([k]), 0)

    drops = [whole[c] - replaced(model, layer, image, without(k))[c] for k in range(len(a))]
    return np.einsum("k,k...->...", drops, a.double().numpy())


def recipro(model: nn.Module, layer: str, image: np.ndarray, c: int) -> np.ndarray:
    """One run a position."""
    space = features_of(model, layer, image).shape[1:]
    out = np.empty(space)
    for at in np.ndindex(*space):
        mask = torch.zeros(space)
        mask[at] = 1
        out[at] = replaced(model, layer, image, lambda a: a * mask.to(a.dtype))[c]  # noqa: B023
    return out


NAIVE = {"ablationcam": ablation, "reciprocam": recipro}


class Overwrites(nn.Module):
    """Values are written over in front of the layer, behind it, and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True)
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.side, self.conv2 = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        out = self.relu(self.bn1(self.conv1(x)))
        side = self.side(x)
        out += side
        x.mul_(2).add_(1)
        out = self.conv2(self.relu(out))
        out[:, :3] += x[:, :3]
        return self.fc(torch.tanh(self.relu(out).mean((2, 3))))


class Views(nn.Module):
    """Sizes with the batch in them: channel shuffle, images in a row, the batch in the middle, a constant a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        n, c, h, w = a.shape
        a = a.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        a = F.avg_pool1d(a.reshape(n * c, 1, h * w), 2).view(n, c, -1)
        a = a.permute(1, 0, 2).reshape(c, n * a.shape[2]).sin().view(c, n, -1).permute(1, 0, 2)
        a = a + torch.linspace(0, 1, c).repeat(n, 1)[:, :, None]
        a = torch.cat([a, a.new_ones(n, c, 1)], 2)
        return self.fc(a.amax(2) * x.mean((1, 2, 3))[:, None])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 5, 3, stride=3)
        self.left, self.right = nn.Conv2d(5, 4, 1), nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.trunk(x))
        left, right = F.gelu(self.left(x)), self.right(x).sigmoid()
        return self.fc(torch.cat([left * right, right], 1).amax((2, 3)))


LAYERS = {
    "overwritten": (Overwrites, ["first", "conv1", "bn1", "side", "conv2"]),
    "views": (Views, ["conv"]),
    "branches": (Branches, ["trunk", "left", "right"]),
}


@pytest.mark.parametrize("method", NAIVE)
@pytest.mark.parametrize(("name", "layer"), [(n, layer) for n, (_, layers) in LAYERS.items() for layer in layers])
def test_tail_runs_are_runs_of_the_whole_network_with_other_features(name: str, layer: str, method: str) -> None:
    torch.manual_seed(0)
    model, x = LAYERS[name][0]().double(), images(2, 24).astype(np.float64)
    found = camcore.explainer(model, method=method, layer=layer)(x, [[0, 3], [2, 1]])
    for n, row in enumerate(found.classes):
        for t, c in enumerate(row):
            assert relative(found.maps[n, t], NAIVE[method](model, layer, x[n], c)) <= 1e-5


@pytest.mark.parametrize(
    ("layer", "method"),
    [
        ("layer3.0.bn2", "reciprocam"),
        ("layer4", "reciprocam"),
        ("layer4.0.downsample", "reciprocam"),
        ("layer4.1.conv1", "reciprocam"),
        ("layer1", "ablationcam"),
    ],
)
def test_residual_network(layer: str, method: str) -> None:
    model, x = network("resnet18").double(), images(1, 48).astype(np.float64)
    explainer = distrusting(model, method=method, layer=layer)
    assert explainer.plan.way == "tail runs"
    assert relative(explainer(x, 7).maps[0, 0], NAIVE[method](model, layer, x[0], 7)) <= 1e-5


@pytest.mark.parametrize("method", NAIVE)
@pytest.mark.parametrize("name", ["softmax", "1x1 convolution, ReLU, pooling", "channels last", "normalised weights"])
def test_scores_behind_a_tail_are_those_before_a_softmax(name: str, method: str) -> None:
    torch.manual_seed(0)
    model, x = Small(TAILS[name]).double(), images(1, 16).astype(np.float64)
    found = camcore.explainer(model, method=method, layer="norm")(x, 2)
    if name == "softmax":
        model.tail = TAILS["mean of two axes"]
    assert relative(found.maps[0, 0], NAIVE[method](model, "norm", x[0], 2)) <= 1e-5


def test_targets_other_than_the_score() -> None:
    torch.manual_seed(0)
    model, x = Branches().double(), images(1, 16).astype(np.float64)
    found = camcore.explainer(model, method="reciprocam", layer="left", target="probability")(x, [[1]])
    model.tail = model.fc
    mask = torch.zeros(5, 5)
    mask[2, 3] = 1
    scores = replaced(model, "left", x[0], lambda a: a * mask)
    assert found.maps[0, 0, 2, 3] == pytest.approx(np.exp(scores[1]) / np.exp(scores).sum(), rel=1e-5)


def test_tokens_in_front_stay_as_they_are() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(16, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3).double().eval()
    nn.init.normal_(vit.heads.head.weight)
    layer, x = "encoder.layers.encoder_layer_0", images(1, 16).astype(np.float64)
    found = camcore.explainer(vit, method="reciprocam", layer=layer)(x, 1)
    for at in np.ndindex(4, 4):
        mask = torch.zeros(17, 1)
        mask[[0, 1 + 4 * at[0] + at[1]]] = 1
        expected = replaced(vit, layer, x[0], lambda a: a * mask)[1]  # noqa: B023
        assert found.maps[0, 0][at] == pytest.approx(expected, rel=1e-5)


def layered(then: Callable[[Tensor, nn.Linear], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Small(lambda a, fc, conv: then(a, fc))


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (lambda a, fc: fc(a.amax((2, 3)) if a.mean() > -9 else a.mean((2, 3))), "looks at values of its tensors"),
        (lambda a, fc: fc(a.amax((2, 3)) * float(a.max())), "looks at values of its tensors"),
        (lambda a, fc: fc((a - a.mean(0)).amax((2, 3)) + 1), "or from image to image in a batch; choose"),
        (
            lambda a, fc: fc(a.amax((2, 3))) * len(a) ** 2,
            "gives scores that differ by up to .* from those of the whole",
        ),
        (lambda a, fc: fc(a.amax((2, 3))) * (2 if len(a) > 2 else a.new_ones(1)), "for three images than for two"),
        (lambda a, fc: fc(sum(one.amax((1, 2)) for one in a)).expand(len(a), -1), "for three images than for two"),
    ],
)
def test_networks_that_cannot_be_cut(then: Callable[..., Tensor], text: str) -> None:
    model = layered(then)
    with pytest.raises(MethodNotPossible, match=text):
        camcore.explainer(model, method="reciprocam", layer="norm")(images(1), 0)


def test_a_tensor_past_the_layer_whose_first_axis_is_not_the_batch() -> None:
    class Turned(Branches):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.trunk(x))
            right = self.right(x).amax((2, 3)).t().contiguous()
            return self.fc(torch.cat([self.left(x).amax((2, 3)), right.t()], 1))

    with pytest.raises(MethodNotPossible, match=r"a tensor of shape \(4, 2\) comes past the layer"):
        camcore.explainer(Turned(), method="reciprocam", layer="left")(images(1), 0)


def test_a_tail_that_gives_another_number_of_scores() -> None:
    class Wide(Tail):
        def __call__(self, features: Tensor) -> Tensor:
            return features.new_zeros(len(features), 5)

    with pytest.raises(MethodNotPossible, match=r"cannot be run by itself: Sizes of tensors must match .*; choose a"):
        check_tail(Wide(0, 1, []), torch.ones(1, 2, 3, 3), torch.ones(1, 4), 1e-3)


def test_scores_that_do_not_depend_on_the_layer() -> None:
    class Ignores(Branches):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.trunk(x))
            self.right(x)
            return self.fc(self.left(x).repeat(1, 2, 1, 1).amax((2, 3)))

    with pytest.raises(MethodNotPossible, match="the scores do not depend on the layer"):
        camcore.explainer(Ignores(), method="ablationcam", layer="right")(images(1), 0)


class Chain(nn.Module):
    """Many operations of one size, and a shortcut past some of them."""

    def __init__(self, length: int = 24) -> None:
        super().__init__()
        self.conv, self.fc, self.length = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), length

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        held = x.sin()
        for i in range(self.length):
            x = (x + held if i == 3 else x).cos()
        return self.fc(x.amax((2, 3)))


class Living(TorchDispatchMode):
    """The most results of one size, at least so large, that are alive at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.most = shape, 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.shape == self.shape and out.device.type != "meta":
            self.alive.add(out.untyped_storage())
            self.most = max(self.most, len(self.alive))
        return out


def test_a_tail_holds_only_what_is_still_to_be_read() -> None:
    torch.manual_seed(0)
    backend = TorchBackend(Chain())
    (tail,) = backend.tails(images(1, 12), "conv")
    features = np.ones((7, 8, 10, 10), np.float32)
    with Living(features.shape) as seen:
        tail(features)
    assert seen.most <= 4  # the features, what is held, what goes into an operation and what comes out


def test_a_tail_keeps_nothing_of_what_it_was_learned_from() -> None:
    torch.manual_seed(0)
    backend = TorchBackend(Chain())
    backend.tap(example=images(1, 12))
    with Living((2, 8, 10, 10)) as two, Living((3, 8, 10, 10)) as three:
        (tail,) = backend.tails(images(1, 12), "conv")
        gc.collect()
        assert two.most >= 24  # for the time of the recording
        assert not two.alive
        assert not three.alive
    del tail


def test_the_two_records_are_not_held_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backend, left = TorchBackend(Chain()), []
    backend.tap(example=images(1, 12))
    record, seen = backend._record_tail, Living((2, 8, 10, 10))

    def recorded(x: np.ndarray, point: Any) -> Any:
        left.append(len(seen.alive))
        return record(x, point)

    monkeypatch.setattr(backend, "_record_tail", recorded)
    with seen:
        list(backend.tails(images(1, 12), "conv"))
    assert left == [0, 0]


def test_few_perturbed_features_are_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, sizes, alive = 4096, [], []
    monkeypatch.setattr(camcore.supply, "TAIL_BYTES", limit)

    class Counts(TorchBackend):
        def tails(self, *args: Any, **options: Any) -> Iterator[Any]:
            for tail in super().tails(*args, **options):
                alive.append(sum(type(o) is Tail for o in gc.get_objects()))
                yield lambda features, tail=tail: sizes.append(features.nbytes) or tail(features)

    torch.manual_seed(0)
    backend = Counts(Overwrites())
    explainer = camcore.Explainer(backend, method="ablationcam", layer="bn1")
    explainer(images(5, 24), "all")
    features = 4 * 6 * 11 * 11
    assert limit // 2 < features < limit
    assert max(sizes) <= limit
    assert len(sizes) == 5 * 7  # the runs serve all classes
    assert max(alive) <= 2
    del explainer, backend
    gc.collect()
    assert not any(type(o) in (Tail, Recorder) for o in gc.get_objects())
