"""Files that mean harm, made where they are needed; and the only two answers that are allowed."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from time import process_time
from typing import Any

import camcore
from camcore.errors import CamError

__all__ = ["answer", "cheaply", "field", "model_of", "varint"]


def varint(number: int) -> bytes:
    """As protobuf writes numbers."""
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def field(number: int, content: bytes) -> bytes:
    """A field of a message with text, bytes or another message in it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def model_of(graph: bytes, *parts: bytes) -> bytes:
    """A serialized model around a serialized graph; IR version 8, opset 17."""
    return b"\x08\x08" + field(7, graph) + field(8, field(1, b"") + b"\x10\x11") + b"".join(parts)


def answer(source: Any, size: tuple[int, int] = (6, 6)) -> str:
    """The text of the error; or nothing where the model can be explained. Any other exception is a defect."""
    from onnx_graphs import images

    try:
        explainer = camcore.explainer(source, device="cpu", threads=1)
        _ = explainer.backend.layers()  # type: ignore[attr-defined]
        explainer(images(1, 3, *size))
    except CamError as error:
        return str(error)
    return ""


@contextmanager
def cheaply(seconds: float = 5.0, megabytes: float | None = None) -> Any:
    """No more processor time than this; where asked for, no more memory of Python (which makes it slow)."""
    if megabytes is not None:
        tracemalloc.start()
    start = process_time()
    try:
        yield
        spent, peak = process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert spent < seconds, f"{spent:.1f} s"
    assert megabytes is None or peak < megabytes * 1e6, f"{peak / 1e6:.0f} MB"
