from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser

import pytest
from camcore_tools.serving.running import addresses, is_loopback, listen, open_browser

from camcore.errors import InputError


def test_a_free_port_of_this_machine() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0
        assert is_loopback(taken)
        assert addresses(taken, "") == [f"http://127.0.0.1:{port}/"]


def test_all_addresses_of_this_machine() -> None:
    with listen("0.0.0.0", 0) as taken:
        port = taken.getsockname()[1]
        assert not is_loopback(taken)
        first, *others = addresses(taken, "/token")
        assert first == f"http://127.0.0.1:{port}/token/"
        assert all(other.endswith(f":{port}/token/") for other in others)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_sixth_version() -> None:
    try:
        taken = listen("::1", 0)
    except InputError:
        pytest.skip("no IPv6 here")
    with taken:
        assert is_loopback(taken)
        assert addresses(taken, "") == [f"http://[::1]:{taken.getsockname()[1]}/"]


def test_a_port_that_is_taken_is_named_with_the_cure() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port} of 127.0.0.1 is in use, .* give --port 0 for a free one$"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("203.0.113.7", 0, "port 0 of 203.0.113.7 is not an address of this machine; give --host 127.0.0.1"),
        ("no host", 0, r"--host no host: not an address of this machine \(.*\); give --host 127.0.0.1"),
        ("127.0.0.1", 65536, "--port 65536: expected 0, which takes a free one, to 65535"),
        ("127.0.0.1", -1, "--port -1: expected 0"),
    ],
)
def test_what_cannot_be_listened_at(host: str, port: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        listen(host, port)


def test_a_browser_is_opened_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    urls: list[str] = []

    def open_it(url: str) -> bool:
        urls.append(url)
        opened.set()
        return True

    monkeypatch.setattr(webbrowser, "open", open_it)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    open_browser("http://localhost/1")
    monkeypatch.setenv("DISPLAY", ":0")
    open_browser("http://localhost/2")
    assert opened.wait(5)
    assert urls == ["http://localhost/2"]


BUSY = """
import sys, threading, time
from camcore_tools.serving import app, guard, media, running

class Slow:
    info = {}
    def answer(self, request, find, stopped):
        print("begun", flush=True)
        time.sleep(60)

taken = running.listen("127.0.0.1", 0)
application = app.make_app(Slow(), media.Camera(), guard.Guard("127.0.0.1"), title="slow")
running.serve(application, taken, lambda: print(taken.getsockname()[1], flush=True))
print("unreachable while a run goes on")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_does_not_wait_for_a_long_run(number: int) -> None:
    from aiohttp import ClientSession
    from live_server import asked, asynchronous

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())

        @asynchronous
        async def ask() -> None:
            async with ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/socket") as page:
                await page.receive()
                await page.send_bytes(asked(b"123", frame="rgb", width=1, height=1))
                assert server.stdout is not None
                assert server.stdout.readline() == "begun\n"
                server.send_signal(number)
                assert (await page.receive()).data == 1001

        ask()
        begun = time.monotonic()
        assert server.wait(30) == 0
        assert time.monotonic() - begun < 20
        assert server.stdout.read() == ""


IDLE = BUSY.partition('print("unreachable')[0]


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise here")
def test_what_is_no_http_is_answered_and_not_told() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", IDLE], text=True, env=environment, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        port = int(server.stdout.readline())
        for sent in (
            b"\x16\x03\x01\x1b[31m\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(sent)
                assert client.recv(1 << 16).split()[1] in (b"400", b"403")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert server.stderr.read() == ""
