"""The classifiers that can be trained: their names, the sizes that they take, and how pictures become their input."""

from __future__ import annotations

import pytest
import torch
import torchvision
from camcore_tools.training.architectures import ARCHS, check_arch, check_size, input_rule, make, on_meta

from camcore.errors import InputError


def test_names_are_small_and_all_classifiers_of_torchvision() -> None:
    assert ARCHS[0] == "small"
    assert set(ARCHS[1:]) == set(torchvision.models.list_models(module=torchvision.models))
    assert {"resnet18", "vgg16", "vit_b_16", "inception_v3"} <= set(ARCHS)


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(InputError, match=r"no network is called 'resnet81'. Did you mean 'resnet18'"):
        check_arch("resnet81")


def test_pictures_are_normalised_as_the_weights_were_trained() -> None:
    assert input_rule("resnet18", size=(96, 64)).size == (96, 64)
    assert input_rule("resnet18").mean == (0.485, 0.456, 0.406)
    assert input_rule("efficientnet_v2_l").mean == (0.5, 0.5, 0.5)  # the only one of its family
    small = input_rule("small", size=(64, 64))
    assert (small.scale, small.mean, small.resize) == (1 / 127.5, (1.0,), "squash")


@pytest.mark.parametrize(
    ("arch", "size", "text"),
    [
        ("vit_b_32", (70, 70), "vit_b_32 cannot take pictures of 70 x 70: the next size that it takes is 96 x 96"),
        ("vit_b_32", (64, 96), r"vit_b_32 cannot take pictures of 64 x 96: .* 96 x 96 \(it takes squares only\)"),
        ("maxvit_t", (96, 96), "maxvit_t cannot take pictures of 96 x 96: the next size that it takes is 2"),
    ],
)
def test_a_network_of_one_size_names_the_next_that_fits(arch: str, size: tuple[int, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make(arch, 2, size=size)


@pytest.mark.parametrize(("arch", "size", "least"), [("alexnet", (40, 40), 63), ("inception_v3", (70, 73), 75)])
def test_too_small_pictures_are_refused_and_the_least_size_is_named(
    arch: str, size: tuple[int, int], least: int
) -> None:
    with torch.device("meta"):
        network = make(arch, 2)
    with pytest.raises(InputError, match=f"{arch} cannot take pictures of {size[0]} x {size[1]}: .* {least} x {least}"):
        check_size(arch, network, size)
    check_size(arch, network, (least, least))
    assert network.training


def test_shapes_are_found_without_arithmetic_and_without_a_trace() -> None:
    network = make("shufflenet_v2_x0_5", 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert on_meta(network, (64, 80)).shape == (1, 3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_classifiers_on_the_way_are_left_out_and_imagenet_pictures_are_taken() -> None:
    with torch.device("meta"):
        network = make("googlenet", 4)
    assert network.transform_input
    assert not any(name.startswith("aux") for name in network.state_dict())
    assert isinstance(network.train()(torch.zeros((2, 3, 64, 64), device="meta")), torch.Tensor)
