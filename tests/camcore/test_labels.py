"""Class names from files and mappings, also those that nobody should trust."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camcore import InputError, labels
from camcore.labels import clean, escaped, harmless, read_labels, short_name


def written(folder: Path, text: str, name: str = "labels.txt") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("tench\ngoldfish\n", ("tench", "goldfish")),
        ("\ufefftench\r\ngoldfish", ("tench", "goldfish")),
        ("  tench, Tinca tinca \n\n goldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", ("tench, Tinca tinca", "goldfish")),
        ("0 tench\n1 goldfish\n", ("tench", "goldfish")),
        ("1: tench\n2: goldfish\n", ("tench", "goldfish")),
        ("0,tench\n1, gold fish\n", ("tench", "gold fish")),
        ("   0  background\n   1  tench\n", ("background", "tench")),
        ("5 euro\n10 euro\n", ("5 euro", "10 euro")),  # numbers that do not count the lines belong to the names
        ("1 euro\nhalf a euro\n", ("1 euro", "half a euro")),
        ("0\n1\n2\n", ("0", "1", "2")),
        ("n01440764\nn01443537\n", ("n01440764", "n01443537")),
    ],
)
def test_lines(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    assert read_labels(written(tmp_path, text)) == names
    assert read_labels(str(tmp_path / "labels.txt")) == names


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (["tench", "goldfish"], ("tench", "goldfish")),
        ({"1": "goldfish", "0": "tench"}, ("tench", "goldfish")),
        ({"0": ["n01440764", "tench"], "2": ["n01443537", "goldfish"]}, ("tench", "class 1", "goldfish")),
        (["tench", 5, None], ("tench", "5", "None")),
    ],
)
def test_json(tmp_path: Path, data: Any, names: tuple[str, ...]) -> None:
    assert read_labels(written(tmp_path, json.dumps(data), "labels.JSON")) == names


def test_sequences_and_mappings() -> None:
    assert read_labels(["tench", "gold\nfish"]) == ("tench", "gold fish")
    assert read_labels({0: "tench", 1: "goldfish"}) == ("tench", "goldfish")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", b"", "no names in it; expected one a line"),
        ("a.txt", b" \n\n ", "no names in it; expected one a line"),
        ("a.txt", b"caf\xe9\n", "not a text file in UTF-8"),
        ("a.txt", b"\x80\x04\x95pickle", "not a text file in UTF-8"),
        ("a.json", b"[1, 2", "not valid JSON: "),
        ("a.json", b"[" * 100_000, "not valid JSON: "),
        ("a.json", b"[" + b"9" * 5000 + b"]", "not valid JSON: "),
        ("a.json", b'"tench"', "expected a JSON list of names, or an object of index to name"),
        ("a.json", b"[]", "no names in it"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^labels: {re.escape(str(tmp_path / name))}: {text}"):
        read_labels(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels: .*none\.txt: no such file"):
        read_labels(tmp_path / "none.txt")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(InputError, match=r"a\.txt: larger than 16 MiB; expected one name a line"):
        read_labels(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"tench": 0}, "the keys of the mapping must be class indices: .*'tench'"),
        ({"0": []}, "the keys of the mapping must be class indices"),
        ({}, "the mapping is empty or has indices out of range"),
        ({-1: "tench"}, "the mapping is empty or has indices out of range"),
        ({10**9: "tench"}, "the mapping is empty or has indices out of range"),
    ],
)
def test_bad_mappings(mapping: dict[Any, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"labels: {text}"):
        read_labels(mapping)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),  # without its escape character it is plain text
        ("\x9b31mred", "31mred"),
        ("a\x00b\tc\nd\re\x7ff", "a b c d e f"),
        ("abc\u202edef\u2066g\u200fh", "abc def g h"),
        ("a\u2028b\u2029c\x85d", "a b c d"),
        ("a\ud800b", "a b"),
        ("  café – 猫 🐈 ", "café – 猫 🐈"),
    ],
)
def test_what_a_terminal_would_obey_is_removed(name: str, cleaned: str) -> None:
    assert clean(name) == cleaned


@settings(deadline=None)
@given(st.text(st.characters()))
def test_no_clean_name_holds_a_control_character(name: str) -> None:
    found = clean(name)
    found.encode()  # raises for a surrogate
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in found)
    assert all(unicodedata.bidirectional(c) not in ("RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI") for c in found)
    assert clean(found) == found


def test_names_of_every_source_are_clean(tmp_path: Path) -> None:
    evil = "\x1b[2Jcat"
    sources: list[Any] = [
        [evil],
        {0: evil},
        written(tmp_path, evil + "\n"),
        written(tmp_path, json.dumps([evil]), "a.json"),
        written(tmp_path, json.dumps({"0": evil}), "b.json"),
    ]
    assert {read_labels(source) for source in sources} == {("[2Jcat",)}


def test_a_long_name_is_cut() -> None:
    assert clean("x" * 500) == "x" * 200
    assert clean("x" * 500, 10) == "x" * 10


@pytest.mark.parametrize(("name", "short"), [("tench, Tinca tinca", "tench"), ("tench", "tench"), (", odd", ", odd")])
def test_the_short_name_is_the_first_synonym(name: str, short: str) -> None:
    assert short_name(name) == short


def test_the_public_names_exist() -> None:
    assert all(hasattr(labels, name) for name in labels.__all__)


def test_of_harmless_text_lines_stay_lines() -> None:
    assert harmless("  a\x1b[0m\tb\n  c\u202e\n") == "  a [0m b\n  c \n"


@settings(derandomize=True)
@given(st.text(st.characters()))
def test_escaped_json_reads_back_and_holds_nothing_hidden(text: str) -> None:
    found = escaped(json.dumps({text: [text]}, indent=1, ensure_ascii=False))
    assert json.loads(found) == {text: [text]}
    assert harmless(found) == found


@pytest.mark.parametrize("hidden", ["\u200b", "\u2060", "\ufeff", "\U000e0041", "\u180e", "\ufff9"])
def test_hidden_characters_are_taken_out(hidden: str) -> None:
    assert clean(f"a{hidden}b") == "a b"
