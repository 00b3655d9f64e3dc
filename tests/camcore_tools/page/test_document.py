"""The document of the page: data stays data, and nothing may come from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from camcore_tools.page import POLICY, TYPES, assets, document

from camcore.colormaps import COLORMAPS

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'


class Page(HTMLParser):
    """The start tags of a page with their attributes, and the text of its configuration."""

    CDATA_CONTENT_ELEMENTS = ("script", "style")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][1].get("id") == "config" and data.strip():
            self.data += data

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


def test_foreign_texts_are_data() -> None:
    config = {"engine": "web", "title": EVIL, "labels": [EVIL], "source": {"kind": "drop"}}
    page = Page(document(config))
    assert page.config["labels"] == [EVIL]
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [attributes for _, attributes in page.tags if attributes.get("onerror")]
    plain = Page(document(config | {"title": "", "labels": []}))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]


def test_colour_tables_are_those_of_the_library() -> None:
    tables = Page(document({"engine": "web", "title": "t"})).config["tables"]
    assert {name: base64.b64decode(text) for name, text in tables.items()} == {
        name: table.tobytes() for name, table in COLORMAPS.items()
    }


def test_everything_is_relative_and_nothing_inline() -> None:
    page = Page(document({"engine": "web", "title": "t"}))
    addresses = [a[name] or "" for _, a in page.tags for name in ("src", "href") if name in a]
    assert sorted(addresses) == ["data:,", "style.css", "view.js"]
    for tag, attributes in page.tags:
        assert tag != "style"
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == POLICY
    assert "unsafe-inline" not in POLICY
    assert "'unsafe-eval'" not in POLICY


@pytest.mark.parametrize(("engine", "other"), [("web", "engine-socket.js"), ("socket", "engine-web.js")])
def test_assets_are_those_of_one_engine(engine: str, other: str) -> None:
    names = assets(engine)
    assert {"view.js", "style.css", f"engine-{engine}.js"} <= names.keys()
    assert other not in names
    assert all(f".{name.rpartition('.')[2]}" in TYPES for name in names)


@pytest.mark.parametrize("engine", ["web", "socket"])
def test_scripts_import_only_what_lies_beside_them(engine: str) -> None:
    files = assets(engine)
    for name, data in files.items():
        text = data.decode()
        imported = re.findall(r'^import .* from "\./([^"]+)"', text, re.MULTILINE)
        assert set(imported) <= files.keys()
        assert len(imported) == len(re.findall(r"^import\b", text, re.MULTILINE))
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"https?://", text), name


def test_each_control_has_a_name() -> None:
    text = document({"engine": "web", "title": "t"})
    labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', text))
    page = Page(text)
    for tag, attributes in page.tags:
        if tag in ("input", "select") and "hidden" not in attributes:
            inside = re.search(rf'<label[^>]*>[^<]+<{tag}[^>]* id="{attributes["id"]}"', text)
            assert attributes["id"] in labelled or inside
        if tag == "button":
            named = re.search(rf'id="{attributes["id"]}"[^>]*>(?:<svg.*?</svg>)?(?:<span[^>]*>)?[^<\s]{{3}}', text)
            assert attributes.get("aria-label") or named, attributes
