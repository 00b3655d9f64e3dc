from __future__ import annotations

import json

import pytest
from camcore_tools.inspection.metadata import describe_metadata, embedded
from hypothesis import given
from hypothesis import strategies as st


def test_own_entries_come_first() -> None:
    found = describe_metadata({"author": "me", "camcore.layer": '"relu"', "stride": "32"})
    assert [(e["key"], e["ours"], e["length"], e["value"]) for e in found] == [
        ("camcore.layer", True, 6, '"relu"'),
        ("author", False, 2, "me"),
        ("stride", False, 2, "32"),
    ]


def test_long_and_hostile_entries() -> None:
    entries = {"\x1b[2Jkey": "a\nb\x00c\u202e", "big": "x" * 10_000_000, **{f"k{i}": "" for i in range(500)}}
    found = describe_metadata(entries)
    assert found[0]["key"] == "[2Jkey"
    assert found[0]["value"] == "a b c"
    assert (found[1]["length"], len(found[1]["value"])) == (10_000_000, 60)
    assert found[1]["value"].endswith("...")
    assert len(found) == 100


@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_entries_are_plain_text(entries: dict[str, str]) -> None:
    found = describe_metadata(entries)
    assert json.loads(json.dumps(found)) == found
    assert not any(c < " " for e in found for c in e["key"] + e["value"])


def test_what_is_embedded() -> None:
    card = {"method": "cam", "classes": "top5", "rectifies": True, "heatmap": [8, 9], "way": "closed form"}
    assert embedded({"camcore.cam": json.dumps(card)}) == card


@pytest.mark.parametrize("text", ["", "no", "[1]", "1" * 5000, "[" * 100_000, '{"a": 1}' + " " * 70_000])
def test_what_cannot_be_read_is_nothing(text: str) -> None:
    assert embedded({"camcore.cam": text}) is None
    assert embedded({}) is None


def test_foreign_values_are_short_texts() -> None:
    card = {"method": "a\x1b[2J" + "b" * 500, "classes": {"x": [1]}, "heatmap": 1e400, "way": 10**30, "k" * 99: None}
    found = embedded({"camcore.cam": json.dumps(card)})
    assert found is not None
    assert found["method"] == "a [2J" + "b" * 75
    assert found["classes"] == "{'x': [1]}"
    assert (found["heatmap"], found["way"], found["k" * 40]) == ("inf", "1" + "0" * 30, None)
