"""Show what is installed, which devices really work, and what leaves this machine (nothing)."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

from camcore_tools.console import columns, print_json

SUMMARY = "what is installed, which devices work, what leaves this machine (nothing)"
_PACKAGES = (
    "camcore",
    "numpy",
    "scipy",
    "pillow",
    "torch",
    "torchvision",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "safetensors",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Look, and say."""
    telemetry = _telemetry()  # first: importing ONNX Runtime below sets the variable
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "onnxruntime": _runtime(),
        "torch": _try(_torch),
        "telemetry": telemetry,
        "advice": [],
    }
    document["advice"] = _advice(document)
    if args.json:
        print_json(document)
    else:
        _print(document)
    return 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _try(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _telemetry() -> str:
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        return "onnxruntime was imported before camcore, so its telemetry may be on: set ORT_DISABLE_TELEMETRY=1"
    value = os.environ.get("ORT_DISABLE_TELEMETRY")
    if value not in (None, "1"):
        return f"ORT_DISABLE_TELEMETRY={value} in the environment: ONNX Runtime may send telemetry"
    return "off: camcore sets ORT_DISABLE_TELEMETRY=1 before it imports ONNX Runtime, and sends nothing itself"


def _runtime() -> dict[str, Any]:
    found = [d for d in metadata.distributions() if (d.metadata["Name"] or "").startswith(("onnxruntime", "ort-"))]
    return {
        "installed": sorted({_title(d) for d in found}),
        "clash": sorted({_title(d) for d in found if _owns_the_module(d)}),
        **_try(_providers),
    }


def _title(distribution: metadata.Distribution) -> str:
    return f"{distribution.metadata['Name']} {distribution.version}"


def _owns_the_module(distribution: metadata.Distribution) -> bool:
    """Whether a package puts its files into the folder of ``import onnxruntime``, as plugins and extensions do not."""
    return any(str(file) == "onnxruntime/__init__.py" for file in distribution.files or ())


def _providers() -> dict[str, Any]:
    from camcore_onnx.running.providers import PROVIDERS, has_driver, is_installed
    from camcore_onnx.running.runtime import onnxruntime

    ort = onnxruntime()
    plugins = [row.device for row in PROVIDERS.values() if row.module and is_installed(row)]
    built_in = [row.device for row in PROVIDERS.values() if not row.module]
    devices = {device: _works(device) for device in ("cpu", *built_in, *plugins)}
    return {"version": ort.__version__, "devices": devices, "auto": _taken(), "driver": has_driver()}


def _works(device: str) -> str:
    """Run a small network there: a convolution and a product, which need cuDNN and cuBLAS."""
    from camcore.errors import CamError

    try:
        found = _run(device)[1]
    except CamError as error:
        return f"no: {_reason(error)}"
    except Exception as error:  # what a provider raises while it runs
        return f"no: it starts, and then fails: {(str(error).strip().splitlines() or [repr(error)])[0][:300]}"
    return "works" if found == _ANSWER else f"no: it starts, and then gives wrong numbers ({found}, not {_ANSWER})"


def _taken() -> str:
    """What ``device="auto"`` takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _try(lambda: {"device": _run("auto")[0]}).get("device", "no device")


_ANSWER = 18.0  # of 3 x 3 ones, summed and doubled


def _run(device: str) -> tuple[str, float]:
    """The device that a session really runs on, and what it answers."""
    import numpy as np
    import onnx
    from camcore_onnx.running.runtime import device_of, make_session

    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = {"ones": np.ones((1, 1, 3, 3), np.float32), "two": np.full((1, 1), 2, np.float32)}
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "ones"], ["sum"]),
            node("Flatten", ["sum"], ["flat"]),
            node("MatMul", ["flat", "two"], ["y"]),
        ],
        "doctor",
        [value("x", 1, [1, 1, 3, 3])],
        [value("y", 1, [1, 1])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    session = make_session(model.SerializeToString(), device=device)
    return device_of(session), float(session.run(None, {"x": weights["ones"]})[0].item())


def _reason(error: Exception) -> str:
    """Without what is said anyway: who asked, to ask the doctor, and to take the CPU."""
    text = str(error).partition("asked for, but ")[2] or str(error)
    for ending in ("; or take device='cpu'", "; take another", ". `camcore doctor` shows what is missing"):
        text = text.partition(ending)[0]
    return text


def _torch() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {"threads": torch.get_num_threads(), "cuda": f"works ({torch.cuda.get_device_name()})" if cuda else "no"}


def _advice(d: dict[str, Any]) -> list[str]:
    runtimes = d["onnxruntime"]["installed"]
    advice = []
    if not runtimes:
        advice.append("for ONNX models: pip install 'camcore[onnx]', or 'camcore[onnx-gpu]' for an NVIDIA GPU")
    clash = d["onnxruntime"]["clash"]
    if len(clash) > 1:
        advice.append(f"{' and '.join(clash)} overwrite each other; uninstall all, then install one of them")
    devices = d["onnxruntime"].get("devices", {})
    if d["onnxruntime"].get("driver") and not any(devices.get(n) == "works" for n in ("cuda", "cuda-plugin")):
        advice.append("there is an NVIDIA driver, but ONNX Runtime does not use it: see cuda above")
    if d["packages"]["torch"] is None:
        advice.append("for PyTorch models: pip install 'camcore[torch]'")
    return advice


def _print(d: dict[str, Any]) -> None:
    print(columns([("python", f"{d['python']} on {d['platform']}")]))
    print(columns([(n, v or "not installed") for n, v in d["packages"].items()]))
    runtime = d["onnxruntime"]
    print("\nONNX Runtime")
    print(columns([("installed", ", ".join(runtime["installed"]) or "no")]))
    if "error" in runtime:
        print(columns([("error", runtime["error"].splitlines()[0])]))
    if "devices" in runtime:
        print(columns([*runtime["devices"].items(), ("auto", f"takes {runtime['auto']}")]))
    print("\nPyTorch")
    print(columns(list(d["torch"].items())))
    print("\nwhat leaves this machine")
    print(columns([("telemetry", d["telemetry"])]))
    for text in d["advice"]:
        print("\n" + columns([("advice:", text)], indent=0))
