"""A model, a folder and an application of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from camcore_tools.serving.app import make_app
from camcore_tools.serving.explaining import Model
from camcore_tools.serving.guard import Guard
from camcore_tools.serving.media import Camera, open_source
from PIL import Image

import camcore
from camcore.engine import Explainer

LABELS = ["<script>document.title = 'taken'</script>", "b & c", "“dé”, deux", "d"]


@pytest.fixture
def explainer(model: Path) -> Explainer:
    return camcore.explainer(model, labels=LABELS, preprocess="unit", threads=1)


@pytest.fixture
def explained(explainer: Explainer) -> Model:
    return Model(explainer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures in two folders; one is a TIFF, and one a photograph on its side."""
    place = tmp_path / "photos"
    (place / "deep").mkdir(parents=True)
    random = np.random.default_rng(1)
    for name, shape in (("a.png", (30, 40, 3)), ("deep/b.tiff", (40, 24, 3))):
        Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(place / name)
    turned = Image.fromarray(random.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(place / "c.jpg", exif=exif, quality=95)
    return place


@pytest.fixture
def application(explained: Model) -> Callable[..., web.Application]:
    """The application of the model; ``source=`` a path, ``guard=`` another one."""

    def make(source: Path | None = None, guard: Guard | None = None, **options: Any) -> web.Application:
        place = Camera() if source is None else open_source(str(source))
        return make_app(explained, place, guard or Guard("127.0.0.1"), **{"title": "tiny", **options})

    return make
