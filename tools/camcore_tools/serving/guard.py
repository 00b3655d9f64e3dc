"""Who may speak with the server, and what its pages may do.

A page of another site must neither open the WebSocket (cross-site hijacking) nor reach the server under a name of its
own that leads to this machine (DNS rebinding). So the name in ``Host`` must be one of this machine, ``Origin`` must be
the server itself, and where others on the network can reach the server, the address holds a random token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from camcore_tools.page import POLICY

__all__ = ["Guard"]

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Guard:
    """The door of the server.

    Parameters
    ----------
    host : str
        The address that the server listens at.
    open : bool
        Whether that is one that other machines reach.
    token : str
        The first part of every path; none where empty.
    """

    host: str
    open: bool = False
    token: str = ""
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        own = {*_LOOPBACK, self.host.lower()}
        if self.open:
            name = socket.gethostname().lower()
            own |= {name, f"{name.partition('.')[0]}.local", socket.getfqdn().lower()}
        object.__setattr__(self, "names", frozenset(own))

    @property
    def prefix(self) -> str:
        """Of every path."""
        return f"/{self.token}" if self.token else ""

    def install(self, app: web.Application) -> None:
        """Stand before all handlers, and put the headers on whatever leaves."""
        app.middlewares.append(self._middleware())
        app.on_response_prepare.append(_protect)

    def _middleware(self) -> Middleware:
        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            why = self.objection(request)
            if why:
                raise web.HTTPForbidden(text=why)
            return await handler(request)

        return check

    def objection(self, request: web.BaseRequest) -> str:
        """Why a request is refused; empty where it is not."""
        if not self._is_own(request.headers.get("Host", "")):
            return "this name is not one of the machine that camcore live runs on; open the address that it printed"
        if not _same_origin(request):
            return "another site asked; only the page of camcore live may"
        given = request.path.removeprefix("/").partition("/")[0].encode(errors="replace")
        if self.token and not hmac.compare_digest(given, self.token.encode()):
            return "the token in the address is missing or old; open the address that camcore live printed"
        return ""

    def _is_own(self, host: str) -> bool:
        """Names can be made to lead anywhere by others, numbers cannot. Ports differ where one is forwarded."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        return name in self.names or (self.open and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(request: web.BaseRequest) -> bool:
    """Whether the page itself asks, or somebody without a page: an address that is typed in, or a program."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower().partition("://")[2] != request.headers["Host"].lower():
        return False
    site, mode = (request.headers.get(f"Sec-Fetch-{name}", "") for name in ("Site", "Mode"))
    return site in ("", "none", "same-origin") or (mode == "navigate" and request.method == "GET")


async def _protect(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
