"""What the page and the server say to each other over the WebSocket.

A binary message is the length of its header (uint32, little endian), the header in JSON, padded with spaces to a
multiple of four bytes, then the payload: the pixels of a frame on the way in, the float32 map on the way out. Text
messages are JSON objects from the server alone: ``{"info": ...}``, ``{"alive": true}``, ``{"id": 3, "error": "..."}``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.errors import InputError

__all__ = ["FRAMES", "MAX_MESSAGE", "MAX_PIXELS", "Request", "packed", "read_request"]

FRAMES = ("rgb", "picture")
MAX_PIXELS = 4_000_000
_MAX_HEADER = 4096
MAX_MESSAGE = 3 * MAX_PIXELS + _MAX_HEADER + 4
_MOST = 100  # classes in one answer


@dataclass(frozen=True)
class Request:
    """One frame to explain.

    Parameters
    ----------
    id : int
        Comes back with the answer.
    class_index : int or None
        The class to explain; the best one where None.
    top : int
        How many of the best classes are named.
    frame : {"rgb", "picture"}
        ``"rgb"``: ``payload`` holds (height, width, 3) bytes of pixels, resized and cropped as the model takes them.
        ``"picture"``: there is none, and ``picture`` is the id of a file of the folder.
    """

    id: int
    class_index: int | None
    top: int
    frame: str
    width: int = 0
    height: int = 0
    picture: str = ""
    payload: bytes = b""


def read_request(message: bytes) -> Request:
    """Parse a message of untrusted origin.

    Raises
    ------
    InputError
        If it is not one; the text says where.
    """
    header, payload = _header(message)
    frame = header.get("frame")
    if frame not in FRAMES:
        raise InputError(f"frame is {_shown(frame)}; expected one of {', '.join(FRAMES)}")
    request = Request(
        id=_whole(header, "id", 0, 2**53),
        class_index=None if header.get("classIndex") is None else _whole(header, "classIndex", 0, 2**31),
        top=_whole({"top": 3, **header}, "top", 0, _MOST),
        frame=frame,
        width=_whole(header, "width", 1, MAX_PIXELS) if frame == "rgb" else 0,
        height=_whole(header, "height", 1, MAX_PIXELS) if frame == "rgb" else 0,
        picture=_text(header, "picture") if frame == "picture" else "",
        payload=payload,
    )
    if frame == "rgb" and len(payload) != 3 * request.width * request.height:
        raise InputError(
            f"{len(payload)} bytes of pixels came; {request.width} x {request.height} RGB pixels are "
            f"{3 * request.width * request.height}"
        )
    return request


def _header(message: bytes) -> tuple[Mapping[str, Any], bytes]:
    length = struct.unpack_from("<I", message)[0] if len(message) >= 4 else -1
    if not 0 <= length <= min(_MAX_HEADER, len(message) - 4):
        raise InputError("the message has no header; expected its length in 4 bytes, then JSON, then pixels")
    try:
        header = json.loads(message[4 : 4 + length])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header of the message is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise InputError("the header of the message is not a JSON object")
    return header, message[4 + length :]


def _whole(header: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{name} is {_shown(value)}; expected a whole number from {low} to {high}")
    return value


def _text(header: Mapping[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str) or len(value) > 64:
        raise InputError(f"{name} is {_shown(value)}; expected the id of a picture")
    return value


def _shown(value: Any) -> str:
    return ascii(value)[:80]


def packed(header: Mapping[str, Any], values: NDArray[np.float32]) -> bytes:
    """A header and a map as one message.

    Examples
    --------
    >>> packed({"id": 1}, np.ones((1, 1), np.float32))
    b'\\x08\\x00\\x00\\x00{"id":1}\\x00\\x00\\x80?'
    """
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + values.astype("<f4").tobytes()
