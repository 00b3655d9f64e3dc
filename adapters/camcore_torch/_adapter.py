"""The entry point: says whether a model is for PyTorch without importing it."""

from __future__ import annotations

import sys
from typing import Any

from camcore.evidence import Backend

__all__ = ["adapter"]


class TorchAdapter:
    """Accepts ``torch.nn.Module``."""

    def accepts(self, model: Any) -> bool:
        torch = sys.modules.get("torch")  # a module can only exist where torch has been imported
        return torch is not None and isinstance(model, torch.nn.Module)

    def backend(self, model: Any, **options: Any) -> Backend:
        from camcore_torch.backend import TorchBackend

        return TorchBackend(model, **options)


adapter = TorchAdapter()
