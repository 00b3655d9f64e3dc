"""Devices by name: which execution provider of ONNX Runtime serves each, with which options, and what it needs."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from camcore.errors import DeviceError, InputError
from camcore_onnx.running.packages import onnxruntime
from camcore_onnx.running.plugins import find_plugin

__all__ = [
    "CPU",
    "PROVIDERS",
    "Place",
    "Provider",
    "has_driver",
    "is_installed",
    "place",
    "providers_for",
    "register_provider",
]

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """A device that users name, and how ONNX Runtime reaches it.

    Attributes
    ----------
    device : str
        As in ``device="cuda"``.
    name : str
        Of the execution provider; empty where ``module`` says it.
    options : mapping
        What camcore sets for it.
    behind : str
        The device that takes what this one leaves, before the CPU does; empty for none.
    prefix : str
        How the names of its own options begin, where those of the device behind are given together with them.
    module : str
        Of a plugin: the package that gives ``get_library_path()`` and ``get_ep_name()``.
    library : str
        Of a plugin without such a package: the path of its shared library.
    memory : str
        How ONNX Runtime names the memory of the device; empty where arrays go through the host's.
    automatic : bool
        Whether ``device="auto"`` tries it, where an NVIDIA driver answers.
    needs_copies : bool
        Whether a tensor that is read inside too becomes an output only through an ``Identity``.
    cure : str
        What to do where it is missing.
    """

    device: str
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    behind: str = ""
    prefix: str = ""
    module: str = ""
    library: str = ""
    memory: str = ""
    automatic: bool = False
    needs_copies: bool = False
    cure: str = ""


_PROVIDERS: dict[str, Provider] = {}
PROVIDERS: Mapping[str, Provider] = MappingProxyType(_PROVIDERS)


def register_provider(device: str, name: str = "", **properties: Any) -> Provider:
    """Make a device known by a name; see :class:`Provider`. A plugin is one line.

    Raises
    ------
    InputError
        If the name is taken, or it is not said how to reach the device.

    Examples
    --------
    >>> row = register_provider("npu", module="onnxruntime_ep_npu")  # doctest: +SKIP
    """
    if device in _PROVIDERS or device in ("auto", "cpu") or not device or ":" in device:
        raise InputError(f"the device {device!r} cannot be registered: the name is taken, empty or has a colon in it")
    row = Provider(device, name, **properties)
    if not row.name and not row.module:
        raise InputError(f"the device {device!r} cannot be registered: give the name of its provider, or module=")
    _PROVIDERS[device] = row
    return row


_GPU = "Run pip uninstall onnxruntime onnxruntime-gpu, then pip install 'camcore[onnx-gpu]'"
register_provider(
    "cuda",
    "CUDAExecutionProvider",
    # HEURISTIC: the exhaustive search of the default costs seconds for every new input size; the arena of the default
    # doubles each time that it grows
    options={"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"},
    memory="cuda",
    automatic=True,
    cure=_GPU,
)
register_provider(
    "tensorrt",
    "TensorrtExecutionProvider",
    behind="cuda",
    prefix="trt_",
    memory="cuda",
    needs_copies=True,
    cure=f"{_GPU} and pip install tensorrt",
)
register_provider("cuda-plugin", module="onnxruntime_ep_cuda", automatic=True, cure="pip install onnxruntime-ep-cuda13")
register_provider(
    "tensorrt-rtx", module="onnxruntime_ep_nv_tensorrt_rtx", cure="pip install onnxruntime-ep-nv-tensorrt-rtx"
)
register_provider("openvino", module="onnxruntime_ep_openvino", cure="pip install onnxruntime-ep-openvino")
register_provider("webgpu", module="onnxruntime_ep_webgpu", cure="pip install onnxruntime-ep-webgpu")


@dataclass(frozen=True, eq=False)
class Place:
    """Where a session is to run.

    Attributes
    ----------
    device : str
        As it was asked for.
    row : Provider or None
        None is the CPU.
    index : int
        Which of several such devices.
    providers : tuple
        Best first, as ``InferenceSession`` takes them.
    plugin : object, optional
        The device of a plugin, as ONNX Runtime knows it.
    """

    device: str
    row: Provider | None
    index: int
    providers: tuple[Any, ...]
    plugin: Any = None

    @property
    def name(self) -> str:
        """Of the provider."""
        return CPU if self.row is None else self.providers[0][0]


def providers_for(
    device: str,
    *,
    provider_options: Mapping[str, Any] | None = None,
    strict: bool = False,
    tf32: bool = True,
    cuda_graph: bool = False,
) -> list[Any]:
    """The execution providers for a device, best first, as ``InferenceSession`` takes them; see :func:`place`."""
    where = place(device, provider_options=provider_options, strict=strict, tf32=tf32, cuda_graph=cuda_graph)
    return list(where.providers)


def place(
    device: str,
    *,
    provider_options: Mapping[str, Any] | None = None,
    strict: bool = False,
    tf32: bool = True,
    cuda_graph: bool = False,
) -> Place:
    """Choose the execution providers for a device; the only place that knows their names.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"``, or a name of ``PROVIDERS``, with ``:N`` for one of several: ``"cuda:1"``. ``"auto"``
        takes CUDA where this build has it and a driver answers; never TensorRT, which builds engines for minutes.
    provider_options : mapping, optional
        Of the provider, as ONNX Runtime's documentation lists them. For ``"tensorrt"`` those with ``trt_`` in front are
        its own, and the others go to CUDA behind it; a ``trt_engine_cache_path`` is made, and used.
    strict : bool
        Whether operators that the device has no kernel for are an error, instead of running on the CPU.
    tf32 : bool
        Whether CUDA may round the factors of products to 10 bits (TF32), as is its default; off to verify numbers.
    cuda_graph : bool
        Whether CUDA is to record the run and replay it.

    Raises
    ------
    DeviceError
        If the installed ONNX Runtime has no such provider, or the plugin cannot be loaded or finds no device.
    InputError
        For an unknown device, or options that do not fit it.
    """
    row, index = _row(device)
    _check_fit(device, row, provider_options, strict=strict, tf32=tf32, cuda_graph=cuda_graph)
    if row is None:
        return Place(device, None, 0, (CPU,))
    if row.module or row.library:
        plugin = find_plugin(row.name, row.module, row.library, index, device=device, cure=row.cure)
        found: list[Any] = [(plugin.ep_name, {**row.options, **(provider_options or {})})]
    else:
        plugin, found = None, _built_in(row, index, device, provider_options or {}, tf32, cuda_graph)
    # ONNX Runtime refuses a CPU provider that is named where falling back to it is forbidden
    return Place(device, row, index, (*found, *([] if strict else [CPU])), plugin)


def _built_in(
    row: Provider, index: int, device: str, given: Mapping[str, Any], tf32: bool, cuda_graph: bool
) -> list[Any]:
    """The provider of a device, and the one behind it, with their options."""
    chain = [row, *([_PROVIDERS[row.behind]] if row.behind else [])]
    found = []
    for one, own in zip(chain, _shares(chain, given), strict=True):
        _check_available(one, device)
        options = {**({"device_id": index} if one.memory or index else {}), **one.options}
        if one.device == "cuda":
            options |= {} if tf32 else {"use_tf32": 0}
            options |= {"enable_cuda_graph": 1} if cuda_graph else {}
        found.append((one.name, options | own))
    return found


def _row(device: str) -> tuple[Provider | None, int]:
    kind, colon, index = device.partition(":")
    known = kind in _PROVIDERS or (kind in ("auto", "cpu") and not colon)
    if not known or (colon and not (index.isascii() and index.isdigit())):
        names = ", ".join(repr(name) for name in ("auto", "cpu", *_PROVIDERS))
        raise InputError(f"device is {device!r}; expected one of {names}, or 'cuda:N' for one of several")
    return (_automatic() if kind == "auto" else _PROVIDERS.get(kind)), int(index or 0)


def _automatic() -> Provider | None:
    """The first that is installed, where a driver answers: asked first, since ONNX Runtime itself fails with noise."""
    rows = [row for row in _PROVIDERS.values() if row.automatic and is_installed(row)]
    return rows[0] if rows and has_driver() else None


def is_installed(row: Provider) -> bool:
    """Whether a provider is built in, or its plugin's package is there; not whether it works."""
    if row.module:
        return importlib.util.find_spec(row.module) is not None
    return row.name in onnxruntime().get_available_providers()


