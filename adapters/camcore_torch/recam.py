"""ReCAM: a second classifier on features that the class maps of the first one mask, trained beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camcore.errors import InputError, suggest
from camcore.methods.recam import check_choices
from camcore_torch.exporting import example_of
from camcore_torch.live import LiveHead, live_head
from camcore_torch.network import Shell, unwrap
from camcore_torch.record import scores_of
from camcore_torch.steps import array
from camcore_torch.views import flat

__all__ = ["DETACH", "Detach", "ReCam", "masks", "recam_loss"]

Detach = Literal["nothing", "mask", "features"]
DETACH = ("nothing", "mask", "features")
_EPSILON = 1e-5


class ReCam(Shell):
    """A classifier with a second one for ReCAM beside its own.

    The features ``A`` that the pooled linear head ``W`` reads are masked by the class map of each class ``c`` that is
    in the picture, ``m_c = n(sum_k W_ck A_k)``, and pooled to ``f_c = mean(m_c A)``. A second classifier ``W'`` without
    a bias learns to tell by softmax cross-entropy that ``f_c`` is of class ``c``: unlike the sigmoids of the first it
    must tell the classes apart, so its weights grow where ``c`` differs from the others. The map is that of
    ``W'_ck W_ck``: see :func:`camcore.methods.recam`, ``camcore.explainer(module, method="recam")``.

    Parameters
    ----------
    model : nn.Module
        A classifier with a linear head behind a global average pooling; it stays as it is, and trains as before.
    example : (N, C, *S) tensor or ndarray, or that shape; optional
        What the network is run on once to find its head. Pictures of 224 x 224 pixels where absent.
    variant : {"class", "self"}
        ``"self"`` has no second classifier: the first one must recognise the masked features, ``W f_c + b``.
    normalization : {"relu-max", "minmax", "sigmoid", "tanh"}
        ``n``, over the positions of one map. The paper's is ``"relu-max"``, ``ReLU(m) / (max ReLU(m) + 1e-5)``.
    layer : str, optional
        The features must be what this module returns.

    Attributes
    ----------
    recam_weight : (K, C) Parameter or None
        ``W'``; part of ``state_dict()``. None for ``"self"``.

    Raises
    ------
    InputError
        If the network has no such head, if its weight is not one of the parameters, or for an unknown option.

    Notes
    -----
    ``forward`` gives what the model gives. In a loop, one forward pass gives the scores and the loss of the second
    classifier, to which that of the first one and a factor of choice belong (the paper trains a finished network on,
    the second classifier with ten times the learning rate of all else)::

        scores, second = network.scores_and_loss(images, targets)
        (F.cross_entropy(scores, targets) + second).backward()

    Gradients of that loss flow as in the official code: to ``W'``, and by the masked features to the trunk and by the
    mask to trunk and ``W``; ``detach=`` holds parts of it back. Dropout between features and head is not applied to
    masked features. Deviations: the features are masked for the classes that are in the picture only, which the
    official code sorts out afterwards; 1e-5 stands also in the denominator of ``"minmax"``; under autocast the loss is
    computed in float32; ``W'`` is drawn from the global random generator, as that of any layer.

    A compiled model is run as it was written for the loss. For several processes put this into
    ``DistributedDataParallel`` and call that with images and targets.

    References
    ----------
    Z. Chen et al., "Class re-activation maps for weakly-supervised semantic segmentation", CVPR 2022,
    arXiv:2203.00962; code: zhaozhengChen/ReCAM
    """

    recam_weight: nn.Parameter | None

    def __init__(
        self,
        model: nn.Module,
        *,
        example: Any = None,
        variant: str = "class",
        normalization: str = "relu-max",
        layer: str | None = None,
    ) -> None:
        super().__init__()
        check_choices("ReCam", variant, normalization)
        _check_not_parallel(model)
        self.model = model
        self.variant, self.normalization = variant, normalization
        self._head = live_head(model, None if example is None else array(example_of(example)), layer)
        if variant == "self" and self._head.odd_bias:
            raise InputError("the head has a bias that is no parameter, so it cannot be trained; take variant='class'")
        self.recam_weight = _second_weight(unwrap(model), self._head) if variant == "class" else None

    @property
    def second_weight(self) -> Tensor | None:
        """The weight of the second classifier, (K, C)."""
        return self.recam_weight

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """What the model returns; with ``targets`` what :meth:`scores_and_loss` does."""
        return self.model(images) if targets is None else self.scores_and_loss(images, targets)

    def scores_and_loss(self, images: Tensor, targets: Tensor, *, detach: Detach = "nothing") -> tuple[Tensor, Tensor]:
        """The model's scores and the loss of the second classifier, of one forward pass.

        Parameters
        ----------
        images : (N, C, *S) tensor
        targets : (N,) int64 or (N, K) bool tensor
            The class of each image, or which classes are in it; an image without any adds nothing to the loss.
        detach : {"nothing", "mask", "features"}
            What the loss does not train: ``"mask"``: ``W``, and the trunk by way of the mask; ``"features"``: trunk
            and ``W`` at all, so that only the second classifier learns (with ``"self"``: the first one).

        Returns
        -------
        scores : (N, K) tensor
            As the model gives them.
        loss : scalar tensor
            See :func:`recam_loss`.

        Raises
        ------
        InputError
            For targets of another kind or shape, or if the network took another way than the one it was studied on.
        """
        if detach not in DETACH:
            raise InputError(f"detach is {detach!r}. {suggest(str(detach), DETACH)}")
        network = unwrap(self.model)
        output, features = self._head.run(network, images)
        scores = scores_of(output)
        if scores is None:
            raise InputError(f"the model returns {type(output).__name__} without a tensor of scores")
        classes, given = positives(targets, len(features), self._head.classes)
        with torch.autocast(features.device.type, enabled=False):
            return flat(scores), self._loss(network, features, classes, given, detach)

    def _loss(self, network: nn.Module, features: Tensor, classes: Tensor, given: Tensor, detach: Detach) -> Tensor:
        wide = torch.promote_types(features.dtype, torch.float32)
        matrix, shift = (
            None if t is None else t.to(wide) for t in (self._head.matrix(network), self._head.shift(network))
        )
        features = features.to(wide)
        if detach == "features":
            features = features.detach()
        mask = masks(class_maps(features, matrix, classes), self.normalization)
        pooled = mask if detach == "nothing" else mask.detach()
        masked = pooled @ features.transpose(1, 2) / features.shape[2]
        if self.recam_weight is not None:
            return recam_loss(masked @ self.recam_weight.to(wide).t(), classes, given)
        logits = masked if matrix is None else masked @ matrix.t()
        return recam_loss(logits if shift is None else logits + shift, classes, given)

    def extra_repr(self) -> str:
        head = self._head
        return (
            f"{self.variant}, {self.normalization}, {head.name!r}: {head.channels} channels -> {head.classes} classes"
        )


def positives(targets: Tensor, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """The classes that are in each image, (N, T) int64, and which of these entries are meant, (N, T) bool.

    Raises
    ------
    InputError
        For targets of another kind or shape, or a class that is not there.
    """
    expected = f"({count},) int64, the class of each image, or ({count}, {classes}) bool, which classes are in it"
    if targets.dtype == torch.bool and targets.shape == (count, classes):
        most = max(1, int(targets.sum(dim=1).max()))
        order = targets.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        return order, targets.gather(1, order)
    if targets.dtype != torch.int64 or targets.shape != (count,):
        cure = " Numbers of 0 and 1 become bool by targets > 0.5." if targets.shape == (count, classes) else ""
        raise InputError(f"targets are {tuple(targets.shape)} {_kind(targets)}; expected {expected}.{cure}")
    low, high = (int(t) for t in torch.aminmax(targets))
    if low < 0 or high >= classes:
        raise InputError(f"targets go from {low} to {high}; the network has the classes 0 to {classes - 1}")
    return targets[:, None], torch.ones_like(targets, dtype=torch.bool)[:, None]


def class_maps(features: Tensor, matrix: Tensor | None, classes: Tensor) -> Tensor:
    """``sum_k W_ck A_k``: (N, C, P) features and (N, T) classes to (N, T, P) maps; ``A_c`` without a matrix."""
    if matrix is None:
        return features.gather(1, classes[:, :, None].expand(-1, -1, features.shape[2]))
    return matrix[classes] @ features


def masks(maps: Tensor, normalization: str) -> Tensor:
    """(..., P) maps scaled to [0, 1], each over its positions, with 1e-5 in the denominator where there is one."""
    return _MASKS[normalization](maps)


def recam_loss(logits: Tensor, classes: Tensor, given: Tensor) -> Tensor:
    """Softmax cross-entropy of masked features, the mean over the classes of an image, then over all images.

    Parameters
    ----------
    logits : (N, T, K) tensor
        Of the features masked by each of T classes.
    classes : (N, T) int64 tensor
    given : (N, T) bool tensor
        False where there is none.
    """
    losses = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
    counts = given.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(given, losses / counts, 0).sum() / len(classes)


def _relu_max(maps: Tensor) -> Tensor:
    positive = maps.relu()
    return positive / (positive.amax(dim=-1, keepdim=True) + _EPSILON)


def _minmax(maps: Tensor) -> Tensor:
    low, high = torch.aminmax(maps, dim=-1, keepdim=True)
    return (maps - low) / (high - low + _EPSILON)


_MASKS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "minmax": _minmax,
        "relu-max": _relu_max,
        "tanh": lambda maps: torch.tanh(2 * _relu_max(maps)),
        "sigmoid": torch.sigmoid,
    }
)


def _second_weight(network: nn.Module, head: LiveHead) -> nn.Parameter:
    """As a linear layer draws its own, in the type and on the device of the first one."""
    like = next(p for p in (head.matrix(network), *network.parameters(), torch.empty(0)) if p is not None)
    weight = nn.Parameter(torch.empty(head.classes, head.channels, dtype=like.dtype, device=like.device))
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return weight


def _check_not_parallel(model: nn.Module) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        name = type(model).__name__
        raise InputError(f"the model is in {name}, which would not see the loss; take {name}(ReCam(model)) instead")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
