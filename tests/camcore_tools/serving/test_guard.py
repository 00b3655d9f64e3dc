from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError, web
from camcore_tools.serving.guard import Guard
from live_server import asynchronous, connected, served, status_of

Make = Callable[..., web.Application]
OUTSIDE = Guard("0.0.0.0", open=True, token="secret-token")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:8400", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:8400", "[::1]:8400", "localhost."),
    ],
)
@asynchronous
async def test_names_of_this_machine(application: Make, host: str) -> None:
    async with served(application()) as client:
        assert (await client.get("/", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8400", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.5", ""),
        *("localhost:8400@evil.example", "evil.example/localhost", "local host", "127.0.0.1:", "0.0.0.0", "[::2]"),
    ],
)
@asynchronous
async def test_other_names_are_refused(application: Make, folder: Path, host: str) -> None:
    async with served(application(folder)) as client:
        for path in ("/", "/pictures.json", "/socket", "/nothing"):
            answer = await client.get(path, headers={"Host": host})
            assert answer.status == 403
            assert "not one of the machine" in await answer.text()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},  # another program of this machine
        {"Origin": "http://[broken"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},  # another port of this machine
    ],
)
@asynchronous
async def test_other_sites_are_refused(application: Make, folder: Path, headers: Mapping[str, str]) -> None:
    async with served(application(folder)) as client:
        for path in ("/pictures.json", "/view.js"):
            answer = await client.get(path, headers=headers)
            assert answer.status == 403
            assert "another site asked" in await answer.text()
        with pytest.raises(WSServerHandshakeError) as refused:
            await client.ws_connect("/socket", headers=headers)
        assert refused.value.status == 403


@asynchronous
async def test_the_page_itself_and_links_to_it_are_served(application: Make) -> None:
    async with served(application()) as client:
        own = f"http://{client.host}:{client.port}"
        headers = {"Origin": own, "Sec-Fetch-Site": "same-origin"}
        assert (await client.get("/view.js", headers=headers)).status == 200
        async with client.ws_connect("/socket", headers=headers) as page:
            assert "info" in await page.receive_json()
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert (await client.get("/", headers=link)).status == 200


@asynchronous
async def test_headers_on_whatever_leaves(application: Make, folder: Path, tmp_path: Path) -> None:
    async with served(application(folder)) as client:
        picture = (await (await client.get("/pictures.json")).json())[0]["url"]
        refused = await client.get("/", headers={"Host": "evil.example"})
        answers = [await client.get(path) for path in ("/", "/style.css", f"/{picture}", "/nothing")]
        for answer in (refused, *answers):
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe-inline" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "Access-Control-Allow-Origin" not in answer.headers


@asynchronous
async def test_where_others_reach_it_a_token_is_asked_for(application: Make, folder: Path) -> None:
    async with served(application(folder, OUTSIDE)) as client:
        for path in (
            "/",
            "/pictures.json",
            "/secret-toke/",
            "/secret-tokenx/",
            "/SECRET-TOKEN/",
            "/%FF/",
        ):
            answer = await client.get(path, allow_redirects=False)
            assert answer.status == 403
            assert "token in the address is missing or old" in await answer.text()
        for path in ("//secret-token/", "/%", "/\xff/"):
            assert await status_of(client, path) in (400, 403)
        with pytest.raises(WSServerHandshakeError):
            await client.ws_connect("/socket")
        assert (await client.get("/secret-token/")).status == 200
        assert (await client.get("/secret-token/pictures.json")).status == 200
        async with connected(client, "/secret-token/socket"):
            pass


@asynchronous
async def test_where_others_reach_it_numbers_and_the_names_of_the_machine_are_good(application: Make) -> None:
    names = [socket.gethostname(), "192.168.1.5:8400", "[fe80::1]:8400", "localhost"]
    async with served(application(guard=OUTSIDE)) as client:
        for name in names:
            assert (await client.get("/secret-token/", headers={"Host": name})).status == 200
        assert (await client.get("/secret-token/", headers={"Host": "evil.example"})).status == 403


@asynchronous
async def test_only_reading(application: Make) -> None:
    async with served(application()) as client:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await client.request(method, "/")).status == 405
        assert (await client.head("/")).status == 200


def test_the_prefix() -> None:
    assert Guard("127.0.0.1").prefix == ""
    assert OUTSIDE.prefix == "/secret-token"
    assert isinstance(OUTSIDE.names, frozenset)


def test_what_is_no_path(explained: Any) -> None:
    from aiohttp.test_utils import make_mocked_request

    asked = make_mocked_request("OPTIONS", "*", headers={"Host": "localhost"})
    assert "token" in OUTSIDE.objection(asked)
