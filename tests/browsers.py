"""Chromium for the tests of pages, a web server for folders, and a camera that is a file."""

from __future__ import annotations

import functools
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--use-fake-device-for-media-stream"),
)


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A headless browser; the test is skipped, with the reason, where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page cannot be opened")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        yield browser
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    headers_too: Mapping[str, str] = {}

    def end_headers(self) -> None:
        for name, value in self.headers_too.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path, **headers: str) -> Iterator[str]:
    """The address at which ``python -m http.server`` would show a folder; ``_`` in names of headers is ``-``."""
    kind = type("Handler", (_Quiet,), {"headers_too": {k.replace("_", "-"): v for k, v in headers.items()}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(page: Any, expression: str, seconds: float = 60) -> Any:
    """The value of an expression of the page, once it is true. Not ``wait_for_function``, which needs eval."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = page.evaluate(f"() => ({expression})")
        if found:
            return found
        page.wait_for_timeout(30)
    raise AssertionError(f"{expression} did not come true; the page says: {page.inner_text('body')[:600]}")


def write_film(path: Path, frames: NDArray[np.uint8]) -> Path:
    """(N, H, W) grey frames as uncompressed video, which Chromium takes for a camera."""
    height, width = frames.shape[1:]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F20:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + frame.tobytes() + bytes([128]) * (height // 2 * (width // 2) * 2))
    return path
