"""Real models and pictures, where the environment variable CAMCORE_DATA says where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest


def folder() -> Path:
    """The data folder; the test is skipped, with the reason, where there is none."""
    place = os.environ.get("CAMCORE_DATA")
    if not place:
        pytest.skip("CAMCORE_DATA is not set: real models and pictures are not at hand")
    return Path(place)


@dataclass(frozen=True)
class Real:
    """A real model: its preprocessing, labels, and the relative tolerance of its arithmetic."""

    file: str
    preprocess: str
    labels: str | None
    tolerance: float = 1e-3
    cat: bool = True

    @property
    def path(self) -> Path:
        return folder() / "models" / self.file


SYNSET, BACKGROUND, DARKNET = "synset.txt", "imagenet_1001_background_first.txt", "darknet_1000.txt"
WITH_CAM = (
    Real("squeezenet1_0_songhan_deepcompression_ts13.onnx", "caffe", SYNSET),
    Real("mobilenet_v2_1.0_224_fp32.onnx", "tf", BACKGROUND),
    Real("mobilenet_v1_0.25_128_fp32.onnx", "tf", BACKGROUND),
    Real("mobilenet_v1_0.25_128_qdq.onnx", "tf", BACKGROUND),
    Real("darknet_tiny_ts13.onnx", "unit", DARKNET),
    Real("winml_SqueezeNet_fp16.onnx", "caffe", SYNSET, tolerance=2e-2),
    Real("cifar10_resnet20_akamaster_ts13.onnx", "imagenet", None, cat=False),
    Real("mlperftiny_vww_96_float_fp32.onnx", "unit", None, cat=False),
)
WITHOUT_CAM = (
    Real("winml_cifar10_ImageClassifier.onnx", "unit", None, cat=False),
    Real("winml_mnist.onnx", "unit", None, cat=False),
)
