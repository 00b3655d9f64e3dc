"""Gradients and curvature at any layer, of any target, against plain autograd through hooks, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camcore_torch import TorchBackend
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch_autograd import EXPLAINED, bends, forward, relative, slopes
from torch_networks import TAILS, Small, network

from camcore import InputError, MethodNotPossible
from camcore.scores import choose_classes
from camcore.targets import target as target_of

BOTH = frozenset({"features", "gradients", "curvature"})
LIMIT = 1e-6  # the scores that a target sees are float32


def images(count: int = 2, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side))


class Overwrites(nn.Module):
    """Batch normalisation, ReLU in place, a shortcut added in place: as residual networks are written."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True)
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.relu(self.first(x))
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(identity)))))
        out += identity
        return self.fc(torch.tanh(self.relu(out).mean((2, 3))))


class Branches(nn.Module):
    """Two ways side by side, one of them gated by the other."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 5, 3, stride=2)
        self.left, self.right = nn.Conv2d(5, 4, 1), nn.Conv2d(5, 4, 1)
        self.fc = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.trunk(x))
        left, right = F.gelu(self.left(x)), self.right(x).sigmoid()
        return self.fc(torch.cat([left * right, right], 1).amax((2, 3)))


class Twice(nn.Module):
    """One module called two times; its name means what it returns last."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.conv(self.trunk(x)))))
        return self.fc(x.square().mean((2, 3)))


