"""Every real model through the command line and the library, against what plain ONNX Runtime says."""

from __future__ import annotations

import json
from pathlib import Path

import data
import numpy as np
import pytest
import torch
import torchvision
from camcore_onnx.running.runtime import make_session
from camcore_tools.cli import main
from torch_networks import CifarResNet20

import camcore


def command(real: data.Real, output: Path, *more: str) -> list[str]:
    words = ["explain", str(real.path), str(data.folder() / "images" / "chelsea.png"), "--preprocess", real.preprocess]
    if real.labels is not None:
        words += ["--labels", str(data.folder() / "labels" / real.labels)]
    return [*words, "-o", str(output), *more]


@pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda r: r.file)
def test_command_line_explains(real: data.Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(real, tmp_path, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "chelsea.png").is_file()
    assert np.load(tmp_path / "maps.npz")["maps"].shape[:2] == (1, 1)
    if real.cat:
        assert "cat" in document["images"][0]["top"][0]["label"]


@pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda r: r.file)
def test_mean_of_the_map_and_bias_is_the_score_of_plain_onnx_runtime(real: data.Real) -> None:
    explainer = camcore.explainer(real.path, preprocess=real.preprocess)
    out = explainer(str(data.folder() / "images" / "chelsea.png"), "all")
    head = explainer.backend.tap().need_head()
    rebuilt = out.maps.mean(axis=(2, 3)) + head.bias
    scale = np.abs(out.scores).max()
    allowed = real.tolerance * scale + explainer.backend.tap().slack
    assert (np.abs(rebuilt - out.scores) <= allowed).all()

    session = make_session(str(real.path), device="cpu")
    feed = {session.get_inputs()[0].name: out.images.astype(explainer.backend.input.dtype)}
    plain = session.run(None, feed)[0].reshape(1, -1).astype(np.float32)
    ours = camcore.softmax(out.scores) if "Softmax" in out.head else out.scores
    np.testing.assert_allclose(ours, plain, rtol=real.tolerance, atol=real.tolerance * np.abs(plain).max())


@pytest.mark.parametrize("real", data.WITHOUT_CAM, ids=lambda r: r.file)
def test_command_line_names_the_obstacle_and_what_works(
    real: data.Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(real, tmp_path, "--method", "cam")) == 2
    text = capsys.readouterr().err
    assert "is flattened, so that every position has weights of its own" in text
    works = text.partition("Methods that work here: ")[2]
    assert {"ablationcam", "gradcam", "reciprocam", "shapleycam"} <= set(works.strip().rstrip(".").split(", "))
    for method in ("auto", "gradcam", "activationmap", "reciprocam"):
        assert main(command(real, tmp_path, "--method", method)) == 0


def test_quantised_and_float_networks_look_at_the_same_place() -> None:
    pictures = [str(data.folder() / "images" / name) for name in ("chelsea.png", "coffee.png")]
    both = [
        camcore.explainer(data.folder() / "models" / f"mobilenet_v1_0.25_128_{kind}.onnx", preprocess="tf")(
            pictures, [283, 968]
        )
        for kind in ("fp32", "qdq")
    ]
    for a, b in zip(both[0].maps.reshape(2, -1), both[1].maps.reshape(2, -1), strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("weights", "model", "size"),
    [
        ("squeezenet1_0_songhan_deepcompression.pth", "squeezenet1_0_songhan_deepcompression_ts13.onnx", 227),
        ("cifar10_resnet20_akamaster.pth", "cifar10_resnet20_akamaster_ts13.onnx", 32),
    ],
)
def test_same_weights_in_pytorch_and_onnx(weights: str, model: str, size: int) -> None:
    network = torchvision.models.squeezenet1_0() if size == 227 else CifarResNet20()
    network.load_state_dict(torch.load(data.folder() / "weights" / weights, weights_only=True))
    images = np.random.default_rng(0).standard_normal((5, 3, size, size)).astype(np.float32)
    ours = camcore.explainer(network)(images, "all")
    theirs = camcore.explainer(data.folder() / "models" / model)(images, "all")
    assert np.abs(ours.maps - theirs.maps).max() <= 1e-4 * np.abs(ours.maps).max()
    assert np.abs(ours.scores - theirs.scores).max() <= 1e-4 * np.abs(ours.scores).max()
