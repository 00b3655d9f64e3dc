"""A function in a process of its own: what it answers, and how it may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from camcore_onnx.checking.sandbox import run_apart, run_here, wanted

from camcore.errors import CrashError, HeadNotFound

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory hold on Linux")


@pytest.fixture
def crash_text() -> Any:
    def text(function: str, *arguments: Any, **limits: Any) -> str:
        with pytest.raises(CrashError) as caught:
            run_apart(f"sandbox_victims:{function}", *arguments, **limits)
        return str(caught.value)

    return text


class TestAnswers:
    def test_the_answer_and_the_messages(self, capfd):
        heard: list[dict[str, Any]] = []
        found = run_apart("sandbox_victims:echo", 1, "two", [3.5, None], hear=heard.append)
        assert found["arguments"] == [1, "two", [3.5, None]]
        assert found["pid"] != os.getpid()
        assert heard == [{"step": 1}, {"doing": "thinking"}]
        out, err = capfd.readouterr()
        assert out == ""
        assert err == "said on stdout\n"

    def test_the_same_here(self, capsys):
        heard: list[dict[str, Any]] = []
        found = run_here("sandbox_victims:echo", 1, hear=heard.append)
        assert (found["arguments"], found["pid"]) == ((1,), os.getpid())
        assert heard == [{"step": 1}, {"doing": "thinking"}]

    def test_it_imports_what_this_process_imports_but_not_from_the_current_folder(self, tmp_path, monkeypatch):
        (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
        monkeypatch.chdir(tmp_path)
        found = run_apart("sandbox_victims:echo")
        assert "" not in found["path"]
        assert str(tmp_path) not in found["path"]
        assert found["path"] == [p for p in sys.path if p]

    def test_what_is_large_goes_through(self):
        words = ["word" * 1000] * 1000
        assert run_apart("sandbox_victims:exchange", words) == [w.upper() for w in words]

    @pytest.mark.parametrize(
        ("kind", "expected", "text"),
        [
            ("HeadNotFound", HeadNotFound, r"^no head here$"),
            ("OSError", OSError, r"the disk is full"),
            ("KeyError", RuntimeError, r"(?s)'a bug'.*In the process that ran apart:.*in refuse"),
            ("bad_alloc", CrashError, r"^more memory than the limit of .* GiB was asked for\. .*CAMCORE_SANDBOX_GB"),
        ],
    )
    def test_what_is_raised_there_is_raised_here(self, kind, expected, text):
        with pytest.raises(expected, match=text):
            run_apart("sandbox_victims:refuse", kind)


class TestDeaths:
    @pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL"])
    def test_a_crash(self, name, crash_text):
        text = crash_text("crash", name)
        assert text.startswith(
            f"ONNX Runtime crashed ({name}) while loading evil.onnx. It said last: terminate called: evil [31m words. "
        )
        assert "nothing else was harmed" in text
        assert "try another version of onnxruntime" in text

    def test_a_real_segmentation_fault(self, crash_text):
        assert crash_text("crash", "read address 0").startswith(
            "ONNX Runtime crashed (SIGSEGV) while loading evil.onnx. It ran"
        )

    def test_no_answer(self, tmp_path, crash_text):
        assert crash_text("leave", str(tmp_path / "mark")).startswith("ONNX Runtime crashed (exit status 7). It ran")
        assert (tmp_path / "mark").exists()

    def test_killed_from_outside(self, crash_text):
        assert crash_text("crash", "SIGKILL").startswith("killed from outside (SIGKILL) while loading evil.onnx: most")

    def test_it_hangs(self, crash_text):
        start = time.monotonic()
        assert crash_text("hang", seconds=6.0).startswith(
            "stopped after 6 seconds while loading slow.onnx: it hangs, or needs longer. If you trust the file, raise "
            "the limit by the environment variable CAMCORE_SANDBOX_SECONDS"
        )
        assert time.monotonic() - start < 60

    def test_the_limits_of_the_environment(self, monkeypatch, crash_text):
        monkeypatch.setenv("CAMCORE_SANDBOX_SECONDS", "1.5")
        assert crash_text("hang").startswith("stopped after 2 seconds")

    @LINUX
    def test_it_eats_memory(self, crash_text, monkeypatch):
        text = "more memory than the limit of 0.5 GiB was asked for while loading big.onnx. If you trust the file"
        assert crash_text("eat", 2 << 30, memory=1 << 29).startswith(text)
        monkeypatch.setenv("CAMCORE_SANDBOX_GB", "0.5")
        assert crash_text("eat", 2 << 30).startswith(text)
        assert run_apart("sandbox_victims:eat", 1 << 26, memory=1 << 29) == 4

    @LINUX
    def test_processor_time(self, monkeypatch, crash_text):
        """As if its parent were not there to look at the clock."""
        monkeypatch.setattr(os, "cpu_count", lambda: 1 / 40)
        assert crash_text("burn", seconds=20.0).startswith("stopped while counting: its processor time was used up")


class TestNobodyIsLeftBehind:
    def test_it_ends_with_its_parent(self, tmp_path):
        mark = tmp_path / "mark"
        script = f"import sys; sys.path[:] = {sys.path!r}\nfrom camcore_onnx.checking.sandbox import run_apart\n"
        script += f"run_apart('sandbox_victims:wait_for_the_end', {str(mark)!r})"
        parent = subprocess.Popen([sys.executable, "-c", script])
        child = int(_appears(mark))
        parent.kill()
        parent.wait()
        for _ in range(100):
            if not _lives(child):
                return
            time.sleep(0.1)
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child outlived its parent")

    def test_an_interruption_ends_it(self, tmp_path):
        mark = tmp_path / "mark"

        def interrupt(message: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_apart("sandbox_victims:mark_and_wait", str(mark), hear=interrupt)
        assert not _lives(int(_appears(mark)))


def _appears(mark: Path) -> str:
    for _ in range(200):
        if mark.exists() and mark.read_text():
            return mark.read_text()
        time.sleep(0.1)
    raise AssertionError("it never started")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").is_dir() else True


class TestWanted:
    def test_by_default(self, monkeypatch):
        monkeypatch.delenv("CAMCORE_SANDBOX", raising=False)
        assert wanted()
        assert wanted(True)
        assert not wanted(False)

    def test_switched_off(self, monkeypatch):
        monkeypatch.setenv("CAMCORE_SANDBOX", "off")
        assert not wanted()
        assert wanted(True)

    def test_no_interpreter(self, monkeypatch):
        monkeypatch.delenv("CAMCORE_SANDBOX", raising=False)
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        assert not wanted()
