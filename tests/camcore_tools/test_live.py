from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camcore_tools.cli import main
from camcore_tools.serving import running
from PIL import Image


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The applications that were served: not at all, only begun."""
    apps: list[Any] = []

    def serve(app: Any, taken: socket.socket, begun: Callable[[], None]) -> None:
        begun()
        apps.append(app)

    monkeypatch.setattr(running, "serve", serve)
    return apps


def routes(app: Any) -> set[str]:
    return {resource.canonical for resource in app.router.resources()}


def live(model: Path, *words: str) -> int:
    return main(["live", str(model), "--port", "0", "--no-browser", "--preprocess", "unit", "--threads", "1", *words])


def test_what_it_says(model: Path, served: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert live(model) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert re.fullmatch(r"camcore live: http://127\.0\.0\.1:\d+/   \(Ctrl-C ends it\)", lines[0])
    assert lines[1] == "  model   tiny.onnx, 4 classes, input 16 x 16"
    assert re.fullmatch(r"  method  cam at relu on cpu, \S+ m?s for the first picture", lines[2])
    assert lines[3] == "  source  camera (the browser asks for it)"
    assert len(lines) == 4
    assert max(map(len, lines)) < 80
    assert told.err == ""
    assert {"/", "/socket", "/view.js", "/engine-socket.js"} <= routes(served[0])
    assert not {"/video", "/pictures.json"} & routes(served[0])


def test_a_folder_and_a_method(
    model: Path, picture: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture.parent / "photos"
    folder.mkdir()
    picture.rename(folder / "a.png")
    assert live(model, "--source", str(folder), "--method", "layercam") == 0
    told = capsys.readouterr().out
    assert "layercam at relu" in told
    assert "1 picture of" in told
    assert "/pictures.json" in routes(served[0])


@pytest.mark.parametrize(("text", "index"), [("top1", None), ("2", 2), ("third", 2)])
def test_a_class_to_begin_with(model: Path, served: list[Any], tmp_path: Path, text: str, index: int | None) -> None:
    from live_server import asynchronous
    from live_server import served as reached

    (tmp_path / "names.txt").write_text("first\nsecond\nthird\nfourth\n")
    assert live(model, "--labels", str(tmp_path / "names.txt"), "--classes", text) == 0

    @asynchronous
    async def look() -> None:
        async with reached(served[0]) as client:
            page = await (await client.get("/")).text()
            assert f'"classIndex":{"null" if index is None else index},' in page

    look()


def test_the_network_is_warned_of_and_gets_a_token(
    model: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert live(model, "--host", "0.0.0.0") == 0
    assert live(model, "--host", "0.0.0.0") == 0
    told = capsys.readouterr()
    tokens = re.findall(r"live: http://127\.0\.0\.1:\d+/([\w-]{22})/", told.out)
    assert len(set(tokens)) == 2
    assert f"/{tokens[0]}/socket" in routes(served[0])
    assert "/socket" not in routes(served[0])
    assert "warning: anybody on the network who has the address below can send pictures to this model" in told.err
    assert "ssh -L 8400:127.0.0.1:8400" in told.err


def test_the_folder_is_part_of_the_warning(
    model: Path, picture: Path, served: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert live(model, "--host", "0.0.0.0", "--source", str(picture)) == 0
    told = capsys.readouterr().err
    assert "can send pictures to this model and see those of --source" in told
    assert "ssh" not in told
    assert len(served) == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--source", "nothing"], "--source nothing: no such file or folder; expected camera, a video or a folder"),
        (["--method", "cam,gradcam"], "--method cam,gradcam: the page shows one method at a time; give one"),
        (["--classes", "top3"], "--classes top3: the page shows one class at a time; give an index or a name"),
        (["--classes", "9"], "class 9"),
        (["--port", "70000"], "--port 70000: expected 0"),
        (["--method", "camm"], "'cam'"),
    ],
)
def test_what_cannot_be_shown(
    model: Path, served: list[Any], capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert live(model, *words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("camcore live: ")
    assert text in told.err
    assert told.out == ""
    assert not served


def test_a_port_that_is_taken_is_told_before_the_model_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["live", "no-such.onnx", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"camcore live: port {port} of 127.0.0.1 is in use, perhaps by another camcore live; end that, or give "
        "--port 0 for a free one\n"
    )


def test_without_aiohttp(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["live", str(model)]) == 2
    told = capsys.readouterr().err
    assert "camcore live needs aiohttp" in told
    assert told.endswith("pip install 'camcore[live]'\n")


def test_help_needs_no_aiohttp() -> None:
    script = "import sys; from camcore_tools import live; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_torch_module(served: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_factory.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [
        "live",
        "--torch",
        "tiny_factory:make",
        "--size",
        "16",
        "--preprocess",
        "unit",
        "--port",
        "0",
        "--no-browser",
    ]
    assert main(words) == 0
    assert len(served) == 1


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise here")
def test_ctrl_c_ends_it(model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    words = ["live", str(model), "--source", str(tmp_path / "a.png"), "--port", "0", "--no-browser", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "camcore_tools.cli", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        url = re.findall(r"http://\S+", server.stdout.readline())[0]
        with urllib.request.urlopen(url + "pictures.json", timeout=10) as answer:
            assert b'"a.png"' in answer.read()
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert (
            server.stderr.read()
            == "note: the model does not say how pictures become its input; taking --preprocess imagenet\n"
        )
