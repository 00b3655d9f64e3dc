"""What plain PyTorch says: hooks, autograd on everything, loops over classes; in the precision of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from camcore_torch import TorchBackend
from torch import Tensor, nn

import camcore
from camcore.evidence import Tap

Explained = Callable[[Tensor, int], Tensor]  # (K,) scores and a class to a number


def _rest(s: Tensor, c: int) -> Tensor:
    return s[c] + s.log_softmax(0)[c]


def _difference(s: Tensor, c: int) -> Tensor:
    return s[c] - torch.cat([s[:c], s[c + 1 :]]).max()


def _finer(s: Tensor, c: int) -> Tensor:
    distance = (s - s[c]).abs().tolist()
    others = sorted((j for j in range(len(s)) if j != c), key=lambda j: distance[j])
    return s[c] - 0.6 * s[others[:3]].mean()


def by_hand(scores: np.ndarray) -> np.ndarray:
    return np.sin(scores[:, 0]) * scores[:, 1] + scores[:, 2] ** 2


# name -> the target as camcore takes it, and as a line of PyTorch
EXPLAINED: dict[str, tuple[Any, Explained]] = {
    "logit": ("logit", lambda s, c: s[c]),
    "probability": ("probability", lambda s, c: s.softmax(0)[c]),
    "log-probability": ("log-probability", lambda s, c: s.log_softmax(0)[c]),
    "rest": ("rest", _rest),
    "difference": ("difference", _difference),
    "difference:1": ("difference:1", lambda s, c: s[c] - s[1]),
    "finer": ("finer", _finer),
    "function": (by_hand, lambda s, c: torch.sin(s[0]) * s[1] + s[2] ** 2),
}


@contextmanager
def caught(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What modules return, with a graph; what is written over afterwards is a copy. Of several calls the last one."""
    seen: dict[str, Tensor] = {}

    def catch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            seen[name] = output
            return output.clone()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(catch(name)) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def forward(model: nn.Module, images: np.ndarray, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores and the values of layers of a model as it would be shipped, all with a graph."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    x = torch.tensor(images, dtype=next(model.parameters()).dtype, requires_grad=True)
    with torch.enable_grad(), caught(model, layers) as seen:
        scores = model(x * 1)
    for module in training:
        module.training = True
    return scores, seen


def slopes(scores: Tensor, value: Tensor, classes: np.ndarray, explained: Explained) -> np.ndarray:
    """(N, T, *native): one backward pass for each class of each image."""
    found = np.zeros((*classes.shape, *value.shape[1:]))
    for n, t in np.ndindex(*classes.shape):
        gradient = torch.autograd.grad(explained(scores[n], int(classes[n, t])), value, retain_graph=True)[0]
        found[n, t] = gradient[n].double().numpy()
    return found


def bends(scores: Tensor, value: Tensor, classes: np.ndarray, explained: Explained) -> np.ndarray:
    """(N, T, *native): the Hessian times the value, by differentiating the inner product of gradient and value."""
    found = np.zeros((*classes.shape, *value.shape[1:]))
    for n, t in np.ndindex(*classes.shape):
        y = explained(scores[n], int(classes[n, t]))
        slope = torch.autograd.grad(y, value, create_graph=True)[0]
        if slope.requires_grad:
            bent = torch.autograd.grad((slope[n] * value[n].detach()).sum(), value, retain_graph=True)[0]
            found[n, t] = bent[n].double().numpy()
    return found


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, where the largest number is one."""
    assert found.shape == expected.shape
    scale = float(np.abs(expected).max())
    return float(np.abs(found - expected).max()) / scale if scale else float(np.abs(found).max())


class Distrusting(TorchBackend):
    """One that knows of no head, so that everything must be run."""

    def tap(self, layer: str | None = None, example: Any = None) -> Tap:
        return replace(super().tap(layer, example), head=None, obstacle="not wanted")


def distrusting(model: nn.Module, **options: Any) -> camcore.Explainer:
    return camcore.Explainer(Distrusting(model), **options)
