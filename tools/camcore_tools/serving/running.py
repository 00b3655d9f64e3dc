"""From a socket to a server, and to its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from camcore.errors import InputError
from camcore_tools.serving.clients import WORKER

__all__ = ["addresses", "is_loopback", "listen", "open_browser", "serve"]

_ADVICE = {
    errno.EADDRINUSE: "in use, perhaps by another camcore live; end that, or give --port 0 for a free one",
    errno.EACCES: "only for administrators; give a --port above 1023",
    errno.EADDRNOTAVAIL: "not an address of this machine; give --host 127.0.0.1, or 0.0.0.0 for all of its addresses",
}


def listen(host: str, port: int) -> socket.socket:
    """Take an address before the model is opened, so that one that is taken is told at once.

    Raises
    ------
    InputError
        If it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: expected 0, which takes a free one, to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: not an address of this machine ({error}); give --host 127.0.0.1") from error
    taken = socket.socket(family, kind)
    try:
        if os.name == "posix":  # elsewhere that would share a port that is in use
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(64)
    except OSError as error:
        taken.close()
        advice = _ADVICE.get(error.errno or 0, f"not to be had ({error})")
        raise InputError(f"port {port} of {host} is {advice}") from error
    return taken


def is_loopback(taken: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(taken.getsockname()[0].partition("%")[0]).is_loopback


def addresses(taken: socket.socket, prefix: str) -> list[str]:
    """What to open in a browser: on this machine, then on others where they reach it."""
    host, port = taken.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    hosts = ["127.0.0.1", _outward(address.version)] if address.is_unspecified else [str(address)]
    return [f"http://{f'[{h}]' if ':' in h else h}:{port}{prefix}/" for h in hosts if h]


def _outward(version: int) -> str:
    """The address under which the network sees this machine; nothing is sent to find it."""
    family, place = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((place, 9))
        found: str = probe.getsockname()[0]
        return found
    return ""


def open_browser(url: str) -> None:
    """Open a page where there is a screen; a browser in the terminal would take it from us."""
    if os.name == "posix" and sys.platform != "darwin" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()  # some wait for the browser to end


def serve(app: web.Application, taken: socket.socket, begun: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being explained then does not hold up the end.

    Parameters
    ----------
    app : Application
        Of :func:`make_app`.
    taken : socket
        Of :func:`listen`.
    begun : callable
        Called once pages can be had.
    """
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, taken, begun))
    _leave(app)


async def _serve(app: web.Application, taken: socket.socket, begun: Callable[[], None]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows, where KeyboardInterrupt does it
            loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, logger=_log())
    await runner.setup()
    try:
        await web.SockSite(runner, taken).start()
        begun()
        await ended.wait()
    finally:
        await runner.cleanup()


def _log() -> logging.Logger:
    """What goes wrong here. What others send that is no HTTP gets its answer, and no place on the terminal."""
    log = logging.getLogger("camcore.live")
    log.addFilter(_is_ours)
    return log


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _leave(app: web.Application) -> None:
    """A run of the network cannot be broken off: where one takes long, the process ends without it."""
    until = time.monotonic() + 1.0
    while app[WORKER].busy and time.monotonic() < until:
        time.sleep(0.02)
    if app[WORKER].busy:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
