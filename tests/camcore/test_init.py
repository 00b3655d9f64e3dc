"""The public names, and what importing them must not load."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import camcore

ROOT = Path(camcore.__file__).parents[1]
HEAVY = ("torch", "torchvision", "onnx", "onnx_ir", "onnxruntime", "PIL", "scipy", "camcore_torch", "camcore_onnx")


@pytest.mark.parametrize("module", ["camcore", "camcore.figures", "camcore.results"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert done.stderr == ""


def test_every_public_name_is_there_once() -> None:
    assert len(set(camcore.__all__)) == len(camcore.__all__)
    assert all(hasattr(camcore, name) for name in camcore.__all__)


@pytest.mark.parametrize("name", camcore.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(camcore, name)
    if not callable(thing):  # the tables METHODS and PRESETS are described where they are defined
        thing = sys.modules[type(next(iter(thing.values()))).__module__]
    text = inspect.getdoc(thing)
    assert text
    assert not text.startswith(f"{name}(")  # what a dataclass or a named tuple gets when it has none


def test_nothing_public_is_left_out() -> None:
    defined = {
        name
        for name, thing in vars(camcore).items()
        if not name.startswith("_") and getattr(thing, "__module__", "").startswith("camcore.")
    }
    assert defined <= set(camcore.__all__)


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert camcore.__version__ == project["version"]
