"""ONNX Runtime sessions: on the device asked for or an error, with how many threads, and without telemetry."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

from camcore.errors import DeviceError, InputError
from camcore_onnx.running.packages import onnxruntime
from camcore_onnx.running.plugins import plugin_name
from camcore_onnx.running.providers import CPU, PROVIDERS, Place, has_driver, place, providers_for
from camcore_onnx.running.weights import without_weights
from camcore_onnx.surgery import copy_outputs

__all__ = ["OPTIMIZATION", "device_of", "make_session", "onnxruntime", "placement", "providers_for"]

OPTIMIZATION = ("disabled", "basic", "extended", "layout", "all")

_LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}
_NVIDIA = ("CUDA", "Tensorrt")
_creating = threading.Lock()  # creating sessions is not thread-safe in ONNX Runtime; running them is
_SILENT, _WARNING = 4, 2  # of ONNX Runtime's log; the second is its default


def make_session(
    model: ir.Model | bytes | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    optimization: str = "all",
    folder: Path | None = None,
    provider_options: Mapping[str, Any] | None = None,
    strict: bool = False,
    tf32: bool = True,
    cuda_graph: bool = False,
) -> Any:
    """Create an ``InferenceSession`` and check that it really runs where it was asked to.

    Parameters
    ----------
    model : ir.Model, bytes or str
        A graph, whose weights are not copied; a serialized model, or a path.
    device : str
        See :func:`camcore_onnx.running.providers.place`, also for the four last.
    threads : int, optional
        Threads within an operator; ONNX Runtime's choice where absent.
    optimization : str
        One of ``OPTIMIZATION``.
    folder : Path, optional
        Where the external data of a serialized model lies.
    provider_options : mapping, optional
    strict, tf32, cuda_graph : bool

    Raises
    ------
    DeviceError
        If a device was asked for by name and runs nothing of the model.
    InputError
        If ONNX Runtime refuses the model, with its reason.

    Notes
    -----
    Where ``device="auto"`` finds a driver but the CPU is what runs, a ``RuntimeWarning`` says why.
    """
    where = place(device, provider_options=provider_options, strict=strict, tf32=tf32, cuda_graph=cuda_graph)
    if where.row is None or device != "auto" or strict:
        return _session(model, where, threads, optimization, folder, strict=strict)
    try:
        return _session(model, where, threads, optimization, folder)
    except (DeviceError, InputError) as error:
        on_cpu = _session(model, place("cpu"), threads, optimization, folder)
        why = str(error).partition("asked for, but ")[2] or error
        warnings.warn(f"device='auto' took the CPU, though there is a driver: {why}", RuntimeWarning, stacklevel=2)
        return on_cpu


def _session(
    model: ir.Model | bytes | str,
    where: Place,
    threads: int | None,
    optimization: str,
    folder: Path | None,
    *,
    strict: bool = False,
) -> Any:
    ort = onnxruntime()
    options = _options(ort, threads, optimization, folder)
    weights = None
    if isinstance(model, ir.Model):
        shielded = copy_outputs(model) if where.row is not None and where.row.needs_copies else model
        model, arrays = without_weights(shielded)
        weights = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
        options.add_external_initializers(list(arrays), weights)
    with _creating:
        session = _create(ort, model, options, [CPU]) if where.row is None else _on(ort, where, model, options, strict)
    session.camcore_weights = weights  # it reads them as long as it lives
    return session


def _on(ort: Any, where: Place, model: bytes | str, options: Any, strict: bool) -> Any:
    """A session on a device that is not the CPU, and that really runs there."""
    missing = _missing(ort) if where.name.startswith(_NVIDIA) else ""
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if where.plugin is not None:
        given = {name: str(value) for name, value in where.providers[0][1].items()}
        options.add_provider_for_devices([where.plugin], given)
    try:
        with _quiet(ort):
            session = _create(ort, model, options, None if where.plugin is not None else list(where.providers))
    except InputError as error:
        raise _explained(error, where, missing, strict) from error
    if _is_used(session, where.name):
        return session
    taken = f"{where.name} takes none of the model's operators, and all run on the CPU"
    if where.name not in session.get_providers():
        taken = f"ONNX Runtime fell back to {', '.join(session.get_providers())}"
        taken += f": {missing or where.name + ' failed to start'}"
    raise DeviceError(f"device {where.device!r} was asked for, but {taken}. {_HELP}")


_HELP = "`camcore doctor` shows what is missing; or take device='cpu'"


def _explained(error: InputError, where: Place, missing: str, strict: bool) -> Exception:
    """The error that ends the making of a session, with what may have caused it."""
    text = str(error)
    if missing:
        return DeviceError(f"device {where.device!r} was asked for, but {missing}. {_HELP}")
    if strict and "CPU EP" in text:
        return DeviceError(
            f"strict=True: {where.name} has no kernel for some of the model's operators, which would run on the CPU. "
            "Leave strict out; camcore_onnx.running.runtime.placement(session) counts them then"
        )
    if any(words in text.lower() for words in ("graph capture", "cuda graph")):
        return DeviceError(
            "cuda_graph=True: the model has control flow, or operators that run on the CPU, and cannot be recorded; "
            f"leave cuda_graph out ({text[:300]})"
        )
    if "install" in text:  # libraries of the provider that are missing
        return DeviceError(f"device {where.device!r} was asked for, but {text}. {_HELP}")
    return error


def _options(ort: Any, threads: int | None, optimization: str, folder: Path | None) -> Any:
    if optimization not in _LEVELS:
        raise InputError(f"optimization is {optimization!r}; expected one of {', '.join(_LEVELS)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected at least 1")
    options = ort.SessionOptions()
    level = getattr(ort.GraphOptimizationLevel, _LEVELS[optimization], None)
    options.graph_optimization_level = level or ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = _SILENT  # what goes wrong is raised; stderr is not ours
    # Weights of 8 bits: ONNX Runtime would round the activations too, and scores would move by some 0.3 per cent
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return options


def _create(ort: Any, model: bytes | str, options: Any, providers: list[Any] | None) -> Any:
    """``enable_fallback``: without it ONNX Runtime prints what failed, and takes other providers."""
    try:
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InputError(f"ONNX Runtime {ort.__version__} cannot load the model: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _quiet(ort: Any) -> Iterator[None]:
    """What fails while a provider starts is logged past the session's own log, to stderr; we raise it."""
    if not hasattr(ort, "set_default_logger_severity"):
        yield
        return
    ort.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


