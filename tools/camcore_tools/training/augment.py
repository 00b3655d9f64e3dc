"""Random changes of pictures while a network is trained on them: turned, shifted, mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from camcore.errors import InputError

__all__ = ["Augmentation", "augmented"]

_AT_ONCE = 1 << 22  # pixels whose places are computed at once: 32 MB


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are changed at random.

    Parameters
    ----------
    rotation : float
        Degrees, to both sides; 0 to 180.
    shift : float
        Share of the width sideways, and of the height up or down; 0 to 1.
    flip : bool
        Mirror left to right, half of the time.

    Examples
    --------
    >>> Augmentation.none().changes
    False
    """

    rotation: float = 20.0
    shift: float = 0.2
    flip: bool = True

    def __post_init__(self) -> None:
        for name, most, what in (("rotation", 180, "degrees to both sides"), ("shift", 1, "a share of the side")):
            object.__setattr__(self, name, _number(name, getattr(self, name), most, what))
        if not isinstance(self.flip, bool):
            raise InputError(f"flip is {self.flip!r}; expected True or False")

    @classmethod
    def none(cls) -> Augmentation:
        """Leaves pictures as they are."""
        return cls(rotation=0, shift=0, flip=False)

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return bool(self.rotation or self.shift or self.flip)


def _number(name: str, value: object, most: int, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise InputError(f"{name} is {value!r}; expected {what}, 0 to {most}")
    return float(value)


def augmented(images: Tensor, generator: torch.Generator, policy: Augmentation) -> Tensor:
    """Each image mirrored or not, turned about its centre, then shifted, all at random and in one bilinear sampling.

    What comes in over an edge is the image mirrored at that edge, so that no black corner tells how it was turned.

    Parameters
    ----------
    images : (n, C, H, W) Tensor
        Of floating point. Half precision is sampled in single precision.
    generator : torch.Generator
        Gives four numbers for each image, whatever the policy; on the CPU the same changes for images on any device.
    policy : Augmentation

    Returns
    -------
    (n, C, H, W) Tensor
        Of the same type, device and memory format; the very same tensor where the policy changes nothing.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images to augment are {tuple(images.shape)} {images.dtype}; expected (n, C, H, W) of floating point"
        )
    if not policy.changes or not images.numel():
        return images
    sides, *moves = torch.rand(4, len(images), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    mirrored = (sides < 0.5) & policy.flip
    angles, right, down = (2 * move - 1 for move in moves)
    if not policy.rotation and not policy.shift:
        return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
    angles, right, down = angles * math.radians(policy.rotation), right * policy.shift, down * policy.shift
    return _sampled(images, _where_from(angles, right, down, mirrored, images.shape[-2] / images.shape[-1]))


def _where_from(angles: Tensor, right: Tensor, down: Tensor, mirrored: Tensor, tall: float) -> Tensor:
    """(n, 3, 3) float64: from a place in the result to that in the image, both from -1 to 1 along each axis.

    The way there: mirrored, turned counter-clockwise by ``angles``, shifted by those shares of the sides.
    """
    cos, sin, one, zero = angles.cos(), angles.sin(), torch.ones_like(angles), torch.zeros_like(angles)
    side = torch.where(mirrored, -one, one)
    mirror = _matrices((side, zero, zero), (zero, one, zero), (zero, zero, one))
    turn_back = _matrices((cos, -sin * tall, zero), (sin / tall, cos, zero), (zero, zero, one))
    shift_back = _matrices((one, zero, -2 * right), (zero, one, -2 * down), (zero, zero, one))
    return mirror @ turn_back @ shift_back


def _matrices(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _sampled(images: Tensor, where_from: Tensor) -> Tensor:
    """In strips of rows, so that the places of large pictures need not lie in memory all at once."""
    count, channels, height, width = images.shape
    source = images if images.dtype in (torch.float32, torch.float64) else images.float()
    result = torch.empty_like(images)
    most = max(1, _AT_ONCE // max(1, count * width))
    for top in range(0, height, most):
        rows = min(most, height - top)
        matrices = (where_from @ _strip(top, rows, height))[:, :2].to(source)
        places = functional.affine_grid(matrices, [count, channels, rows, width], align_corners=False)
        result[:, :, top : top + rows] = functional.grid_sample(
            source, places, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    return result


def _strip(top: int, rows: int, height: int) -> Tensor:
    """From places in so many rows of the result to places in the whole of it."""
    middle = (2 * top + rows) / height - 1
    return torch.tensor([[1, 0, 0], [0, rows / height, middle], [0, 0, 1]], dtype=torch.float64)