class Tuples(nn.Module):
    """Modules that take and return tuples and dicts around the layers."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, both: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            return {"a": torch.tanh(self.conv(both[0])), "b": both[1].sigmoid()}

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.pair, self.fc = nn.Conv2d(3, 6, 3, stride=2), Tuples.Pair(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.trunk(x)
        out = self.pair((x, x * 2))
        return x, {"logits": self.fc((out["a"] * out["b"]).mean((2, 3)))}


NETWORKS = {
    "overwritten": (Overwrites, ["first", "conv1", "bn1", "conv2", "bn2"]),
    "branches": (Branches, ["trunk", "left", "right"]),
    "twice": (Twice, ["trunk", "conv"]),
}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double().train()


def of_classes(model: nn.Module, x: np.ndarray, classes: object) -> np.ndarray:
    with torch.no_grad():
        scores = model.eval()(torch.from_numpy(x))
    return choose_classes(scores.float().numpy(), classes, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("explained", EXPLAINED)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_curvature_of_every_target_at_several_layers(name: str, explained: str) -> None:
    kind, layers = NETWORKS[name]
    model, x = made(kind), images()
    wanted, line = EXPLAINED[explained]
    seen = TorchBackend(model).observe(x, needs=BOTH, layers=layers, classes="top3", target=target_of(wanted))
    scores, values = forward(model, x, layers)
    for layer, evidence in zip(layers, seen, strict=True):
        assert evidence.features is not None
        assert evidence.gradients is not None
        assert evidence.curvature is not None
        assert evidence.gradients.shape == (2, 3, *values[layer].shape[1:])
        assert relative(evidence.features, values[layer].detach().numpy()) <= 1e-12
        assert relative(evidence.gradients, slopes(scores, values[layer], evidence.classes, line)) <= LIMIT, layer
        limit = 1e-4 if explained == "function" else LIMIT  # second differences of a user's function
        assert relative(evidence.curvature, bends(scores, values[layer], evidence.classes, line)) <= limit, layer


@pytest.mark.parametrize("layers", [["bn2", "first"], ["conv1", "conv1"], ["relu"]])
def test_layers_in_any_order(layers: list[str]) -> None:
    model, x = made(Overwrites), images()
    seen = TorchBackend(model).observe(x, needs=BOTH, layers=layers, classes=1)
    alone = [TorchBackend(model).observe(x, needs=BOTH, layers=[name], classes=1)[0] for name in layers]
    for one, other in zip(seen, alone, strict=True):
        for part in BOTH:
            assert relative(getattr(one, part), getattr(other, part)) <= 1e-9


def test_layers_inside_modules_that_return_tuples_and_dicts() -> None:
    model, x = made(Tuples), images()
    layers = ["trunk", "pair.conv"]
    seen = TorchBackend(model).observe(x, needs=BOTH, layers=layers, classes="all")
    model.eval()
    tensor = torch.from_numpy(x)
    with torch.no_grad():
        trunk = model.trunk(tensor)
    trunk.requires_grad_(True)
    conv = model.pair.conv(trunk)
    scores = model.fc((conv.tanh() * (trunk * 2).sigmoid()).mean((2, 3)))
    line = EXPLAINED["logit"][1]
    for value, evidence in zip((trunk, conv), seen, strict=True):
        assert evidence.gradients is not None
        assert relative(evidence.gradients, slopes(scores, value, evidence.classes, line)) <= LIMIT
    with pytest.raises(InputError, match="'pair': no module of that path returns a tensor"):
        TorchBackend(model).observe(x, needs=BOTH, layers=["pair"])


@pytest.mark.parametrize("name", TAILS)
def test_features_that_no_module_returns(name: str) -> None:
    """However a head is written: at the features that it reads, and at the normalisation before."""
    torch.manual_seed(0)
    model, x = Small(TAILS[name]).double().eval(), images()
    backend = TorchBackend(model)
    seen = backend.observe(x, needs=BOTH, layers=[None, "norm"], classes="all", target=target_of("probability"))
    with torch.no_grad():
        norm = model.norm(model.trunk(torch.from_numpy(x)))
    norm.requires_grad_(True)
    a = torch.relu(norm)
    features, scores = head_of(name, model, a)
    line = EXPLAINED["probability"][1]
    if backend.tap().scores_are == "independent logit":
        line = lambda s, c: s[c].sigmoid()  # noqa: E731
    for value, evidence in zip((features, norm), seen, strict=True):
        assert evidence.gradients is not None
        assert evidence.curvature is not None
        assert relative(evidence.gradients, slopes(scores, value, evidence.classes, line)) <= LIMIT
        assert relative(evidence.curvature, bends(scores, value, evidence.classes, line)) <= LIMIT


def head_of(name: str, model: Small, a: Tensor) -> tuple[Tensor, Tensor]:
    """The features that the head reads, and the scores before a softmax or sigmoid."""
    undone = {"softmax": "mean of two axes", "log softmax": "mean of two axes", "sigmoid": "mean of two axes"}
    if name == "in-place ReLU before the pooling":
        features = torch.relu(a - 0.2)
        return features, model.fc(features.mean((2, 3)))
    if name.startswith("1x1 convolution") and "behind" not in name:
        features = model.conv(a).relu() if "ReLU" in name else model.conv(a)
        return features, features.mean((2, 3))
    return a, TAILS[undone.get(name, name)](a, model.fc, model.conv)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121"])
def test_torchvision_networks(name: str) -> None:
    layers = {
        "resnet18": ["layer2", "layer3.0.bn2", "layer4.1.conv1", "layer4.0.downsample"],
        "googlenet": ["inception5b.branch1", "inception5b.branch3", "inception5a.branch4", "inception5b"],
        "densenet121": ["features.denseblock3", "features.transition3.norm", "features.norm5"],
    }[name]
    model, x = network(name).double(), np.random.default_rng(1).standard_normal((1, 3, 64, 64))
    seen = TorchBackend(model).observe(x, needs=frozenset({"gradients"}), layers=layers, classes="top2")
    scores, values = forward(model, x, layers)
    for layer, evidence in zip(layers, seen, strict=True):
        assert evidence.gradients is not None
        expected = slopes(scores, values[layer], evidence.classes, EXPLAINED["logit"][1])
        assert relative(evidence.gradients, expected) <= LIMIT, layer


def test_features_of_a_pass_with_gradients_are_those_of_one_without() -> None:
    model, x = made(Overwrites), images()
    layers, features = ["conv1", "bn2"], frozenset({"features"})
    plain = TorchBackend(model).observe(x, needs=features, layers=layers)
    for one, other in zip(plain, TorchBackend(model).observe(x, needs=BOTH, layers=layers), strict=True):
        assert one.features is not None
        assert other.features is not None
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.scores, other.scores)


class Frozen(nn.Module):
    """A trunk under ``no_grad``, as it is written where only the head is trained."""

    def __init__(self, context: type = torch.no_grad) -> None:
        super().__init__()
        self.trunk, self.more, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            x = self.more(torch.relu(self.trunk(x)))
        return self.fc(torch.tanh(x * 1).mean((2, 3)))


@pytest.mark.parametrize("layer", ["trunk", "more"])
def test_trunk_under_no_grad(layer: str) -> None:
    """The map is of what the network computes, whatever of it is trained."""
    model, x = made(Frozen), images()
    seen = TorchBackend(model).observe(x, needs=BOTH, layers=[layer], classes="all", target=target_of("rest"))[0]
    assert seen.gradients is not None
    assert seen.curvature is not None
    model.context = torch.enable_grad
    scores, values = forward(model, x, [layer])
    line = EXPLAINED["rest"][1]
    assert relative(seen.gradients, slopes(scores, values[layer], seen.classes, line)) <= LIMIT
    assert relative(seen.curvature, bends(scores, values[layer], seen.classes, line)) <= LIMIT


class Between(nn.Module):
    """A frozen part in the middle, in front of a head that is trained."""

    def __init__(self, context: type = torch.no_grad) -> None:
        super().__init__()
        self.first, self.middle, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3), nn.Linear(150, 4)
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        with self.context():
            x = torch.relu(self.middle(x))
        return self.fc(x.flatten(1)).softmax(1)


@pytest.mark.parametrize("layers", [["first"], ["middle"], ["first", "middle"]])
@pytest.mark.parametrize("needs", [BOTH, frozenset({"curvature"})])
def test_frozen_part_behind_the_layer(layers: list[str], needs: frozenset[str]) -> None:
    model, x = made(Between), images()
    seen = TorchBackend(model).observe(
        x, needs=needs, layers=layers, classes="all", target=target_of("log-probability")
    )
    model.context = torch.enable_grad
    scores, values = forward(model, x, layers)
    scores = scores.log()  # the same up to a number that all of them share
    line = EXPLAINED["log-probability"][1]
    for layer, evidence in zip(layers, seen, strict=True):
        assert evidence.curvature is not None
        assert relative(evidence.curvature, bends(scores, values[layer], evidence.classes, line)) <= LIMIT
        if "gradients" in needs:
            assert evidence.gradients is not None
            assert relative(evidence.gradients, slopes(scores, values[layer], evidence.classes, line)) <= LIMIT


def test_trunk_under_inference_mode_is_refused() -> None:
    model = made(lambda: Frozen(torch.inference_mode))  # type: ignore[arg-type]
    with pytest.raises(MethodNotPossible, match="no gradient arrives at the layer: the network detaches it"):
        TorchBackend(model).observe(images(), needs=BOTH, layers=["trunk"])


def test_scores_that_do_not_depend_on_the_layer() -> None:
    class Ignores(Branches):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.trunk(x))
            self.right(x)
            return self.fc(self.left(x).repeat(1, 2, 1, 1).amax((2, 3)))

    class Detaches(Ignores):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.left(torch.relu(self.trunk(x))).detach().repeat(1, 2, 1, 1).amax((2, 3)))

    for model, layer in ((made(Ignores), "right"), (made(Detaches), "left")):
        for wanted in ("all", 0):
            with pytest.raises(MethodNotPossible, match="the scores do not depend on the layer"):
                TorchBackend(model).observe(images(), needs=frozenset({"gradients"}), layers=[layer], classes=wanted)
        with pytest.raises(MethodNotPossible, match="the scores do not depend on the layer, or the network detaches"):
            TorchBackend(model).observe(images(), needs=frozenset({"curvature"}), layers=[layer])


class Breaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise ValueError("no way back.\nSorry")


def overwritten(a: Tensor) -> Tensor:
    e = a.exp()
    y = e * a
    e.add_(1)
    return y


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (Breaking.apply, "no way back"),
        (overwritten, "one of the variables needed for gradient computation has been modified by .*"),
    ],
)
@pytest.mark.parametrize("classes", [1, "all"])
def test_networks_that_cannot_be_differentiated(then: object, text: str, classes: object) -> None:
    torch.manual_seed(0)
    model = Small(lambda a, fc, conv: fc(then(a).amax((2, 3)))).double()  # type: ignore[operator]
    expected = f"^the network behind the layer cannot be differentiated: {text}; choose another layer, or a method wit"
    with pytest.raises(MethodNotPossible, match=expected):
        TorchBackend(model).observe(images(), needs=frozenset({"gradients"}), layers=["norm"], classes=classes)


def test_networks_that_can_be_differentiated_only_once() -> None:
    class Once(Breaking):
        @staticmethod
        @once_differentiable  # type: ignore[misc]
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * 2

    model = Small(lambda a, fc, conv: fc(Once.apply(a).amax((2, 3)))).double()
    TorchBackend(model).observe(images(), needs=frozenset({"gradients"}), layers=["norm"])
    with pytest.raises(MethodNotPossible, match="can be differentiated only once, and curvature needs it twice"):
        TorchBackend(model).observe(images(), needs=frozenset({"curvature"}), layers=["norm"])


def test_scores_of_a_wrong_shape() -> None:
    class Dense(Branches):
        def forward(self, x: Tensor) -> Tensor:
            return self.left(self.trunk(x))

    with pytest.raises(InputError, match=r"the scores have shape \(2, 4, 7, 7\); expected \(N, K\)"):
        TorchBackend(made(Dense)).observe(images(), needs=BOTH, layers=["trunk"])
