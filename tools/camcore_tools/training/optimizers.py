"""The optimizers, and their memory as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from camcore.errors import InputError
from camcore_tools.training.settings import Settings

__all__ = ["OPTIMIZER_PREFIX", "load_optimizer", "make_optimizer", "optimizer_tensors"]

OPTIMIZER_PREFIX = "optimizer."


def make_optimizer(module: nn.Module, settings: Settings) -> Optimizer:
    """For all parameters of a module that are not frozen."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the network has no parameter that could be trained: all are frozen; give it a new head")
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.nesterov, **common)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **common)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter: ``optimizer.3.exp_avg`` ..."""
    return {
        f"{OPTIMIZER_PREFIX}{n}.{name}": value
        for n, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave, in the memory layout of the parameters.

    ``Optimizer.load_state_dict`` would leave the layout of the file. Then PyTorch goes through weights and memory in
    another way, which rounds otherwise.
    """
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for key, value in tensors.items():
        if key.startswith(OPTIMIZER_PREFIX):
            number, _, name = key.removeprefix(OPTIMIZER_PREFIX).partition(".")
            parameter = parameters[int(number)]
            optimizer.state[parameter][name] = _laid_out(value, parameter)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape or value.ndim == 0:
        return value  # the number of steps, which stays on the CPU
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
