"""Show what is installed, which devices really work, and what leaves this machine (nothing)."""

from __future__ import annotations

import argparse
import os
import platform
import sys
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
    found = sorted(
        {
            f"{d.metadata['Name']} {d.version}"
            for d in metadata.distributions()
            if (d.metadata["Name"] or "").startswith("onnxruntime")
        }
    )
    return {"installed": found, **_try(_providers)}


def _providers() -> dict[str, Any]:
    from camcore_onnx.runtime import onnxruntime

    ort = onnxruntime()
    return {"version": ort.__version__, "devices": {d: _works(d) for d in ("cpu", "cuda")}}


def _works(device: str) -> str:
    """Run a model of one node there."""
    import numpy as np
    import onnx
    from camcore_onnx.runtime import make_session

    from camcore.errors import CamError

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "doctor", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    try:
        make_session(model.SerializeToString(), device=device).run(None, {"x": np.ones(1, np.float32)})
    except CamError as error:
        return f"no: {error}"
    return "works"


def _torch() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {"threads": torch.get_num_threads(), "cuda": f"works ({torch.cuda.get_device_name()})" if cuda else "no"}


def _advice(d: dict[str, Any]) -> list[str]:
    runtimes = d["onnxruntime"]["installed"]
    advice = []
    if not runtimes:
        advice.append("for ONNX models: pip install 'camcore[onnx]', or 'camcore[onnx-gpu]' for an NVIDIA GPU")
    if len({r.split()[0] for r in runtimes}) > 1:
        advice.append(f"{' and '.join(runtimes)} overwrite each other; uninstall both, then install one of them")
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
    for device, state in runtime.get("devices", {}).items():
        print(columns([(device, state)]))
    print("\nPyTorch")
    print(columns(list(d["torch"].items())))
    print("\nwhat leaves this machine")
    print(columns([("telemetry", d["telemetry"])]))
    for text in d["advice"]:
        print(f"\nadvice: {text}")
