"""Time the methods: what each costs beside the forward pass, and beside the libraries that users pick instead."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import camcore
from camcore_tools.console import Progress, columns
from camcore_tools.timing import Run, alternate, timed

__all__ = ["measure", "print_table"]

_SIZE = 224


def measure(rounds: int, threads: int) -> dict[str, Any]:
    """All tables as a plain dict; times in milliseconds."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return {
        "ResNet-50 in PyTorch, batch 1": _torch_table(torchvision.models.resnet50(weights=None).eval(), rounds),
        "Ablation-CAM, ResNet-50, last layer": _ablation_table(
            torchvision.models.resnet50(weights=None).eval(), rounds
        ),
        "Score-CAM, ResNet-18 in ONNX Runtime": _score_table(
            torchvision.models.resnet18(weights=None).eval(), max(3, rounds // 5), threads
        ),
    }


def _image() -> Any:
    return np.random.default_rng(0).standard_normal((1, 3, _SIZE, _SIZE)).astype(np.float32)


def _torch_table(model: Any, rounds: int) -> dict[str, Any]:
    """The methods that take one pass, all in turns."""
    import torch

    image = _image()
    tensor = torch.from_numpy(image)

    def forward() -> Any:
        with torch.no_grad():
            return model(tensor)

    names = ("cam", "gradcam", "gradcam++", "layercam", "shapleycam", "ablationcam", "reciprocam", "eigencam")
    runs: dict[str, Run] = {"plain forward pass": forward}
    runs |= {f"camcore {name}": _explain(model, image, method=name) for name in names}
    runs["camcore cam, all 1000 classes"] = _explain(model, image, "all", method="cam")
    runs["camcore reciprocam, all classes"] = _explain(model, image, "all", method="reciprocam")
    runs["camcore gradcam at layer3"] = _explain(model, image, method="gradcam", layer="layer3")
    runs |= _peers(model, tensor)
    with Progress(rounds, "timing methods") as bar:
        return _table(alternate(runs, rounds, bar), "plain forward pass")


def _explain(model: Any, image: Any, classes: Any = None, **options: Any) -> Run:
    explainer = camcore.explainer(model, **options)
    return lambda: explainer(image, classes)


def _peers(model: Any, tensor: Any) -> dict[str, Run]:
    """Grad-CAM of the packages that are installed."""
    runs: dict[str, Run] = {}
    try:
        from pytorch_grad_cam import GradCAM

        def grad_cam() -> Any:  # hooks stay in the model while the object lives, so it is made anew
            with GradCAM(model=model, target_layers=[model.layer4]) as cam:
                return cam(input_tensor=tensor, targets=None)

        runs["pytorch-grad-cam GradCAM"] = grad_cam
    except ImportError:
        pass
    try:
        from captum.attr import LayerGradCam

        target = int(model(tensor).argmax())
        explained = LayerGradCam(model, model.layer4)
        runs["captum LayerGradCam"] = lambda: explained.attribute(tensor, target)
    except ImportError:
        pass
    return runs


def _ablation_table(model: Any, rounds: int) -> dict[str, Any]:
    """Ours many times, the other once: it takes 2048 forward passes."""
    import torch

    image = _image()
    ours = _explain(model, image, method="ablationcam")
    ours()
    times = {"camcore ablationcam": statistics.median(timed(ours) for _ in range(3 * rounds))}
    try:
        from pytorch_grad_cam import AblationCAM
    except ImportError:
        return _table(times, "camcore ablationcam")

    def theirs() -> Any:
        with AblationCAM(model=model, target_layers=[model.layer4]) as cam:
            return cam(input_tensor=torch.from_numpy(image), targets=None)

    times["pytorch-grad-cam AblationCAM"] = timed(theirs)
    times["camcore ablationcam"] = min(
        times["camcore ablationcam"], statistics.median(timed(ours) for _ in range(3 * rounds))
    )
    return _table(times, "camcore ablationcam")


def _score_table(model: Any, rounds: int, threads: int) -> dict[str, Any]:
    """Score-CAM beside as many forward passes of the same batch size, and the memory that it takes on top."""
    from camcore_onnx.running.runtime import make_session
    from camcore_torch.exporting import to_onnx

    image = _image()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "resnet18.onnx"
        path.write_bytes(to_onnx(model, image.shape, exporter="torchscript"))
        session = make_session(str(path), device="cpu", threads=threads)
        explainer = camcore.explainer(path, method="scorecam", device="cpu", threads=threads)
        batch = np.repeat(image, explainer.batch_size, axis=0)
        name, times = session.get_inputs()[0].name, 512 // explainer.batch_size

        def forwards() -> None:
            for _ in range(times):
                session.run(None, {name: batch})

        forwards()
        with peak_memory() as plain:
            forwards()
        with peak_memory() as ours:
            explainer(image)
        runs: dict[str, Run] = {"512 forward passes": forwards, "camcore scorecam": lambda: explainer(image)}
        table = _table(alternate(runs, rounds, turns=1), "512 forward passes")
    return table | {"MiB above the loaded model": {"512 forward passes": plain[0], "camcore scorecam": ours[0]}}


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """MiB by which the process grew at most; 0 where the system does not tell."""
    grown, stop = [0.0], threading.Event()
    start = _resident()

    def watch() -> None:
        while not stop.wait(0.005):
            grown[0] = max(grown[0], _resident() - start)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield grown
    finally:
        stop.set()
        thread.join()
        grown[0] = round(grown[0], 1)


def _resident() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _table(times: dict[str, float], base: str) -> dict[str, Any]:
    return {
        "ms": {name: round(value * 1e3, 2) for name, value in times.items()},
        "ratio": {name: round(value / times[base], 3) for name, value in times.items()},
    }


def print_table(tables: dict[str, Any]) -> None:
    """For people."""
    for title, table in tables.items():
        print(f"\n{title}")
        rows = [(name, f"{ms:11.2f} ms", f"{table['ratio'][name]:9.3f} x") for name, ms in table["ms"].items()]
        print(columns(rows))
        grown = table.get("MiB above the loaded model", {})
        for name, mib in grown.items():
            print(f"  {name}: at most {mib:.0f} MiB above the loaded model")
