"""docs/batches.md is run as it stands there: against Ray and Spark themselves, a DataLoader, and a data frame."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readme_files import make

import camcore
from camcore.half import from_half

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "batches.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def snippet(word: str) -> str:
    (found,) = [text for text in SNIPPETS if word in text]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a folder with two pictures and a damaged one."""
    folder = tmp_path_factory.mktemp("batches")
    make(folder)
    (folder / "photos").mkdir()
    for name in ("cat", "dog"):
        shutil.copy(folder / f"{name}.png", folder / "photos")
    (folder / "photos" / "damaged.png").write_bytes((folder / "cat.png").read_bytes()[:2000])
    return folder


@pytest.fixture
def scope(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(place)
    return {"camcore": camcore, "Path": Path}


def run(word: str, scope: dict[str, Any]) -> dict[str, Any]:
    exec(compile(snippet(word), "docs/batches.md", "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, np.ndarray]:
    """The raw maps of the good pictures, each explained by itself."""
    ex = camcore.explainer(place / "model.onnx", preprocess="imagenet")
    return {name: ex(str(place / "photos" / f"{name}.png")).maps[0] for name in ("cat", "dog")}


def check(rows: Iterator[tuple[str, np.ndarray, str]], expected: dict[str, np.ndarray]) -> None:
    """Of each picture its path, raw map and error."""
    found = {Path(path).stem: (maps, error) for path, maps, error in rows}
    assert sorted(found) == ["cat", "damaged", "dog"]
    for name, maps in expected.items():
        assert not found[name][1]
        np.testing.assert_allclose(found[name][0], maps, atol=2.0**-10 * np.abs(maps).max())
    assert "damaged" in found["damaged"][1]
    assert np.isnan(found["damaged"][0]).all()


def test_a_dict(scope: dict[str, Any]) -> None:
    scope = run("keep=True", scope)
    assert scope["out"]["cam"].shape[:2] == (2, 3)
    assert list(scope["out"]["path"]) == ["photos/cat.png", "photos/dog.png"]


def test_reading_back(scope: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    from camcore_tools.cli import main

    words = re.search(r"^camcore (explain .*)$", TEXT, re.MULTILINE)
    assert words is not None
    assert main(words[1].replace("--workers 4", "--workers 0").split()) == 2  # one is damaged
    picture = run("bulk.read", scope)["picture"]
    np.testing.assert_allclose(picture.maps, expected["cat"], atol=2.0**-10 * np.abs(expected["cat"]).max())
    assert picture.path == "photos/cat.png"


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray in its smallest form: one processor for the actor, one for the files."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", "configure_logging": False}
    ray.init(num_cpus=2, object_store_memory=80 << 20, **quiet)
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_ray(scope: dict[str, Any], ray: Any, expected: dict[str, np.ndarray]) -> None:
    rows = run("ActorPoolStrategy", scope)["rows"]
    check(((r["path"], from_half(r["cam"][None], r["cam_scale"][None])[0], r["cam_error"]) for r in rows), expected)
    assert {r["cam"].dtype for r in rows} == {np.dtype(np.float16)}
    assert "bytes" not in rows[0]


@pytest.mark.filterwarnings("ignore")
def test_spark(scope: dict[str, Any], expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("PySpark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not installed")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv(
        "PYSPARK_SUBMIT_ARGS", "--conf spark.ui.enabled=false --conf spark.driver.memory=512m pyspark-shell"
    )
    try:
        rows = run("predict_batch_udf", scope)["rows"]
    finally:
        if "spark" in scope:
            scope["spark"].stop()
    check(((r["path"], np.reshape(np.array(r["cam"]), r["cam_shape"]), r["cam_error"]) for r in rows), expected)
    assert {r["path"]: r["cam_class"] for r in rows}[next(r["path"] for r in rows if "damaged" in r["path"])] == [-1]


def test_dataloader_workers(scope: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    run("DataLoader", scope)
    found = [
        (path, from_half(row["cam"][n][None], row["cam_scale"][n][None])[0], row["cam_error"][n])
        for row, paths in zip(scope["rows"], (scope["paths"][:2], scope["paths"][2:]), strict=True)
        for n, path in enumerate(paths)
    ]
    check(iter(found), expected)


def test_a_session_does_not_cross_a_fork(scope: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    """The explainer has run here before the workers are forked from here."""
    run("DataLoader", scope)
    scope["explain"](scope["paths"][:1])
    scope["rows"] = list(scope["loader"])
    assert scope["rows"][0]["cam"].shape[0] == 2


def test_a_data_frame_in_another_process(scope: dict[str, Any], place: Path, expected: dict[str, np.ndarray]) -> None:
    """As Dask does it: the function's explainer is pickled, and called there on a part of a data frame."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    explain = camcore.BatchExplainer("model.onnx", preprocess="imagenet")
    explain([str(place / "cat.png")])  # an open session is not pickled
    (place / "explain.pickle").write_bytes(pickle.dumps(explain))
    code = (
        "import pickle, sys, json, pandas\n"
        "from pathlib import Path\n"
        "explain = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        f"{snippet('def explained')}"
        "part = pandas.DataFrame({'path': sorted(map(str, Path(sys.argv[2]).iterdir()))})\n"
        "out = explained(part)\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps([[p, c.tolist(), e] for p, c, e in zip(out.path, out.cam, out.cam_error)]))\n"
    )
    words = [sys.executable, "-c", code, str(place / "explain.pickle"), str(place / "photos")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    check(((path, np.array(cam, np.float32), error) for path, cam, error in rows), expected)
