"""The page that shows what the demo did: one HTML file beside its pictures, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from camcore_tools.demo.style import STYLE

if TYPE_CHECKING:
    from camcore_onnx.checking.verify import Check

__all__ = ["Card", "Page", "Strip", "render_page"]


@dataclass(frozen=True)
class Card:
    """A picture of the gallery, its overlay, and what it is taken for."""

    picture: str
    overlay: str
    name: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Strip:
    """A mistake: one image file that holds the picture, the map of the answer and the map of the truth."""

    image: str
    taken_for: str
    truth: str
    chance_taken: float
    chance_truth: float


@dataclass(frozen=True)
class Page:
    """All that the page says. Texts are plain; they are escaped where they are shown.

    Attributes
    ----------
    headline : sequence of (figure, what it is)
    film : (animation, still)
        File names.
    steps : str
        How the network came about.
    gallery : sequence of Card
    mistakes : sequence of Strip
    mistaken, validated : int
        How many validation pictures were misclassified, of how many.
    checks : sequence of Check
    sheets : mapping of look to file name, as pairs
    commands : sequence of str
        What to try next.
    code : str
        The same in Python.
    footer : str
    """

    headline: Sequence[tuple[str, str]]
    film: tuple[str, str]
    steps: str
    gallery: Sequence[Card]
    mistakes: Sequence[Strip]
    mistaken: int
    validated: int
    checks: Sequence[Check]
    sheets: Sequence[tuple[str, str]]
    commands: Sequence[str]
    code: str
    footer: str


def render_page(page: Page) -> str:
    """The whole HTML document."""
    sections = (_film, _gallery, _mistakes, _parity, _looks, _next)
    body = "\n".join(section(page) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>camcore demo</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Where does the network look?</h1>
<p class="lead">{escape(page.steps)}</p>
{_headline(page)}
</header>
{body}
<footer><p>{escape(page.footer)}</p></footer>
</main>
</body>
</html>
"""


def _section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def _headline(page: Page) -> str:
    tiles = (f"<div><dd>{escape(figure)}</dd><dt>{escape(what)}</dt></div>" for figure, what in page.headline)
    return f'<dl class="figures">\n{_join(tiles)}\n</dl>'


def _film(page: Page) -> str:
    animation, still = map(escape, page.film)
    return _section(
        "It learns to look",
        "<p>Class activation maps of the true class, recorded while the network trained. "
        "The frame is green where it has the picture right, red where it is wrong. "
        '<a href="timeline.html">Go through it step by step</a>.</p>',
        "<picture>",
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{still}">',
        f'<img class="film" src="{animation}" alt="The maps contract onto the objects while the loss falls">',
        "</picture>",
    )


def _gallery(page: Page) -> str:
    return _section(
        "What it looks at now",
        "<p>New scenes, explained by <code>model.onnx</code> in ONNX Runtime. "
        "Hover over a picture, or tap it, to see it without the heat. "
        'All scores and peaks are in <a href="explained/result.json">explained/result.json</a>.</p>',
        f'<div class="gallery">\n{_join(_card(c) for c in page.gallery)}\n</div>',
    )


def _card(card: Card) -> str:
    name, verdict = escape(card.name), "right" if card.right else "wrong"
    return (
        f'<figure class="{verdict}"><div class="flip" tabindex="0">'
        f'<img src="{escape(card.picture)}" alt="A picture taken for: {name}" loading="lazy">'
        f'<img class="top" src="{escape(card.overlay)}" alt="" loading="lazy"></div>'
        f"<figcaption>{name} <b>{card.probability:.2f}</b>{'' if card.right else ' (wrong)'}</figcaption></figure>"
    )


def _mistakes(page: Page) -> str:
    if not page.mistakes:
        return _section(
            "What was it looking at?", f"<p>None of the {page.validated} validation pictures is misclassified.</p>"
        )
    shown = len(page.mistakes)
    which = "" if shown == page.mistaken else f" The {shown} most confident ones:"
    return _section(
        "What was it looking at?",
        f"<p>{page.mistaken} of {page.validated} validation pictures are misclassified.{which} "
        "The picture as the network takes it, what speaks for its answer, and what speaks for the truth.</p>",
        f'<div class="strips">\n{_join(_strip(s) for s in page.mistakes)}\n</div>',
    )


def _strip(strip: Strip) -> str:
    taken, truth = escape(strip.taken_for), escape(strip.truth)
    return (
        f'<figure><img src="{escape(strip.image)}" alt="A {truth} taken for: {taken}" loading="lazy">'
        f"<figcaption><span>picture</span><span>taken for {taken} <b>{strip.chance_taken:.2f}</b></span>"
        f"<span>is {truth} <b>{strip.chance_truth:.2f}</b></span></figcaption></figure>"
    )


def _parity(page: Page) -> str:
    return _section(
        "The same numbers in PyTorch and in ONNX Runtime",
        "<p>Differences are relative to the largest value.</p>",
        '<div class="wide"><table>',
        "<thead><tr><th>check</th><th>on</th><th>largest difference</th><th>limit</th><th></th></tr></thead>",
        f"<tbody>\n{_join(_row(c) for c in page.checks)}\n</tbody>",
        "</table></div>",
    )


def _row(check: Check) -> str:
    numbers = ("" if v is None else f"{v:.1e}" for v in (check.difference, check.limit))
    cells = _join(f"<td>{escape(text)}</td>" for text in (check.name, check.detail, *numbers))
    verdict = '<td class="ok">ok</td>' if check.passed else '<td class="failed">failed</td>'
    return f"<tr>{cells}{verdict}</tr>"


def _looks(page: Page) -> str:
    looks = (
        f'<figure><a href="{escape(file)}"><img src="{escape(file)}" alt="Contact sheet" loading="lazy"></a>'
        f"<figcaption><b>{escape(look)}</b></figcaption></figure>"
        for look, file in page.sheets
    )
    return _section(
        "Two looks",
        "<p><code>camcore explain --style alpha</code> (the default) and <code>--style matlab</code>.</p>",
        f'<div class="looks">\n{_join(looks)}\n</div>',
    )


def _next(page: Page) -> str:
    return _section(
        "Try next",
        f"<pre><code>{escape(chr(10).join(page.commands))}</code></pre>",
        "<p>The same from Python; only ONNX Runtime is needed, not PyTorch:</p>",
        f"<pre><code>{escape(page.code)}</code></pre>",
    )