@cache
def _preload(ort: Any) -> str:
    """Load CUDA and cuDNN from the nvidia packages; what cannot be loaded. The function itself only prints it."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as words:
        ort.preload_dlls()
    failed = [line for line in words.getvalue().splitlines() if line.startswith("Failed to load ")]
    return ", ".join(line.removeprefix("Failed to load ").partition(":")[0] for line in failed)


def _missing(ort: Any) -> str:
    """What stands in the way of CUDA on this machine, as far as it shows; empty for nothing."""
    libraries = _preload(ort)
    if not has_driver():
        return "no NVIDIA driver can be loaded" + (f", nor can {libraries}" if libraries else "")
    return f"{libraries} cannot be loaded" if libraries else ""


def placement(session: Any) -> Mapping[str, int] | None:
    """How many nodes each provider runs; None where a session has not noted it: on the CPU, and in older versions."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # of several kinds, and missing in older versions
        return None
    nodes: Counter[str] = Counter()
    for part in parts:
        nodes[part.ep_name] += len(part.get_nodes())
    return nodes


def _is_used(session: Any, name: str) -> bool:
    """Whether a provider really runs something: a plugin may be listed, and take no node."""
    nodes = placement(session)
    return name in session.get_providers() and (not nodes or nodes.get(name, 0) > 0)


def device_of(session: Any) -> str:
    """``"cuda"``, ``"cpu"`` or another name of ``PROVIDERS``: the device in use."""
    used = next((name for name in session.get_providers() if name != CPU and _is_used(session, name)), CPU)
    if used == CPU:
        return "cpu"
    return next((row.device for row in PROVIDERS.values() if used == (row.name or plugin_name(row.module))), used)
