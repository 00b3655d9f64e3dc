"""The loss of ReCAM against the paper in float64, what it trains, and how the module is explained."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from camcore_torch import ReCam, TorchBackend
from camcore_torch.recam import masks
from torch import Tensor, nn
from torch_networks import TAILS, Small, network
from torch_traces import no_trace

import camcore
from camcore import InputError, MethodNotPossible
from camcore.normalize import NORMALIZATIONS

SIDE = (3, 15, 17)
LABELS = torch.tensor([2, 0, 2])
SEVERAL = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


def images(count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SIDE, generator=generator)


def small(tail: str = "mean of two axes", seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small(TAILS[tail])


def recam(model: nn.Module | None = None, **options: Any) -> ReCam:
    model = small() if model is None else model
    torch.manual_seed(1)
    return ReCam(model, example=(1, *SIDE), **options)


def scaled(values: Tensor, kind: str) -> Tensor:
    """One map: the paper's, and those that may stand instead."""
    if kind == "relu-max":
        return values.relu() / (values.relu().max() + 1e-5)
    if kind == "minmax":
        return (values - values.min()) / (values.max() - values.min() + 1e-5)
    return 1 / (1 + torch.exp(-values)) if kind == "sigmoid" else torch.tanh(2 * scaled(values, "relu-max"))


def papers_loss(a: Tensor, weight: Tensor, read: Callable[[Tensor], Tensor], present: Tensor, kind: str) -> Tensor:
    """Image by image and class by class; ``read`` is who reads the masked features."""
    total = torch.zeros((), dtype=a.dtype)
    for features, row in zip(a, present, strict=True):
        there = [c for c, given in enumerate(row.tolist()) if given]
        for c in there:
            mask = scaled((weight[c][:, None, None] * features).sum(0), kind)
            logits = read((mask * features).mean((1, 2)))
            total = total + (logits.exp().sum().log() - logits[c]) / len(there)
    return total / len(a)


def written_out(module: ReCam, x: Tensor, present: Tensor) -> Tensor:
    """The paper's loss of a :class:`ReCam` around :class:`Small`."""
    inner = module.model
    assert isinstance(inner, Small)
    a = torch.relu(inner.norm(inner.trunk(x)))
    second = module.recam_weight

    def read(pooled: Tensor) -> Tensor:
        return inner.fc(pooled) if second is None else second @ pooled

    return papers_loss(a, inner.fc.weight, read, present, module.normalization)


