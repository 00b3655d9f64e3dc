"""Networks for training: any classifier of torchvision, or ``small``, with the head, cut and weights asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from camcore.errors import InputError, suggest
from camcore.head import LinearHead
from camcore_tools.console import note
from camcore_tools.training.architectures import (
    ARCHS,
    AUXILIARY,
    check_arch,
    check_size,
    input_rule,
    make,
    study_size,
)
from camcore_tools.training.cutting import FeatureMap, cut_behind, map_size, survey
from camcore_tools.training.heads import HEADS, HeadName, make_head
from camcore_tools.training.weights import default_weights, load_weights, read_weights

__all__ = ["ARCHS", "build", "input_rule", "load_trainable_state", "put_training", "trainable_state"]


def build(
    arch: str,
    classes: int,
    *,
    head: HeadName = "auto",
    maps: int | None = None,
    cut: str | None = None,
    freeze: bool = False,
    weights: str | Path | None = None,
    size: tuple[int, int] = (224, 224),
    seed: int = 0,
    report: Callable[[str], None] = note,
) -> nn.Module:
    """A classifier that is ready to be trained.

    Parameters
    ----------
    arch : str
        A name in `ARCHS`: any classifier of torchvision, or ``small``.
    classes : int
        How many scores there will be.
    head : {"auto", "gap", "conv1024", "maps"}
        ``auto`` keeps the form of the network and makes its last layer anew. The others replace everything behind the
        last feature map; see :func:`camcore_tools.training.heads.make_head`. ``gap`` keeps a head that is already one
        linear layer on pooled features.
    maps : int, optional
        How many, for ``head="maps"``; as many as classes where absent.
    cut : str, optional
        Path of a module: what follows it is dropped. Then ``auto`` means ``gap``.
    freeze : bool
        Only the new head is trained; see `put_training`.
    weights : path, "default" or None
        A ``.safetensors`` or ``.pth`` file, torchvision's default weights, or random ones. Tensors of another
        classifier are left out, which is reported.
    size : (H, W)
        Of the pictures.
    seed : int
        Of all random weights, the new head's included; PyTorch's own random state is left as it is.
    report : callable
        Is told what is left out, and of maps that are too small.

    Returns
    -------
    nn.Module
        On CPU, in evaluation mode, convolutions in the channels-last format. Its modules have the paths that they have
        in torchvision; a new head is ``head``.

    Raises
    ------
    InputError
        For an unknown name, a size that the network cannot take, a layer that is not there or weights that do not fit.
    """
    check_arch(arch)
    _check_options(classes, head, maps, cut)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole = make(arch, classes, size=size)
        names = list(whole.state_dict())
        network, path, end = _with_head(whole, arch, classes, head, maps, cut, size)
    check_size(arch, network, size)
    if map_size(network, end, size) == (1, 1):
        report(f"note: of pictures of {size[0]} x {size[1]} the maps of {end.path!r} are 1 x 1: they show no place")
    if weights is not None:
        read = default_weights(arch) if str(weights) == "default" else read_weights(Path(weights))
        dropped = [n for n in (*names, *read) if n in names or n.startswith(AUXILIARY)]
        load_weights(network, read, origin=f"weights {weights}", head=path, dropped=dropped, report=report)
    if freeze:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(f"{path}."))
    return network.to(memory_format=torch.channels_last).eval()


def _check_options(classes: int, head: str, maps: int | None, cut: str | None) -> None:
    if classes < 1:
        raise InputError(f"classes is {classes}; expected 1 or more")
    if head not in HEADS:
        raise InputError(f"no head is called {head!r}. {suggest(head, HEADS)}")
    if maps is not None and (head != "maps" or maps < 1):
        raise InputError(f"maps is {maps} for head {head!r}; it goes with head 'maps', and is 1 or more")


def _with_head(
    whole: nn.Module, arch: str, classes: int, head: HeadName, maps: int | None, cut: str | None, size: tuple[int, int]
) -> tuple[nn.Module, str, FeatureMap]:
    """The network with the head asked for, the path of that head, and what it reads."""
    shape = study_size(arch, size)
    seen = survey(whole, shape)
    if cut is None and (head == "auto" or (head == "gap" and _is_pooled(whole, shape))):
        return whole, seen.classifier, seen.last
    end = seen.last if cut is None else seen.map_of(cut)
    new = make_head("gap" if head == "auto" else head, end.channels, classes, layout=end.layout, maps=maps)
    return cut_behind(whole, end.path, new, activation=cut is None), "head", end


def _is_pooled(network: nn.Module, size: tuple[int, int]) -> bool:
    """Whether the scores are one linear layer on globally pooled features already."""
    from camcore_torch.backend import TorchBackend

    noise = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0))
    tap = TorchBackend(network).tap(None, noise.numpy())
    return isinstance(tap.head, LinearHead) and any(isinstance(m, nn.Linear) for m in network.modules())


def put_training(network: nn.Module) -> None:
    """Training mode, but for parts whose parameters are all frozen: no dropout there, and no statistics of the batch.

    A part is a module with everything in it.
    """
    network.train()
    for module in _frozen(network):
        module.eval()


def _frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that have parameters, none of which is trained."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield module
    else:
        for child in module.children():
            yield from _frozen(child)


def trainable_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: parameters that are not frozen, and buffers of modules that are not.

    Returns
    -------
    dict of str to Tensor
        By their names in the state dict; contiguous, and the tensors themselves where they are that already.
    """
    fixed = {id(t) for m in _frozen(network) for t in (*m.parameters(), *m.buffers())}
    fixed |= {id(p) for p in network.parameters() if not p.requires_grad}
    state = network.state_dict(keep_vars=True)
    return {name: t.detach().contiguous() for name, t in state.items() if id(t) not in fixed}


def load_trainable_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `trainable_state` gave of a network that was built alike.

    Raises
    ------
    InputError
        If names or shapes are not those of this network.
    """
    own = trainable_state(network)
    wrong = [n for n in {**own, **state} if n not in own or n not in state or own[n].shape != state[n].shape]
    if wrong:
        raise InputError(
            f"the checkpoint is of another network: {len(wrong)} of its tensors do not fit, as {sorted(wrong)[0]}"
        )
    network.load_state_dict(dict(state), strict=False)
