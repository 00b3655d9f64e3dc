"""The classifiers that can be trained: those of torchvision by name, and ``small``; and the pictures that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camcore.errors import InputError, MissingPackage, suggest
from camcore.preprocess import Preprocess, preprocess
from camcore_tools.training.small import ResidualNetwork

try:
    from torchvision import models
except ImportError as error:
    raise MissingPackage(f"training needs torchvision ({error}): pip install 'camcore[torch]'") from error

__all__ = ["ARCHS", "AUXILIARY", "check_arch", "check_size", "input_rule", "make", "on_meta", "study_size"]

ARCHS: tuple[str, ...] = ("small", *models.list_models(module=models))
"""Names of all classifiers."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Where GoogLeNet and Inception keep the classifiers on their way; camcore trains without them."""

_USUAL = (224, 224)
_LARGEST = 600


def check_arch(arch: str) -> None:
    """Refuse a name that is not in `ARCHS`."""
    if arch not in ARCHS:
        raise InputError(f"no network is called {arch!r}. {suggest(arch, ARCHS)}")


def make(arch: str, classes: int, *, size: tuple[int, int] = _USUAL) -> nn.Module:
    """The network as its authors wrote it, with random weights of the global generator.

    Those with branches on the way (GoogLeNet, Inception) come without them, and take pictures of ImageNet's
    normalisation like all others, which they turn into their own. Those with a grid of a fixed size (ViT, MaxViT) are
    made for ``size``.

    Raises
    ------
    InputError
        If the network cannot be made for pictures of this size; the next size that fits is named.
    """
    try:
        return _made(arch, classes, size)
    except (AssertionError, ValueError) as error:  # both are about the size alone
        raise _wrong_size(arch, size, error, lambda side: _can_be_made(arch, side)) from error


def _made(arch: str, classes: int, size: tuple[int, int]) -> nn.Module:
    if arch == "small":
        return ResidualNetwork(classes)
    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif arch.startswith("vit_"):
        if size[0] != size[1]:
            raise ValueError("it takes squares only")
        options = {"image_size": size[0]}
    elif arch.startswith("maxvit_"):
        options = {"input_size": size}
    network: nn.Module = models.get_model(arch, weights=None, num_classes=classes, **options)
    return network


def _can_be_made(arch: str, side: int) -> bool:
    try:
        with torch.device("meta"):
            network = _made(arch, 2, (side, side))
    except (AssertionError, ValueError):
        return False
    return _obstacle(network, (side, side)) is None


def study_size(arch: str, size: tuple[int, int]) -> tuple[int, int]:
    """A size at which the structure of a network is seen: the usual one, but for networks that are made for one."""
    return size if arch.startswith(("vit_", "maxvit_")) else _USUAL


def check_size(arch: str, network: nn.Module, size: tuple[int, int]) -> None:
    """Refuse pictures that are too small for a network, before any of them is read.

    Raises
    ------
    InputError
        Names the next size that the network takes.
    """
    error = _obstacle(network, size)
    if error is not None:
        raise _wrong_size(arch, size, error, lambda side: _obstacle(network, (side, side)) is None) from error


def _obstacle(network: nn.Module, size: tuple[int, int]) -> Exception | None:
    """What a forward pass raises on pictures of that size."""
    training = network.training
    network.eval()
    try:
        on_meta(network, size)
    except Exception as error:  # a network raises what it likes
        return error
    finally:
        network.train(training)
    return None


def on_meta(network: nn.Module, size: tuple[int, int]) -> Tensor:
    """The scores of one picture without their numbers: nothing is computed but shapes."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    with torch.no_grad():
        scores: Tensor = torch.func.functional_call(network, shapes, (torch.empty((1, 3, *size), device="meta"),))
    return scores


def _wrong_size(arch: str, size: tuple[int, int], error: Exception, fits: Callable[[int], bool]) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".! ")
    side = next((n for n in range(max(size), _LARGEST) if fits(n)), None)
    cure = "take another network" if side is None else f"the next size that it takes is {side} x {side}"
    return InputError(f"{arch} cannot take pictures of {size[0]} x {size[1]}: {cure} ({reason})")


def input_rule(arch: str, *, size: tuple[int, int] = _USUAL) -> Preprocess:
    """How pictures become the input of a network.

    Returns
    -------
    Preprocess
        For ``small`` pixels in -1..1, the whole picture stretched. For torchvision's the normalisation with which
        their weights were trained, which is ImageNet's for nearly all, and the centre of the picture.
    """
    check_arch(arch)
    if arch == "small":
        return preprocess("tf", size=size, resize="squash")
    shown = models.get_model_weights(arch).DEFAULT.transforms()
    return preprocess("imagenet", size=size, mean=tuple(shown.mean), std=tuple(shown.std))
