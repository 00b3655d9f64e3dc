"""ONNX Runtime sessions: which device, how many threads, and no telemetry."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

from camcore.errors import DeviceError, InputError
from camcore_onnx.packages import onnxruntime
from camcore_onnx.weights import without_weights

__all__ = ["OPTIMIZATION", "device_of", "make_session", "onnxruntime", "providers_for"]

OPTIMIZATION = ("disabled", "basic", "extended", "layout", "all")

_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
_creating = threading.Lock()  # creating sessions is not thread-safe in ONNX Runtime; running them is


def providers_for(device: str) -> list[Any]:
    """The execution providers for a device; the only place that knows their names.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. ``"auto"`` takes CUDA where this build has it and a driver
        answers.

    Raises
    ------
    DeviceError
        If CUDA is asked for and the installed ONNX Runtime was built without it.
    InputError
        For a device of another name.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise InputError(f"device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    available = onnxruntime().get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise DeviceError(
            f"device 'cuda' was asked for, but the installed ONNX Runtime has only {', '.join(available)}. Run "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'camcore[onnx-gpu]'; or take device='cpu'"
        )
    if kind == "cpu" or (kind == "auto" and not ("CUDAExecutionProvider" in available and _has_driver())):
        return ["CPUExecutionProvider"]
    # HEURISTIC: the exhaustive search of the default costs seconds for every new input size
    options = {"device_id": int(index or 0), "cudnn_conv_algo_search": "HEURISTIC"}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


@cache
def _has_driver() -> bool:
    """Whether an NVIDIA driver can be loaded: asked first, since ONNX Runtime itself fails with noise on stderr."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def make_session(
    model: ir.Model | bytes | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    optimization: str = "all",
    folder: Path | None = None,
) -> Any:
    """Create an ``InferenceSession`` and check that it really runs where it was asked to.

    Parameters
    ----------
    model : ir.Model, bytes or str
        A graph, whose weights are not copied; a serialized model, or a path.
    device : str
        See :func:`providers_for`.
    threads : int, optional
        Threads within an operator; ONNX Runtime's choice where absent.
    optimization : str
        One of ``OPTIMIZATION``.
    folder : Path, optional
        Where the external data of a serialized model lies.

    Raises
    ------
    DeviceError
        If CUDA was asked for and is not in use.
    InputError
        If ONNX Runtime refuses the model, with its reason.
    """
    ort = onnxruntime()
    providers = providers_for(device)
    options = _options(ort, threads, optimization, folder)
    weights = None
    if isinstance(model, ir.Model):
        model, arrays = without_weights(model)
        weights = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        options.add_external_initializers(list(arrays), weights)
    if len(providers) > 1:
        _preload(ort)
    with _creating:
        session = _create(ort, model, options, providers)
    session.camcore_weights = weights  # it reads them as long as it lives
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(
            f"device {device!r} was asked for, but ONNX Runtime fell back to {', '.join(session.get_providers())}: "
            "CUDA 13 or cuDNN 9 cannot be loaded. `camcore doctor` shows what is missing; or take device='cpu'"
        )
    return session


def _options(ort: Any, threads: int | None, optimization: str, folder: Path | None) -> Any:
    if optimization not in _LEVELS:
        raise InputError(f"optimization is {optimization!r}; expected one of {', '.join(_LEVELS)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected at least 1")
    options = ort.SessionOptions()
    level = getattr(ort.GraphOptimizationLevel, _LEVELS[optimization], None)
    options.graph_optimization_level = level or ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4  # what goes wrong is raised; stderr is not ours
    # Weights of 8 bits: ONNX Runtime would round the activations too, and scores would move by some 0.3 per cent
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _create(ort: Any, model: bytes | str, options: Any, providers: list[Any]) -> Any:
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InputError(f"ONNX Runtime {ort.__version__} cannot load the model: {_reason(error)}") from error
    session.disable_fallback()
    return session


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


@cache
def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from the nvidia packages; the function prints, so its words go nowhere."""
    if hasattr(ort, "preload_dlls"):
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            ort.preload_dlls()


def device_of(session: Any) -> str:
    """``"cuda"`` or ``"cpu"``: the provider in use."""
    return "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