@cache
def has_driver() -> bool:
    """Whether an NVIDIA driver can be loaded."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def _check_fit(
    device: str, row: Provider | None, options: Mapping[str, Any] | None, *, strict: bool, tf32: bool, cuda_graph: bool
) -> None:
    if options and "device_id" in options:
        raise InputError(f"provider_options names a device_id; say it in the device: 'cuda:{options['device_id']}'")
    if cuda_graph and (row is None or row.device != "cuda"):
        raise InputError(f"cuda_graph=True needs device='cuda'; it is {device!r}" + _taken(device, row))
    if not tf32 and row is not None and row.device != "cuda":
        raise InputError(f"tf32=False is for device='cuda'; {row.device!r} has no such option")
    if device == "cpu" and (options or strict):
        what = "provider_options" if options else "strict=True"
        raise InputError(f"{what} is for other devices than 'cpu'; leave it out")


def _taken(device: str, row: Provider | None) -> str:
    return f", which takes {'cpu' if row is None else row.device!r} here" if device == "auto" else ""


def _shares(chain: list[Provider], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which of the options given is whose."""
    own = dict(options)
    if len(chain) == 1:
        return [own]
    mine = {name: value for name, value in own.items() if name.startswith(chain[0].prefix)}
    if "trt_engine_cache_path" in mine:
        Path(mine["trt_engine_cache_path"]).mkdir(parents=True, exist_ok=True)
        mine = {"trt_engine_cache_enable": 1, **mine}
    return [mine, {name: value for name, value in own.items() if name not in mine}]


def _check_available(row: Provider, device: str) -> None:
    available = onnxruntime().get_available_providers()
    if row.name not in available:
        raise DeviceError(
            f"device {device!r} was asked for, but the installed ONNX Runtime has only {', '.join(available)}. "
            f"{row.cure or 'Install one that has it'}; or take device='cpu'"
        )
