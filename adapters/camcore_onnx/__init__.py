"""ONNX graphs and ONNX Runtime for camcore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camcore_onnx._adapter import adapter

if TYPE_CHECKING:
    from camcore_onnx.backend import OnnxBackend
    from camcore_onnx.embedding import embed_cam
    from camcore_onnx.exporting import export
    from camcore_onnx.float16 import half_error, to_float16
    from camcore_onnx.gradients.add import add_tail_gradients
    from camcore_onnx.running.providers import register_provider
    from camcore_onnx.surgery import expose_features

__all__ = [
    "OnnxBackend",
    "adapter",
    "add_tail_gradients",
    "embed_cam",
    "export",
    "expose_features",
    "half_error",
    "register_provider",
    "to_float16",
]

_HOMES = {
    "OnnxBackend": "backend",
    "add_tail_gradients": "gradients.add",
    "embed_cam": "embedding",
    "export": "exporting",
    "expose_features": "surgery",
    "half_error": "float16",
    "register_provider": "running.providers",
    "to_float16": "float16",
}


def __getattr__(name: str) -> Any:
    """Import onnx and onnxruntime only when something here is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
