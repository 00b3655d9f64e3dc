"""Pictures that can be told apart within seconds, and a network that does it: for the tests of the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from camcore_tools.training.pictures import PictureArray, Split
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from camcore.preprocess import Preprocess, preprocess

SIDE = 16
CLASSES = ("bright", "dark", "middle")
RULE: Preprocess = preprocess("tf", size=(SIDE, SIDE), resize="squash")


def pictures(each: int, seed: int) -> PictureArray:
    """A noisy ground with a square on it, whose brightness is the class."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.int64), each)
    images = random.integers(96, 160, (len(labels), SIDE, SIDE, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = random.integers(0, SIDE - 6, 2)
        image[y : y + 6, x : x + 6] = (240, 10, 128)[label]
    names = tuple(f"{CLASSES[label]}/{n:03d}.png" for n, label in enumerate(labels.tolist()))
    return PictureArray(images, labels, CLASSES, names)


def split(train: int = 10, validation: int = 4) -> Split:
    """So many pictures of each class."""
    return Split(pictures(train, 1), pictures(validation, 2))


def write_folder(folder: Path, each: int = 8, seed: int = 3) -> Path:
    """Class folders with pictures."""
    drawn = pictures(each, seed)
    for name, image in zip(drawn.names, drawn.images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


class Tiny(nn.Module):
    """Two convolutions with batch normalisation and dropout, pooling, a linear head."""

    def __init__(self, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.top(self.trunk(images)).mean((2, 3)))
        return scores


def tiny(seed: int = 0, *, freeze: bool = False) -> Tiny:
    """A network with the same weights for the same seed, in the layout that ``build`` gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Tiny()
    if freeze:
        network.trunk.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


def weights(network: nn.Module) -> dict[str, NDArray[np.generic]]:
    """Copies of all tensors of its state."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}
