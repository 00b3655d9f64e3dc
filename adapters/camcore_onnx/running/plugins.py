"""Execution providers that come as packages of their own, and are registered when they are first asked for."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from camcore.errors import DeviceError
from camcore_onnx.running.packages import onnxruntime

__all__ = ["find_plugin", "plugin_name"]

_loading = threading.Lock()


def find_plugin(name: str, module: str, library: str, index: int, *, device: str, cure: str = "") -> Any:
    """A device of a plugin, whose library is loaded if it is not yet.

    Parameters
    ----------
    name : str
        Of the provider; empty where the module says it.
    module : str
        The package that gives ``get_library_path()`` and ``get_ep_name()``; empty where the library is named.
    library : str
        The path of the shared library; empty where the module says it.
    index : int
        Which of its devices.
    device, cure : str
        For the error: what was asked for, and what to install.

    Returns
    -------
    OrtEpDevice

    Raises
    ------
    DeviceError
        If the plugin cannot be loaded, or finds no such device on this machine.
    """
    ort = onnxruntime()
    if not hasattr(ort, "register_execution_provider_library"):
        raise DeviceError(
            f"device {device!r} is a plugin, which ONNX Runtime {ort.__version__} does not take; update it"
        )
    try:
        found = _devices(ort, name, module, library)
    except Exception as error:  # a foreign package's, and ONNX Runtime's, which share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise DeviceError(
            f"device {device!r} was asked for, but its plugin cannot be loaded: {reason}. "
            f"{cure or 'Install it'}; or take device='cpu'"
        ) from error
    if index >= len(found):
        raise DeviceError(
            f"device {device!r} was asked for, but its plugin finds {len(found) or 'no'} such "
            f"device{'s' * (len(found) != 1)} on this machine; take another, or device='cpu'"
        )
    return found[index]


def _devices(ort: Any, name: str, module: str, library: str) -> list[Any]:
    package = importlib.import_module(module) if module else None
    title = name or str(package.get_ep_name())  # type: ignore[union-attr]
    with _loading:
        found = [d for d in ort.get_ep_devices() if d.ep_name == title]
        if not found and (title, id(ort)) not in _loaded:
            # some plugins call their provider what they are registered as, so that is its own name
            ort.register_execution_provider_library(title, library or package.get_library_path())  # type: ignore[union-attr]
            _loaded.add((title, id(ort)))
            found = [d for d in ort.get_ep_devices() if d.ep_name == title]
    return found


_loaded: set[tuple[str, int]] = set()  # a library is registered once, even where it finds no device


def plugin_name(module: str) -> str:
    """How a plugin calls its provider; empty where it is not installed."""
    try:
        return str(importlib.import_module(module).get_ep_name())
    except Exception:  # a foreign package may fail in any way
        return ""
