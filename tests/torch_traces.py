"""Everything that explaining a module must leave as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that explaining must not change."""
    return {
        "flags": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, h)) for m in model.modules() for h in HOOKS],
        "global hooks": [len(getattr(nn_module, h)) for h in GLOBAL],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires grad": [p.requires_grad for p in model.parameters()],
        "values": [t.clone() for t in model.state_dict().values()],
        "versions": [t._version for t in model.state_dict().values()],
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_cache_enabled(), torch.is_autocast_enabled("cpu")],
        "modes": [_get_current_dispatch_mode(), _get_current_function_mode()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@contextmanager
def no_trace(model: nn.Module, *, versions: bool = True) -> Iterator[None]:
    """Fails where anything has changed; ``versions`` also where something was written and put back."""
    before = state(model)
    yield
    after = state(model)
    for key, value in before.items():
        if key != "versions" or versions:
            assert same(value, after[key]), f"{key} changed"


def prepared(model: nn.Module, side: int = 64) -> nn.Module:
    """In the middle of a training: gradients present, some frozen, flags mixed."""
    model.train()
    x = torch.randn(2, 3, side, side)
    out = model(x)
    (out[0] if isinstance(out, tuple) else out).sum().backward()
    parts = list(model.modules())
    parts[len(parts) // 2].training = False
    next(model.parameters()).requires_grad_(False)
    next(reversed([*model.parameters()])).grad = None
    return model
