"""The index: a line a picture, for JSON and for people, up to where it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from camcore.bulk.index import encode, peaks, records, whole_lines
from camcore.rows import Rows


def rows() -> Rows:
    maps = np.zeros((3, 2, 2, 4), np.float32)
    maps[0, 0, 1, 3], maps[0, 1, 0, 0] = 5, 1
    maps[1], maps[2, :, 0, 0] = np.nan, np.nan
    maps[2, 0, 1, 0] = -1e-9
    classes = np.array([[1, 0], [-1, -1], [0, 1]])
    scores = np.array([[1 / 3, 2], [np.nan, np.nan], [np.inf, -1]], np.float32)
    return Rows(maps, classes, scores, np.full((3, 2), 0.5, np.float32), ["", "no such file", ""])


VIEWS = np.array([[0, 0, 8, 4], [0, 0, 0, 0], [10, 20, 30.123456, 40]])


def test_what_is_known_of_a_picture() -> None:
    first, second, third = records(["a", "b", "c"], rows(), VIEWS, labels=["cat", "dog"])
    assert first == {
        "picture": "a",
        "classes": [1, 0],
        "scores": [0.3333333, 2.0],
        "probabilities": [0.5, 0.5],
        "labels": ["dog", "cat"],
        "peaks": [[7.0, 3.0], [1.0, 1.0]],
        "view": [0.0, 0.0, 8.0, 4.0],
    }
    assert second == {"picture": "b", "error": "no such file"}
    assert third["scores"] == [None, -1.0]
    assert third["view"] == [10.0, 20.0, 30.12, 40.0]
    assert "labels" not in records(["a"], rows(), VIEWS)[0]


def test_a_peak_is_the_centre_of_the_largest_cell() -> None:
    random = np.random.default_rng(0)
    maps, views = random.standard_normal((20, 3, 5, 7)), np.cumsum(random.uniform(1, 50, (20, 4)), axis=1)
    found = peaks(maps, views)
    for n, (x0, y0, x1, y1) in enumerate(views):
        for t in range(3):
            row, column = np.unravel_index(maps[n, t].argmax(), (5, 7))
            expected = x0 + (column + 0.5) / 7 * (x1 - x0), y0 + (row + 0.5) / 5 * (y1 - y0)
            np.testing.assert_allclose(found[n, t], expected, atol=0.0051)


def test_any_name_reads_back_and_controls_no_terminal(tmp_path: Path) -> None:
    names = ["ä.jpg", "a\udcff.jpg", "\x1b[31m\n.jpg", '"', "\u202e"]
    lines = [{"picture": name, "shard": "s", "row": n} for n, name in enumerate(names)]
    text = encode(lines)
    assert b"\x1b" not in text
    assert "\u202e".encode() not in text
    assert "ä".encode() in text
    (tmp_path / "index.jsonl").write_bytes(text)
    found = list(whole_lines(tmp_path / "index.jsonl"))
    assert [record["picture"] for record, _ in found] == names
    assert sum(length for _, length in found) == len(text)


def test_up_to_where_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    assert list(whole_lines(path)) == []
    line = encode([{"picture": "a", "shard": "s", "row": 0}])
    for end in (b"", line[:-1], line[:5], b"\0" * 20 + b"\n", b"[]\n", json.dumps({"picture": "b"}).encode() + b"\n"):
        path.write_bytes(line * 2 + end + (line if end.endswith(b"\n") else b""))
        assert len(list(whole_lines(path))) == 2
