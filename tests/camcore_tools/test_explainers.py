"""Several methods at once: what each takes of the options, and what is done where one of them is not possible."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from camcore_tools.cli import main
from camcore_tools.explainers import possible_ones
from onnx import helper
from PIL import Image

import camcore
from camcore.engine import Explainer
from camcore.opening import open_backend

Run = Callable[..., tuple[int, str, str]]

UNPOOLED = (
    "from torch import nn\n"
    "def make():\n"
    "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))\n"
)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def explain(*words: object) -> tuple[int, str, str]:
        status = main(["explain", *map(str, words), "--preprocess", "unit", "-o", str(tmp_path / "out")])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return explain


@pytest.fixture
def unpooled(tmp_path: Path, tiny: Callable[..., onnx.ModelProto]) -> Path:
    """A model whose scores go through a ReLU: it has features, but no head, so that LIFT-CAM needs DeepLIFT."""
    proto = tiny()
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Relu", ["before"], ["scores"], "last"))
    path = tmp_path / "unpooled.onnx"
    onnx.save(proto, path)
    return path


def refusal(model: Any, method: str) -> str:
    with pytest.raises(camcore.MethodNotPossible) as caught:
        _ = camcore.explainer(model, method=method).plan
    return str(caught.value)


def all_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def files_of(*methods: str) -> set[str]:
    inside = ("", "/maps.npz", "/picture.png", "/result.json")
    return {"picture.png"} | {name + end for name in methods for end in inside}


@pytest.mark.parametrize("names", ["liftcam,eigencam,fem", "eigencam,liftcam,fem", "eigencam,fem,liftcam"])
def test_the_rest_is_done_where_one_is_not_possible(
    run: Run, unpooled: Path, picture: Path, tmp_path: Path, names: str
) -> None:
    status, out, err = run(unpooled, picture, "--method", names)
    assert status == 2
    assert err.splitlines() == [f"left out liftcam: {refusal(unpooled, 'liftcam')}"]
    assert "1 of 1 pictures explained" in out
    assert all_of(tmp_path / "out") == files_of("eigencam", "fem")
    with (
        Image.open(tmp_path / "out" / "picture.png") as sheet,
        Image.open(tmp_path / "out" / "fem" / "picture.png") as one,
    ):
        assert sheet.size == (one.width, 2 * one.height)


def test_what_is_left_of_two_keeps_its_folder_and_its_name_in_json(
    run: Run, unpooled: Path, picture: Path, tmp_path: Path
) -> None:
    status, out, err = run(unpooled, picture, "--method", "cam,fem", "--json")
    assert status == 2
    assert err.startswith("left out cam: cam is not possible at 'relu': ")
    document = json.loads(out)
    assert list(document) == ["fem"]
    assert document["fem"] == json.loads((tmp_path / "out" / "fem" / "result.json").read_text())
    assert all_of(tmp_path / "out") == files_of("fem")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_nothing_is_written_where_none_is_possible(
    run: Run, unpooled: Path, picture: Path, tmp_path: Path, words: list[str]
) -> None:
    status, out, err = run(unpooled, picture, "--method", "cam,liftcam", *words)
    assert status == 2
    assert out == ""
    said = [f"left out {name}: {refusal(unpooled, name)}" for name in ("cam", "liftcam")]
    assert err.splitlines() == said
    assert not (tmp_path / "out").exists()


def test_one_method_alone_is_an_error_as_ever(run: Run, unpooled: Path, picture: Path, tmp_path: Path) -> None:
    status, out, err = run(unpooled, picture, "--method", "liftcam")
    assert (status, out) == (2, "")
    assert err == f"camcore explain: {refusal(unpooled, 'liftcam')}\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_stays(run: Run, unpooled: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run(unpooled, picture, "--method", "liftcam")[0] == 2
    assert (tmp_path / "out").is_dir()


def test_each_method_takes_the_options_that_it_has(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["--option", "variant=official", "--option", "samples=2", "--option", "seed=3"]
    status, _, err = run(model, picture, "--method", "gradcam++,layercam,sscam,iscam", *words)
    assert status == 0
    assert "left out" not in err
    own: dict[str, dict[str, Any]] = {"gradcam++": {"variant": "official"}, "layercam": {}}
    own |= {"sscam": {"samples": 2, "seed": 3}, "iscam": {"samples": 2}}
    for name, options in own.items():
        found = np.load(tmp_path / "out" / name / "maps.npz")["maps"]
        expected = camcore.explainer(model, method=name, preprocess="unit", **options)(str(picture)).maps
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--method", "gradcam++,layercam", "--option", "varient=official"],
            "none of the methods gradcam++, layercam has an option 'varient'. Did you mean 'variant'?",
        ),
        (
            ["--method", "auto,gradcam", "--option", "samples=2"],
            "none of the methods auto, gradcam has an option 'samples'. They have none.",
        ),
        (["--method", "gradcam,gradcamm"], "method 'gradcamm' is not known. Did you mean 'gradcam'"),
        (
            ["--method", "fem,iscam", "--option", "samples=ten"],
            "option samples of iscam is 'ten'; expected a whole number, at least 1",
        ),
        (["--method", "fem,gradcam", "--target", "odds"], "target 'odds' is not known"),
        (["--method", "fem,gradcam", "--layer", "rellu"], "no layer is called 'rellu'"),
        (["--method", "fem,gradcam", "--classes", "9"], "class 9 is out of range"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(
    run: Run, model: Path, picture: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    status, out, err = run(model, picture, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"camcore explain: {said}")
    assert not (tmp_path / "out").exists()


def test_a_word_that_only_a_formula_knows_leaves_out_its_method(
    run: Run, model: Path, picture: Path, tmp_path: Path
) -> None:
    status, _, err = run(model, picture, "--method", "layercam,gradcam++,fem", "--option", "variant=x")
    assert status == 2
    assert err.startswith("left out gradcam++: variant 'x' of gradcam++ is not known. Known: 'paper', 'official'.")
    assert all_of(tmp_path / "out") == files_of("layercam", "fem")


def test_a_pytorch_model_is_understood_from_the_picture(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one takes no size but 16 x 16, so a plan without an example could not be made."""
    (tmp_path / "unpooled_torch.py").write_text(UNPOOLED)
    monkeypatch.chdir(tmp_path)
    words = ["--torch", "unpooled_torch:make", picture, "--size", "16x16", "--method", "cam,gradcam"]
    status, _, err = run(*words)
    assert status == 2
    assert err.startswith("left out cam: cam is not possible at '1': ")
    assert all_of(tmp_path / "out") == files_of("gradcam")


def test_pictures_that_cannot_be_read_are_left_out_by_each_method(run: Run, unpooled: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    status, out, err = run(unpooled, tmp_path / "a.png", tmp_path / "b.png", "--method", "gradcam,fem")
    assert status == 2
    assert err.count("the file is empty (0 bytes); expected a picture") == 4
    assert "0 of 2 pictures explained" in out


def test_the_first_picture_that_can_be_read_is_shown(unpooled: Path, picture: Path, tmp_path: Path) -> None:
    backend, empty = open_backend(unpooled, device="cpu"), tmp_path / "empty.png"
    empty.touch()
    explainers = {name: Explainer(backend, method=name, preprocess="unit") for name in ("cam", "fem")}
    assert list(possible_ones(explainers, [empty, picture])) == ["fem"]
    assert list(possible_ones(explainers, [empty])) == ["cam", "fem"]
