"""Weights from files, and into networks with another head."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from camcore.errors import InputError, MissingPackage
from camcore_tools.training.run_folder import RunFolder

__all__ = ["default_weights", "load_weights", "read_weights"]

Weights = OrderedDict[str, Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params")
_SECONDS = 10
_OF_A_RUN = ("head.", "recam.")  # new layers, and ReCAM's second classifier, which is made anew
# DenseNet's files on torchvision's server are older than its code.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def read_weights(path: Path) -> Weights:
    """The tensors of a file, by name.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file; or what ``torch.save`` wrote of a state dict, alone or as an entry of a checkpoint.
        No pickle is run: of the latter only tensors and plain values are read. Prefixes such as ``module.`` that all
        names share are taken off by `load_weights`. To a checkpoint of a run with a frozen trunk that trunk is added.

    Raises
    ------
    InputError
        For a file that is missing, damaged, of another kind or without weights.
    """
    if not path.is_file():
        raise InputError(f"weights {path}: no such file")
    if path.suffix.lower() != ".safetensors":
        return _tensors_of(_read_checkpoint(path), path)
    return _tensors_of({**_trunk_beside(path), **_read_safetensors(path)}, path)


def _trunk_beside(path: Path) -> Weights:
    """The frozen part of the network of a run, whose checkpoints hold only what was learned."""
    trunk = path.absolute().parent.parent / RunFolder.TRUNK
    if path.absolute().parent.name != RunFolder.CHECKPOINTS or not trunk.is_file():
        return OrderedDict()
    return OrderedDict(_read_safetensors(trunk))


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingPackage("safetensors files need: pip install 'camcore[export]'") from error
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error shares no base class with others
        raise InputError(f"weights {path}: not a safetensors file that can be read: {_line(error)}") from error


def _read_checkpoint(path: Path) -> Any:
    if path.suffix.lower() not in (".pth", ".pt", ".bin", ".ckpt", ".tar"):
        raise InputError(f"weights {path}: expected a .safetensors file, or a .pth or .pt file with a state dict")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises what the many formats raise
        raise InputError(
            f"weights {path}: no state dict can be read from it; save one with "
            f"torch.save(network.state_dict(), ...) or as safetensors. PyTorch says: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _tensors_of(data: Any, path: Path) -> Weights:
    """The state dict itself, or the entry of a checkpoint that is one."""
    if not isinstance(data, Mapping):
        raise InputError(f"weights {path}: holds a {type(data).__name__}; expected a dict of tensors by name")
    inner = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), data)
    tensors = OrderedDict((str(k), v) for k, v in inner.items() if isinstance(v, Tensor))
    if not tensors:
        entries = ", ".join(map(repr, list(data)[:6])) or "none"
        raise InputError(f"weights {path}: holds no tensors by name; its entries are {entries}")
    metadata = getattr(inner, "_metadata", None)  # versions of modules, by which they read older files
    if metadata is not None:
        tensors._metadata = metadata  # type: ignore[attr-defined]
    return tensors


def default_weights(arch: str) -> Weights:
    """Torchvision's default weights, from its cache or its server.

    Raises
    ------
    InputError
        Where the server cannot be reached; names the address of the file. For a network that has none.
    """
    if arch == "small":
        raise InputError("weights 'default': 'small' has none; leave weights out and train it from scratch")
    entry: Any = models.get_model_weights(arch).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    try:
        if not cached.is_file():
            with urllib.request.urlopen(entry.url, timeout=_SECONDS):  # the download itself waits for ever
                pass
        return OrderedDict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, urllib.error.URLError) as error:
        raise InputError(
            f"weights 'default': {entry.url} cannot be fetched ({getattr(error, 'reason', error)}); get that file "
            "where the network is reachable, and give its path as weights"
        ) from error


def load_weights(
    network: nn.Module,
    weights: Weights,
    *,
    origin: str,
    head: str,
    dropped: Collection[str] = (),
    report: Callable[[str], None],
) -> None:
    """Load weights into a network, all but those of another classifier.

    Parameters
    ----------
    network : nn.Module
    weights : dict of str to Tensor
        As `read_weights` gives them.
    origin : str
        For messages.
    head : str
        Path of the network's own head: its tensors may be missing or of another shape.
    dropped : collection of str
        Names that the weights may have and the network has not: of what was cut off.
    report : callable
        Is told what is left out.

    Raises
    ------
    InputError
        If anything else is missing, of another shape, or not known to the network. Nothing is loaded then.
    """
    own = network.state_dict()
    weights = _fitted(network, _renamed(weights, own), own)
    spare = [n for n in weights if n not in own and (n in dropped or n.startswith(_OF_A_RUN))]
    wrong = [n for n, t in weights.items() if n in own and own[n].shape != t.shape]
    other = [n for n in wrong if _within(n, head)]
    _check(origin, weights, own, head, spare, [n for n in wrong if n not in other])
    rest = OrderedDict((n, t) for n, t in weights.items() if n not in {*spare, *other})
    rest._metadata = getattr(weights, "_metadata", None) or own._metadata  # type: ignore[attr-defined]
    network.load_state_dict(rest, strict=False)
    if other or spare:
        layers = sorted({name.rpartition(".")[0] for name in (*other, *spare)})
        report(f"note: {origin}: left out layers that are new or cut off here: {_some(layers)}")


def _within(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")


def _renamed(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """Without a prefix that all names share and the network has not; DenseNet's old names as its new ones."""
    children = {name.partition(".")[0] for name in own}
    names = list(weights)
    while len(first := {name.partition(".")[0] for name in names}) == 1 and not first & children:
        shorter = [name.partition(".")[2] for name in names]
        if not all(shorter):
            break
        names = shorter
    names = [_OLD_DENSENET.sub(r"\1\2.", name) for name in names]
    return _same_metadata(weights, OrderedDict(zip(names, weights.values(), strict=True)))


def _same_metadata(old: Weights, new: Weights) -> Weights:
    if hasattr(old, "_metadata"):
        new._metadata = old._metadata  # type: ignore[attr-defined]
    return new


def _fitted(network: nn.Module, weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """The embedding of positions of a ViT, resized to another grid."""
    name = "encoder.pos_embedding"
    if name not in weights or name not in own or weights[name].shape == own[name].shape:
        return weights
    patch = own["conv_proj.weight"].shape[-1]
    side = patch * round((own[name].shape[1] - 1) ** 0.5)
    resized = models.vision_transformer.interpolate_embeddings(side, patch, OrderedDict(weights))
    return _same_metadata(weights, resized)


def _check(
    origin: str,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    head: str,
    spare: Sequence[str],
    wrong: Sequence[str],
) -> None:
    free = [n for n in own if _within(n, head) or n.endswith("num_batches_tracked")]
    missing = [n for n in own if n not in weights and n not in free]
    unexpected = [n for n in weights if n not in own and n not in spare]
    shapes = [f"{n} {tuple(weights[n].shape)} instead of {tuple(own[n].shape)}" for n in wrong]
    found = {"are missing": missing, "are not known to it": unexpected, "have another shape": shapes}
    complaints = [f"{len(names)} tensors {what} ({_some(names)})" for what, names in found.items() if names]
    if complaints:
        raise InputError(f"{origin} does not fit this network, it may be of another one: {', '.join(complaints)}")


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
