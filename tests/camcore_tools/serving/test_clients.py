from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSCloseCode, WSMsgType, WSServerHandshakeError, web
from camcore_tools.serving import clients
from camcore_tools.serving.clients import CLIENTS, WORKER
from live_server import Gated, asked, asynchronous, connected, frame, raw, reply, served

from camcore.engine import Explainer

Make = Callable[..., web.Application]
GREY = np.full((16, 16, 3), 128, np.uint8)


@asynchronous
async def test_greeting_then_answers(application: Make, explainer: Explainer) -> None:
    async with served(application()) as client, client.ws_connect("/socket") as page:
        info = json.loads((await page.receive()).data)["info"]
        assert (info["classes"], info["size"]) == (4, [16, 16])
        for number, chosen in ((1, None), (2, 3)):
            await page.send_bytes(frame(GREY, id=number, classIndex=chosen))
            header, values = await reply(page)
            out = explainer(explainer.preprocess.values(GREY)[None], chosen)  # type: ignore[union-attr]
            assert header["id"] == number
            assert header["classIndex"] == out.classes[0, 0]
            assert np.array_equal(values, out.maps[0, 0])


@asynchronous
async def test_a_picture_of_the_folder(application: Make, explainer: Explainer, folder: Path) -> None:
    async with served(application(folder)) as client, connected(client) as page:
        entries = await (await client.get("/pictures.json")).json()
        await page.send_bytes(asked(frame="picture", picture=entries[0]["id"]))
        _, values = await reply(page)
        assert np.array_equal(values, explainer(folder / "a.png").maps[0, 0])
        for wrong in ("../a.png", "ffff"):
            await page.send_bytes(asked(id=9, frame="picture", picture=wrong))
            assert await reply(page) == {
                "id": 9,
                "error": "the folder has no such picture any more; load the list anew",
            }
        (folder / "a.png").write_bytes(b"spoiled")
        await page.send_bytes(asked(frame="picture", picture=entries[0]["id"]))
        assert (await reply(page))["error"].startswith("a.png: not a picture")


@asynchronous
async def test_without_a_folder_there_are_no_pictures(application: Make) -> None:
    async with served(application()) as client, connected(client) as page:
        await page.send_bytes(asked(frame="picture", picture="a.png"))
        assert "shows no folder" in (await reply(page))["error"]


@asynchronous
async def test_malformed_messages_are_answered_and_the_next_is_served(application: Make) -> None:
    async with served(application()) as client, connected(client) as page:
        for message in (b"", b"\0", raw(b"{"), asked(frame="rgb"), asked(b"12", frame="rgb", width=1, height=1)):
            await page.send_bytes(message)
            answer = await reply(page)
            assert answer["id"] is None
            assert answer["error"]
        await page.send_str("hello")
        assert "no header" in (await reply(page))["error"]
        await page.send_bytes(frame(GREY, classIndex=4))
        assert (await reply(page))["error"].startswith("class 4")
        await page.send_bytes(frame(GREY))
        assert (await reply(page))[0]["shape"]


@asynchronous
async def test_too_large_a_message_closes_this_socket_alone(application: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clients.MAX_MESSAGE < 13e6
    monkeypatch.setattr(clients, "MAX_MESSAGE", 2000)
    async with served(application()) as client, connected(client) as other:
        async with connected(client) as page:
            await page.send_bytes(b"\0" * 2001)
            closed = await page.receive()
            assert (closed.type, page.close_code) == (WSMsgType.CLOSE, WSCloseCode.MESSAGE_TOO_BIG)
        await other.send_bytes(frame(GREY))
        assert (await reply(other))[0]["id"] == 1


def gated(app: web.Application) -> Gated:
    """In the place of the model of an application."""
    model = Gated()
    app[WORKER].model = model  # type: ignore[assignment]
    return model


@asynchronous
async def test_older_frames_are_dropped_and_pages_take_turns(application: Make) -> None:
    app = application()
    turns = gated(app)
    async with served(app) as client, connected(client) as greedy, connected(client) as modest:
        await greedy.send_bytes(frame(GREY, id=100))
        await asyncio.to_thread(turns.begun.acquire)
        for number in range(101, 130):
            await greedy.send_bytes(frame(GREY, id=number))
        dropped = [await reply(greedy) for _ in range(101, 129)]
        assert dropped == [{"id": number, "dropped": True} for number in range(101, 129)]
        await modest.send_bytes(frame(GREY, id=200))
        while len(app[WORKER]._under_way) < 2:
            await asyncio.sleep(0.01)
        for _ in range(3):
            turns.gate.release()
        assert (await reply(greedy))[0]["id"] == 100
        assert (await reply(modest))[0]["id"] == 200
        assert (await reply(greedy))[0]["id"] == 129
    assert turns.order == [100, 200, 129]


@asynchronous
async def test_a_page_that_goes_makes_way_for_others(application: Make) -> None:
    app = application()
    turns = gated(app)
    async with served(app) as client, connected(client) as stays:
        async with connected(client) as goes:
            await goes.send_bytes(frame(GREY, id=100))
            await asyncio.to_thread(turns.begun.acquire)
        turns.gate.release()
        await stays.send_bytes(frame(GREY, id=200))
        assert (await reply(stays))[0]["id"] == 200
        assert turns.order == [200]
        assert len(app[CLIENTS]) == 1


@asynchronous
async def test_a_page_that_vanishes_without_a_word(application: Make) -> None:
    app = application()
    turns = gated(app)
    async with served(app) as client:
        async with connected(client) as gone:
            await gone.send_bytes(frame(GREY, id=100))
            await asyncio.to_thread(turns.begun.acquire)
            gone._response.connection.transport.abort()  # type: ignore[union-attr]
            while app[CLIENTS]:
                await asyncio.sleep(0.01)
        turns.gate.release()
        async with connected(client) as page:
            await page.send_bytes(frame(GREY, id=200))
            assert (await reply(page))[0]["id"] == 200


@asynchronous
async def test_signs_of_life(application: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_BEAT", 0.05)
    async with served(application()) as client, connected(client) as page:
        assert [json.loads((await page.receive()).data) for _ in range(2)] == [{"alive": True}] * 2


@asynchronous
async def test_only_so_many_pages(application: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_MOST", 1)
    async with served(application()) as client:
        async with connected(client):
            with pytest.raises(WSServerHandshakeError) as refused:
                await client.ws_connect("/socket")
            assert refused.value.status == 503
        async with connected(client) as page:
            await page.send_bytes(frame(GREY))
            assert await reply(page)


@asynchronous
async def test_a_page_that_takes_nothing_is_let_go(application: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_PATIENCE", 0.2)
    app = application()
    async with served(app) as client, connected(client) as page:
        (held,) = app[CLIENTS]

        async def never(*_: Any) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(held.socket, "send_bytes", never)
        await page.send_bytes(frame(GREY))
        closed = await page.receive()
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, WSCloseCode.POLICY_VIOLATION)


@asynchronous
async def test_the_end_of_the_server_is_told(application: Make) -> None:
    app = application()
    async with served(app) as client, connected(client) as page:
        closing = asyncio.create_task(clients.close_all(app))
        closed = await page.receive()
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, WSCloseCode.GOING_AWAY)
        await closing


@asynchronous
async def test_a_request_that_is_no_socket(application: Make) -> None:
    async with served(application()) as client:
        assert (await client.get("/socket")).status == 400
        async with connected(client) as page:
            await page.send_bytes(frame(GREY))
            assert await reply(page)
