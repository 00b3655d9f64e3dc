from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from camcore_tools.cli import main
from PIL import Image

import camcore


def test_overlay_maps_and_result(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = [
        "explain",
        str(model),
        str(picture),
        "--preprocess",
        "unit",
        "--classes",
        "top3",
        "--boxes",
        "0.4",
        "--alpha",
        "heat",
        "-o",
        str(output),
    ]
    assert main(words) == 0
    text = capsys.readouterr()
    assert "class " in text.out
    assert text.err == ""
    document = json.loads((output / "result.json").read_text())
    record = document["images"][0]
    assert document["method"] == "cam"
    assert len(record["top"]) == 3
    assert [m["class"] for m in record["maps"]] == [t["class"] for t in record["top"]]
    arrays = np.load(output / "maps.npz")
    expected = camcore.explainer(model, preprocess="unit")(str(picture), "top3")
    np.testing.assert_array_equal(arrays["maps"], expected.maps)
    with Image.open(output / "picture.png") as sheet:
        assert sheet.width > 3 * sheet.height  # the picture and three overlays in a row


def test_json_is_all_there_is_on_stdout(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(model), str(picture), "--json", "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)["images"][0]["image"] == str(picture)
    assert "taking --preprocess imagenet" in text.err


def test_folders_globs_and_equal_names(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    for name in ("a/cat.png", "b/cat.png", "c/one.jpg", "c/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    places = [str(tmp_path / "a"), str(tmp_path / "b" / "cat.png"), str(tmp_path / "c" / "*.jpg")]
    assert main(["explain", str(model), *places, "-o", str(tmp_path / "out")]) == 0
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"cat.png", "cat-2.png", "one.png", "two.png"}
    assert "4 of 4 pictures explained" in capsys.readouterr().out


def test_resize_none_takes_pictures_of_several_sizes(tiny: object, tmp_path: Path) -> None:
    free = tmp_path / "free.onnx"
    onnx.save(tiny(shape=("N", 3, "H", "W")), free)  # type: ignore[operator]
    for i, size in enumerate([(20, 30), (40, 24), (20, 30)]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{i}.png")
    output = tmp_path / "out"
    assert main(["explain", str(free), str(tmp_path / "*.png"), "--resize", "none", "-o", str(output)]) == 0
    arrays = np.load(output / "maps.npz")
    assert sorted(k for k in arrays if k.startswith("maps/")) == ["maps/0", "maps/1", "maps/2"]
    assert arrays["maps/1"].shape == (1, 38, 22)


@pytest.mark.parametrize(("way", "box"), [("short", True), ("squash", False)])
def test_resize_short_keeps_the_aspect_ratio(model: Path, tmp_path: Path, way: str, box: bool) -> None:
    wide = tmp_path / "wide.png"
    Image.fromarray(np.zeros((40, 120, 3), np.uint8)).save(wide)
    explainer = camcore.explainer(model, preprocess={"resize": way})
    out = explainer(str(wide))
    assert out.views is not None
    x0, y0, x1, y1 = out.views[0]
    assert ((x1 - x0) == pytest.approx(y1 - y0, abs=2)) == box


def test_mean_and_std_by_hand(model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["explain", str(model), str(picture), "--mean", "0.5,0.4,0.3", "--std", "0.2", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    expected = camcore.explainer(model, preprocess={"mean": (0.5, 0.4, 0.3), "std": (0.2,)})(str(picture))
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "maps.npz")["maps"], expected.maps)


def test_pytorch_factory(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    pool = nn.AdaptiveAvgPool2d(1)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["explain", "--torch", "mine:make", str(picture), "--size", "32x32", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["layer"] == "1"


def explain(model: Path, picture: Path, output: Path, *words: str) -> int:
    return main(["explain", str(model), str(picture), "--preprocess", "unit", "-o", str(output), *words])


def test_several_methods_get_folders_of_their_own(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(model, picture, tmp_path / "out", "--method", "gradcam,xgradcam,layercam,scorecam") == 0
    text = capsys.readouterr()
    assert text.err.count("note:") == 1
    assert "xgradcam and gradcam give the same raw map" in text.err
    maps = {n: np.load(tmp_path / "out" / n / "maps.npz")["maps"] for n in ("gradcam", "xgradcam", "layercam")}
    np.testing.assert_allclose(maps["gradcam"], maps["xgradcam"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(maps["gradcam"], maps["layercam"])
    assert json.loads((tmp_path / "out" / "scorecam" / "result.json").read_text())["method"] == "scorecam"
    with (
        Image.open(tmp_path / "out" / "picture.png") as sheet,
        Image.open(tmp_path / "out" / "gradcam" / "picture.png") as one,
    ):
        assert sheet.size == (one.width, 4 * one.height)


def test_several_methods_as_json(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(model, picture, tmp_path / "out", "--method", "cam,fem", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == ["cam", "fem"]


@pytest.mark.parametrize("name", camcore.METHODS)
def test_every_method_by_its_name(model: Path, picture: Path, tmp_path: Path, name: str) -> None:
    given = {"variant": "self"} if name == "recam" else {"samples": 2}
    given = given if set(given) <= set(camcore.METHODS[name].options) else {}
    words = [word for option, value in given.items() for word in ("--option", f"{option}={value}")]
    assert explain(model, picture, tmp_path / "out", "--method", name, *words) == 0
    maps = np.load(tmp_path / "out" / "maps.npz")["maps"]
    expected = camcore.explainer(model, method=name, preprocess="unit", **given)
    np.testing.assert_allclose(maps, expected(str(picture)).maps, rtol=1e-5, atol=1e-6)


def test_target_smoothing_and_options(model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["--method", "gradcam++", "--option", "variant=official", "--target", "probability", "--smooth", "flip"]
    assert explain(model, picture, tmp_path / "out", *words) == 0
    maps = np.load(tmp_path / "out" / "maps.npz")["maps"]
    ex = camcore.explainer(
        model, method="gradcam++", variant="official", target="probability", smoothing="flip", preprocess="unit"
    )
    np.testing.assert_allclose(maps, ex(str(picture)).maps, rtol=1e-5, atol=1e-7)


def test_layers_are_fused(model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["--method", "eigencam", "--layer", "conv", "--layer", "relu", "--fusion", ".4,.6", "--scaling", "tanh"]
    assert explain(model, picture, tmp_path / "out", *words, "--fusion-size", "input") == 0
    assert np.load(tmp_path / "out" / "maps.npz")["maps"].shape[2:] == (16, 16)
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["layer"] == "conv, relu"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--method", "gradcamm"], "method 'gradcamm' is not known. Did you mean 'gradcam'"),
        (["--method", "gradcam", "--option", "variant=x"], "method 'gradcam' has no option 'variant'. It has none."),
        (["--method", "gradcam++", "--option", "variant=x"], "variant"),
        (["--method", "gradcam", "--target", "odds"], "target 'odds' is not known"),
        (["--method", "eigencam", "--target", "probability"], "has no effect on eigencam, which looks at no score"),
        (["--method", "gradcam", "--target", "difference:9"], "the model has 4 classes"),
        (["--method", "liftcam", "--layer", "conv"], "which onnx models do not give"),
        (["--method", "eigencam", "--layer", "conv", "--layer", "relu", "--fusion", "1"], "fusion weights"),
        (["--method", "eigencam", "--layer", "conv", "--layer", "relu", "--fusion", "sum"], "fusion 'sum'"),
        (["--together", "0.3", "--cmap", "gray"], "--cmap has no effect with --together, where colours mean classes"),
        (["--together", "0.3", "--style", "alpha"], "--style has no effect with --together"),
        (["--together", "7"], "threshold is 7.0; expected a probability, 0 to 1"),
        (["--label-masks", "1"], "threshold is 1.0; expected the score of the background, from 0 to below 1"),
        (["--independent", "--target", "probability"], "target 'probability' is taken through a softmax"),
        (["--method", ","], "no method was named in --method ','; camcore methods lists them"),
        (["--method", "iscam", "--option", "samples=ten"], "option samples of iscam is 'ten'; expected a whole number"),
        (["--method", "iscam", "--option", "samples=0"], "option samples of iscam is 0; expected a whole number, at"),
        (["--method", "fem", "--option", "z=NaN"], "option z of fem is 'NaN'; expected a finite number"),
        (["--method", "fem", "--option", "z=1e999"], "option z of fem is inf; expected a finite number"),
        (["--method", "fem", "--option", "z=none"], "option z of fem is None; expected a finite number"),
        (["--method", "kpcacam", "--option", "gamma=x"], "option gamma of kpcacam is 'x'; expected a finite number or"),
        (["--method", "eigencam", "--option", "centred=1"], "option centred of eigencam is 1; expected true or false"),
        (["--method", "gradcam++", "--option", "variant=[1]"], "option variant of gradcam++ is [1]; expected a word"),
    ],
)
def test_wrong_words(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str
) -> None:
    assert explain(model, picture, tmp_path / "out", *words) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # nor is an empty folder left


@pytest.mark.parametrize("word", ["none", "None", "NULL"])
def test_no_number_for_gamma_can_be_typed(model: Path, picture: Path, tmp_path: Path, word: str) -> None:
    assert explain(model, picture, tmp_path / "out", "--method", "kpcacam", "--option", f"gamma={word}") == 0
    found = np.load(tmp_path / "out" / "maps.npz")["maps"]
    expected = camcore.explainer(model, method="kpcacam", preprocess="unit")(str(picture)).maps
    np.testing.assert_array_equal(found, expected)


def test_gradients_at_any_layer_of_an_onnx_file(model: Path, picture: Path, tmp_path: Path) -> None:
    words = ["explain", str(model), str(picture), "--method", "gradcam++", "--layer", "conv", "--preprocess", "unit"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    found = np.load(tmp_path / "out" / "maps.npz")["maps"]
    expected = camcore.explainer(model, method="gradcam++", layer="conv", preprocess="unit")(str(picture)).maps
    np.testing.assert_array_equal(found, expected)
    assert np.ptp(found) > 0


@pytest.fixture
def tagger(tiny: object, tmp_path: Path) -> Path:
    """Ends in a sigmoid; on the picture two classes of the four are likely."""
    model = tiny()  # type: ignore[operator]
    model.graph.node[-1].output[0] = "logits"
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["scores"]))
    onnx.save(model, tmp_path / "tagger.onnx")
    return tmp_path / "tagger.onnx"


def chances(model: Path, picture: Path) -> np.ndarray:
    return camcore.explainer(model, preprocess="unit")(str(picture)).probabilities[0]


def test_all_classes_that_are_there_on_one_picture(
    tagger: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    likely = chances(tagger, picture)
    threshold = float(np.sort(likely)[-2:].mean() - np.ptp(np.sort(likely)[-2:]))  # two reach it
    there = [int(c) for c in np.argsort(-likely) if likely[c] >= threshold]
    words = ["--together", f"{threshold:.6f}", "--label-masks", "--resize", "squash"]
    assert explain(tagger, picture, tmp_path / "out", *words) == 0
    expected = "; ".join(f"class {c} {likely[c]:.2f}" for c in there)
    assert f"picture.png: {expected}\n" in capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    record = document["images"][0]
    assert document["scores_are"] == "independent logit"
    assert [m["class"] for m in record["maps"]] == there
    assert [e["class"] for e in record["label_mask"]["legend"]] == there
    with Image.open(tmp_path / "out" / "label-masks" / "picture.png") as mask:
        assert mask.size == (50, 40)
        assert set(np.unique(np.asarray(mask))) <= {0, *(c + 1 for c in there)}
    with Image.open(tmp_path / "out" / "picture.png") as drawn:
        assert drawn.width == 720


def test_where_no_class_is_likely_that_is_said(
    tagger: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = chances(tagger, picture).max()
    assert explain(tagger, picture, tmp_path / "out", "--together", "1") == 0
    assert f"no class reaches 1.00; the best: class {chances(tagger, picture).argmax()} {best:.2f}" in (
        capsys.readouterr().out
    )
    assert json.loads((tmp_path / "out" / "result.json").read_text())["images"][0]["maps"] == []


def test_classes_of_a_softmax_too(model: Path, picture: Path, tmp_path: Path) -> None:
    likely = chances(model, picture)
    assert explain(model, picture, tmp_path / "out", "--together", "0.2") == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())["images"][0]
    assert [m["class"] for m in record["maps"]] == [int(c) for c in np.argsort(-likely) if likely[c] >= 0.2]


def test_classes_that_are_named_are_looked_at_only(tagger: Path, picture: Path, tmp_path: Path) -> None:
    assert explain(tagger, picture, tmp_path / "out", "--together", "0", "--classes", "2") == 0
    record = json.loads((tmp_path / "out" / "result.json").read_text())["images"][0]
    assert [m["class"] for m in record["maps"]] == [2]


def test_independent_where_the_model_does_not_say_it(model: Path, tagger: Path, picture: Path, tmp_path: Path) -> None:
    """Both have the same logits."""
    documents = []
    for i, words in enumerate(((model, "--independent"), (tagger,), (model,))):
        path, *rest = words
        assert explain(Path(path), picture, tmp_path / str(i), "--classes", "all", *map(str, rest)) == 0
        documents.append(json.loads((tmp_path / str(i) / "result.json").read_text()))
    shares = [[m["probability"] for m in d["images"][0]["maps"]] for d in documents]
    assert shares[0] == pytest.approx(shares[1], rel=1e-5)
    assert sum(shares[2]) == pytest.approx(1, rel=1e-5)


def test_methods_side_by_side(tagger: Path, picture: Path, tmp_path: Path) -> None:
    words = ["--together", "0", "--label-masks", "--method", "cam,layercam"]
    assert explain(tagger, picture, tmp_path / "out", *words) == 0
    sizes = []
    for path in ("cam/picture.png", "layercam/picture.png", "picture.png"):
        with Image.open(tmp_path / "out" / path) as sheet:
            sizes.append(sheet.size)
    assert sizes[2] == (720, sizes[0][1] + sizes[1][1])  # the masks are not among them
    assert (tmp_path / "out" / "cam" / "label-masks" / "picture.png").is_file()
