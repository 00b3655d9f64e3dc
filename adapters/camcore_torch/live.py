"""The features and the head's weights as they live in a network that trains: tensors with their graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Tap
from camcore.head import LinearHead
from camcore_torch.backend import TorchBackend
from camcore_torch.record import Recorder, recording_from
from camcore_torch.steps import array
from camcore_torch.study import Point, Study
from camcore_torch.watch import watching

__all__ = ["LiveHead", "live_head"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class LiveHead:
    """Where a network's pooled features and its linear head are. It holds names, no tensors, so a module may keep it.

    Attributes
    ----------
    name : str
        Of the features.
    classes, channels : int
    point : Point
        Where the features are met.
    channel_axis : int
        1, or -1 where channels are last.
    weight : str
        The parameter (K, C), maybe with axes of length one behind; empty where feature map k is the map of class k.
    bias : str
        The parameter (K,); empty where the head has none.
    odd_bias : bool
        Whether there is a bias that is no parameter.
    """

    name: str
    classes: int
    channels: int
    point: Point
    channel_axis: int
    weight: str
    bias: str
    odd_bias: bool

    def run(self, model: nn.Module, images: Tensor) -> tuple[Any, Tensor]:
        """What the module returns, and the (N, C, positions) features of the same pass.

        Raises
        ------
        InputError
            If the network took another way than the one that the head was found on.
        """
        with watching(model, [self.point]) as sights:
            output = model(images)
        features = sights[0].tensor
        if features is None or features.shape[self.channel_axis] != self.channels:
            seen = "were not met" if features is None else f"are {tuple(features.shape)}"
            raise InputError(
                f"the network took another way this time: the features {self.name!r} {seen}, expected {self.channels} "
                "channels. If it was changed, wrap it anew"
            )
        return output, features.movedim(self.channel_axis, 1).flatten(2)

    def matrix(self, model: nn.Module) -> Tensor | None:
        """The (K, C) weight as it is now; None where there is none."""
        if not self.weight:
            return None
        weight = model.get_parameter(self.weight).flatten(1)
        if weight.shape != (self.classes, self.channels):
            raise InputError(
                f"the head {self.weight!r} is {tuple(weight.shape)} now; expected ({self.classes}, {self.channels}). "
                "It was changed: wrap the network anew"
            )
        return weight

    def shift(self, model: nn.Module) -> Tensor | None:
        """The (K,) bias as it is now; None where there is none."""
        return model.get_parameter(self.bias) if self.bias else None


def live_head(model: nn.Module, example: Floats | None = None, layer: str | None = None) -> LiveHead:
    """Find the parameters of a head that reads globally pooled features.

    Parameters
    ----------
    model : nn.Module
        Run once, and left as it is.
    example : (N, C, *S) ndarray, optional
        What to run it on; noise of 224 x 224 pixels where absent.
    layer : str, optional
        The features must be what this module returns.

    Raises
    ------
    InputError
        If there is no such head, or its weight is none of the parameters.
    """
    backend = TorchBackend(model)
    example = backend.example() if example is None else example[:1]
    try:
        tap = backend.tap(layer, example)
        head = tap.need_head()
    except HeadNotFound as error:
        raise InputError(f"nothing can be trained beside the head of this network: {error}") from error
    study = backend.study(example)
    assert study.found.features is not None  # together with the head
    used = _read_by_head(backend, study, example)
    bias = _called(used, head.bias)
    return LiveHead(
        name=tap.layer,
        classes=head.classes,
        channels=head.channels,
        point=study.points[study.found.features],
        channel_axis=1 if study.layout_of(study.found.features).kind == "first" else -1,
        weight="" if head.is_identity else _weight(used, head, tap),
        bias=bias,
        odd_bias=not bias and bool(head.bias.any()),
    )


def _read_by_head(backend: TorchBackend, study: Study, example: Floats) -> dict[str, Floats]:
    """The parameters that the network reads behind the features."""
    assert study.point is not None  # together with the head
    record = Recorder()
    with backend.network.undisturbed(), recording_from(backend.model, study.point.place, record):
        backend.network(backend.network.tensor(example))
    read = {id(tensor) for tensor in record.tensors.values()}
    return {name: array(p) for name, p in backend.model.named_parameters() if id(p) in read}


def _weight(used: dict[str, Floats], head: LinearHead, tap: Tap) -> str:
    name = _called(used, head.weight)
    if not name:
        raise InputError(
            f"the head ({tap.how}) has no weight of its own that could be trained beside another: its {head.classes} x "
            f"{head.channels} matrix is none of the parameters {', '.join(used) or 'of the network'}, but made of them "
            "(scaled, normalised, or of several layers). End the network with one linear layer or 1x1 convolution"
        )
    return name


def _called(used: dict[str, Floats], values: Floats) -> str:
    """The parameter that has just these values, but for axes of length one at the end; empty if none has."""
    for name, parameter in used.items():
        if _is_part(name, used):
            continue
        flat = parameter.reshape(parameter.shape[: values.ndim]) if parameter.size == values.size else parameter
        if flat.shape == values.shape and np.allclose(flat, values, rtol=1e-5, atol=0):
            return name
    return ""


def _is_part(name: str, used: dict[str, Floats]) -> bool:
    """Whether a weight is made of it and others: that of ``weight_norm`` equals it only until the first step."""
    return "parametrizations." in name or (name.endswith("_v") and f"{name[:-1]}g" in used)
