"""PyTorch modules for camcore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from camcore_torch._adapter import adapter

if TYPE_CHECKING:
    from camcore_torch.backend import TorchBackend
    from camcore_torch.exporting import export
    from camcore_torch.recam import ReCam
    from camcore_torch.recorder import CamRecorder

__all__ = ["CamRecorder", "ReCam", "TorchBackend", "adapter", "export"]

_HOMES = {"ReCam": "recam", "CamRecorder": "recorder", "TorchBackend": "backend", "export": "exporting"}


def __getattr__(name: str) -> Any:
    """Import torch only when something here is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
