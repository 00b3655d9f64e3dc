"""The real page in Chromium: a camera that is a file, a folder, a video, and sockets that are lost."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from camcore_tools.serving.clients import close_all
from camcore_tools.serving.running import listen
from PIL import Image

from camcore.engine import Explainer
from camcore.explanation import Explanation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the page cannot be opened")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--use-fake-device-for-media-stream"),
)
SIZE = (64, 48)
# Keeps what the page has explained where a test can ask for it.
LISTEN = """
window.seen = [];
document.addEventListener("explained", ({ detail: { result, size } }) =>
  window.seen.push({ ...result, map: [...result.map], size }));
"""
# The first text of the banner.
WATCH = """() => {
    const banner = document.getElementById("banner");
    new MutationObserver(() => (window.told ||= banner.textContent)).observe(banner, { childList: true });
}"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the camera shows: a box that moves, uncompressed."""
    path = tmp_path_factory.mktemp("camera") / "film.y4m"
    width, height = SIZE
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F20:1 Ip A1:1 C420jpeg\n" % SIZE)
        for n in range(20):
            luma = np.full((height, width), 60, np.uint8)
            luma[10:30, 2 * n : 2 * n + 20] = 200
            chroma = np.full((2, height // 2, width // 2), 128, np.uint8)
            file.write(b"FRAME\n" + luma.tobytes() + chroma.tobytes())
    return path


@pytest.fixture(scope="module")
def browser(film: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        opened = library.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages that must not complain; ``camera=False`` refuses the camera."""
    contexts, complaints = [], []

    def open_it(url: str, *, camera: bool = True, size: tuple[int, int] = (1000, 700)) -> Any:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        contexts.append(context)
        if camera:
            context.grant_permissions(["camera"], origin=url.rstrip("/"))
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.add_init_script(LISTEN)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: complaints.append(told.text) if "Content Security" in told.text else None)
        page.goto(url)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not complaints


@contextmanager
def server_of(app: web.Application) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Serve in a thread: the address, and what runs a coroutine in its loop."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    with listen("127.0.0.1", 0) as taken:

        async def begin() -> None:
            await runner.setup()
            await web.SockSite(runner, taken).start()

        def within(task: Any) -> None:
            asyncio.run_coroutine_threadsafe(task, loop).result(20)

        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            within(begin())
            yield f"http://127.0.0.1:{taken.getsockname()[1]}/", within
            within(runner.cleanup())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def until(page: Any, condition: str) -> None:
    """Ask again and again, since the page's policy forbids Playwright to wait inside."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(40)
    raise AssertionError(f"never: {condition}; the page says {page.inner_text('body')!r}")


def explained(page: Any, more_than: int = 0) -> dict[str, Any]:
    """The newest explanation, once there are more than so many."""
    until(page, f"window.seen.length > {more_than}")
    found: dict[str, Any] = page.evaluate("window.seen.at(-1)")
    return found


def count(page: Any) -> int:
    number: int = page.evaluate("window.seen.length")
    return number


def same(result: dict[str, Any], out: Explanation) -> None:
    """The numbers of Python."""
    assert result["shape"] == list(out.maps.shape[2:])
    assert np.array_equal(np.float32(result["map"]).reshape(result["shape"]), out.maps[0, 0])
    assert result["classIndex"] == out.classes[0, 0]
    chances = out.probabilities[0]
    assert [t["index"] for t in result["top"]] == np.argsort(-chances, kind="stable")[:3].tolist()
    assert [t["probability"] for t in result["top"]] == [float(chances[t["index"]]) for t in result["top"]]
    assert out.views is not None
    assert out.pictures is not None
    height, width = out.pictures[0].pixels.shape[:2]
    x0, y0, x1, y1 = out.views[0]
    view = [result["view"][name] for name in ("x", "y", "width", "height")]
    assert view == pytest.approx([x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height], abs=1e-12)


def test_the_camera_and_a_clicked_class(
    open_page: Callable[..., Any], application: Callable[..., web.Application]
) -> None:
    with server_of(application()) as (url, _):
        page = open_page(url)
        first = explained(page, 3)
        assert first["shape"] == [14, 14]
        assert len(first["top"]) == 3
        frames = page.evaluate("new Set(window.seen.map(({ map }) => map.join())).size")
        assert frames > 1  # the picture moves
        # A class name is text, whatever it says.
        assert page.title() == "tiny"
        assert "<script>document.title = 'taken'</script>" in page.inner_text("#classes")
        assert page.evaluate("document.querySelectorAll('body script').length") == 0
        last = page.locator("#top button").nth(2)
        wanted = int(last.get_attribute("data-class"))
        last.click()
        until(page, f"window.seen.at(-1).classIndex === {wanted}")
        assert page.locator("#shown").inner_text()


def test_a_refused_camera_that_is_allowed_later(
    open_page: Callable[..., Any], application: Callable[..., web.Application]
) -> None:
    with server_of(application()) as (url, _):
        page = open_page(url, camera=False)
        until(page, "document.getElementById('headline').textContent.includes('refused')")
        assert count(page) == 0
        page.context.grant_permissions(["camera"], origin=url.rstrip("/"))
        explained(page)


def test_a_folder_has_the_numbers_of_python(
    open_page: Callable[..., Any], application: Callable[..., web.Application], explainer: Explainer, folder: Path
) -> None:
    with server_of(application(folder, class_index=2)) as (url, _):
        page = open_page(url, camera=False, size=(390, 780))
        for n, name in enumerate(("a.png", "c.jpg", "deep/b.tiff")):
            result = explained(page, n)
            same(result, explainer(folder / name, 2))
            width, height = page.evaluate("(({ width, height }) => [width, height])(document.getElementById('view'))")
            pixels = explainer(folder / name).pictures[0].pixels  # type: ignore[index]
            assert width / height == pytest.approx(pixels.shape[1] / pixels.shape[0], rel=0.02)
            page.click("#after")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_dropped_picture_has_the_numbers_of_python(
    open_page: Callable[..., Any], application: Callable[..., web.Application], explainer: Explainer, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    for name, shape in (("wide.png", (61, 130, 3)), ("tall.png", (90, 17, 3)), ("clear.png", (40, 40, 4))):
        values = random.integers(0, 256, shape, dtype=np.uint8)
        if shape[2] == 4:
            values[..., 3] = np.where(values[..., 3] > 127, 255, 0)
        Image.fromarray(values).save(tmp_path / name)
    with server_of(application()) as (url, _):
        page = open_page(url, camera=False)
        page.wait_for_selector("#choices:not([hidden])")
        for n, name in enumerate(("wide.png", "tall.png", "clear.png")):
            page.set_input_files("#files", tmp_path / name)
            same(explained(page, n), explainer(tmp_path / name))


def test_a_video(
    open_page: Callable[..., Any], application: Callable[..., web.Application], folder: Path, tmp_path: Path
) -> None:
    record = """async () => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [64, 48];
        const context = canvas.getContext("2d"), recorder = new MediaRecorder(canvas.captureStream(20)), parts = [];
        recorder.ondataavailable = ({ data }) => parts.push(data);
        recorder.start();
        for (let n = 0; n < 10; n++) {
            context.fillStyle = `rgb(${20 * n} 90 120)`;
            context.fillRect(0, 0, 64, 48);
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
        return [...new Uint8Array(await new Blob(parts).arrayBuffer())];
    }"""
    with server_of(application(folder)) as (url, _):
        (tmp_path / "film.webm").write_bytes(bytes(open_page(url, camera=False).evaluate(record)))
    with server_of(application(tmp_path / "film.webm")) as (url, _):
        page = open_page(url, camera=False)
        assert explained(page, 3)["view"]["width"] < 1


def test_a_socket_that_the_server_closes(
    open_page: Callable[..., Any], application: Callable[..., web.Application]
) -> None:
    app = application()
    with server_of(app) as (url, within):
        page = open_page(url)
        explained(page, 1)
        page.evaluate(WATCH)
        for _ in range(2):
            within(close_all(app))
            explained(page, count(page) + 1)
        assert page.evaluate("window.told").startswith("The connection to camcore live is lost")
        page.wait_for_selector("#banner", state="hidden")


@contextmanager
def command(model: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = ["live", str(model), "--port", str(port), "--no-browser", "--threads", "1", "--preprocess", "unit"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "camcore_tools.cli", *words], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            yield server, re.findall(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.kill()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is not known here")
def test_a_server_that_is_killed_and_started_again(open_page: Callable[..., Any], model: Path) -> None:
    with command(model, 0) as (server, url):
        page = open_page(url)
        explained(page, 1)
        page.locator("#top button").nth(1).click()
        wanted = int(page.locator("#top button").nth(1).get_attribute("data-class"))
        until(page, "!document.getElementById('unpin').hidden")
        server.send_signal(signal.SIGKILL)
        page.wait_for_selector("#banner", state="visible")
        assert "lost" in page.inner_text("#banner")
        page.wait_for_timeout(500)
        before = count(page)
    with command(model, int(url.split(":")[2].strip("/"))) as (_, again):
        assert again == url
        assert explained(page, before + 1)["classIndex"] == wanted
        page.wait_for_selector("#banner", state="hidden")
