"""The files of the demo: pictures, overlays, contact sheets, mistakes, the film, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camcore import figures, render, sheets
from camcore.explanation import Explanation
from camcore.files import save_picture, write_atomically
from camcore.films.film import frames_of, write_gif
from camcore.films.timeline import save_timeline
from camcore_tools.demo.measure import Data, Mistake
from camcore_tools.demo.page import Card, Strip, render_page
from camcore_tools.merchandise import KINDS

if TYPE_CHECKING:
    from camcore.pictures import Picture
    from camcore.recording import Recording
    from camcore.results import ResultFolder
    from camcore_tools.demo.summary import Record

__all__ = ["write_everything", "write_gallery", "write_mistakes", "write_sheets"]

_MOST_MISTAKES = 12
_PIXEL = 3  # a picture of 64 pixels is shown with pixels that can be seen


def write_everything(record: Record, data: Data, results: ResultFolder) -> None:
    """All files; the page, which refers to the others, is the last."""
    folder, found = record.folder, record.findings
    write_training(folder, record.trained.recording)
    with results:
        results.add(found.gallery)
    page = record.page(
        gallery=write_gallery(folder, data.pictures, found.gallery, data.labels),
        mistakes=write_mistakes(folder, data.validation.images, found.everything, found.mistakes),
        sheets=write_sheets(folder, found.gallery),
    )
    figures_text = json.dumps(record.document(), indent=1, allow_nan=False)
    write_atomically(folder / "demo.json", lambda file: file.write(figures_text.encode()))
    write_atomically(folder / "index.html", lambda file: file.write(render_page(page).encode()))


def write_training(folder: Path, recording: Recording) -> None:
    """The training as a film, its last frame for those who want nothing to move, and as a page to go through it."""
    film = frames_of(recording, columns=len(KINDS))
    write_gif(folder / "training.gif", film)
    save_picture(folder / "training.png", film[-1])
    save_timeline(folder / "timeline.html", recording)


def write_gallery(folder: Path, pictures: Sequence[Picture], out: Explanation, labels: NDArray[np.int64]) -> list[Card]:
    """Each picture as it is, and with the heat of the class that it is taken for; ``out`` has that class alone."""
    for name in ("pictures", "overlays"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cards = []
    heats = out.heatmaps(pictures[0].pixels.shape[:2])[:, 0]
    for n, (picture, heat) in enumerate(zip(pictures, heats, strict=True)):
        best = int(out.classes[n, 0])
        card = Card(
            picture=f"pictures/{picture.name}.png",
            overlay=f"overlays/{picture.name}.jpg",
            name=out.label(best),
            probability=float(out.probabilities[n, best]),
            right=best == int(labels[n]),
        )
        save_picture(folder / card.picture, picture.pixels)
        save_picture(folder / card.overlay, render.overlay(picture.pixels, heat, alpha="heat"))
        cards.append(card)
    return cards


def write_sheets(folder: Path, out: Explanation) -> list[tuple[str, str]]:
    """A contact sheet for each look; gives (look, file name)."""
    captions = [figures.top_lines(out, n, 2) for n in range(len(out))]
    written = []
    for style in figures.STYLES:
        tiles = [figures.overlays(out, n, style=style)[0] for n in range(len(out))]
        written.append((style, f"sheet-{style}.jpg"))
        save_picture(folder / written[-1][1], sheets.grid(tiles, captions, columns=len(KINDS), tile=200))
    return written


def write_mistakes(
    folder: Path, pictures: NDArray[np.uint8], out: Explanation, found: Sequence[Mistake]
) -> list[Strip]:
    """For the most confident mistakes: the picture, the map of the answer, and the map of the truth.

    ``out`` has the maps of all classes.
    """
    strips = []
    for number, mistake in enumerate(found[:_MOST_MISTAKES], start=1):
        (folder / "mistakes").mkdir(parents=True, exist_ok=True)
        strip = Strip(
            image=f"mistakes/{number:02d}.png",
            taken_for=out.label(mistake.taken_for),
            truth=out.label(mistake.truth),
            chance_taken=mistake.chance_taken,
            chance_truth=mistake.chance_truth,
        )
        save_picture(folder / strip.image, _strip(pictures[mistake.picture], out[mistake.picture], mistake))
        strips.append(strip)
    return strips


def _strip(picture: NDArray[np.uint8], out: Explanation, mistake: Mistake) -> NDArray[np.uint8]:
    larger = picture.repeat(_PIXEL, axis=0).repeat(_PIXEL, axis=1)
    heats: NDArray[Any] = out.heatmaps(larger.shape[:2])[0]
    drawn = [render.overlay(larger, heats[c], alpha="heat") for c in (mistake.taken_for, mistake.truth)]
    white = np.full((len(larger), 2 * _PIXEL, 3), 255, np.uint8)
    return np.concatenate([larger, white, drawn[0], white, drawn[1]], axis=1)
