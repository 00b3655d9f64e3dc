"""Where networks have their last maps, and the part of them that ends at a layer."""

from __future__ import annotations

import copy

import pytest
import torch
from camcore_tools.training.architectures import make
from camcore_tools.training.cutting import cut_behind, map_size, survey
from torch import Tensor, nn

from camcore.errors import InputError


def network(arch: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(arch, 4, size=(64, 64)).eval()


LAST = {
    "resnet18": ("layer4", "fc"),
    "alexnet": ("features.11", "classifier.6"),  # the maximum behind it is no layer that computes features
    "squeezenet1_0": ("features", "classifier.1"),
    "densenet121": ("features", "classifier"),
    "googlenet": ("inception5b", "fc"),
    "mobilenet_v3_small": ("features", "classifier.3"),
    "shufflenet_v2_x0_5": ("conv5", "fc"),
    "swin_t": ("permute", "head"),
    "vit_b_32": ("encoder", "heads.head"),
    "small": ("blocks", "head"),
}


@pytest.mark.parametrize("arch", LAST)
def test_the_last_map_and_the_last_layer_are_found(arch: str) -> None:
    size = (64, 64) if arch == "vit_b_32" else (224, 224)
    with torch.device("meta"):
        seen = survey(make(arch, 4, size=size), size)
    assert (seen.last.path, seen.classifier) == LAST[arch]
    assert seen.last.layout.kind == ("tokens" if arch == "vit_b_32" else "first")


class Collect(nn.Module):
    """A head that gives back what it reads."""

    def forward(self, features: Tensor) -> Tensor:
        return features


CUTS = [
    ("resnet18", "layer3"),
    ("resnet18", "layer2.0.conv1"),
    ("squeezenet1_0", "features.7"),
    ("densenet121", "features.denseblock2.denselayer3"),
    ("small", "blocks.1"),
]


@pytest.mark.parametrize(("arch", "path"), CUTS)
@pytest.mark.parametrize("training", [False, True])
def test_a_cut_network_gives_what_the_layer_gave(arch: str, path: str, training: bool) -> None:
    whole, images = network(arch), torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    part = cut_behind(copy.deepcopy(whole), path, Collect())
    seen: list[Tensor] = []
    whole.train(training).get_submodule(path).register_forward_hook(lambda *args: seen.append(args[2].clone()))
    whole(images)
    assert torch.equal(part.train(training)(images), seen[-1])
    names = list(part.state_dict())
    assert set(names) < set(whole.state_dict())
    assert all(torch.equal(whole.state_dict()[name], part.state_dict()[name]) for name in names)  # statistics too
    assert len(names) < len(whole.state_dict()) - 2
    assert path in dict(part.named_modules())


def test_modules_beside_the_path_stay_whole() -> None:
    part = cut_behind(network("resnet18"), "layer3", nn.Sequential())
    assert [name for name, _ in part.named_children()] == [
        *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "head")
    ]
    assert type(part.get_submodule("layer2.0")).__name__ == "BasicBlock"


def test_an_activation_that_follows_may_be_kept() -> None:
    with_it, without = (cut_behind(network("densenet121"), "features", Collect(), activation=a) for a in (True, False))
    images = torch.rand((1, 3, 64, 64))
    assert torch.equal(with_it.eval()(images), without.eval()(images).relu())
    assert (without(images) < 0).any()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("layr3", "the network has no module of that path. Did you mean 'layer3'"),
        ("avgpool", "returns no feature map with spatial axes, which a new head reads; the last one .* is 'layer4'"),
        ("fc", "returns no feature map"),
    ],
)
def test_a_layer_that_cannot_be_the_last_is_refused(path: str, text: str) -> None:
    with torch.device("meta"):
        seen = survey(make("resnet18", 4), (224, 224))
    with pytest.raises(InputError, match=f"cut '{path}': .*{text}"):
        seen.map_of(path)


def test_the_size_of_maps_follows_that_of_pictures() -> None:
    with torch.device("meta"):
        resnet = make("resnet18", 4)
    found = survey(resnet, (224, 224))
    assert (found.last.size, found.last.channels) == ((7, 7), 512)
    assert map_size(resnet, found.last, (64, 96)) == (2, 3)
    assert map_size(resnet, found.last, (32, 32)) == (1, 1)
