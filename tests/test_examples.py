"""The recipes for deployed files give the library's numbers: the one in C++ is compiled here, the one in Python run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import camcore_onnx
import numpy as np
import onnx_graphs
import onnxruntime_headers
import pytest
from camcore_tools.web.ort_web import VERSION
from numpy.typing import NDArray

import camcore

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "cpp" / "heatmap.cpp"
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
LABELS = ["plain", 'the "quoted" one', "back\\slash", "größe, 木", "[1]"]
LINE = re.compile(r"(.*?)(?: \((\d+)\))?, score (\S+), peak at pixel (\d+), (\d+)")
SHAPE = (1, 3, 24, 36)


@dataclass
class Found:
    """A line of what a recipe prints."""

    label: str
    index: int
    score: float
    x: int
    y: int


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ recipe, compiled as a user would."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    include, library = onnxruntime_headers.include_folder(), onnxruntime_headers.library()
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    words = [compiler, *FLAGS, "-isystem", include, RECIPE, f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    done = subprocess.run(
        [*map(str, words), "-o", str(folder / "heatmap")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "heatmap"


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder with onnxruntime-web for Node, installed once into a cache."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node and npm are not installed")
    home = onnxruntime_headers.cache().with_name(f"onnxruntime-web-{VERSION}")
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as name:
            words = ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", name]
            done = call(*words, f"onnxruntime-web@{VERSION}")
            if done.returncode:
                pytest.skip(f"npm could not install onnxruntime-web {VERSION}: {done.stderr.strip()[:200]}")
            if not home.exists():  # another worker may have been faster
                shutil.copytree(name, home)
    return home


def call(*words: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, env=environment)


def read(done: subprocess.CompletedProcess[str]) -> list[Found]:
    assert done.returncode == 0, done.stderr
    found = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    return [Found(m[1], int(m[2] or m[1].split()[-1]), float(m[3]), int(m[4]), int(m[5])) for m in found if m]


def embedded(folder: Path, labels: list[str] | None = LABELS, *, model: Any = None, **options: Any) -> Path:
    path = folder / "model.cam.onnx"
    plain = onnx_graphs.classifier(size=SHAPE[2:]) if model is None else model
    path.write_bytes(camcore_onnx.embed_cam(plain, labels=labels, **options).SerializeToString())
    return path


def expected(path: Path, images: NDArray[np.float32], count: int = 5) -> list[Found]:
    """What the library itself says, and the middle of the hottest cell in pixels of the input."""
    out = camcore.explainer(path)(images, f"top{count}")
    found = []
    for index, map_ in zip(out.classes[0].tolist(), out.maps[0], strict=True):
        row, column = divmod(int(map_.argmax()), map_.shape[1])
        cell = [images.shape[2] / map_.shape[0], images.shape[3] / map_.shape[1]]
        x, y = int((column + 0.5) * cell[1]), int((row + 0.5) * cell[0])
        found.append(Found(out.label(index), index, float(out.scores[0, index]), x, y))
    return found


def agree(found: list[Found], wanted: list[Found], atol: float = 1e-6) -> None:
    assert [f.label for f in found] == [w.label for w in wanted]
    assert [(f.index, f.x, f.y) for f in found] == [(w.index, w.x, w.y) for w in wanted]
    np.testing.assert_allclose([f.score for f in found], [w.score for w in wanted], rtol=1e-5, atol=atol)


def saved(folder: Path, images: NDArray[np.float32]) -> tuple[Path, Path]:
    raw, array = folder / "image.f32", folder / "image.npy"
    images.tofile(raw)
    np.save(array, images)
    return raw, array


def test_cpp_and_python_give_the_numbers_of_the_library(program: Path, tmp_path: Path) -> None:
    path, images = embedded(tmp_path), onnx_graphs.images(*SHAPE)
    raw, array = saved(tmp_path, images)
    wanted = expected(path, images)
    assert len({(w.x, w.y) for w in wanted}) > 1
    agree(read(call(program, path, raw)), wanted)
    agree(read(call(sys.executable, ROOT / "examples" / "deployed.py", path, array)), wanted)


def test_javascript_gives_the_numbers_of_the_library(packages: Path, tmp_path: Path) -> None:
    path, images = embedded(tmp_path, None), onnx_graphs.images(*SHAPE)
    raw, _ = saved(tmp_path, images)
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(ROOT / "examples" / "heatmap.mjs", tmp_path)
    agree(read(call("node", tmp_path / "heatmap.mjs", path, raw)), expected(path, images), atol=1e-4)


def test_cpp_at_sizes_that_the_model_leaves_free(program: Path, tmp_path: Path) -> None:
    path = embedded(tmp_path, None, model=onnx_graphs.classifier(), classes="top2")
    pattern = (np.arange(3 * 224 * 224) % 255 / np.float32(255)).astype(np.float32).reshape(1, 3, 224, 224)
    found = read(call(program, path))
    agree(found, expected(path, pattern, 2))
    assert found[0].label == f"class {found[0].index}"


@pytest.mark.parametrize("count", [0, 1, 23])
def test_cpp_refuses_an_image_of_another_size(program: Path, tmp_path: Path, count: int) -> None:
    short = tmp_path / "short.f32"
    short.write_bytes(bytes(4 * count))
    done = call(program, embedded(tmp_path), short)
    assert done.returncode == 1
    assert f"short.f32: expected {24 * 36 * 3} float32" in done.stderr


def test_cpp_refuses_a_longer_image(program: Path, tmp_path: Path) -> None:
    raw, _ = saved(tmp_path, onnx_graphs.images(1, 3, 25, 36))
    done = call(program, embedded(tmp_path), raw)
    assert (done.returncode, "expected 2592 float32" in done.stderr) == (1, True)


def test_cpp_says_what_is_missing(program: Path, tmp_path: Path) -> None:
    assert "usage: heatmap model.cam.onnx" in call(program).stderr
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(onnx_graphs.onnx_bytes(onnx_graphs.classifier()))
    done = call(program, plain)
    assert done.returncode == 1
    assert "cam" in done.stderr
    assert call(program, tmp_path / "none.onnx").returncode == 1


def test_python_prepares_a_picture_as_the_file_says(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    for name in ("imagenet", "caffe", "tf"):
        path = embedded(tmp_path, preprocess=name)
        np.save(tmp_path / "picture.npy", picture)
        done = call(sys.executable, ROOT / "examples" / "deployed.py", path, tmp_path / "picture.npy")
        agree(read(done), expected(path, camcore.PRESETS[name].values(picture)[None]))


def test_they_are_as_short_as_is_said() -> None:
    assert len((ROOT / "examples" / "deployed.py").read_text().splitlines()) <= 40
    code = [line for line in RECIPE.read_text().splitlines() if line.strip() and not line.startswith(("//", "#"))]
    assert len(code) <= 45
