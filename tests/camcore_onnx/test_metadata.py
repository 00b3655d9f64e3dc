"""What travels in a model: written and read back, and read from models that mean harm."""

from __future__ import annotations

import json
import re

import pytest
from camcore_onnx import OnnxBackend, metadata
from camcore_onnx.metadata import Card, read_card, write_card
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import classifier, images

import camcore
from camcore.preprocess import PRESETS, preprocess

NAMES = tuple(f"name {i}" for i in range(5))
RULE = preprocess("imagenet", size=(8, 8)).to_json()


def model_with(**entries: str):
    model = classifier()
    for key, value in entries.items():
        model.metadata_props.add(key=key.replace("__", "."), value=value)
    return model


class TestRoundTrip:
    @pytest.mark.parametrize(
        "card",
        [
            Card(),
            Card(labels=NAMES),
            Card(preprocess=PRESETS["caffe"]),
            Card(preprocess=preprocess("tf", size=(96, 64), resize="squash")),
            Card(labels=("Ä, ö", "日本", 'quote " \\'), layer="a/b", head="x -> y", version="0.1"),
            Card(second_weight="recam_weight"),
        ],
    )
    def test_what_is_written_is_read(self, card):
        assert read_card(write_card(card)) == (card, [])

    def test_absent_fields_leave_no_key(self):
        assert write_card(Card(labels=("a",))) == {"camcore.labels": '["a"]'}

    def test_the_backend_reads_it(self):
        card = Card(labels=NAMES, preprocess=PRESETS["tf"])
        model = model_with(**{k.replace(".", "__"): v for k, v in write_card(card).items()})
        backend = OnnxBackend(model, device="cpu")
        assert (backend.labels, backend.preprocess, backend.complaints) == (NAMES, PRESETS["tf"], [])
        out = camcore.explainer(model, device="cpu")(images(2, 3, 8, 8), classes="name 3")
        assert out.labels == [["name 3"], ["name 3"]]


class TestForeignNames:
    @pytest.mark.parametrize("text", ["{0: 'cat', 1: 'dog'}", "['cat', 'dog']", '{"0": "cat", "1": "dog"}'])
    def test_as_ultralytics_writes_them(self, text):
        assert read_card({"names": text})[0].labels == ("cat", "dog")

    def test_gaps_are_numbered(self):
        assert read_card({"names": "{0: 'cat', 2: 'dog'}"})[0].labels == ("cat", "class 1", "dog")

    def test_ours_come_first(self):
        found = {"names": "{0: 'cat'}", "camcore.labels": '["dog"]'}
        assert read_card(found)[0].labels == ("dog",)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "cat",
            "{0: open('/etc/passwd')}",
            "{[]: 1}",
            "{" * 500,
            "[" + "-" * 200_000 + "1]",
            "[__import__('os').getcwd()]",
            "{0: 'cat'",
            "{'x\\0': 1",
        ],
    )
    def test_what_is_no_literal_is_ignored(self, text):
        card, complaints = read_card({"names": text})
        assert (card, complaints) == (Card(), [])

    def test_too_large(self, monkeypatch):
        monkeypatch.setattr(metadata, "_LIMIT", 20)
        assert read_card({"names": "['cat', 'dog', 'horse']"})[0].labels is None
        assert read_card({"names": "['cat', 'dog']"})[0].labels == ("cat", "dog")

    @pytest.mark.parametrize(
        "text", ["{1e999: 'a'}", "{-1: 'a'}", "{10**9: 'a'}", "{999999999999: 'a'}", "{(1,): 'a'}"]
    )
    def test_keys_that_are_no_indices(self, text):
        card, complaints = read_card({"names": text})
        assert card.labels is None
        assert len(complaints) == (0 if "**" in text else 1)


class TestHostileValues:
    @pytest.mark.parametrize("text", ["", "{", "nonsense", "[1,", "1" * 5000, "[" * 100_000, "\x00"])
    @pytest.mark.parametrize("key", ["labels", "preprocess", "layer"])
    def test_what_is_no_json_is_ignored_with_a_word(self, key, text):
        card, complaints = read_card({f"camcore.{key}": text})
        assert card == Card()
        assert complaints == [f"metadata 'camcore.{key}' is no JSON and was ignored"]

    def test_too_large(self, monkeypatch):
        monkeypatch.setattr(metadata, "_LIMIT", 1 << 20)
        card, complaints = read_card({"camcore.labels": json.dumps(["x" * (1 << 20)])})
        assert card.labels is None
        assert complaints == ["metadata 'camcore.labels' is larger than 1 MiB and was ignored"]

    @pytest.mark.parametrize("value", [1, "text", True, None, 1.5])
    @pytest.mark.parametrize("key", ["labels", "preprocess"])
    def test_wrong_types(self, key, value):
        card, _ = read_card({f"camcore.{key}": json.dumps(value)})
        assert card == Card()

    @pytest.mark.parametrize("value", [1, [1], {"a": 1}, True])
    def test_texts_that_are_no_texts(self, value):
        assert read_card({"camcore.layer": json.dumps(value), "camcore.head": json.dumps(value)})[0] == Card()

    @pytest.mark.parametrize(
        "change",
        [
            {"scale": "fast"},
            {"scale": None},
            {"mean": 3},
            {"mean": {"a": 1}},
            {"std": [0.0]},
            {"std": []},
            {"std": ["x"]},
            {"order": "GBR"},
            {"order": ["RGB"]},
            {"size": 7},
            {"size": []},
            {"size": [float("inf"), 1]},
            {"resize": "crop"},
            {"crop": 0},
            {"crop": float("nan")},
        ],
    )
    def test_preprocessing_that_makes_no_sense(self, change):
        card, complaints = read_card({"camcore.preprocess": json.dumps(RULE | change)})
        assert card.preprocess is None
        assert len(complaints) == 1

    def test_preprocessing_that_is_a_list(self):
        card, complaints = read_card({"camcore.preprocess": "[1, 2]"})
        assert card.preprocess is None
        assert len(complaints) == 1

    @pytest.mark.parametrize("missing", sorted(set(RULE) - {"size"}))
    def test_preprocessing_with_a_field_missing(self, missing):
        rule = {k: v for k, v in RULE.items() if k != missing}
        card, complaints = read_card({"camcore.preprocess": json.dumps(rule)})
        assert card.preprocess is None
        assert re.search(f"recorded in the model cannot be read: KeyError\\('{missing}'\\)", complaints[0])

    def test_control_characters_are_taken_out_of_names(self):
        labels = read_card({"camcore.labels": json.dumps(["a\x1b[31mred", "b\u202ec"])})[0].labels
        assert labels == ("a [31mred", "b c")

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        key=st.sampled_from(("labels", "preprocess", "layer", "head", "version")),
        field=st.sampled_from(tuple(RULE)),
    )
    def test_anything_at_all(self, value, key, field):
        """Each answer is a card whose fields are of the kinds they are said to be."""
        for content in (value, RULE | {field: value}):
            card, _ = read_card({f"camcore.{key}": json.dumps(content), "names": repr(value)})
            assert card.labels is None or all(isinstance(n, str) for n in card.labels)
            assert all(v is None or isinstance(v, str) for v in (card.layer, card.head, card.version))

    def test_a_model_with_them_still_opens_and_says_so(self):
        model = model_with(camcore__labels="{", camcore__preprocess="[]", names="{[]: 1}")
        backend = OnnxBackend(model, device="cpu")
        assert backend.labels is None
        assert backend.preprocess is None
        assert backend.complaints[0] == "metadata 'camcore.labels' is no JSON and was ignored"
        assert len(backend.complaints) == 2
