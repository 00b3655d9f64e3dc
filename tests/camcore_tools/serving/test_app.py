from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from camcore_tools.page import assets
from camcore_tools.serving.clients import INFO
from live_server import asynchronous, served, status_of
from PIL import Image

Make = Callable[..., web.Application]


def config_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="config">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    config: dict[str, object] = json.loads(found[1])
    return config


@asynchronous
async def test_the_page_and_what_it_loads(application: Make) -> None:
    async with served(application(class_index=2)) as client:
        answer = await client.get("/")
        assert answer.content_type == "text/html"
        config = config_of(await answer.text())
        assert {k: config[k] for k in ("engine", "title", "classIndex", "source")} == {
            "engine": "socket",
            "title": "tiny",
            "classIndex": 2,
            "source": {"kind": "camera"},
        }
        for name, content in assets("socket").items():
            answer = await client.get(f"/{name}")
            assert await answer.read() == content
            assert answer.content_type in ("text/javascript", "text/css")
        assert "engine-socket.js" in assets("socket")


@asynchronous
async def test_a_title_is_text(application: Make) -> None:
    hostile = "</script><script>alert(1)</script>"
    async with served(application(title=hostile)) as client:
        page = await (await client.get("/")).text()
        assert "alert(1)</script>" not in page
        assert config_of(page)["title"] == hostile


@pytest.mark.parametrize(
    "path",
    ["/__init__.py", "/../serving/app.py", "/%2e%2e/live.py", "/index.html", "/page/view.js", "/video", "/nothing"],
)
@asynchronous
async def test_nothing_else_is_there(application: Make, path: str) -> None:
    async with served(application()) as client:
        assert await status_of(client, path) == 404
        assert await status_of(client, "/view.js") == 200


@asynchronous
async def test_pictures(application: Make, folder: Path) -> None:
    async with served(application(folder)) as client:
        entries = {e["name"]: e["url"] for e in await (await client.get("/pictures.json")).json()}
        whole = await client.get("/" + entries["a.png"])
        assert (whole.content_type, await whole.read()) == ("image/png", (folder / "a.png").read_bytes())
        turned = await client.get("/" + entries["c.jpg"])
        assert (turned.content_type, await turned.read()) == ("image/jpeg", (folder / "c.jpg").read_bytes())
        made = await client.get("/" + entries[str(Path("deep", "b.tiff"))])
        assert made.content_type == "image/png"
        (folder / "a.png").unlink()
        assert (await client.get("/" + entries["a.png"])).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "%2e%2e%2fsecret.png",
        "..%2Fsecret.png",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "a.png",
        "0",
        "0" * 20,
        "",
    ],
)
@asynchronous
async def test_the_folder_cannot_be_left(application: Make, folder: Path, path: str) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder.parent / "secret.png")
    async with served(application(folder)) as client:
        assert await status_of(client, f"/pictures/{path}") == 404


@asynchronous
async def test_a_damaged_picture_does_not_say_where_it_lies(application: Make, folder: Path) -> None:
    (folder / "deep" / "b.tiff").write_bytes(b"spoiled")
    async with served(application(folder)) as client:
        entries = {e["name"]: e["url"] for e in await (await client.get("/pictures.json")).json()}
        answer = await client.get("/" + entries[str(Path("deep", "b.tiff"))])
        assert answer.status == 404
        assert (await answer.text()).startswith("b.tiff: not a picture")


@asynchronous
async def test_ranges_of_a_video(application: Make, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20
    (tmp_path / "film.mp4").write_bytes(content)
    async with served(application(tmp_path / "film.mp4")) as client:
        page = config_of(await (await client.get("/")).text())
        assert page["source"] == {"kind": "video", "url": "video", "name": "film.mp4"}
        whole = await client.get("/video")
        assert (whole.status, whole.content_type, await whole.read()) == (200, "video/mp4", content)
        assert whole.headers["Accept-Ranges"] == "bytes"
        for wanted, part in (("0-9", content[:10]), ("100-", content[100:]), ("-7", content[-7:])):
            answer = await client.get("/video", headers={"Range": f"bytes={wanted}"})
            assert (answer.status, await answer.read()) == (206, part)
            start = content.index(part) if wanted[0] != "-" else len(content) - 7
            assert answer.headers["Content-Range"].startswith(f"bytes {start}-")
            assert answer.headers["Content-Range"].endswith(f"/{len(content)}")
        assert (await client.get("/video", headers={"Range": "bytes=99999-"})).status == 416


@asynchronous
async def test_another_model_or_page_is_known_by_its_greeting(application: Make, folder: Path) -> None:
    pages = [application(), application(), application(folder), application(class_index=1)]
    first, same, other, third = [app[INFO]["page"] for app in pages]
    assert first == same
    assert len({first, other, third}) == 3
