"""What tests let run apart: functions that end badly, each in its way."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from camcore_onnx.checking.sandbox import doing, tell

from camcore.errors import CamError, HeadNotFound


def echo(*arguments: Any) -> Any:
    sys.stdout.write("said on stdout\n")  # must not disturb the answer
    tell({"step": 1})
    doing("thinking")
    return {"arguments": arguments, "pid": os.getpid(), "path": sys.path}


def crash(name: str) -> None:
    doing("loading evil.onnx")
    if name == "read address 0":
        ctypes.string_at(0)
    sys.stderr.write("terminate called: evil\x1b[31m words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), getattr(signal, name))


def hang() -> None:
    doing("loading slow.onnx")
    time.sleep(600)


def burn() -> None:
    doing("counting")
    while True:
        pass


def eat(size: int) -> int:
    doing("loading big.onnx")
    kept = []
    while sum(len(part) for part in kept) < size:
        kept.append(bytearray(1 << 24))
    return len(kept)


def leave(path: str) -> None:
    """Ends without an answer, and without a word."""
    Path(path).touch()
    os._exit(7)


def wait_for_the_end(path: str) -> None:
    """Writes a mark for as long as it lives."""
    for _ in range(600):
        Path(path).write_text(str(os.getpid()))
        time.sleep(0.05)


def mark_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    doing("waiting")
    time.sleep(600)


def refuse(kind: str) -> None:
    if kind == "HeadNotFound":
        raise HeadNotFound("no head here")
    if kind == "OSError":
        raise OSError(28, "the disk is full")
    if kind == "bad_alloc":
        raise CamError("ONNX Runtime says: std::bad_alloc")
    raise KeyError("a bug")


def exchange(words: list[str]) -> list[str]:
    with contextlib.suppress(KeyError):
        words = [w.upper() for w in words]
    return words
