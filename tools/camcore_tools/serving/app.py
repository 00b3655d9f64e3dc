"""The routes of the server: the page, its stream, its socket."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from camcore.errors import InputError
from camcore_tools.page import TYPES, assets, document
from camcore_tools.serving.clients import CLIENTS, INFO, WORKER, close_all, converse
from camcore_tools.serving.explaining import Model, Worker
from camcore_tools.serving.guard import Guard
from camcore_tools.serving.media import PictureFolder, Source, Video, shown_picture

__all__ = ["make_app"]


def make_app(
    model: Model, source: Source, guard: Guard, *, title: str, class_index: int | None = None
) -> web.Application:
    """The application that one model and one source make.

    Parameters
    ----------
    model : Model
    source : Source
    guard : Guard
    title : str
        Shown on the page.
    class_index : int, optional
        The class that the page begins with; the best one where absent.
    """
    app = web.Application(client_max_size=1024)
    guard.install(app)
    worker = Worker(model, source.find if isinstance(source, PictureFolder) else _no_pictures)
    config = {"engine": "socket", "title": title, "classIndex": class_index, "source": source.config()}
    page = document(config).encode()
    # A page that finds another one here when its connection is back loads itself anew.
    info = {**model.info, "page": hashlib.sha256(page + repr(model.info).encode()).hexdigest()}
    app[WORKER], app[CLIENTS], app[INFO] = worker, set(), info
    routes = {**_files({"": page, **assets("socket")}), "/socket": converse, **_stream(source)}
    for path, handler in routes.items():
        app.router.add_get(guard.prefix + path, handler)
    app.on_shutdown.append(close_all)
    app.on_cleanup.append(_end)
    return app


async def _end(app: web.Application) -> None:
    app[WORKER].close()


def _no_pictures(name: str) -> Path:
    raise InputError("this server shows no folder; send the pixels of the picture")


def _files(contents: Mapping[str, bytes]) -> dict[str, Handler]:
    """The document and what lies beside it."""
    return {f"/{name}": _file(content, TYPES[Path(name).suffix or ".html"]) for name, content in contents.items()}


def _file(content: bytes, kind: str) -> Handler:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(body=content, headers={"Content-Type": kind})

    return serve


def _stream(source: Source) -> dict[str, Handler]:
    """What the source has to serve."""
    if isinstance(source, Video):

        async def video(request: web.Request) -> web.StreamResponse:
            return web.FileResponse(source.path, headers={"Content-Type": source.kind})

        return {"/video": video}
    if not isinstance(source, PictureFolder):
        return {}

    async def listing(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(source.listing))

    async def picture(request: web.Request) -> web.StreamResponse:
        try:
            shown, kind = await asyncio.to_thread(_shown, source, request.match_info["id"])
        except InputError as error:
            raise web.HTTPNotFound(text=str(error)) from error
        if isinstance(shown, Path):
            return web.FileResponse(shown, headers={"Content-Type": kind})
        return web.Response(body=shown, content_type=kind)

    return {"/pictures.json": listing, "/pictures/{id:[0-9a-f]+}": picture}


def _shown(source: PictureFolder, name: str) -> tuple[bytes | Path, str]:
    return shown_picture(source.find(name))