def slopes(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of a loss, of all parameters that have one."""
    module.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


class TestLoss:
    @pytest.mark.parametrize("kind", NORMALIZATIONS)
    @pytest.mark.parametrize("variant", ["class", "self"])
    @pytest.mark.parametrize("targets", [LABELS, SEVERAL], ids=["one class", "several classes"])
    def test_value_and_gradients_are_the_papers(self, targets: Tensor, variant: str, kind: str) -> None:
        module = recam(variant=variant, normalization=kind).double()
        x = images().double()
        present = targets if targets.dtype == torch.bool else F.one_hot(targets, 4).bool()
        loss, expected = module.scores_and_loss(x, targets)[1], written_out(module, x, present)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        ours, theirs = slopes(module, loss), slopes(module, expected)
        assert set(ours) == set(theirs) >= {"model.trunk.weight", "model.fc.weight"}
        assert ("recam_weight" in ours) == (variant == "class")
        assert ("model.fc.bias" in ours) == (variant == "self")
        for name, slope in ours.items():
            torch.testing.assert_close(slope, theirs[name], rtol=1e-8, atol=1e-12)

    def test_a_class_is_a_set_of_one(self) -> None:
        module = recam()
        one, several = (module.scores_and_loss(images(), t)[1] for t in (LABELS, F.one_hot(LABELS, 4).bool()))
        assert torch.equal(one, several)

    def test_images_without_a_class_add_nothing(self) -> None:
        module = recam().eval()
        alone = module.scores_and_loss(images()[[0, 2]], SEVERAL[[0, 2]])[1]
        torch.testing.assert_close(module.scores_and_loss(images(), SEVERAL)[1] * 3, alone * 2)
        loss = module.scores_and_loss(images(), torch.zeros_like(SEVERAL))[1]
        assert loss == 0
        assert all(not slope.any() for slope in slopes(module, loss).values())

    @pytest.mark.parametrize("kind", NORMALIZATIONS)
    def test_masks_are_those_of_the_maps_that_are_shown(self, kind: str) -> None:
        maps = 10 * torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
        shown = camcore.normalize(maps.numpy(), kind, spatial=1)
        np.testing.assert_allclose(masks(maps, kind).numpy(), shown, atol=3e-6)

    @pytest.mark.parametrize("kind", ["relu-max", "minmax", "tanh"])
    def test_masks_of_nothing_are_zeros_with_finite_slopes(self, kind: str) -> None:
        maps = torch.zeros(1, 1, 4, requires_grad=True)
        found = masks(maps, kind)
        assert not found.any()
        found.sum().backward()  # type: ignore[no-untyped-call]
        assert maps.grad is not None
        assert maps.grad.isfinite().all()


class TestForwardPass:
    @pytest.mark.parametrize("training", [False, True])
    def test_scores_are_those_of_the_model_bit_by_bit(self, training: bool) -> None:
        plain = small("dropout").train(training)
        module = recam(copy.deepcopy(plain)).train(training)
        seen = []
        for run in (module, lambda x: module.scores_and_loss(x, LABELS)[0], lambda x: module(x, LABELS)[0]):
            torch.manual_seed(len(seen))
            seen.append(run(images()))
            torch.manual_seed(len(seen) - 1)
            assert torch.equal(seen[-1], plain(images()))
        assert torch.equal(seen[0], seen[1]) == (not training)  # dropout was really on
        for name, buffer in plain.named_buffers():  # as after as many passes
            assert torch.equal(module.model.get_buffer(name), buffer)

    def test_there_is_one_pass(self) -> None:
        module, calls = recam(), []
        trunk = module.model.get_submodule("trunk")
        trunk.register_forward_hook(lambda *_: calls.append(1))
        module.scores_and_loss(images(), LABELS)
        assert len(calls) == 1
        assert len(trunk._forward_hooks) == 1

    def test_what_a_model_returns_stays_what_it_is(self) -> None:
        class Two(Small):
            def forward(self, x: Tensor) -> Any:
                return {"logits": super().forward(x), "more": x}

        module = recam(Two(TAILS["mean of two axes"]))
        assert set(module(images())) == {"logits", "more"}
        scores, loss = module.scores_and_loss(images(), LABELS)
        assert scores.shape == (3, 4)
        assert loss.ndim == 0

    def test_autocast(self) -> None:
        """The loss is of single precision, whatever the network runs in."""
        module = recam().eval()
        expected = module.scores_and_loss(images(), LABELS)[1]
        with torch.autocast("cpu", torch.bfloat16):
            scores, loss = module.scores_and_loss(images(), LABELS)
            assert torch.equal(scores, module.model(images()))
        assert (scores.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
        found = slopes(module, loss)
        assert {"recam_weight", "model.trunk.weight", "model.fc.weight"} <= set(found)
        assert all(slope.isfinite().all() for slope in found.values())

    def test_without_gradients(self) -> None:
        with torch.no_grad():
            _, loss = recam().scores_and_loss(images(), LABELS)
        assert not loss.requires_grad
        assert loss > 0


class TestGradientsFlow:
    def test_by_the_mask_too(self) -> None:
        """Held fast, the mask teaches the trunk less, and the first classifier nothing."""
        module = recam().double()
        x = images().double()
        whole = slopes(module, module.scores_and_loss(x, LABELS)[1])
        part = slopes(module, module.scores_and_loss(x, LABELS, detach="mask")[1])
        assert "model.fc.weight" not in part
        assert not torch.allclose(part["model.trunk.weight"], whole["model.trunk.weight"])
        torch.testing.assert_close(part["recam_weight"], whole["recam_weight"])
        last = slopes(module, module.scores_and_loss(x, LABELS, detach="features")[1])
        assert set(last) == {"recam_weight"}
        torch.testing.assert_close(last["recam_weight"], whole["recam_weight"])

    def test_a_frozen_trunk_stays(self) -> None:
        module = recam()
        for part in ("trunk", "norm"):
            module.model.get_submodule(part).requires_grad_(False)
        found = slopes(module, module.scores_and_loss(images(), LABELS)[1])
        assert set(found) == {"recam_weight", "model.fc.weight"}

    def test_a_trunk_without_a_graph(self) -> None:
        class Frozen(Small):
            def forward(self, x: Tensor) -> Tensor:
                with torch.no_grad():
                    a = torch.relu(self.norm(self.trunk(x)))
                return self.fc(a.mean((2, 3)))

        module = recam(Frozen(TAILS["mean of two axes"]))
        assert set(slopes(module, module.scores_and_loss(images(), LABELS)[1])) == {"recam_weight", "model.fc.weight"}

    def test_the_second_classifier_learns(self) -> None:
        """Bright squares in one of four channels, anywhere: both losses fall, and the maps find them."""
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(4, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
        )
        module = ReCam(model, example=(1, 4, 16, 16))
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        losses = []
        for _ in range(120):
            x, c, _ = squares(16)
            scores, second = module.scores_and_loss(x, c)
            first = F.cross_entropy(scores, c)
            optimizer.zero_grad()
            (first + second).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append((first.item(), second.item()))
        (a, b), (c, d) = losses[0], losses[-1]
        assert abs(b - math.log(4)) < 0.5
        assert c < 0.5 * a
        assert d < 0.25 * b
        x, c, corners = squares(24)
        maps = camcore.explainer(module, method="recam")(x, c.tolist()).maps[:, 0]
        for found, (top, left) in zip(maps, corners, strict=True):
            y, x_ = np.unravel_index(found.argmax(), found.shape)
            assert top <= y < top + 5
            assert left <= x_ < left + 5


def squares(count: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    x, classes = 0.1 * torch.randn(count, 4, 16, 16), torch.randint(4, (count,))
    corners = torch.randint(11, (count, 2)).tolist()
    for n, (top, left) in enumerate(corners):
        x[n, classes[n], top : top + 5, left : left + 5] += 1
    return x, classes, [(a, b) for a, b in corners]


class TestNetworks:
    @pytest.mark.parametrize(
        "name",
        [
            "squeezenet1_1",
            "densenet121",
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "googlenet", "mobilenet_v2")),
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("efficientnet_b0", "vgg16_gap", "squeezenet1_0")),
        ],
    )
    def test_of_torchvision(self, name: str) -> None:
        """The live features and weights give the scores, and all of the network is trained."""
        model = network(name)
        module, x = ReCam(model, example=(1, 3, 64, 64)), torch.randn(2, 3, 64, 64)
        scores, loss = module.scores_and_loss(x, torch.tensor([3, 1]))
        found = slopes(module, loss)
        assert {"recam_weight", next(f"model.{n}" for n, _ in model.named_parameters())} <= set(found)
        assert all(slope.isfinite().all() for slope in found.values())
        assert scores.shape[1] == len(module.recam_weight if module.recam_weight is not None else ())
        model.eval()
        a = TorchBackend(model).observe(x.numpy(), needs=frozenset({"features", "head"}))[0]
        assert a.features is not None
        assert a.head is not None
        expected = papers_loss(
            torch.from_numpy(a.features).double(),
            torch.from_numpy(a.head.weight).double(),
            lambda pooled: module.recam_weight.double() @ pooled,  # type: ignore[union-attr]
            F.one_hot(torch.tensor([3, 1]), len(a.head.weight)).bool(),
            "relu-max",
        )
        torch.testing.assert_close(
            module.scores_and_loss(x, torch.tensor([3, 1]))[1].double(), expected, rtol=1e-4, atol=0
        )

    @pytest.mark.parametrize(("axes", "size"), [(1, (40,)), (3, (6, 7, 8))])
    def test_signals_and_volumes(self, axes: int, size: tuple[int, ...]) -> None:
        conv, pool = ((nn.Conv1d, nn.AdaptiveAvgPool1d), None, (nn.Conv3d, nn.AdaptiveAvgPool3d))[axes - 1] or ()
        torch.manual_seed(0)
        module = ReCam(
            nn.Sequential(conv(2, 5, 3), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(5, 4)), example=(1, 2, *size)
        )
        x = torch.randn(3, 2, *size)
        assert set(slopes(module, module.scores_and_loss(x, LABELS)[1])) >= {"recam_weight", "model.0.weight"}
        assert camcore.explainer(module, method="recam")(x).maps.shape == (3, 1, *(n - 2 for n in size))


class TestModule:
    def test_state(self) -> None:
        module, other = recam(), ReCam(small(seed=3), example=(1, *SIDE))
        assert set(module.state_dict()) == {*(f"model.{k}" for k in module.model.state_dict()), "recam_weight"}
        assert module.recam_weight is not None
        assert module.recam_weight.shape == (4, 6)
        other.load_state_dict(module.state_dict())
        expected = module.eval().scores_and_loss(images(), LABELS)
        for found in (other.eval(), copy.deepcopy(module)):
            assert all(
                torch.equal(a, b) for a, b in zip(found.scores_and_loss(images(), LABELS), expected, strict=True)
            )
        assert "recam_weight" not in recam(variant="self").state_dict()

    def test_the_second_weight_is_drawn_like_that_of_a_linear_layer(self) -> None:
        module = recam()
        torch.manual_seed(1)
        assert torch.equal(module.second_weight, nn.Linear(6, 4, bias=False).weight)  # type: ignore[arg-type]

    def test_making_it_leaves_the_model_as_it_was(self) -> None:
        model = small()
        with no_trace(model):
            ReCam(model, example=images(), variant="self")  # the other one draws its weight

    def test_it_says_what_it_is(self) -> None:
        assert "class, relu-max, 'relu(norm)': 6 channels -> 4 classes" in repr(recam())

    def test_a_head_that_was_changed(self) -> None:
        module = recam()
        module.model.fc = nn.Linear(6, 7)
        with pytest.raises(InputError, match=r"the head 'fc.weight' is \(7, 6\) now; expected \(4, 6\)"):
            module.scores_and_loss(images(), LABELS)
        module = recam()
        module.model.fc.weight = nn.Parameter(torch.zeros(4, 6))
        assert module.scores_and_loss(images(), LABELS)[1] > 0  # the one that is there now

    @pytest.mark.parametrize("wrapped", [nn.DataParallel])
    def test_explained_through_wrappers(self, wrapped: Any) -> None:
        module = recam().eval()
        expected = camcore.explainer(module, method="recam")(images()).maps
        np.testing.assert_array_equal(camcore.explainer(wrapped(module), method="recam")(images()).maps, expected)


class TestExplained:
    def test_as_the_model_inside(self) -> None:
        module = recam()
        ours, plain = TorchBackend(module), TorchBackend(module.model)
        x = images().numpy()
        assert ours.tap(example=x).layer == plain.tap(example=x).layer == "relu(norm)"
        assert ours.layers() == plain.layers()
        for method, layer in (("cam", None), ("gradcam++", "norm")):
            found, expected = (camcore.explainer(m, method=method, layer=layer)(x) for m in (module, module.model))
            np.testing.assert_array_equal(found.maps, expected.maps)
            assert found.layer == expected.layer

    def test_the_map_is_the_papers(self) -> None:
        module = recam().eval()
        out = camcore.explainer(module, method="recam")(images(), "all")
        inner = module.model
        assert isinstance(inner, Small)
        with torch.no_grad():
            a = torch.relu(inner.norm(inner.trunk(images())))
            expected = F.conv2d(a, (module.second_weight * inner.fc.weight)[:, :, None, None])  # type: ignore[operator]
        order = out.classes[..., None, None]
        np.testing.assert_allclose(out.maps, np.take_along_axis(expected.numpy(), order, 1), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            module.second_weight.mul_(-1)  # type: ignore[union-attr]  # read anew in every call
        np.testing.assert_allclose(camcore.explainer(module, method="recam")(images(), "all").maps, -out.maps)

    def test_no_trace(self) -> None:
        module = recam()
        with no_trace(module):
            camcore.explainer(module, method="recam")(images())

    def test_without_a_second_classifier(self) -> None:
        module = recam(variant="self")
        with pytest.raises(
            MethodNotPossible, match=r"recam is not possible at 'relu\(norm\)': it needs the weight of a"
        ):
            camcore.explainer(module, method="recam")(images())
        out = camcore.explainer(module, method="recam", variant="self")(images())
        assert (out.maps >= 0).all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("targets", "text"),
        [
            (LABELS[:2], "targets are (2,) int64; expected (3,) int64, the class of each image, or (3, 4) bool, which"),
            (SEVERAL.float(), "are (3, 4) float32; expected (3,) int64, the class of each image, or (3, 4) bool, which "
             "classes are in it. Numbers of 0 and 1 become bool by targets > 0.5."),
            (SEVERAL[:, :3], "targets are (3, 3) bool; expected"),
            (LABELS.float(), "targets are (3,) float32; expected"),
            (torch.tensor([0, 4, 1]), "targets go from 0 to 4; the network has the classes 0 to 3"),
            (torch.tensor([0, -1, 1]), "targets go from -1 to 1; the network has the classes 0 to 3"),
        ],
    )  # fmt: skip
    def test_targets(self, targets: Tensor, text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            recam().scores_and_loss(images(), targets)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"variant": "other"}, "option variant of ReCam is 'other'; expected 'class' or 'self'"),
            ({"normalization": "max"}, "option normalization of ReCam is 'max'; expected 'minmax', "),
            ({"layer": "trunk"}, "the head does not read what 'trunk' returns but 'relu(norm)'"),
            ({"layer": "trunc"}, "no layer is called 'trunc'"),
        ],
    )
    def test_options(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=re.escape(text)):
            recam(**options)
        with pytest.raises(InputError, match=r"detach is 'masks'\. Did you mean 'mask'\?"):
            recam().scores_and_loss(images(), LABELS, detach="masks")  # type: ignore[arg-type]

    def test_a_model_for_several_devices(self) -> None:
        text = "the model is in DataParallel, which would not see the loss; take DataParallel(ReCam(model)) instead"
        with pytest.raises(InputError, match=re.escape(text)):
            ReCam(nn.DataParallel(small()))

    def test_no_scores(self) -> None:
        class Empty(Small):
            silent = False

            def forward(self, x: Tensor) -> Any:
                scores = super().forward(x)
                return {} if self.silent else scores

        module = recam(Empty(TAILS["mean of two axes"]))
        module.model.silent = True  # type: ignore[assignment]
        with pytest.raises(InputError, match="the model returns dict without a tensor of scores"):
            module.scores_and_loss(images(), LABELS)
