from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from camcore_onnx import embed_cam
from camcore_tools.inspection.diagram import draw
from camcore_tools.inspection.facts import describe, look_at
from camcore_tools.inspection.page import render_page, write_page
from camcore_tools.inspection.tail import tail_of
from onnx_graphs import Graph, classifier

from camcore.errors import InputError

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e"


class Tags(HTMLParser):
    """All tags and attributes; complains where one is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(model: Any, folder: Path, name: str = "m.onnx") -> str:
    onnx.save(model, folder / name)
    subject = look_at(str(folder / name))
    return render_page(describe(subject), tail_of(subject))


def tags(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    assert found.open == []
    return found


def test_the_page_is_whole_and_stands_alone(tmp_path: Path) -> None:
    page = page_of(classifier(), tmp_path)
    seen = tags(page).seen
    names = {tag for tag, _ in seen}
    assert {"svg", "table", "style"} <= names
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert not [a for _, attrs in seen for a in attrs if a in ("src", "href", "srcset") or a.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", page)
    for text in ("GlobalAveragePool -&gt; Flatten -&gt; Gemm", "8.13 MMAC", "203", "float32", "gradcam"):
        assert text in page, text


def hostile(folder: Path) -> str:
    """Names of tensors, nodes, the producer and metadata are not to be trusted; nor is that of the file."""
    model = classifier(size=(8, 8))
    for node in model.graph.node:
        node.name = HOSTILE + node.name
        node.output[:] = [HOSTILE + n for n in node.output]
        node.input[:] = [HOSTILE + n for n in node.input]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = HOSTILE + value.name
    model.producer_name = HOSTILE
    for key in ("camcore.labels", "camcore.cam", HOSTILE):
        value = '{"method": "<script>", "classes": "<b>"}' if key == "camcore.cam" else HOSTILE
        model.metadata_props.add(key=key, value=value)
    return page_of(model, folder, "<b>&m.onnx")


def test_foreign_names_are_escaped(tmp_path: Path) -> None:
    page = hostile(tmp_path)
    seen = tags(page).seen
    assert not {"script", "b>"} & {tag for tag, _ in seen}
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "<title>&lt;b&gt;&amp;m.onnx</title>" in page


def test_the_drawing_is_xml(tmp_path: Path) -> None:
    for model in (classifier(), embed_cam(classifier(), classes="input", heatmap="input")):
        onnx.save(model, tmp_path / "m.onnx")
        picture = tail_of(look_at(str(tmp_path / "m.onnx")))
        assert picture is not None
        root = ET.fromstring(draw(picture).svg)
        groups = [g.get("class", "") for g in root.iter("g")]
        assert sum(c.startswith("box") for c in groups) == len(picture.boxes)
        assert sum(c.startswith("edge") for c in groups) == len(picture.edges)
        shown = {"".join(t.itertext()) for t in root.iter("text")}
        assert {"features 1×6×224×224", "GlobalAveragePool", "scores 1×5"} <= shown


def test_a_cam_in_the_file(tmp_path: Path) -> None:
    page = page_of(embed_cam(classifier(size=(8, 8)), classes="top5"), tmp_path)
    assert "A CAM is in the file:" in page
    assert "camcore's own nodes" in page
    assert 'class="box node cam"' in page


def test_no_head(tmp_path: Path) -> None:
    g = Graph(17)
    features = g.add("Relu", g.conv(g.image(["N", 3, 8, 8]), 3, 6), to="features")
    flat = g.add("Flatten", g.add("GlobalMaxPool", features))
    g.out(g.add("Gemm", flat, g.const(g.normal(5, 6)), to="scores", transB=1), ["N", 5])
    page = page_of(g.model(), tmp_path)
    assert "No linear head behind a pooling." in page
    assert "takes the maximum over the map, not the mean" in page
    assert re.search(r"Grad-CAM works, at 1\.\d\d forward passes", page)
    assert 'class="box node head"' not in page


def test_a_file_that_is_no_classifier(tmp_path: Path) -> None:
    model = classifier(size=(8, 8))
    model.graph.input.append(onnx.helper.make_tensor_value_info("other", 1, ["N", 3, 8, 8]))
    page = page_of(model, tmp_path)
    tags(page)
    assert "Nothing to explain." in page
    assert "expected one image input" in page


def test_pytorch() -> None:
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    subject = look_at(model, size=(32,))
    page = render_page(describe(subject), None)
    assert "svg" not in {tag for tag, _ in tags(page).seen}
    assert "97.2 kMAC" in page  # 30 x 30 x 4 x 27, and 8
    assert "122" in page


def test_half_a_page_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(classifier(size=(8, 8)), tmp_path / "m.onnx")
    subject = look_at(str(tmp_path / "m.onnx"))
    target = tmp_path / "page.html"
    target.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        write_page(target, describe(subject), subject)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["m.onnx", "page.html"]
    assert target.read_text() == "old"
