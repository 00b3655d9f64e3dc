"""The demo's page: foreign text is escaped, nothing is fetched, failures are shown."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from camcore_onnx.checking.verify import Check
from camcore_tools.demo.page import Card, Page, Strip, render_page

EVIL = "<script>alert('1')</script>\"&"
PAGE = Page(
    headline=[("95.0%", "right")],
    film=("training.gif", "training.png"),
    steps="It was trained.",
    gallery=[Card("pictures/a.png", "overlays/a.jpg", "cap", 0.9, True)],
    mistakes=[Strip("mistakes/01.png", "cap", "cube", 0.8, 0.1)],
    mistaken=1,
    validated=40,
    checks=[Check("maps", True, "all classes", 1e-7, 1e-4)],
    sheets=[("alpha", "sheet-alpha.jpg")],
    commands=["camcore inspect model.onnx"],
    code="import camcore",
    footer="the end",
)
VOID = {"meta", "img", "source", "br"}


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def evil_page() -> Page:
    return Page(
        headline=[(EVIL, EVIL)],
        film=(EVIL, EVIL),
        steps=EVIL,
        gallery=[Card(EVIL, EVIL, EVIL, 0.5, False)],
        mistakes=[Strip(EVIL, EVIL, EVIL, 0.5, 0.5)],
        mistaken=1,
        validated=2,
        checks=[Check(EVIL, False, EVIL, 1.0, 0.1)],
        sheets=[(EVIL, EVIL)],
        commands=[EVIL],
        code=EVIL,
        footer=EVIL,
    )


def test_foreign_text_stays_text() -> None:
    reader = Reader(render_page(evil_page()))
    assert "script" not in reader.tags
    assert sorted(set(reader.tags)) == sorted(set(Reader(render_page(PAGE)).tags))
    assert reader.text.count(EVIL) == 12


def test_nothing_is_fetched() -> None:
    document = render_page(PAGE)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", document)


def test_it_fits_a_phone_and_the_dark() -> None:
    document = render_page(PAGE)
    assert 'name="viewport" content="width=device-width' in document
    assert "prefers-color-scheme: dark" in document
    assert "prefers-reduced-motion" in document


@pytest.mark.parametrize(("passed", "word"), [(True, "ok"), (False, "failed")])
def test_a_check_says_how_it_went(passed: bool, word: str) -> None:
    document = render_page(replace(PAGE, checks=[Check("maps", passed, "all", 2e-3, 1e-4)]))
    assert f'<td class="{word}">{word}</td>' in document
    assert "<td>2.0e-03</td>" in document


def test_without_mistakes_it_says_so() -> None:
    text = Reader(render_page(replace(PAGE, mistakes=[], mistaken=0))).text
    assert "None of the 40 validation pictures is misclassified." in text


def test_not_all_mistakes_are_shown() -> None:
    assert "The 1 most confident ones" in Reader(render_page(replace(PAGE, mistaken=5))).text
    assert "most confident" not in Reader(render_page(PAGE)).text
