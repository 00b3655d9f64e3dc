"""The entry point: says whether a model is for ONNX without importing anything heavy."""

from __future__ import annotations

from os import PathLike
from typing import Any

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
        from camcore_onnx.running.packages import need

        need()
        from camcore_onnx.backend import OnnxBackend

        return OnnxBackend(model, **options)


adapter = OnnxAdapter()
