from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from camcore_tools import cli
from camcore_tools.cli import COMMANDS, main

import camcore


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"camcore {camcore.__version__}\n"


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"    {name}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage: camcore " + name in capsys.readouterr().out


def test_wrong_arguments_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["paint"], ["explain", "--alpha", "strong"], []):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "invalid choice: 'paint'" in told
    assert "argument --alpha" in told
    assert "camcore explain --help shows what can be given" in told
    assert len(told.splitlines()) == 3


def test_starting_imports_no_framework() -> None:
    script = (
        "import sys; from camcore_tools import cli\n"
        "try: cli.main(['explain', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnx_ir', 'scipy', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(1 if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_broken_pipe_is_no_traceback(model: Path) -> None:
    command = f"{sys.executable} -m camcore_tools.cli inspect {model} | head -n 1"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" not in done.stderr


def test_interrupt(monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from camcore_tools import inspect

    def stop(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", stop)
    assert cli.main(["inspect", str(model)]) == 130
    assert "camcore inspect: stopped" in capsys.readouterr().err


def test_an_unknown_option_is_told_by_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "model.onnx", "--paint"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told == "camcore inspect: unrecognized arguments: --paint; camcore inspect --help shows what can be given\n"


def test_help_offers_several_methods_where_they_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    offered = {}
    for name in ("live", "explain"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        offered[name] = "--method NAME[,NAME]" in capsys.readouterr().out
    assert offered == {"live": False, "explain": True}
