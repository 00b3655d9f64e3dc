"""What two models are compared on: random images and real pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore.pictures import find_pictures, load_picture
from camcore.preprocess import Preprocess, preprocess

__all__ = ["Inputs", "common_input"]

Floats = NDArray[np.floating[Any]]
_BATCHES = (1, 3, 2)  # images, where the batch is free
_PICTURES = 8


def common_input(a: InputSpec, b: InputSpec, size: Sequence[int] | None) -> InputSpec:
    """What both models take; ``size`` where neither says it.

    Raises
    ------
    InputError
        If no image fits both.
    """
    if len(a.shape) != len(b.shape) or any(
        None not in (m, n) and m != n for m, n in zip(a.shape, b.shape, strict=True)
    ):
        raise InputError(f"A takes images {_shown(a)} and B {_shown(b)}; no image fits both")
    shape = [m if n is None else n for m, n in zip(a.shape, b.shape, strict=True)]
    if size is not None and len(size) == len(shape) - 2:
        shape[2:] = [asked if n is None else n for n, asked in zip(shape[2:], size, strict=True)]
    coarse = next((d for d in ("uint8", "float16") if d in (a.dtype, b.dtype)), a.dtype)
    return InputSpec(a.name, tuple(shape), coarse)


def _shown(spec: InputSpec) -> str:
    return "x".join("?" if n is None else str(n) for n in spec.shape)


@dataclass(eq=False)
class Inputs:
    """Batches of images, each made anew when they are gone through again.

    Attributes
    ----------
    spec : InputSpec
        What both models take.
    seed : int
    rule : Preprocess or None
        How pictures become inputs; random ones are of uniform pixels then, and of normal numbers else.
    paths : list of Path
        The pictures.
    names : list of str
        Of the inputs gone through, in their order.
    left_out : dict of str to str
        Pictures that cannot be read, and why.
    """

    spec: InputSpec
    seed: int = 0
    rule: Preprocess | None = None
    paths: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """How many there will be, at least."""
        return len(_BATCHES) + -(-len(self.paths) // self._step)

    @property
    def _step(self) -> int:
        return self.spec.shape[0] or _PICTURES

    @property
    def distribution(self) -> str:
        """Of the random images."""
        if self.spec.dtype == "uint8":
            return f"normal pixels, mean 128, deviation 40, seed {self.seed}"
        if self._by_pixels:
            return f"uniform pixels 0..255, preprocessed, seed {self.seed}"
        return f"normal, mean 0, deviation 1, seed {self.seed}"

    @property
    def _by_pixels(self) -> bool:
        return self.rule is not None and len(self.spec.shape) == 4 and (self.spec.channels or 3) in (1, 3)

    def __iter__(self) -> Iterator[Floats]:
        self.names.clear()
        generator = np.random.default_rng(self.seed)
        for count in _BATCHES if self.spec.shape[0] is None else [self.spec.shape[0]] * len(_BATCHES):
            self.names += [f"random {len(self.names) + i}" for i in range(count)]
            yield self._rounded(self._random(generator, count))
        for start in range(0, len(self.paths), self._step):
            yield from self._pictures(self.paths[start : start + self._step])

    def _random(self, generator: np.random.Generator, count: int) -> Floats:
        channels = self.spec.channels or 3
        space = [224 if n is None else n for n in self.spec.shape[2:]]
        if self.spec.dtype == "uint8":
            return np.rint(generator.standard_normal((count, channels, *space)) * 40 + 128).clip(0, 255)
        if self.rule is not None and self._by_pixels:
            pixels = generator.integers(0, 256, (count, *space, 3), np.uint8)
            return np.stack([self.rule.values(p, channels=channels) for p in pixels])
        return generator.standard_normal((count, channels, *space)).astype(np.float32)

    def _rounded(self, images: Floats) -> Floats:
        """Numbers that both models can take as they are."""
        return images.astype(self.spec.dtype).astype(np.float32)

    def _pictures(self, paths: Sequence[Path]) -> Iterator[Floats]:
        """The pictures that can be read, in one batch where they are of one size."""
        groups: dict[tuple[int, ...], list[Floats]] = {}
        names: dict[tuple[int, ...], list[str]] = {}
        for path in paths:
            try:
                image = self._one(path)
            except InputError as error:
                self.left_out[str(path)] = str(error)
                continue
            groups.setdefault(image.shape, []).append(image)
            names.setdefault(image.shape, []).append(str(path))
        for shape, images in groups.items():
            self.names += names[shape]
            yield self._rounded(np.stack(images))

    def _one(self, path: Path) -> Floats:
        rule = self.rule or preprocess("imagenet")
        if rule.size is None and self.spec.size is not None:
            rule = preprocess(rule, size=self.spec.size)
        return rule(load_picture(path).pixels, channels=self.spec.channels or 3)[0]


def open_inputs(options: Mapping[str, Any], spec: InputSpec, explainers: Sequence[Explainer]) -> Inputs:
    """The inputs that a command line asks for."""
    known = next((e.preprocess for e in explainers if e.preprocess is not None), None)
    rule = preprocess(options["preprocess"]) if options["preprocess"] else known
    paths = find_pictures(options["images"] or [])
    if paths and rule is None:
        from camcore_onnx.checking.sandbox import tell

        tell({"note": "note: neither model says how pictures become its input; taking --preprocess imagenet"})
    return Inputs(spec, options["seed"], rule, paths)
