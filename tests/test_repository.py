"""What holds for the repository as a whole: style, types, layers, and that the README is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def call(*words: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("words", [("check", "."), ("format", "--check", ".")], ids=["lint", "format"])
def test_ruff(words: tuple[str, ...]) -> None:
    call("-m", "ruff", *words)


def test_types() -> None:
    call("-m", "mypy")


def test_the_layer_guard_guards(tmp_path: Path) -> None:
    """Planted in the core, an import of a framework or of an adapter is refused."""
    planted = tmp_path / "camcore" / "planted.py"
    planted.parent.mkdir()
    config = ROOT / "pyproject.toml"
    for line in ("import torch", "import onnxruntime", "from camcore_onnx import OnnxBackend", "import camcore_tools"):
        planted.write_text(f"def f() -> None:\n    {line}\n")
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--config", str(config), "--select", "TID251", str(planted)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert "TID251" in done.stdout, line


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_readme_has_exactly_the_two_commands() -> None:
    commands = [s for s in snippets("sh") if "python3 -m venv" in s]
    assert len(commands) == 2
    assert commands[0].rstrip().endswith("camcore demo")
    assert commands[1].rstrip().endswith("pytest")


def test_readme_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python snippets, one after the other, on files that are made here."""
    from readme_files import make

    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    recipes = snippets("python")
    assert recipes
    for recipe in recipes:
        exec(compile(recipe, "README.md", "exec"), scope)


def test_readme_names_files_that_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_modules_stay_small() -> None:
    """One concept a file: 300 lines, with a little room for a table."""
    sizes = {
        path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("camcore", "adapters", "tools")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: n for path, n in sizes.items() if n > 400} == {}
