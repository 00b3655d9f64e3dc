"""A network as the backend runs it: on which device, in which mode, and which of its outputs has the scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from camcore.errors import CamError, DeviceError, InputError, suggest
from camcore.evidence import InputSpec
from camcore.head import LinearHead
from camcore_torch.quiet import MODES, Mode, undisturbed
from camcore_torch.record import scores_of
from camcore_torch.steps import array

__all__ = ["Network", "Shell", "second_weight_of", "unwrap"]

Floats = NDArray[np.floating[Any]]


class Network:
    """The module inside wrappers, and how it is run.

    Parameters
    ----------
    model : nn.Module
    device : str
        ``"auto"``, or a name that is checked against where the model is.
    mode : {"eval", "caller"}
    output : str or int, optional
        Which of several outputs has the class scores.
    """

    def __init__(self, model: nn.Module, device: str, mode: Mode, output: str | int | None) -> None:
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; expected 'eval' or 'caller'")
        self.module = unwrap(model)
        self.mode: Mode = mode
        self.restless = False
        """Whether a forward pass in evaluation mode writes into buffers."""
        self._output = output
        _check_device(device, self.device)

    @property
    def device(self) -> str:
        """Where the parameters are now."""
        tensor = _first_tensor(self.module)
        return "cpu" if tensor is None else str(tensor.device)

    def undisturbed(self, *, grad: bool = False) -> AbstractContextManager[None]:
        """Context in which the module can be run without consequences."""
        return undisturbed(self.module, self.mode, buffers=self.restless, grad=grad)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The scores as the module gives them."""
        try:
            output = self.module(tensor)
        except CamError:  # from what watches the pass
            raise
        except Exception as error:  # a network raises what it likes
            text = (str(error).strip().splitlines() or [repr(error)])[0]
            raise InputError(f"the model cannot take images of shape {tuple(tensor.shape)}: {text}") from error
        if isinstance(output, Tensor) and self._output not in (None, 0):
            raise InputError(
                f"output={self._output!r} was given, but the model returns one tensor only; leave output= out"
            )
        scores = scores_of(output, self._output)
        if scores is None and self._output is not None:
            raise InputError(
                f"output={self._output!r} is no tensor that the model returns, which is {_described(output)}; give the "
                "place or the name of the one with the class scores"
            )
        if scores is None:
            raise InputError(
                f"the model returns {type(output).__name__} without a tensor of scores; say which with output="
            )
        return scores

    def tensor(self, images: Floats) -> Tensor:
        """Images as a tensor of the module's type and device; a copy, for the network may write into its input."""
        like = _first_tensor(self.module)
        tensor = torch.tensor(np.ascontiguousarray(images))
        return tensor.float() if like is None else tensor.to(like.device, like.dtype)

    def input(self) -> InputSpec:
        """From the first convolution: its number of axes; its channels as a guess, for others may come before it."""
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        first = next((m for m in self.module.modules() if isinstance(m, kinds)), None)
        if first is None:
            return InputSpec("images", ())
        return InputSpec("images", (None,) * (2 + len(first.kernel_size)), guess=first.in_channels or None)

    def head(self, head: Any) -> LinearHead:
        """The head that a user gives: a LinearHead, (weight, bias), a linear module or its path."""
        if isinstance(head, LinearHead):
            return head
        if isinstance(head, str):
            head = self._named(head)
        if isinstance(head, nn.Module):
            weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
            if not isinstance(weight, Tensor):
                raise InputError(f"head is {type(head).__name__}, which has no weight; give a linear layer")
            return LinearHead(array(weight), None if bias is None else array(bias))
        if not isinstance(head, (tuple, list)) or len(head) != 2:
            shown = f"{len(head)} values" if isinstance(head, (tuple, list)) else repr(head)
            raise InputError(f"head is {shown}; expected a LinearHead, (weight, bias), a linear module or its path")
        weight, bias = (None if part is None else _plain(part) for part in head)
        if weight is None or any(part is not None and part.dtype.kind not in "fiu" for part in (weight, bias)):
            raise InputError("head is (weight, bias) without numbers; expected a (K, C) and a (K,) array, or no bias")
        return LinearHead(weight, bias)

    def _named(self, name: str) -> nn.Module:
        modules = dict(self.module.named_modules())
        if name not in modules:
            raise InputError(f"head {name!r}: no module of that path. {suggest(name, modules)}")
        return modules[name]


class Shell(nn.Module):
    """A module around a classifier that is explained as the classifier.

    Attributes
    ----------
    model : nn.Module
        The classifier.
    second_weight : (K, C) tensor or None
        Of a second classifier that reads the same features, where the shell trains one.
    """

    model: nn.Module

    @property
    def second_weight(self) -> Tensor | None:
        return None


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside shells and ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` wrappers."""
    return _layers_of(model)[-1]


def second_weight_of(model: nn.Module) -> Tensor | None:
    """The weight of the second classifier as it is now, of the outermost shell that has one."""
    found = (layer.second_weight for layer in _layers_of(model) if isinstance(layer, Shell))
    return next((weight for weight in found if weight is not None), None)


def _layers_of(model: nn.Module) -> list[nn.Module]:
    """A module, what it wraps, and so on to the inside."""
    layers = [model]
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None and isinstance(model, Shell):
            inner = model.model
        if not isinstance(inner, nn.Module):
            return layers
        layers.append(inner)
        model = inner


def _first_tensor(model: nn.Module) -> Tensor | None:
    candidates: list[Callable[[], Any]] = [model.parameters, model.buffers]
    return next((t for c in candidates for t in c() if t.is_floating_point()), None)


def _check_device(wanted: str, have: str) -> None:
    kind = wanted.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {wanted!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if wanted == "auto" or have == wanted or (":" not in wanted and have.partition(":")[0] == wanted):
        return
    raise DeviceError(
        f"device {wanted!r} was asked for, but the model is on {have!r}; call model.to({wanted!r}), or take 'auto'"
    )


def _described(output: Any) -> str:
    """A container with its keys or length; else its type."""
    kind = type(output).__name__
    if isinstance(output, dict):
        return f"a {kind} of {', '.join(map(repr, output))}"
    return f"a {kind} of {len(output)}" if isinstance(output, (tuple, list)) else f"a {kind}"


def _plain(values: Tensor | ArrayLike) -> NDArray[Any]:
    return array(values) if isinstance(values, Tensor) else np.asarray(values)
