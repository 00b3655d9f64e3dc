"""The server of ``camcore live`` in a test, and what a page says to it."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import numpy as np
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from camcore_tools.serving.explaining import Stopped
from camcore_tools.serving.messages import Request
from numpy.typing import NDArray

Client = TestClient[web.Request, web.Application]


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test in an event loop of its own, which may take 20 s."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[Client]:
    """A client of an application."""
    async with TestClient(TestServer(app)) as client:
        yield client


@asynccontextmanager
async def connected(client: Client, place: str = "/socket") -> AsyncIterator[ClientWebSocketResponse]:
    """A socket that has been greeted."""
    async with client.ws_connect(place, max_msg_size=0) as socket:
        assert "info" in json.loads((await socket.receive()).data)
        yield socket


def asked(payload: bytes = b"", **header: Any) -> bytes:
    """A message as the page writes it."""
    return raw(json.dumps({"id": 1, **header}).encode(), payload)


def raw(header: bytes, payload: bytes = b"") -> bytes:
    """Any bytes in the place of a header."""
    return struct.pack("<I", len(header)) + header + payload


def frame(pixels: NDArray[np.uint8], **header: Any) -> bytes:
    """Pixels as the page sends them."""
    height, width = pixels.shape[:2]
    return asked(pixels.tobytes(), **{"frame": "rgb", "width": width, "height": height, **header})


def told(message: bytes) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The header and the map of an answer."""
    (length,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + length])
    return header, np.frombuffer(message, "<f4", offset=4 + length).reshape(header["shape"])


async def status_of(client: Client, path: str) -> int:
    """Of a GET whose path is sent as it stands, which no ordinary client does."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split()[1])


class Gated:
    """In the place of a model: answers when its gate opens, unless nobody waits any more; ``order`` is of the ids."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.gate, self.begun = threading.Semaphore(0), threading.Semaphore(0)
        self.info: dict[str, Any] = {}

    def answer(self, request: Request, find: object, stopped: threading.Event) -> bytes:
        self.begun.release()
        while not self.gate.acquire(timeout=0.01):
            if stopped.is_set():
                raise Stopped
        if stopped.is_set():
            self.gate.release()
            raise Stopped
        self.order.append(request.id)
        if request.id == 13:
            raise ZeroDivisionError("of the model")
        return asked(b"\0\0\0\0", id=request.id, shape=[1, 1])


async def reply(socket: ClientWebSocketResponse) -> Any:
    """The next answer: (header, map), or what a text says; signs of life are left out."""
    while True:
        message = await socket.receive()
        if message.type is WSMsgType.BINARY:
            return told(message.data)
        assert message.type is WSMsgType.TEXT, message
        text = json.loads(message.data)
        if "alive" not in text:
            return text
