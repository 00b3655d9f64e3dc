"""DeepLIFT contributions against the definition: they add up, and they are those of hand, closed forms and captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camcore_torch import TorchBackend
from torch import Tensor, nn
from torch_networks import TAILS, Small, network
from torch_traces import no_trace, prepared

import camcore
from camcore import MethodNotPossible, target

EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}
EITHER = pytest.mark.parametrize("dtype", EXACT)


def images(count: int = 2, side: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, channels, side, side))


def seen(model: nn.Module, layer: str | None, x: np.ndarray, aim: Any = "logit", **options: Any) -> camcore.Evidence:
    backend = TorchBackend(model, **options)
    needs, classes = frozenset({"features", "contributions"}), np.array([[2, 0]] * len(x))
    (evidence,) = backend.observe(x, needs=needs, layers=[layer], classes=classes, target=target(aim))
    assert evidence.contributions is not None
    assert evidence.features is not None
    assert evidence.contributions.shape == (len(x), 2, evidence.features.shape[1])
    return evidence


def scores_with(model: nn.Module, layer: str, x: np.ndarray, factor: float) -> np.ndarray:
    """The scores of a network whose layer returns its values times a factor."""
    handle = model.get_submodule(layer).register_forward_hook(lambda m, args, out: out * factor)
    flags = [m.training for m in model.modules()]
    with torch.no_grad():
        scores = model.eval()(torch.tensor(x, dtype=next(model.parameters()).dtype))
    handle.remove()
    for module, flag in zip(model.modules(), flags, strict=True):
        module.training = flag
    return scores.double().numpy()


def losses(model: nn.Module, layer: str, x: np.ndarray, aim: Any = "logit") -> np.ndarray:
    """(N, 2): what the target of classes 2 and 0 loses with a layer of zeros."""
    whole = scores_with(model, layer, x, 1)
    fixed = target(aim).aim(whole, np.array([[2, 0]] * len(x)))
    return fixed.values() - fixed.moved(scores_with(model, layer, x, 0)).values()


def adds_up(model: nn.Module, layer: str, x: np.ndarray, aim: Any = "logit") -> None:
    """The shares of the channels are, together, all that the target loses."""
    evidence = seen(model, layer, x, aim)
    expected, exact = losses(model, layer, x, aim), EXACT[next(model.parameters()).dtype]
    assert evidence.contributions is not None
    sums = evidence.contributions.sum(axis=2, dtype=np.float64)
    scale = np.abs(expected).max() + 0.1 * np.abs(scores_with(model, layer, x, 1)).max()  # what float32 rounds
    np.testing.assert_allclose(sums, expected, rtol=0, atol=exact * scale)


class Vgg(nn.Module):
    """Convolutions, ReLU, maximum pooling, and linear layers behind a flattening."""

    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.pool = pool or nn.MaxPool2d(3, stride=2, padding=1)
        self.fc = nn.Sequential(nn.LazyLinear(10), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.two(self.one(x))).flatten(1))


def vgg(dtype: torch.dtype = torch.float64, pool: nn.Module | None = None, side: int = 16) -> nn.Module:
    torch.manual_seed(0)
    model = Vgg(pool)
    model(torch.zeros(1, 3, side, side))
    return model.to(dtype)


class Behind(nn.Module):
    """A layer ``a`` of signed features, and a convolution, something and a pooled head behind it."""

    def __init__(self, tail: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.tail = nn.Conv2d(3, 3, 1), tail
        self.w, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tail(self.w(self.a(x))).mean((2, 3)))


def behind(tail: nn.Module | Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return Behind(tail).double()


class TestSums:
    """Every network: what the channels give is what the target loses without them all."""

    @EITHER
    @pytest.mark.parametrize("layer", ["one", "two"])
    @pytest.mark.parametrize("pool", [None, nn.AdaptiveMaxPool2d(3), nn.AvgPool2d(2), nn.MaxPool2d(2, dilation=2)])
    def test_convolutions_pooling_linear_layers(self, layer: str, pool: nn.Module | None, dtype: torch.dtype) -> None:
        adds_up(vgg(dtype, pool), layer, images(side=16))

    @EITHER
    @pytest.mark.parametrize(
        ("name", "layer"),
        [
            ("resnet18", "layer3"),
            ("resnet18", "layer2.0.bn1"),
            ("mobilenet_v2", "features.14"),
            ("googlenet", "inception4a"),
            ("squeezenet1_1", "features.7"),
        ],
    )
    def test_torchvision(self, name: str, layer: str, dtype: torch.dtype) -> None:
        model = network(name).to(dtype)
        for module in model.modules():  # scores of fresh weights hardly depend on an early layer
            if isinstance(module, nn.Linear | nn.BatchNorm2d):
                nn.init.normal_(module.weight, std=1)
        adds_up(model, layer, images(side=48))

    @EITHER
    @pytest.mark.parametrize("aim", ["difference", "difference:1", "finer"])
    def test_targets_that_are_linear_in_the_scores(self, aim: str, dtype: torch.dtype) -> None:
        adds_up(vgg(dtype), "one", images(side=16), aim)

    @pytest.mark.parametrize(
        "curve",
        [
            nn.ReLU(),
            nn.ReLU(inplace=True),
            nn.ReLU6(),
            nn.LeakyReLU(0.2, inplace=True),
            nn.PReLU(3),
            nn.ELU(),
            nn.SELU(),
            nn.CELU(),
            nn.GELU(),
            nn.GELU("tanh"),
            nn.SiLU(),
            nn.SiLU(inplace=True),
            nn.Mish(),
            nn.Sigmoid(),
            nn.Tanh(),
            nn.Hardtanh(-0.3, 0.2),
            nn.Hardswish(),
            nn.Hardsigmoid(),
            nn.Softplus(2),
            nn.Softshrink(),
            nn.Hardshrink(),
            nn.Threshold(0.1, 3),
            lambda a: a.clamp(min=-0.1),
            lambda a: a.clamp_(-0.1, 0.2),
            lambda a: torch.maximum(a, torch.full((3, 1, 1), 0.1, dtype=a.dtype)),
            lambda a: torch.minimum(torch.zeros(1, dtype=a.dtype), a),
            lambda a: a.exp(),
            lambda a: (a**2 + 1).log(),
            lambda a: a.abs().sqrt(),
            lambda a: 2**a,
        ],
        ids=lambda curve: str(curve) if isinstance(curve, nn.Module) else "",
    )
    def test_functions_of_one_number(self, curve: Any) -> None:
        adds_up(behind(curve), "a", images(side=8))

    @pytest.mark.parametrize(
        "linear",
        [
            lambda a: torch.cat([a[:, :1], a[:, 1:].relu()], 1),
            lambda a: torch.stack([a, a.relu()]).sum(0),
            lambda a: a - 3 * a.roll(1, 2) / 2,
            lambda a: 1 - a.flip(3),
            lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"),
            lambda a: F.pad(F.pad(a, (1, 1, 1, 1), mode="reflect"), (0, 2)),
            lambda a: F.adaptive_avg_pool2d(a, 3),
            lambda a: F.max_pool2d(a.transpose(2, 3), 3, 2).permute(0, 1, 3, 2),
            lambda a: F.max_pool3d(a[:, :, None], (1, 2, 2))[:, :, 0],
            lambda a: F.max_pool1d(a.flatten(2), 3)[..., None],
            lambda a: a.view(len(a), 3, -1).relu_().reshape(a.shape),
            lambda a: a.to(memory_format=torch.channels_last).relu_().contiguous(),
            lambda a: a.masked_fill(torch.eye(8, dtype=torch.bool), 0),
            lambda a: a.relu().detach(),
            lambda a: sum(a.chunk(3, 1)).expand_as(a).clone().add_(1).mul_(2),
            lambda a: torch.einsum("nchw,cd->ndhw", a, torch.ones(3, 3, dtype=a.dtype)).tanh(),
            lambda a: F.batch_norm(a, torch.ones(3).double(), torch.full((3,), 2.0).double()).relu(),
        ],
    )
    def test_operations_however_they_are_written(self, linear: Callable[[Tensor], Tensor]) -> None:
        adds_up(behind(linear), "a", images(side=8))

    def test_what_comes_past_the_layer_is_the_same_on_both_sides(self) -> None:
        class Skip(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.outer, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                inner, past = self.inner(x), self.outer(x).relu_()
                past += 1
                return self.fc(((inner + past).relu() * past).mean((2, 3)))

        torch.manual_seed(0)
        adds_up(Skip().double(), "inner", images(side=8))

    def test_features_close_to_zero_and_on_it(self) -> None:
        """Slopes are differences: none may be a quotient of nothing."""
        model = behind(nn.GELU())
        with torch.no_grad():
            model.a.bias.zero_()
        x = images(side=8)
        x[:, :, :4] = 0
        x[:, :, 4:6] *= 1e-12
        adds_up(model, "a", x)

    def test_scores_before_a_softmax(self) -> None:
        model = nn.Sequential(vgg(), nn.Softmax(1)).double()
        found, plain = seen(model, "0.one", images(side=16)), seen(vgg(), "one", images(side=16))
        np.testing.assert_allclose(found.contributions, plain.contributions, rtol=1e-12)

    @pytest.mark.parametrize(("dtype", "close"), [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
    def test_half_precision(self, dtype: torch.dtype, close: float) -> None:
        x = images(side=16)
        half, full = seen(vgg(dtype), "one", x).contributions, seen(vgg(), "one", x).contributions
        assert half is not None
        assert full is not None
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, full, rtol=0, atol=close * np.abs(full).max())


class TestValues:
    """Not the sum alone: the share of each channel."""

    def test_by_hand(self) -> None:
        """Two numbers, s = max(0, 3 a - 2 b - 1) + a, at a = 2 and b = 1.

        ReLU goes from max(0, -1) = 0 to max(0, 3) = 3 while what it reads goes from -1 to 3: slope 3/4. So a gives
        2 (3 x 3/4 + 1) = 13/2 and b gives -2 x 3/4 = -3/2; together 5, as s goes from 0 to 5.
        """

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.fc = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 3)
                self.a.weight.data = torch.eye(2)[:, :, None, None]

            def forward(self, x: Tensor) -> Tensor:
                a, b = self.a(x).flatten(1).unbind(1)
                score = (3 * a - 2 * b - 1).relu() + a
                return torch.stack([score, score * 0, -2 * score], 1)

        found = seen(Two(), "a", np.array([[[[2.0]], [[1.0]]]])).contributions
        assert found is not None
        assert found.tolist() == [[[-13, 3], [6.5, -1.5]]]

    def test_a_maximum_by_hand(self) -> None:
        """s = max(2 a, b, 1 - b) at a = 1, b = 3: from max(0, 0, 1) = 1 to max(2, 3, -2) = 3, all of it due to b.

        Negated s falls; max(-a, -1 - b) goes from 0, which is a's, to -1, so all of it is due to a.
        """

        class Three(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = nn.Conv2d(2, 2, 1, bias=False)
                self.a.weight.data = torch.eye(2)[:, :, None, None]

            def forward(self, x: Tensor) -> Tensor:
                a, b = self.a(x).flatten(1).unbind(1)
                rise = F.max_pool1d(torch.stack([2 * a, b, 1 - b], 1)[:, None], 3)[:, :, 0]
                fall = F.max_pool1d(torch.stack([-a, -1 - b], 1)[:, None], 2)[:, :, 0]
                return torch.cat([rise, rise, fall], 1)

        found = seen(Three(), "a", np.array([[[[1.0]], [[3.0]]]])).contributions
        assert found is not None
        assert found.tolist() == [[[-1, 0], [0, 2]]]

    def test_a_function_without_any_bend_is_its_derivative(self) -> None:
        """Where ReLU stays on, the multipliers are the gradient."""
        x = images(side=8)
        found = seen(behind(lambda a: (a + 100).relu()), "a", x)
        linear = seen(behind(lambda a: a + 100), "a", x)
        np.testing.assert_allclose(found.contributions, linear.contributions, rtol=1e-10)

    @pytest.mark.parametrize("name", TAILS)
    def test_on_a_pooled_head_it_is_weight_times_mean(self, name: str) -> None:
        torch.manual_seed(0)
        model = Small(TAILS[name]).double()
        backend, x = TorchBackend(model), images(side=12)
        needs, classes = frozenset({"features", "head", "contributions"}), np.array([[2, 0], [1, 3]])
        (evidence,) = backend.observe(x, needs=needs, classes=classes)
        head = evidence.head
        assert isinstance(head, camcore.LinearHead)
        expected = head.weight[classes] * evidence.need_features().mean(axis=(2, 3))[:, None]
        np.testing.assert_allclose(evidence.contributions, expected, rtol=1e-7)  # heads keep factors in float32

    @pytest.mark.parametrize(
        "curve",
        [
            lambda a: F.elu(a).sigmoid(),
            lambda a: F.max_pool2d(F.gelu(a), 2).tanh(),
            lambda a: F.max_pool2d(F.max_pool2d(-a, 3, 1), 2, padding=1),
            lambda a: F.relu6(a.clamp(-0.2, 0.3).exp_(), inplace=True).sqrt(),
        ],
    )
    def test_channels_that_meet_in_a_sum_only_give_what_each_gives_alone(self, curve: Any) -> None:
        model, x = behind(curve), images(side=8)
        model.w = nn.Identity()
        evidence, row = seen(model, "a", x), model.fc.weight.detach().numpy()[[2, 0]]
        features = torch.tensor(evidence.need_features())
        gains = (curve(features).mean((2, 3)) - curve(torch.zeros_like(features)).mean((2, 3))).numpy()
        np.testing.assert_allclose(evidence.contributions, row * gains[:, None], rtol=1e-10, atol=1e-15)

    @EITHER
    @pytest.mark.parametrize("layer", [0, 1, 4])
    def test_it_is_that_of_captum(self, layer: int, dtype: torch.dtype) -> None:
        """With something linear between any two bends: else captum 0.9 does not add up."""
        attr = pytest.importorskip("captum.attr")
        torch.manual_seed(0)
        model = nn.Sequential(
            *[nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.MaxPool2d(2, 2), nn.Conv2d(6, 6, 1), nn.ELU()],
            *[nn.Flatten(), nn.Linear(96, 7), nn.ReLU(), nn.Linear(7, 7), nn.Sigmoid(), nn.Linear(7, 4)],
        )
        x = images(side=12)
        model.to(dtype).eval()
        with torch.no_grad():
            features = model[: layer + 1](torch.tensor(x, dtype=dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum warns of its hooks
            lift = attr.DeepLift(model[layer + 1 :])
            theirs = [lift.attribute(features.clone(), torch.zeros_like(features), target=c) for c in (2, 0)]
        expected = torch.stack(theirs, 1).detach().sum((3, 4)).numpy()
        found = seen(model, str(layer), x).contributions
        np.testing.assert_allclose(found, expected, rtol=0, atol=10 * EXACT[dtype] * np.abs(expected).max())


class TestExplainer:
    def test_maps_are_the_features_weighted_by_the_contributions(self) -> None:
        model, x = vgg(torch.float32), images(3, 16).astype(np.float32)
        made = camcore.explainer(model, method="liftcam", layer="one")
        explained = made(x, classes=[[2, 0]] * 3)
        evidence = seen(model, "one", x)
        expected = np.einsum("ntc,nchw->nthw", evidence.contributions, evidence.features)
        np.testing.assert_allclose(explained.maps, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert "contributions, one forward pass, and a DeepLIFT pass of the tail" in str(made.plan)

    def test_a_map_does_not_depend_on_the_batch_or_on_the_other_classes(self) -> None:
        model, x = vgg(torch.float32), images(3, 16).astype(np.float32)
        explainer = camcore.explainer(model, method="liftcam", layer="one")
        together = explainer(x, classes="all").maps
        assert together.shape[:2] == (3, 4)
        for n, c in np.ndindex(3, 4):
            alone = explainer(x[n : n + 1], classes=c).maps[0, 0]
            np.testing.assert_allclose(together[n, c], alone, rtol=1e-3, atol=1e-5 * np.abs(alone).max())

    def test_more_classes_than_are_held_at_a_time(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 19)).double()
        backend, x = TorchBackend(model), images(side=8)
        needs, layers = frozenset({"contributions"}), ["1"]
        (every,) = backend.observe(x, needs=needs, layers=layers, classes="all")
        (one,) = backend.observe(x, needs=needs, layers=layers, classes=17)
        assert every.contributions is not None
        assert one.contributions is not None
        np.testing.assert_allclose(every.contributions[:, 17], one.contributions[:, 0], rtol=1e-12)

    def test_several_layers(self) -> None:
        (one, two) = TorchBackend(vgg()).observe(
            images(side=16), needs=frozenset({"contributions"}), layers=["one", "two"], classes=1
        )
        assert one.contributions is not None
        assert two.contributions is not None
        assert (one.contributions.shape, two.contributions.shape) == ((2, 1, 6), (2, 1, 8))

    def test_it_comes_together_with_gradients(self) -> None:
        needs = frozenset({"features", "gradients", "contributions"})
        (evidence,) = TorchBackend(vgg()).observe(images(side=16), needs=needs, layers=["two"])
        assert evidence.gradients is not None
        assert evidence.contributions is not None

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_no_trace(self, context: Callable[[], Any]) -> None:
        model, x = prepared(vgg(torch.float32), 16), images(side=16).astype(np.float32)
        explainer = camcore.explainer(model, method="liftcam", layer="one")
        first = explainer(x).maps
        with no_trace(model), context():
            again = explainer(x).maps
        np.testing.assert_array_equal(first, again)

    def test_targets_that_bend_are_refused(self) -> None:
        with pytest.raises(MethodNotPossible, match="DeepLIFT, which does so for the scores and what is linear"):
            camcore.explainer(vgg(), method="liftcam", layer="one", target="probability")(images(side=16))


class TestRefusals:
    @pytest.mark.parametrize(
        ("tail", "what"),
        [
            (lambda a: a * a.sigmoid(), "'mul' of two values that both come from it"),
            (lambda a: a.clone().mul_(a), "'mul' of two values that both come from it"),
            (lambda a: a @ a.transpose(2, 3), "'bmm' of two values that both come from it"),
            (lambda a: a / (1 + a.abs()), "'div'"),
            (lambda a: 1 / (2 + a.sigmoid()), None),
            (lambda a: torch.maximum(a, -a), "'maximum' of two values that both come from it"),
            (lambda a: a.softmax(1), "'_softmax'"),
            (lambda a: F.layer_norm(a, (8, 8)), "'native_layer_norm'"),
            (lambda a: F.group_norm(a, 3), "'native_group_norm'"),
            (lambda a: F.instance_norm(a), "with the statistics of the batch"),
            (lambda a: F.scaled_dot_product_attention(a, a, a), "'_scaled_dot_product"),
            (lambda a: a.cumprod(2), "'cumprod'"),
            (lambda a: a * (a > 0), "'gt'"),
            (lambda a: a if float(a.sum()) > 1e9 else -a, ", which looks at values"),
        ],
    )
    def test_what_has_no_rule_is_named(self, tail: Callable[[Tensor], Tensor], what: str | None) -> None:
        model, x = behind(tail), images(side=8)
        if what is None:
            adds_up(model, "a", x)
            return
        with pytest.raises(MethodNotPossible) as caught:
            seen(model, "a", x)
        assert what in str(caught.value)
        assert "for which DeepLIFT has no rule here; choose a layer behind it, or a method that runs or" in str(
            caught.value
        )

    def test_a_normalisation_that_looks_at_its_batch(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        with pytest.raises(MethodNotPossible, match="with the statistics of the batch, for which DeepLIFT has no rule"):
            seen(model.double().train(), "0", images(side=8), mode="caller")

    def test_a_layer_that_the_scores_do_not_depend_on(self) -> None:
        class Aside(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                self.a(x).relu()
                return self.fc(self.b(x).exp().mean((2, 3)))

        with pytest.raises(MethodNotPossible, match="the scores do not depend on the layer: choose another layer"):
            seen(Aside().double(), "a", images(side=8))

    def test_a_reference_without_finite_scores(self) -> None:
        model = behind(lambda a: a.abs().rsqrt())
        with torch.no_grad():
            model.w.bias.zero_()
        with pytest.raises(MethodNotPossible, match="differ by nan from what the target loses with features of zero"):
            seen(model, "a", images(side=8))

    def test_what_is_hidden_from_the_record_is_noticed(self) -> None:
        """A view that is written into: what it is a view of is not known to have changed."""

        def hidden(a: Tensor) -> Tensor:
            out = torch.zeros_like(a)
            out[:, :1] += 3 * a[:, :1]
            return out + a

        with pytest.raises(MethodNotPossible, match="from what the target loses with features of zero"):
            seen(behind(hidden), "a", images(side=8))
