"""Rules of other packages: an entry point of an installed distribution, read by a fresh interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_onnx.gradients.table import GROUP, Rule, rule_of
from camcore_tools.cli import main
from onnx_graphs import Graph
from readme_files import inverse

README = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
VOLUME = '''
from camcore_onnx.gradients.table import Rule, register, rule

def volume(at, g, i):
    """Of 2x2 matrices: the adjugate, transposed."""
    turned = at.x().slice(2, 1, -3, -1).slice(3, 1, -3, -1)
    return g.unsqueeze(2, 3) * turned * at.pen.constant(SIGNS)

import numpy as np
SIGNS = np.array([[1, -1], [-1, 1]], np.float32)

def enter():
    register(Rule("Det", volume))
'''


def install(folder: Path, text: str, target: str) -> None:
    """A package ``my_package`` with a distribution that names it."""
    package, about = folder / "my_package", folder / "my_package-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rules.py").write_text(text)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nmine = {target}\n")


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )


def camcore(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call(folder, "-m", "camcore_tools.cli", *words)


def volumes(path: Path) -> Path:
    """image -> Conv -> Tanh (``layer``), (N, 4, 2, 2) -> Det -> Gemm (``scores``)."""
    g = Graph(17)
    layer = g.add("Tanh", g.add("Conv", g.image(["N", 3, 4, 4]), g.const(g.normal(4, 3, 3, 3))), to="layer")
    volume = g.add("Det", layer, name="volume")
    g.out(g.add("Gemm", volume, g.const(g.normal(5, 4)), to="scores", transB=1), ["N", 5])
    onnx.save(g.model(), path)
    return path


def test_a_function_that_enters_rules(tmp_path: Path) -> None:
    model = str(volumes(tmp_path / "m.onnx"))
    assert rule_of("", "Det") is None
    assert camcore(tmp_path, "verify", model, "--layer", "layer").returncode == 2
    install(tmp_path, VOLUME, "my_package.rules:enter")
    done = camcore(tmp_path, "verify", model, "--layer", "layer")
    assert done.returncode == 0, done.stderr
    assert re.search(r"layer +\d\.\de-\d\d .* ok", done.stdout)
    listed = camcore(tmp_path, "methods", "--ops", "Det")
    assert "family      my_package.rules" in listed.stdout
    assert re.search(r"^  my_package.rules +Det$", camcore(tmp_path, "methods", "--ops").stdout, re.MULTILINE)


def test_a_wrong_rule_of_a_package_fails_the_check(tmp_path: Path) -> None:
    install(tmp_path, VOLUME.replace("[-1, 1]]", "[-1, 2]]"), "my_package.rules:enter")
    done = camcore(tmp_path, "verify", str(volumes(tmp_path / "m.onnx")), "--layer", "layer")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (VOLUME.replace('"Det"', '"Relu"'), "the operator 'Relu' of domain '' has a gradient already"),
        ("import no_such_module", "No module named 'no_such_module'"),
        (VOLUME.replace("enter", "other"), "has no attribute 'enter'"),
    ],
)
def test_a_broken_package_is_named(text: str, why: str, tmp_path: Path) -> None:
    install(tmp_path, text, "my_package.rules:enter")
    done = camcore(tmp_path, "methods", "--ops")
    assert done.returncode == 2
    assert "the gradients of the package entry point 'mine' (my_package.rules:enter) cannot be entered" in done.stderr
    assert why in done.stderr
    assert "Update or uninstall that package" in done.stderr


SCRIPT = """
import numpy as np
from camcore_onnx import OnnxBackend
backend = OnnxBackend("inverse.onnx", device="cpu")
x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
needs = frozenset({"features", "gradients"})
seen = backend.observe(x, needs=needs, layers=["features"], classes=np.array([[1], [3]]))[0]
np.savez("found.npz", features=seen.features, gradients=seen.gradients[:, 0])
"""


def test_the_recipe_of_the_readme_in_a_package(tmp_path: Path) -> None:
    """A module is entered by being imported; the rule is compared with differences in float64."""
    recipe = re.search(r"^(from camcore_onnx.gradients.table import rule\n.*?)\n\nout = ", README, re.M | re.S)
    assert recipe is not None
    install(tmp_path, recipe[1], "my_package.rules")
    model = inverse()
    onnx.save(model, tmp_path / "inverse.onnx")
    done = call(tmp_path, "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    weight = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if tuple(t.dims) == (5, 4))
    for n, row in enumerate((1, 3)):
        x, step = found["features"][n].astype(np.float64), 1e-6
        generator = np.random.default_rng(n)
        for _ in range(5):
            d = generator.standard_normal(x.shape)
            slope = (score(x + step * d, weight[row]) - score(x - step * d, weight[row])) / (2 * step)
            assert float((found["gradients"][n] * d).sum()) == pytest.approx(slope, rel=1e-3)


def score(features: Any, weight: Any) -> float:
    return float(np.maximum(np.linalg.inv(features), 0).max(axis=(1, 2)) @ weight)


def test_without_packages_there_is_no_such_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--ops", "Det"]) == 2
    assert "no derivative is known of the operator 'Det'" in capsys.readouterr().err


def test_a_rule_of_code_without_a_name_has_a_home() -> None:
    scope: dict[str, Any] = {}
    exec("def pull(at, g, i): return g", scope)
    assert Rule("Mine", scope["pull"]).home == "another"
    known = rule_of("", "Tanh")
    assert known is not None
    assert known.home == "activations"
