"""The WebSocket of one page: frames come in, the newest is explained, its explanation goes out."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from camcore.errors import CamError, InputError
from camcore_tools.serving.explaining import Stopped, Worker
from camcore_tools.serving.messages import MAX_MESSAGE, Request, read_request

__all__ = ["CLIENTS", "INFO", "WORKER", "close_all", "converse"]

WORKER: web.AppKey[Worker] = web.AppKey("worker", Worker)
INFO: web.AppKey[dict[str, Any]] = web.AppKey("info", dict)
CLIENTS: web.AppKey[set[Any]] = web.AppKey("clients", set)
_MOST = 16  # pages at a time
_BEAT = 5.0  # s between signs of life, which the page waits for
_PATIENCE = 10.0  # s in which a page must take an answer


async def converse(request: web.Request) -> web.StreamResponse:
    """Serve one page until it goes."""
    clients = request.app[CLIENTS]
    if len(clients) >= _MOST:
        raise web.HTTPServiceUnavailable(text=f"{_MOST} pages are open; close one of them")
    socket = web.WebSocketResponse(heartbeat=3 * _BEAT, max_msg_size=MAX_MESSAGE, compress=False, timeout=0.5)
    client = _Client(socket, request.app)
    clients.add(client)
    try:
        await socket.prepare(request)
        await client.run()
    finally:
        clients.discard(client)
    return socket


async def close_all(app: web.Application) -> None:
    """Say goodbye to every page."""
    goodbyes = [client.socket.close(code=WSCloseCode.GOING_AWAY, message=b"stopped") for client in app[CLIENTS]]
    await asyncio.gather(*goodbyes, return_exceptions=True)


class _Client:
    """One page. Holds a frame under way and the newest one behind it, and no more."""

    def __init__(self, socket: web.WebSocketResponse, app: web.Application) -> None:
        self.socket, self._worker, self._info = socket, app[WORKER], app[INFO]
        self._newest: Request | None = None
        self._came = asyncio.Event()

    async def run(self) -> None:
        await self._say(info=self._info)
        others = [asyncio.create_task(self._answer()), asyncio.create_task(self._beat())]
        try:
            async for message in self.socket:
                await self._take(message.data if message.type is WSMsgType.BINARY else b"")
        except ConnectionError:
            pass
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _take(self, message: bytes) -> None:
        try:
            request = read_request(message)
        except InputError as error:
            await self._say(id=None, error=str(error))
            return
        if self._newest is not None:
            await self._say(id=self._newest.id, dropped=True)
        self._newest = request
        self._came.set()

    async def _answer(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            request, self._newest = self._newest, None
            if request is None:
                continue
            try:
                answer = await self._worker.answer(request)
            except CamError as error:
                await self._say(id=request.id, error=str(error))
            except (Stopped, RuntimeError):  # the server ends
                return
            else:
                await self._within(self.socket.send_bytes(answer))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            await self._say(alive=True)

    async def _say(self, **what: Any) -> None:
        await self._within(self.socket.send_str(json.dumps(what, allow_nan=False)))

    async def _within(self, sending: Any) -> None:
        """A page that takes nothing is let go, so that it keeps neither memory nor turn."""
        with suppress(ConnectionError):
            try:
                await asyncio.wait_for(sending, _PATIENCE)
            except TimeoutError:
                await self.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too slow")
