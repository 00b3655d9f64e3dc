"""Networks that are ready to be trained: heads that camcore finds, cuts, frozen trunks, the same weights by seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import camcore_torch
import numpy as np
import pytest
import torch
from camcore_tools.training.heads import HeadName
from camcore_tools.training.networks import ARCHS, build, load_trainable_state, put_training, trainable_state
from camcore_tools.training.small import make_network
from camcore_torch import TorchBackend
from torch import Tensor, nn
from torch.nn import functional

import camcore
from camcore.errors import InputError
from camcore.head import LinearHead


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))


def step(network: nn.Module, side: int = 64) -> None:
    """One of a training."""
    put_training(network)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    functional.cross_entropy(network(images(4, side)), torch.arange(4) % 3).backward()
    optimizer.step()


def found(network: nn.Module, side: int = 64) -> tuple[str, bool]:
    tap = TorchBackend(network).tap(None, images(1, side).numpy())
    return tap.layer, isinstance(tap.head, LinearHead)


SMALL = [
    ("small", "auto", "blocks"),
    ("small", "gap", "blocks"),
    ("small", "conv1024", "head.relu"),
    ("resnet18", "auto", "layer4"),
    ("resnet18", "maps", "head.relu"),
    ("alexnet", "gap", "features.11"),
    ("mobilenet_v3_small", "gap", "features"),
    ("squeezenet1_0", "auto", "classifier.2"),
    ("squeezenet1_0", "gap", "features"),
]


@pytest.mark.parametrize(("arch", "head", "layer"), SMALL)
def test_cam_has_its_closed_form_and_training_runs(arch: str, head: HeadName, layer: str) -> None:
    network = build(arch, 3, head=head, size=(64, 64))
    assert found(network) == (layer, True)
    assert camcore.explainer(network)(images().numpy()).method == "cam"
    step(network)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert network(images()).shape == (2, 3)


def test_the_recipe_of_a_cut_googlenet() -> None:
    network = build("googlenet", 5, cut="inception4e", head="conv1024", size=(64, 64))
    assert found(network) == ("head.relu", True)
    assert "inception5a" not in dict(network.named_children())
    assert network.state_dict()["head.conv.weight"].shape == (1024, 832, 3, 3)
    out = camcore.explainer(network)(images().numpy())
    assert out.maps.shape == (2, 1, 4, 4)


def test_a_cut_alone_gives_a_pooled_head() -> None:
    network = build("small", 3, cut="blocks.0", size=(32, 32))
    assert found(network, 32) == ("blocks.0", True)
    assert network.state_dict()["head.fc.weight"].shape == (3, 16)


def test_transformers_read_their_patches() -> None:
    network = build("swin_t", 3, cut="features.1", size=(64, 64))
    assert found(network) == ("head.grid", True)
    assert camcore.explainer(network)(images().numpy()).maps.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_cut_networks_are_exported_and_verified(exporter: str, tmp_path: Path) -> None:
    network = build("small", 3, cut="blocks.1", head="maps", maps=8, size=(32, 32))
    report = camcore_torch.export(network, (1, 3, 32, 32), tmp_path / "model.onnx", exporter=exporter)
    assert report.passed
    shipped, live = (camcore.explainer(m, layer="head.relu") for m in (tmp_path / "model.onnx", network))
    x = images(side=32).numpy()
    np.testing.assert_allclose(shipped(x, "all").maps, live(x, "all").maps, atol=1e-5)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build("resnet18", 3, head="maps", size=(64, 64), seed=s).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["head.conv.weight"], other["head.conv.weight"])


def test_small_is_the_network_of_the_demo() -> None:
    ours, theirs = build("small", 5, seed=2, size=(64, 64)).state_dict(), make_network(5, seed=2).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def changed(network: nn.Module) -> set[str]:
    """The tensors that one step of training changes."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step(network)
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("arch", "head"), [("resnet18", "auto"), ("densenet121", "maps"), ("mobilenet_v3_small", "auto")]
)
def test_of_a_frozen_network_only_the_head_changes(arch: str, head: HeadName) -> None:
    network = build(arch, 3, head=head, freeze=True, size=(64, 64))
    state = trainable_state(network)
    assert changed(network) == set(state)
    assert all(name.startswith(("fc.", "head.", "classifier.3.")) for name in state)
    assert sum(t.numel() * t.element_size() for t in state.values()) < 100_000


def test_a_frozen_network_with_a_new_head_is_saved_in_tens_of_kilobytes() -> None:
    network = build("alexnet", 17, head="gap", freeze=True, size=(64, 64))
    assert sorted(trainable_state(network)) == ["head.fc.bias", "head.fc.weight"]
    assert sum(t.numel() * t.element_size() for t in trainable_state(network).values()) == 4 * 17 * 257


def test_all_of_a_free_network_changes_and_is_saved() -> None:
    network = build("small", 3, size=(32, 32))
    state = trainable_state(network)
    assert set(state) == set(network.state_dict()) == changed(network)
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    network = build("mobilenet_v3_small", 3, freeze=True, size=(64, 64))
    put_training(network)
    training = {name for name, module in network.named_modules() if module.training}
    assert {"classifier", "classifier.2", "classifier.3"} <= training  # the dropout in front of the new layer works
    assert not any(name.startswith("features") for name in training)


def test_what_was_saved_is_put_back() -> None:
    first, again = (build("small", 3, head="maps", freeze=True, size=(32, 32)) for _ in range(2))
    step(first, 32)
    load_trainable_state(again, trainable_state(first))
    assert torch.equal(first.eval()(images(side=32)), again.eval()(images(side=32)))
    with pytest.raises(InputError, match=r"of another network: 1 of its tensors do not fit, as head\.fc"):
        load_trainable_state(again, {n: t for n, t in trainable_state(first).items() if n != "head.fc.weight"})


def test_maps_of_one_cell_are_noted() -> None:
    notes: list[str] = []
    build("resnet18", 3, size=(32, 32), report=notes.append)
    assert notes == ["note: of pictures of 32 x 32 the maps of 'layer4' are 1 x 1: they show no place"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"arch": "resnet81"}, "no network is called 'resnet81'"),
        ({"head": "gab"}, "no head is called 'gab'. Did you mean 'gap'"),
        ({"classes": 0}, "classes is 0; expected 1 or more"),
        ({"maps": 4}, "maps is 4 for head 'auto'; it goes with head 'maps'"),
        ({"head": "maps", "maps": 0}, "maps is 0"),
        ({"cut": "blocks.7"}, "cut 'blocks.7': the network has no module of that path. Did you mean 'blocks"),
    ],
)
def test_wrong_options_are_answered(options: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        build(**{"arch": "small", "classes": 3, "size": (32, 32)} | options)  # type: ignore[arg-type]


FAMILIES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf", "resnet50"),
    *("resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32"),
]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["gap", "conv1024", "maps"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_with_every_head(arch: str, head: HeadName, tmp_path: Path) -> None:
    side = 96
    network = build(arch, 3, head=head, size=(side, side), report=lambda text: None)
    assert found(network, side)[1]
    report = camcore_torch.export(network, (1, 3, side, side), tmp_path / "model.onnx", exporter="torchscript")
    assert report.passed, report.checks
    step(network, side)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [a for a in ARCHS if not a.startswith(("vit_h", "regnet_y_128", "maxvit"))])
def test_every_network_is_built_as_it_is(arch: str) -> None:
    network = build(arch, 3, size=(96, 96), report=lambda text: None)
    with torch.no_grad():
        assert network(images(1, 96)).shape == (1, 3)
