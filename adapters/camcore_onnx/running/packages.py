"""The packages that ONNX models need: imported late, without telemetry, and with an answer where one is missing."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from camcore.errors import MissingPackage

__all__ = ["need", "onnxruntime"]


def need(*names: str) -> None:
    """Raise an error that names the cure where a package cannot be imported; all three where none is named."""
    for name in names or ("onnx", "onnx_ir", "onnxruntime"):
        onnxruntime() if name == "onnxruntime" else _import(name)


def onnxruntime() -> Any:
    """The module, imported with its telemetry switched off.

    Raises
    ------
    MissingPackage
        With the text of the original error and the commands that help.
    """
    if "onnxruntime" not in sys.modules:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return _import("onnxruntime")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackage(
            f"{name} cannot be imported ({error}). For ONNX models install one of\n"
            "  pip install 'camcore[onnx]'       # CPU\n"
            "  pip install 'camcore[onnx-gpu]'   # NVIDIA GPU, CUDA 13 (uninstall onnxruntime first)"
        ) from error
