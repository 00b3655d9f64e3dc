from __future__ import annotations

import io
import json
import sys

import pytest
from camcore_tools.console import Progress, columns, note, print_json, safe


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = columns([("a", "one"), ("longer", "word " * 30)])
    lines = text.splitlines()
    assert lines[0] == "  a       one"
    assert all(len(line) <= 60 for line in lines)
    assert lines[2].startswith(" " * 10 + "word")


def test_numbers_stand_below_each_other() -> None:
    lines = columns([("a", f"{1.5:7.2f} ms", "x"), ("b", f"{123.25:7.2f} ms", "y")]).splitlines()
    assert lines == ["  a     1.50 ms  x", "  b   123.25 ms  y"]
    assert len(columns([("a", " " * 9000 + "far", "b")])) < 100


def test_names_lose_their_control_characters() -> None:
    assert "\x1b" not in safe("\x1b[31mred\x1b[0m\nline")
    assert "\n" not in safe("a\nb")


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Eichhörnchen", "value": 1.5})
    assert json.loads(capsys.readouterr().out) == {"name": "Eichhörnchen", "value": 1.5}
    with pytest.raises(ValueError, match="Out of range float"):
        print_json({"value": float("nan")})


def test_nothing_that_controls_a_terminal_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "cat\x1b[31m\u202e\x9b2J"
    print_json({name: name})
    note(f"  left out: {name}\n  and more")
    streams = capsys.readouterr()
    assert json.loads(streams.out) == {name: name}
    assert streams.err == "  left out: cat [31m  2J\n  and more\n"
    assert not set("\x1b\u202e\x9b") & set(streams.out)


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(2, "working") as bar:
            bar.step()
            bar.step()
        assert ("working [" in stream.getvalue()) == shown
        assert ("2/2" in stream.getvalue()) == shown
        if shown:
            assert stream.getvalue().endswith("\r\x1b[K")


def test_progress_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(3, "a long label of a long piece of work") as bar:
        bar.step(text="and more words")
    assert all(len(part) < 40 + 4 for part in stream.getvalue().split("\r"))
