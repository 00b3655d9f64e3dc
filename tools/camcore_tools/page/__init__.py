"""The page of ``camcore live`` and ``camcore export --web``: its static files, and the document that starts them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from camcore.colormaps import COLORMAPS
from camcore.labels import clean

__all__ = ["POLICY", "TYPES", "assets", "document"]

TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob: mediastream:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""What the page may do: run and load what lies beside it, and nothing else. The document says so itself."""


def assets(engine: str) -> dict[str, bytes]:
    """The files that lie beside the document, by name.

    Parameters
    ----------
    engine : {"socket", "web"}
        The file of the other one is left out.
    """
    names = sorted(f.name for f in files(__name__).iterdir() if f.name.endswith((".js", ".css")))
    other = "engine-web" if engine == "socket" else "engine-socket"
    return {name: files(__name__).joinpath(name).read_bytes() for name in names if not name.startswith(other)}


def document(config: Mapping[str, Any]) -> str:
    """The HTML document.

    Parameters
    ----------
    config : mapping
        What the scripts read: ``engine`` ("socket" or "web"), ``title``, ``source`` and what the engine needs. It is
        data: nothing in it is ever taken for HTML. Colour tables are added.
    """
    tables = {name: base64.b64encode(table.tobytes()).decode() for name, table in COLORMAPS.items()}
    title = clean(str(config["title"]))
    told = {"tables": tables, **config, "title": title}
    parts = {
        "title": escape(title),
        "policy": escape(POLICY),
        # Within a script element nothing but "<" can end it or open another.
        "config": json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }
    page = files(__name__).joinpath("index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)
