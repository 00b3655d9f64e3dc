"""Time gradients in ONNX Runtime: beside the plain forward pass, PyTorch's autograd and pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import camcore
from camcore_tools.console import Progress, columns
from camcore_tools.timing import Run, alternate

__all__ = ["LAYERS", "measure", "print_table"]

# The last feature map, and earlier ones; None is what the head reads.
LAYERS: dict[str, tuple[str | None, ...]] = {
    "resnet18": ("layer4", "layer3", "layer2"),
    "resnet50": ("layer4", "layer3", "layer2"),
    "vgg16": ("features.29", "features.22", "features.15"),
    "densenet121": (None, "features.transition3", "features.transition2"),
    "mobilenet_v2": ("features.18", "features.13", "features.6"),
    "efficientnet_b0": ("features.8", "features.5", "features.3"),
}
_SIZE = 224


def measure(networks: list[str], batches: list[int], rounds: int, threads: int) -> list[dict[str, Any]]:
    """One row for each network and batch: milliseconds, and ratios to the plain forward pass of ONNX Runtime."""
    rows = []
    with Progress(len(networks) * len(batches) * rounds, "timing gradients") as bar:
        for name in networks:
            model = _model(name)
            for batch in batches:
                rows.append(_row(name, model, batch, rounds, threads, bar))
    return rows


def _model(name: str) -> Any:
    import torch
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    return model.requires_grad_(False)


def _row(name: str, model: Any, batch: int, rounds: int, threads: int, bar: Progress) -> dict[str, Any]:
    from camcore_torch.exporting import to_onnx

    images = np.random.default_rng(0).standard_normal((batch, 3, _SIZE, _SIZE)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(to_onnx(model, (1, *images.shape[1:]), exporter="torchscript"))
        seconds = alternate(_onnx_runs(path, name, images, threads), rounds, bar)
    seconds |= alternate(_torch_runs(model, name, images), max(3, rounds // 3))
    shares = {_title(layer): round(_share(model, layer, images[:1]), 3) for layer in LAYERS[name]}
    plain = seconds["ONNX Runtime, plain forward"]
    return {
        "network": name,
        "batch": batch,
        "ms": {k: round(v * 1e3, 2) for k, v in seconds.items()},
        "ratio": {k: round(v / plain, 3) for k, v in seconds.items()},
        "share of the multiply-adds behind the layer": shares,
    }


def _title(layer: str | None) -> str:
    return layer or "last"


def _onnx_runs(path: Path, name: str, images: Any, threads: int) -> dict[str, Run]:
    from camcore_onnx.running.runtime import make_session

    session = make_session(str(path), device="cpu", threads=threads)
    feed = {session.get_inputs()[0].name: images}
    runs: dict[str, Run] = {"ONNX Runtime, plain forward": lambda: session.run(None, feed)}
    for layer in LAYERS[name]:
        runs[f"camcore gradcam, {_title(layer)}"] = _explain(path, images, "gradcam", layer, threads)
    runs[f"camcore layercam, {_title(LAYERS[name][1])}"] = _explain(path, images, "layercam", LAYERS[name][1], threads)
    return runs


def _explain(path: Path, images: Any, method: str, layer: str | None, threads: int) -> Run:
    explainer = camcore.explainer(path, method=method, layer=layer, device="cpu", threads=threads)
    return lambda: explainer(images)


def _torch_runs(model: Any, name: str, images: Any) -> dict[str, Run]:
    import torch

    tensor = torch.from_numpy(images)

    def forward() -> Any:
        with torch.inference_mode():
            return model(tensor)

    runs: dict[str, Run] = {"PyTorch, plain forward": forward}
    for layer in LAYERS[name]:
        runs[f"PyTorch autograd, {_title(layer)}"] = _autograd(model, layer, tensor)
    return runs | _peer(model, name, tensor)


def _autograd(model: Any, layer: str | None, tensor: Any) -> Run:
    """The cheapest that eager PyTorch can do: parameters frozen, a graph behind the layer alone."""
    import torch

    def run() -> Any:
        with _leaf(model, layer) as leaf:
            scores = model(tensor)
            best = scores.max(dim=1).values.sum()
            return torch.autograd.grad(best, leaf)

    return run


@contextmanager
def _leaf(model: Any, layer: str | None) -> Iterator[list[Any]]:
    leaf: list[Any] = []

    def cut(module: Any, inputs: Any, output: Any) -> Any:
        leaf.append(output.detach().requires_grad_())
        return leaf[0] * 1  # operations behind the layer may be in place

    handle = _module(model, layer).register_forward_hook(cut)
    try:
        yield leaf
    finally:
        handle.remove()


def _module(model: Any, layer: str | None) -> Any:
    return model.get_submodule("features" if layer is None else layer)


def _peer(model: Any, name: str, tensor: Any) -> dict[str, Run]:
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        return {}

    model = deepcopy(model).requires_grad_(True)  # it needs that

    def grad_cam() -> Any:
        with GradCAM(model=model, target_layers=[_module(model, LAYERS[name][0])]) as cam:
            return cam(input_tensor=tensor, targets=None)

    return {"pytorch-grad-cam, last": grad_cam}


def _share(model: Any, layer: str | None, image: Any) -> float:
    """Which part of the multiply-adds of convolutions and linear layers lies behind a layer."""
    import torch

    counts, behind = [0.0, 0.0], [False]

    def count(module: Any, inputs: Any, output: Any) -> None:
        counts[behind[0]] += output.numel() * module.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    handles.append(_module(model, layer).register_forward_hook(lambda *_: behind.__setitem__(0, True)))
    try:
        with torch.inference_mode():
            model(torch.from_numpy(image))
    finally:
        for handle in handles:
            handle.remove()
    return counts[1] / sum(counts)


def print_table(rows: list[dict[str, Any]]) -> None:
    """For people."""
    for row in rows:
        print(f"\n{row['network']}, batch {row['batch']}")
        shares = row["share of the multiply-adds behind the layer"]
        lines = []
        for name, ms in row["ms"].items():
            share = shares.get(name.rsplit(", ", 1)[-1])
            behind = f"{share:6.0%} behind" if share is not None and not name.startswith("pytorch") else ""
            lines.append((name, f"{ms:9.2f} ms", f"{row['ratio'][name]:7.3f} x", behind))
        print(columns(lines))
