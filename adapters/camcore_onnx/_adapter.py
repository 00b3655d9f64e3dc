"""The entry point: says whether a model is for ONNX without importing anything heavy."""

from __future__ import annotations

from os import PathLike
from typing import Any

from camcore.errors import MissingPackage
from camcore.evidence import Backend

__all__ = ["adapter"]


class OnnxAdapter:
    """Accepts paths, bytes, ``onnx.ModelProto`` and ``onnx_ir.Model``."""

    def accepts(self, model: Any) -> bool:
        kind = type(model)
        return isinstance(model, (str, PathLike, bytes, bytearray)) or (
            kind.__name__ in ("ModelProto", "Model") and kind.__module__.split(".")[0] in ("onnx", "onnx_ir")
        )

    def backend(self, model: Any, **options: Any) -> Backend:
        need("onnx", "onnx_ir", "onnxruntime")
        from camcore_onnx.backend import OnnxBackend

        return OnnxBackend(model, **options)


def need(*packages: str) -> None:
    """Raise an error that names the cure where a package cannot be imported."""
    from importlib import import_module

    for package in packages:
        try:
            if package == "onnxruntime":
                from camcore_onnx.runtime import onnxruntime

                onnxruntime()
            else:
                import_module(package)
        except ImportError as error:
            if isinstance(error, MissingPackage):
                raise
            raise MissingPackage(missing(package, error)) from error


def missing(package: str, error: ImportError) -> str:
    """The text for a package that cannot be imported."""
    return (
        f"{package} cannot be imported ({error}). For ONNX models install one of\n"
        "  pip install 'camcore[onnx]'       # CPU\n"
        "  pip install 'camcore[onnx-gpu]'   # NVIDIA GPU, CUDA 13 (uninstall onnxruntime first)"
    )


adapter = OnnxAdapter()
