"""The quick demo from end to end, and the ways in which it can go wrong."""

from __future__ import annotations

import argparse
import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from camcore_onnx.checking.verify import Check
from camcore_tools import demo
from camcore_tools.demo import measure, watch
from camcore_tools.demo.summary import Record
from PIL import Image

import camcore
from camcore.errors import InputError, MissingPackage


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One quick run with ``--json``."""
    folder = tmp_path_factory.mktemp("demo") / "a folder"
    out = io.StringIO()
    with redirect_stdout(out):
        status = demo.run(arguments("--quick", "--json", "--threads", "1", "-o", str(folder)))
    return SimpleNamespace(folder=folder, status=status, text=out.getvalue(), document=json.loads(out.getvalue()))


class Links(HTMLParser):
    """What a page refers to."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_it_succeeds_and_prints_one_document(done: SimpleNamespace) -> None:
    assert done.status == 0
    assert done.document == json.loads((done.folder / "demo.json").read_text())
    assert done.document["passed"]
    assert done.document["pictures"] == {"training": 400, "validation": 40}


def test_it_learned_where_the_objects_are(done: SimpleNamespace) -> None:
    peaks = done.document["peaks"]
    assert done.document["accuracy"] > 0.3  # 0.2 by chance
    assert 0.1 < peaks["by_chance"] < 0.3
    assert peaks["share"] == peaks["on_object"] / 40 > 1.5 * peaks["by_chance"]
    assert len(done.document["mistakes"]) == round(40 * (1 - done.document["accuracy"]))


def test_the_numbers_of_both_frameworks_agree(done: SimpleNamespace) -> None:
    checks = {check["name"]: check for check in done.document["checks"]}
    assert {"scores of 40 validation pictures", "maps of 40 validation pictures"} < set(checks)
    assert all(check["difference"] <= check["limit"] for check in checks.values() if check["limit"] is not None)


def test_the_page_refers_to_files_that_are_there(done: SimpleNamespace) -> None:
    links = Links((done.folder / "index.html").read_text()).found
    assert len(links) > 20
    for link in links:
        assert (done.folder / link).is_file(), link


def test_nothing_unfinished_is_left(done: SimpleNamespace) -> None:
    assert list(done.folder.rglob("*.unfinished")) == []
    names = {path.name for path in (done.folder / "explained").iterdir()}
    assert {"maps.npz", "result.json", "cap-1.png", "torch-2.png"} <= names


def test_the_film_has_many_frames_and_loops(done: SimpleNamespace) -> None:
    path = done.folder / "training.gif"
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) > 30
        assert film.info["loop"] == 0
        assert film.info["duration"] == 100
        film.seek(film.n_frames - 1)  # type: ignore[attr-defined]
        assert film.info["duration"] >= 2000
        last = np.asarray(film.convert("RGB"), np.float32)
    still = np.asarray(Image.open(done.folder / "training.png").convert("RGB"), np.float32)
    assert np.abs(last - still).mean() < 6
    assert path.stat().st_size < 4e6


def test_the_model_explains_itself(done: SimpleNamespace) -> None:
    explainer = camcore.explainer(done.folder / "model.onnx", device="cpu")
    out = explainer(done.folder / "pictures" / "cap-1.png", "all")
    assert out.class_names == ("cap", "cube", "playing cards", "screwdriver", "torch")
    assert out.maps.shape == (1, 5, 16, 16)
    stored = np.load(done.folder / "explained" / "maps.npz")
    first = out.maps[0, stored["classes"][0, 0]]
    np.testing.assert_allclose(stored["maps"][0, 0], first, atol=1e-4 * np.abs(first).max())


def test_peaks_fall_on_a_mask_or_beside_it() -> None:
    heats, masks = np.zeros((3, 4, 5)), np.zeros((3, 4, 5), bool)
    heats[0, 1, 2] = heats[1, 3, 4] = heats[2, 0, 0] = 1
    masks[0, 1, 2] = masks[1, 3, 3] = True
    masks[2] = True
    assert measure.peaks_on(heats, masks).tolist() == [True, False, True]


def test_the_three_sets_are_disjoint_and_depend_on_the_seed() -> None:
    first, again, other = (measure.draw_data(training=2, validation=2, gallery=2, seed=s) for s in (4, 4, 5))
    assert np.array_equal(first.training.images, again.training.images)
    assert not np.array_equal(first.training.images, other.training.images)
    assert not np.array_equal(first.training.images, first.validation.images)
    assert [p.name for p in first.pictures][:3] == ["cap-1", "cap-2", "cube-1"]
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_short_training_is_recorded_with_a_column_for_each_kind() -> None:
    data = measure.draw_data(training=4, validation=2, gallery=4, seed=0)
    trained = watch.train_and_record(data, epochs=2, batch=10, seed=0)
    recording = trained.recording
    assert recording.classes.tolist() == [0, 1, 2, 3, 4] * 3
    assert recording.names[:2] == ("cap-1", "cube-1")
    assert np.array_equal(recording.pictures[1], data.pictures[4].pixels)
    assert recording.steps.tolist() == [0, 1, 2, 3, 4]
    assert recording.curves["loss"].steps.tolist() == [1, 2, 3, 4]
    assert recording.curves["accuracy"].at(4) == trained.accuracy
    assert recording.label(2) == "playing cards"
    assert trained.parameters == sum(p.numel() for p in trained.network.parameters())


def small_record(done: SimpleNamespace, **changes: Any) -> Record:
    report: Any = SimpleNamespace(path=done.folder / "model.onnx", size=1000, checks=[])
    empty: Any = None
    findings = measure.Findings(0.9, 30, 40, 0.2, changes.pop("checks"), [], empty, empty)
    trained = watch.Trained(empty, empty, 1000, 1, 0.9, 1.0)
    return Record(done.folder, 0, 400, trained, report, findings)


def test_a_failed_check_is_exit_status_1(
    done: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = small_record(done, checks=[Check("maps", False, "all", float("inf"), 1e-4)])
    monkeypatch.setattr(demo, "_demonstrate", lambda *_: record)
    assert demo.run(arguments("-o", str(tmp_path))) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "NO: see FAILED" in shown
    assert demo.run(arguments("--json", "-o", str(tmp_path))) == 1
    assert json.loads(capsys.readouterr().out)["checks"][0]["difference"] is None


def test_the_summary_fits_a_terminal(done: SimpleNamespace) -> None:
    checks = [Check("maps of 200 validation pictures", True, "all classes", 3e-7, 1e-4)]
    record = replace(small_record(done, checks=checks), folder=Path("camcore-demo"))
    lines = record.summary().split("\n\ntry next")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert "in 75.0% of them; 20.0% by chance" in record.summary()


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    with pytest.raises(InputError, match="cannot be written to"):
        demo.run(arguments("--quick", "-o", str(path)))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("option", "value"), [("epochs", "0"), ("seed", "-1"), ("threads", "0")])
def test_a_number_out_of_range(option: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--{option} is {value}; expected [01] or more"):
        demo.run(arguments(f"--{option}={value}", "-o", str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript"])
def test_a_missing_package(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=rf"needs {package}.*pip install 'camcore\[all\]'"):
        demo.run(arguments("-o", str(tmp_path / "new")))
