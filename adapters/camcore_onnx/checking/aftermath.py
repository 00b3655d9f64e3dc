"""What is said of a process that ran apart and did not end well."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

from camcore import errors
from camcore.errors import CamError, CrashError
from camcore.labels import clean

__all__ = ["Stage", "failure", "own_error"]

_CODES = {  # of Windows; abort() ends with 3 there
    0xC0000005: "access violation",
    0xC00000FD: "stack overflow",
    0xC0000374: "heap corruption",
    0xC0000409: "abort",
    3: "abort",
}
_NO_MEMORY = (
    *("bad_alloc", "bad allocation", "MemoryError", "out of memory"),
    *("Cannot allocate memory", "Failed to allocate memory"),
)
_NOISE = ("Fatal Python error", "Extension modules", "Current thread", "Thread 0x", "  ", "<")  # of faulthandler
_ADVICE = (
    "It ran in a process of its own, so nothing else was harmed. The file is damaged or hostile, or this is a bug of "
    "ONNX Runtime: do not load the file elsewhere; get it again from who made it, or try another version of onnxruntime"
)


@dataclass
class Stage:
    """How far a process came.

    Attributes
    ----------
    doing : str
        What it said last that it would do.
    stderr : bytes
        The end of what it wrote there.
    late : bool
        Its time was over.
    """

    seconds: float
    memory: int | None
    doing: str = ""
    stderr: bytes = b""
    late: bool = False

    def note(self, message: dict[str, Any]) -> None:
        """Remember what it is doing."""
        self.doing = str(message.get("doing", self.doing))

    def words(self) -> str:
        """What it wrote to stderr, line by line, without control characters."""
        text = self.stderr.decode(errors="replace")
        return "\n".join(clean(line, 2000) for line in text.splitlines() if line.strip())

    def where(self) -> str:
        return f" while {clean(self.doing, 4000)}" if self.doing else ""

    def last_words(self) -> str:
        """The end of what native code wrote."""
        raw = self.stderr.decode(errors="replace").splitlines()
        said = [clean(line, 2000) for line in raw if line.strip() and not line.startswith(_NOISE)]
        return f". It said last: {' | '.join(said[-3:])[:600]}" if said else ""


def failure(status: int | None, stage: Stage) -> CrashError:
    """The error for a process that gave no answer."""
    if stage.late:
        return CrashError(
            f"stopped after {stage.seconds:.0f} seconds{stage.where()}: it hangs, or needs longer. If you trust the "
            "file, raise the limit by the environment variable CAMCORE_SANDBOX_SECONDS"
        )
    if _is_hungry(stage.stderr.decode(errors="replace")):
        return _too_much(stage)
    how = _how(status)
    if how == "SIGXCPU":
        return CrashError(
            f"stopped{stage.where()}: its processor time was used up. If you trust the file, raise the limit by the "
            "environment variable CAMCORE_SANDBOX_SECONDS"
        )
    if how == "SIGKILL":
        return CrashError(
            f"killed from outside (SIGKILL){stage.where()}: most often the system is out of memory. Free some, or take "
            "a smaller model or fewer images"
        )
    return CrashError(f"ONNX Runtime crashed ({how}){stage.where()}{stage.last_words()}. {_ADVICE}")


def _is_hungry(text: str) -> bool:
    return any(sign in text for sign in _NO_MEMORY)


def _too_much(stage: Stage) -> CrashError:
    limit = "there is" if stage.memory is None else f"the limit of {stage.memory / (1 << 30):.1f} GiB"
    return CrashError(
        f"more memory than {limit} was asked for{stage.where()}. If you trust the file, raise the limit by the "
        "environment variable CAMCORE_SANDBOX_GB"
    )


def _how(status: int | None) -> str:
    if status is None:
        return "no answer"
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return _CODES.get(status & 0xFFFFFFFF, f"exit status {status}")


def own_error(said: dict[str, Any], stage: Stage) -> Exception:
    """The exception that was raised there, as far as it is one that callers know."""
    kind = getattr(errors, said["kind"], None)
    if said["kind"] == "MemoryError" or _is_hungry(said["text"]):
        return _too_much(stage)
    if isinstance(kind, type) and issubclass(kind, CamError):
        return kind(said["text"])
    if said["number"] is not None:
        return OSError(said["number"], said["text"])
    return RuntimeError(f"{said['text']}\n\nIn the process that ran apart:\n{said['trace']}")
