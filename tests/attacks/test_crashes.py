"""ONNX Runtime that dies, hangs or eats memory: `verify` and `export` tell it, and go on living."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import onnx
import onnxruntime  # noqa: F401 - the real one, before a fake lies in front of it
import pytest
from camcore_onnx import export
from camcore_tools.cli import main
from onnx_graphs import classifier, onnx_bytes

import camcore
from camcore.errors import CrashError, InputError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# In front of the real one on the path: of its sessions those on models of an evil producer end badly.
FAKE = """
import os, signal, sys, time
here = os.path.dirname(os.path.dirname(__file__))
sys.path.remove(here)
del sys.modules["onnxruntime"]
import onnxruntime as real
Real = real.InferenceSession

def evil(model):
    data = open(model, "rb").read() if isinstance(model, str) else model
    return b"evil" in data

class Session(Real):
    def __init__(self, model, *rest, **named):
        if evil(model):
            how = os.environ["CAMCORE_TEST_END"]
            if how == "hang":
                time.sleep(600)
            if how == "eat":
                kept = [bytearray(1 << 24) for _ in range(4096)]
            os.kill(os.getpid(), getattr(signal, how))
        super().__init__(model, *rest, **named)

real.InferenceSession = Session
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good and an evil model, and the fake on the path of other processes."""
    (tmp_path / "fake" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "fake" / "onnxruntime" / "__init__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    model = classifier(size=(6, 6))
    (tmp_path / "good.onnx").write_bytes(onnx_bytes(model))
    model.graph.node[1].name = "evil"
    (tmp_path / "evil.onnx").write_bytes(onnx_bytes(model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAMCORE_SANDBOX")
    return tmp_path


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ("SIGSEGV", "ONNX Runtime crashed (SIGSEGV) while loading evil.onnx."),
        ("SIGABRT", "ONNX Runtime crashed (SIGABRT) while loading evil.onnx."),
        ("hang", "stopped after 12 seconds while loading evil.onnx: it hangs, or needs longer."),
        ("eat", "more memory than the limit of 0.7 GiB was asked for while loading evil.onnx."),
    ],
)
def test_verify(end, text, planted, monkeypatch, capsys):
    if end == "eat" and sys.platform != "linux":
        pytest.skip("limits of memory hold on Linux")
    monkeypatch.setenv("CAMCORE_TEST_END", end)
    monkeypatch.setenv("CAMCORE_SANDBOX_GB", "0.7")
    if end == "hang":
        monkeypatch.setenv("CAMCORE_SANDBOX_SECONDS", "12")
    assert main(["verify", "good.onnx", "evil.onnx"]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(f"camcore verify: {text}")


def test_verify_of_one_file(planted, monkeypatch, capsys):
    monkeypatch.setenv("CAMCORE_TEST_END", "SIGILL")
    assert main(["verify", "evil.onnx"]) == 2
    assert "camcore verify: ONNX Runtime crashed (SIGILL) while " in capsys.readouterr().err


def test_a_healthy_pair_is_verified_apart(planted, capfd):
    assert main(["verify", "good.onnx", "good.onnx", "--json"]) == 0
    streams = capfd.readouterr()
    assert json.loads(streams.out)["passed"]
    assert streams.err == ""


def test_export(planted, monkeypatch, capsys):
    monkeypatch.setenv("CAMCORE_TEST_END", "SIGSEGV")
    assert main(["export", "evil.onnx", "-o", "out.onnx"]) == 2
    assert "camcore export: ONNX Runtime crashed (SIGSEGV) while verifying " in capsys.readouterr().err


def test_export_in_python(planted, monkeypatch):
    monkeypatch.setenv("CAMCORE_TEST_END", "SIGABRT")
    with pytest.raises(CrashError, match=r"crashed \(SIGABRT\) while exporting the model.*damaged or hostile"):
        export(onnx.load("evil.onnx"), "out.onnx", embed=True)
    report = export("good.onnx", "out.onnx", embed=True)
    assert report.passed
    assert camcore.explainer("out.onnx", device="cpu").backend.input.size == (6, 6)


def test_no_sandbox_where_none_is_wanted(planted, monkeypatch, capsys):
    """In this process the real ONNX Runtime is loaded, which has nothing against the file."""
    assert main(["verify", "good.onnx", "evil.onnx", "--no-sandbox"]) == 0
    assert main(["export", "evil.onnx", "-o", "out.onnx", "--no-sandbox"]) == 0
    monkeypatch.setenv("CAMCORE_SANDBOX", "off")
    assert main(["verify", "good.onnx", "evil.onnx"]) == 0


def test_errors_come_through_as_they_are(planted):
    with pytest.raises(InputError, match=r"^nowhere\.onnx: no such file; expected an \.onnx file$"):
        export("nowhere.onnx", "out.onnx")
    with pytest.raises(InputError, match="no such folder; make it first"):
        export("good.onnx", "nowhere/out.onnx")
