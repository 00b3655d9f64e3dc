"""Files with their map inside run where only ONNX Runtime and NumPy are installed: in an environment made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import camcore_onnx
import numpy as np
import onnx_graphs
import pytest

import camcore

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["zero", "one", 'the "second"', "größe", "four"]
SHAPE = (2, 3, 24, 36)
NEEDED = ("numpy", "onnxruntime")
EXPECTED = "Initializer cam_class appears in graph inputs"  # it is a default; ONNX Runtime warns of any such input
ABSENT = ("camcore", "camcore_onnx", "onnx", "onnx_ir", "scipy", "PIL", "torch")

# What a consumer writes: outputs by name, and the class that an input names.
CONSUMER = """
import importlib.util, json, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime
model, image, target, absent = sys.argv[1:]
assert [n for n in absent.split(",") if importlib.util.find_spec(n)] == []
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
assert all("int64" not in value.type for value in (*session.get_inputs(), *session.get_outputs()))
names = [value.name for value in session.get_outputs()]
feed = {session.get_inputs()[0].name: np.load(image)}
found = dict(zip(names, session.run(names, feed)))
if session.get_overridable_initializers():
    chosen = session.run(names, feed | {"cam_class": np.array([3, 1], np.int32)})
    found |= {f"chosen {name}": value for name, value in zip(names, chosen)}
np.savez(target, **found)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""


def bare_environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment with the two packages, in the versions that the tests run with."""
    python = folder / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "bare"], check=True, timeout=120)
    words = [f"{name}=={version(name)}" for name in NEEDED]
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"pip could not install {' and '.join(words)}: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *words: Any) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-I", *map(str, words)], capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if EXPECTED not in line] == []
    return done.stdout


def save(folder: Path, name: str, **options: Any) -> Path:
    path = folder / f"{name}.cam.onnx"
    model = camcore_onnx.embed_cam(onnx_graphs.classifier(), labels=LABELS, preprocess="imagenet", **options)
    path.write_bytes(model.SerializeToString())
    return path


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


def test_files_run_with_onnx_runtime_and_numpy_alone(tmp_path: Path) -> None:
    python = bare_environment(tmp_path)
    image, target = tmp_path / "image.npy", tmp_path / "found.npz"
    images = onnx_graphs.images(*SHAPE)
    np.save(image, images)
    plain = camcore.explainer(onnx_graphs.classifier(), labels=LABELS)

    def consume(path: Path) -> tuple[Any, dict[str, str]]:
        about = json.loads(run(python, "-c", CONSUMER, path, image, target, ",".join(ABSENT)))
        return np.load(target), about

    top = save(tmp_path, "top", classes="top3", heatmap="input")
    found, about = consume(top)
    wanted = plain(images, "top3")
    close(found["scores"], wanted.scores)
    close(found["cam"], wanted.maps)
    close(found["heatmap"], wanted.heatmaps())
    assert (found["cam_classes"] == wanted.classes).all()
    assert json.loads(about["camcore.labels"]) == LABELS
    assert json.loads(about["camcore.cam"])["method"] == "cam"

    close(consume(save(tmp_path, "all", classes="all"))[0]["cam"], plain(images, "all").maps)

    named, _ = consume(save(tmp_path, "input", classes="input", method="layercam"))
    layercam = camcore.explainer(onnx_graphs.classifier(), method="layercam")
    close(named["cam"], layercam(images).maps)
    close(named["chosen cam"], layercam(images, [3, 1]).maps)
    assert named["chosen cam_classes"].tolist() == [[3], [1]]

    printed = run(python, ROOT / "examples" / "deployed.py", top, image, tmp_path / "maps.npy").splitlines()
    close(np.load(tmp_path / "maps.npy"), wanted.maps)
    assert len(printed) == 2 * 3
    for line, index, score in zip(printed, wanted.classes.flat, np.sort(wanted.scores)[:, :-4:-1].flat, strict=True):
        assert line.startswith(f"{LABELS[index]} ({index}), score {score:g}"[:-1])
