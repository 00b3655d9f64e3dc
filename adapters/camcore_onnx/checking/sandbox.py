"""Run a function in a process of its own, with limits: what crashes there is an error here.

A model of another's making can bring ONNX Runtime down, and the Python process with it: there is nothing to catch then.
Functions are named and their arguments and results are JSON, so no pickle is read and no model is copied.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from camcore_onnx.checking.aftermath import Stage, failure, own_error

__all__ = ["MEMORY_SHARE", "SECONDS", "doing", "run_apart", "run_here", "tell", "wanted"]

SECONDS = 1800.0
"""How long a function may take; the environment variable ``CAMCORE_SANDBOX_SECONDS`` raises it."""
MEMORY_SHARE = 0.75
"""Of this machine's memory; ``CAMCORE_SANDBOX_GB`` gives another limit, in GiB. Linux and BSD only."""
_KEPT = 1 << 16  # bytes of what the process says on stderr
_GRACE = 5.0
_START = (
    "import json, sys; request = json.loads(sys.stdin.buffer.readline()); sys.path[:] = request['path']; "
    "from camcore_onnx.checking.sandbox import _serve; _serve(request)"
)

Hear = Callable[[dict[str, Any]], None]
_hear: ContextVar[Hear | None] = ContextVar("_hear", default=None)


def wanted(sandbox: bool | None = None) -> bool:
    """Whether to run apart: as said, or unless ``CAMCORE_SANDBOX=off`` or no interpreter can be started."""
    if sandbox is not None:
        return sandbox
    return os.environ.get("CAMCORE_SANDBOX", "") != "off" and bool(sys.executable) and not hasattr(sys, "frozen")


def tell(message: dict[str, Any]) -> None:
    """Say something to whoever called :func:`run_apart` or :func:`run_here`; nothing elsewhere."""
    hear = _hear.get()
    if hear is not None:
        hear(message)


def doing(what: str) -> None:
    """What comes next, such as ``"loading model.onnx"``: it is named if the process ends in it."""
    tell({"doing": what})


def run_here(function: str, *arguments: Any, hear: Hear | None = None) -> Any:
    """As :func:`run_apart`, in this process: for those who cannot start another, or trust the file."""
    token = _hear.set(hear)
    try:
        return _named(function)(*arguments)
    finally:
        _hear.reset(token)


def run_apart(
    function: str,
    *arguments: Any,
    seconds: float | None = None,
    memory: int | None = None,
    hear: Hear | None = None,
) -> Any:
    """Call a function in a new Python process.

    Parameters
    ----------
    function : str
        ``"package.module:name"``.
    *arguments
        What JSON can hold; arrays and models travel as paths.
    seconds : float, optional
        Of wall time; of processor time that many on each core. ``SECONDS`` where absent.
    memory : int, optional
        Bytes. ``MEMORY_SHARE`` of this machine's where absent. Not limited on Windows, which has no such limits, nor
        on macOS, which does not keep them.
    hear : callable, optional
        Called in this thread with each message of :func:`tell`.

    Returns
    -------
    What the function returned, as JSON holds it.

    Raises
    ------
    CrashError
        If the process died, hung or asked for too much memory; the text says which, and where.
    CamError, OSError
        What the function raised.
    """
    seconds, memory = seconds or _seconds(), memory or _memory()
    request: dict[str, Any] = {"path": [p for p in sys.path if p], "function": function, "arguments": arguments}
    request |= {"memory": memory, "cpu": int(seconds * (os.cpu_count() or 1)) + 1}
    stage = Stage(seconds=seconds, memory=memory)
    with _started(request) as process:
        answer = _listen(process, stage, hear)
    if answer is None:
        raise failure(process.returncode, stage)
    if stage.stderr:
        sys.stderr.write(stage.words() + "\n")
    if "error" in answer:
        raise own_error(answer["error"], stage)
    return answer["result"]


def _seconds() -> float:
    return float(os.environ.get("CAMCORE_SANDBOX_SECONDS") or SECONDS)


def _memory() -> int | None:
    given = os.environ.get("CAMCORE_SANDBOX_GB")
    if given:
        return int(float(given) * (1 << 30))
    try:
        return int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows
        return None


@contextlib.contextmanager
def _started(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for nothing but has its standard input open: when that closes, its parent is gone."""
    environment = os.environ | {"CAMCORE_SANDBOX": "off", "ORT_DISABLE_TELEMETRY": "1", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        # -P: the current folder is no place to import from
        [sys.executable, "-P", "-X", "faulthandler", "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=os.name == "posix",
    )
    try:
        assert process.stdin is not None  # a pipe
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit status says so
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _kill(process)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it started, where the system knows such groups."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()


def _listen(process: subprocess.Popen[bytes], stage: Stage, hear: Hear | None) -> dict[str, Any] | None:
    """The answer; None where the process ends without one, or is ended since its time is over."""
    lines: queue.Queue[bytes] = queue.Queue()
    readers = [
        threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=_read_last, args=(process.stderr, stage), daemon=True),
    ]
    for reader in readers:
        reader.start()
    answer = _answer(lines, stage, hear)
    if stage.late:
        _kill(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    for reader in readers:
        reader.join(_GRACE)
    return answer


def _answer(lines: queue.Queue[bytes], stage: Stage, hear: Hear | None) -> dict[str, Any] | None:
    end = time.monotonic() + stage.seconds
    while True:
        try:
            message = json.loads(lines.get(timeout=max(0.0, end - time.monotonic())))
        except queue.Empty:
            stage.late = True
            return None
        except ValueError:  # the end, or the half of a line: it died in the middle of it
            return None
        if "result" in message or "error" in message:
            return dict(message)
        stage.note(message)
        if hear is not None:
            hear(message)


def _read_lines(pipe: Any, lines: queue.Queue[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed while it was read
        for line in pipe:
            lines.put(line)
    lines.put(b"")


def _read_last(pipe: Any, stage: Stage) -> None:
    with contextlib.suppress(OSError, ValueError):
        while part := pipe.read1(_KEPT):
            stage.stderr = (stage.stderr + part)[-_KEPT:]


def _named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _serve(request: dict[str, Any]) -> None:
    """The other process: what it would print goes to stderr, messages to what was stdout."""
    _limit(request["memory"], request["cpu"])
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message).encode() + b"\n")
        channel.flush()

    _hear.set(send)
    try:
        send({"result": _named(request["function"])(*request["arguments"])})
    except Exception as error:
        send({"error": _described(error)})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # not through the destructors of what a hostile model has left behind


def _described(error: Exception) -> dict[str, Any]:
    import traceback

    known = {"kind": type(error).__name__, "text": str(error), "number": getattr(error, "errno", None)}
    return known | {"trace": "".join(traceback.format_exception(error))}


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _limit(memory: int | None, cpu: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    # RLIMIT_DATA counts what can be written to; address space also counts what is only reserved, as CUDA does widely
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    for what, soft, hard in ((resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, cpu, cpu + 5), (kind, memory, memory)):
        if soft is not None and hard is not None:
            with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
                resource.setrlimit(what, (soft, hard))
