"""What a model says of itself: too much of it, of another kind than it should be, or made to deceive who reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camcore_onnx import OnnxBackend
from camcore_onnx.reading.load import load
from camcore_tools.cli import main
from hostile import answer, cheaply, field, model_of
from onnx_graphs import classifier, images, onnx_bytes
from PIL import Image

import camcore
from camcore.errors import InputError
from camcore.labels import read_labels
from camcore.preprocess import PRESETS

RULE = PRESETS["imagenet"].to_json()
# Colours and a title for a terminal, 8-bit control codes, text turned around, hidden text, a page's script, and a NUL
EVIL = "cat\x1b[31m\x1b]0;owned\x07\x9b2J\u202egod\u2066\u200b\U000e0041<script>alert(1)</script>\r\n\0end"
HIDDEN = "\x1b\x07\x9b\u202e\u2066\u200b\U000e0041\r\0"


def with_metadata(**entries: str) -> Any:
    model = classifier(size=(6, 6))
    for key, value in entries.items():
        model.metadata_props.add(key=key.replace("__", "."), value=value)
    return model


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(source)
    return str(caught.value)


class TestTooMuch:
    def test_a_hundred_megabytes(self):
        data = onnx_bytes(with_metadata(camcore__labels="x" * 100_000_000))
        with cheaply(megabytes=250):  # the text once, and what protobuf gives of it
            assert "100000014 bytes of metadata; the limit is 67108864" in refusal(data)

    def test_what_is_below_the_limit_is_not_parsed_all_the_same(self):
        backend = OnnxBackend(with_metadata(camcore__labels='["' + "x" * 20_000_000 + '"]'), device="cpu")
        assert backend.labels is None
        assert backend.complaints == ["metadata 'camcore.labels' is larger than 8 MiB and was ignored"]

    def test_a_million_keys(self):
        data = model_of(field(1, field(4, b"Relu")) + field(12, b""), field(14, field(1, b"k")) * 10**6)
        with cheaply():
            assert "more than 10000 metadata entries; the limit is 10000" in refusal(data)

    def test_a_million_names(self):
        assert answer(with_metadata(camcore__labels=json.dumps(["a"] * 10**6))) == ""
        with pytest.raises(InputError, match="labels: 1000001 names; the limit is 1000000"):
            read_labels(["a"] * 1_000_001)

    @pytest.mark.parametrize("text", ["[" * 100_000, "[[],[],[],[]," * 10_000, "1" * 1_000_000, "{" * 3_000_000])
    @pytest.mark.parametrize("key", ["camcore__labels", "camcore__cam", "names"])
    def test_texts_that_are_hard_to_parse(self, key, text):
        with cheaply():
            assert answer(with_metadata(**{key: text})) == ""

    def test_a_layer_of_a_million_letters(self):
        backend = OnnxBackend(with_metadata(camcore__layer=json.dumps("x" * 10**6)), device="cpu")
        assert backend.card.layer is None


class TestOtherKinds:
    @pytest.mark.parametrize(
        "told", ["1", "[]", '"x"', "true", '{"name": 3}', '{"name": ["cam"]}', '{"name": null}', "nonsense"]
    )
    def test_of_a_map_inside(self, told):
        backend = OnnxBackend(with_metadata(camcore__cam=told), device="cpu")
        assert backend.card.cam is None
        assert len(backend.complaints) == 1
        assert answer(with_metadata(camcore__cam=told)) == ""

    @pytest.mark.parametrize("name", ["scores", "features", "image", "cam", "", "\0", "weight_7"])
    def test_a_map_inside_that_is_another_tensor(self, name):
        """It may not take the scores away, nor anything else that is needed."""
        assert answer(with_metadata(camcore__cam=json.dumps({"name": name, "classes": "all"}))) == ""

    def test_what_is_said_of_a_map_is_taken_over_only_where_it_makes_sense(self):
        told = {"method": "cam", "evil": 1, "heatmap": [7] * 10, "layer": "x" * 10_000, "options": {"a": {"b": []}}}
        backend = OnnxBackend(with_metadata(camcore__cam=json.dumps(told)), device="cpu")
        assert backend.card.cam == {"method": "cam"}

    @pytest.mark.parametrize(
        "change",
        [
            {"size": [10**9, 10**9]},
            {"size": [1, 10**9]},
            {"size": [1e308, 1e308]},
            {"scale": float("nan")},
            {"scale": float("inf")},
            {"mean": [float("nan")]},
            {"std": [float("inf")]},
            {"std": [-1.0]},
            {"mean": [1e999]},
        ],
    )
    def test_preprocessing(self, change):
        model = with_metadata(camcore__preprocess=json.dumps(RULE | change))
        backend = OnnxBackend(model, device="cpu")
        assert backend.preprocess is None
        assert len(backend.complaints) == 1

    @pytest.mark.parametrize("change", [{"crop": 1e-9}, {"crop": 1e-300}, {"size": [16384, 16384], "crop": 0.5}])
    def test_preprocessing_that_would_resize_a_picture_to_gigapixels(self, change):
        model = classifier()
        model.metadata_props.add(key="camcore.preprocess", value=json.dumps(RULE | {"size": [8, 8]} | change))
        picture = np.zeros((20, 30, 3), np.uint8)
        with cheaply(), pytest.raises(InputError, match=r"would have to be resized to .*; crop it first, or give"):
            camcore.explainer(model, device="cpu")([picture])


class TestDeceit:
    """Names from a model go to terminals, pages and files."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        model = with_metadata(
            camcore__labels=json.dumps([f"{EVIL}{i}" for i in range(5)]),
            camcore__preprocess=json.dumps(RULE),
            camcore__layer=json.dumps(EVIL),
            **{EVIL.replace("__", "_"): EVIL},
        )
        for node in model.graph.node:
            node.name = EVIL + node.name
        renamed = {"scores": "scores" + EVIL, "features": "features" + EVIL}
        for names in (*(n.input for n in model.graph.node), *(n.output for n in model.graph.node)):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
        model.graph.output[0].name = renamed["scores"]
        model.producer_name = EVIL
        model.graph.doc_string = EVIL
        path = tmp_path / "evil.onnx"
        path.write_bytes(onnx_bytes(model))
        return path

    @pytest.fixture
    def picture(self, tmp_path: Path) -> Path:
        path = tmp_path / "picture.png"
        Image.fromarray(np.full((9, 9, 3), 128, np.uint8)).save(path)
        return path

    @pytest.mark.parametrize(
        "words",
        [
            ["inspect", "MODEL"],
            ["inspect", "MODEL", "--json"],
            ["explain", "MODEL", "PICTURE", "-o", "OUT"],
            ["explain", "MODEL", "PICTURE", "-o", "OUT", "--json"],
            ["explain", "MODEL", "PICTURE", "-o", "OUT", "--layer", "nowhere"],
            ["export", "MODEL", "-o", "OUT.onnx"],
            ["export", "MODEL", "-o", "OUT.onnx", "--json"],
            ["verify", "MODEL", "MODEL"],
            ["verify", "MODEL", "MODEL", "--json"],
            ["verify", "MODEL", "--layer", "nowhere"],
        ],
        ids=" ".join,
    )
    def test_on_a_terminal(self, words, model, picture, tmp_path, capsys):
        places = {"MODEL": model, "PICTURE": picture, "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "out.onnx"}
        main([str(places.get(word, word)) for word in words])
        streams = capsys.readouterr()
        for text in streams:
            assert not set(text) & set(HIDDEN), repr(text)
        if "--json" in words:
            assert json.loads(streams.out)

    def test_in_results_and_pages(self, model, picture, tmp_path, capsys):
        out = tmp_path / "out"
        assert main(["explain", str(model), str(picture), "-o", str(out)]) == 0
        assert main(["inspect", str(model), "--html", str(out / "model.html")]) == 0
        texts = {file.suffix: file.read_text() for file in out.iterdir() if file.suffix in (".html", ".json")}
        assert set(texts) == {".html", ".json"}
        assert not any(set(text) & set(HIDDEN) for text in texts.values())
        assert "<script>alert" not in texts[".html"]
        assert "&lt;script&gt;alert" in texts[".html"]

    def test_labels(self):
        (label,) = read_labels([EVIL])
        assert not set(label) & set(HIDDEN)
        assert label.startswith("cat [31m")
        assert label.endswith("end")

    @pytest.mark.parametrize("name", ["नमस्ते\u200d", "👩\u200d🔬", "ж", "n\u0303", "中文"])
    def test_labels_of_other_scripts_stay(self, name):
        assert read_labels([name]) == (name,)

    def test_a_label_is_short(self):
        assert len(read_labels(["x" * 10**6])[0]) == 200

    def test_errors(self, tmp_path, capsys):
        path = tmp_path / "evil.onnx"
        model = classifier()
        model.graph.node[1].op_type = EVIL
        model.graph.node[1].domain = EVIL
        path.write_bytes(onnx_bytes(model))
        assert main(["inspect", str(path)]) == 2
        text = capsys.readouterr().err
        assert "uses the custom operator cat [31m" in text
        assert not set(text) & set(HIDDEN)

    def test_the_explanation_knows_only_clean_names(self, model):
        out = camcore.explainer(model, device="cpu")(images(1, 3, 6, 6))
        assert out.labels is not None
        assert not set(out.labels[0][0]) & set(HIDDEN)
