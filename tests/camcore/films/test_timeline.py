"""The timeline page: its document read by Python, and the page itself run in a headless browser."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from camcore.colormaps import COLORMAPS
from camcore.errors import InputError
from camcore.films.timeline import save_timeline
from camcore.recording import Curve, Recording
from camcore.render import overlay
from camcore.resize import resize

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH, so the page cannot be run")

EVIL = ("</script><script>fail()</script>", "<!--<script>", "قطة & Ko.", 'a" onload="fail()', "三毛猫\u2028\u202ex")


def recording(
    frames: int = 7,
    pictures: int = 3,
    size: tuple[int, int] = (48, 64),
    grid: tuple[int, int] = (6, 8),
    *,
    seed: int = 0,
    every: int = 10,
    **more: Any,
) -> Recording:
    """Blobs that drift over noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: grid[0], : grid[1]]
    maps = rng.normal(size=(frames, pictures, *grid)) * 0.3 - 0.5
    for f in range(frames):
        for n in range(pictures):
            centre = grid[0] * (f + 1) / (frames + 1), grid[1] * (n + 1) / (pictures + 1)
            maps[f, n] += 3 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 4)
    steps = np.arange(frames) * every
    every_step = np.arange(1, steps[-1] + 1)
    fields: dict[str, Any] = {
        "curves": {
            "loss": Curve(every_step, 2 / every_step + rng.random(len(every_step))),
            "accuracy": Curve(steps, np.linspace(0.2, 0.9, frames)),
            "epoch": Curve(every_step, every_step / 20),
        },
        "labels": ("cap", "cube, Rubik's cube", "torch", "cards"),
        "names": tuple(f"picture-{n}.png" for n in range(pictures)),
        "layer": "layer4",
    }
    return Recording(
        steps,
        maps.astype(np.float32),
        rng.random((frames, pictures)).astype(np.float32),
        rng.integers(0, 4, (frames, pictures)),
        np.arange(pictures) % 4,
        rng.integers(0, 256, (pictures, *size, 3), dtype=np.uint8),
        **(fields | more),
    )


class Elements(HTMLParser):
    """All start tags of a page, and the text within its script, style and title elements."""

    CDATA_CONTENT_ELEMENTS = ("script", "style")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in self.texts and data.strip():
            self.texts[self.tags[-1][0]].append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts["script"][0])
        return found


def page_of(tmp_path: Path, seen: Recording, **options: Any) -> Elements:
    return Elements(save_timeline(tmp_path / "t.html", seen, **options).read_text(encoding="utf-8"))


def decoded(source: str, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert(mode))


def cells_of(data: Mapping[str, Any]) -> np.ndarray:
    cells = np.frombuffer(base64.b64decode(data["heat"]), np.uint8)
    return cells.reshape(len(data["steps"]), len(data["pictures"]), *data["grid"])


def shown(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the page makes of cells, re-written in float64: resized, then scaled to [0, 1] map by map."""
    large = resize(cells.astype(np.float64), size)
    low, high = large.min((-2, -1), keepdims=True), large.max((-2, -1), keepdims=True)
    return (large - low) / np.where(high > low, high - low, 1)


class TestDocument:
    def test_nothing_is_loaded_from_anywhere(self, tmp_path):
        page = page_of(tmp_path, recording(masks=np.ones((3, 6, 8), bool)))
        for tag, attributes in page.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base", "form")
            assert not {"src", "href", "srcset", "style"} & attributes.keys()
        text = (tmp_path / "t.html").read_text(encoding="utf-8")
        assert set(re.findall(r"\w+://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG
        assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\b", text)

    def test_the_policy_allows_this_script_and_this_style_and_nothing_else(self, tmp_path):
        page = page_of(tmp_path, recording())
        metas = {m["http-equiv"]: m["content"] for m in page.of("meta") if "http-equiv" in m}
        policy = dict(part.strip().split(" ", 1) for part in (metas["Content-Security-Policy"] or "").split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["img-src"] == "data:"
        for name, texts in (("script", page.texts["script"][1:]), ("style", page.texts["style"])):
            assert len(texts) == 1
            digest = base64.b64encode(hashlib.sha256(texts[0].encode()).digest()).decode()
            assert policy[f"{name}-src"] == f"'sha256-{digest}'"

    def test_foreign_names_cannot_leave_their_place(self, tmp_path):
        seen = recording(pictures=5, labels=EVIL, names=EVIL, layer=EVIL[0], method=EVIL[1])
        seen = replace(seen, classes=np.arange(5))
        page = page_of(tmp_path, seen, title="</title><script>fail()</script>\ud800")
        assert len(page.of("script")) == 2
        assert page.texts["title"] == ["</title><script>fail()</script>"]
        assert page.data["layer"] == EVIL[0]
        assert [picture["name"] for picture in page.data["pictures"]][:4] == list(EVIL[:4])
        assert page.data["labels"]["4"] == ["三毛猫  x", "三毛猫  x"]  # without what turns the direction of text

    def test_the_story(self, tmp_path):
        seen = recording()
        data = page_of(tmp_path, seen, title="A title", cmap="turbo", alpha=0.4).data
        assert data["steps"] == [0, 10, 20, 30, 40, 50, 60]
        assert data["epochs"] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
        assert data["total"] == 60
        assert (data["size"], data["grid"]) == ([48, 64], [6, 8])
        assert data["best"] == seen.best.tolist()
        assert np.allclose(data["probabilities"], seen.probabilities, atol=1e-4)
        assert data["labels"]["1"] == ["cube", "cube, Rubik's cube"]
        assert (data["title"], data["cmap"], data["alpha"]) == ("A title", "turbo", 0.4)
        tables = {name: base64.b64decode(text) for name, text in data["tables"].items()}
        assert tables == {name: table.tobytes() for name, table in COLORMAPS.items()}

    def test_pictures_travel_whole_or_smaller(self, tmp_path):
        seen = recording(pictures=2)
        for picture, pixels in zip(page_of(tmp_path, seen).data["pictures"], seen.pictures, strict=True):
            assert np.array_equal(decoded(picture["source"]), pixels)
        large = recording(2, 1, (900, 600), (9, 6))
        data = page_of(tmp_path, large).data
        assert data["size"] == [320, 213]
        assert decoded(data["pictures"][0]["source"]).shape == (320, 213, 3)

    def test_outlines_of_masks(self, tmp_path):
        masks = np.zeros((3, 12, 16), bool)
        masks[0, 4:8, 4:12] = True
        masks[1] = True
        first, everywhere, nowhere = page_of(tmp_path, recording(masks=masks)).data["pictures"]
        opaque = decoded(first["outline"], "RGBA")[..., 3] > 200  # 240 x 320: 20 pixels a cell of the mask
        rows, columns = np.nonzero(opaque)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (80, 159, 80, 239)
        assert opaque[80:82, 80:240].all()
        assert not opaque[82:158, 82:238].any()
        assert not decoded(everywhere["outline"], "RGBA")[..., 3].any()
        assert nowhere["outline"] is None

    def test_without_names_labels_and_numbers(self, tmp_path):
        seen = recording(labels=None, names=(), curves={})
        broken = seen.probabilities.copy()
        broken[2, 1] = np.nan
        data = page_of(tmp_path, replace(seen, probabilities=broken, best=seen.best * 0 + 9)).data
        assert data["labels"]["9"] == ["class 9", "class 9"]
        assert data["pictures"][2]["name"] == "picture 3"
        assert data["probabilities"][2][1] is None
        assert data["epochs"] is None
        data = page_of(tmp_path, replace(seen, labels=("only one", ""))).data
        assert data["labels"]["2"] == ["class 2", "class 2"]
        assert data["labels"]["1"] == ["class 1", "class 1"]

    @pytest.mark.parametrize("labels", [None, ("cap", "cube", "torch")])
    def test_scores_that_were_no_numbers_are_of_no_class(self, tmp_path, labels):
        seen = recording(labels=labels)
        data = page_of(tmp_path, replace(seen, best=np.full_like(seen.best, -1))).data
        assert data["labels"]["-1"] == ["no class", "no class"]

    def test_long_recordings_are_thinned_and_their_size_is_bounded(self, tmp_path):
        long = recording(1001, 12, (96, 96), (14, 14))
        path = save_timeline(tmp_path / "long.html", long, trends={})
        data = Elements(path.read_text(encoding="utf-8")).data
        assert len(data["steps"]) == 400
        assert (data["steps"][0], data["steps"][-1], data["total"]) == (0, 10_000, 10_000)
        assert path.stat().st_size < 3e6
        data = page_of(tmp_path, long, megabytes=0.3, trends={}).data
        assert len(data["steps"]) == 300_000 // (12 * 14 * 14)
        assert len(page_of(tmp_path, long, megabytes=1e-6, trends={}).data["steps"]) == 2

    def test_trends_given_are_shown_and_not_computed_again(self, tmp_path):
        given = {
            "drift_final": Curve(np.array([0, 60]), np.array([0.5, 0.0])),
            "drift_previous": Curve(np.arange(0), np.zeros(0)),
        }
        titles = {c["title"]: c for c in page_of(tmp_path, recording(), trends=given).data["charts"]}
        lines = titles["Maps differ from"]["lines"]
        assert [(line["name"], line["main"]) for line in lines] == [("the final ones", [[0, 60], [0.5, 0.0]])]

    @pytest.mark.parametrize(
        ("change", "options", "text"),
        [
            ({"steps": np.zeros(0, np.int64)}, {}, "the recording has no frame"),
            (
                {"maps": np.zeros((7, 3, 5), np.float32)},
                {},
                r"maps of \(7, 3, 5\) and pictures of \(3, 48, 64, 3\); expected",
            ),
            ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, {}, r"expected \(7 frames, N, h, w\) and \(N, H, W, 3\)"),
            ({}, {"most": 1}, "most is 1 and megabytes 3.0; expected at least 2 frames"),
            ({}, {"megabytes": 0}, "megabytes 0; expected at least 2 frames, and a number above 0"),
            ({}, {"cmap": "jett"}, "Did you mean 'jet'"),
            ({}, {"alpha": "cold"}, "alpha is 'cold'; expected a number in"),
            ({}, {"alpha": 1.5}, "alpha is 1.5; expected a number in"),
        ],
    )
    def test_what_cannot_be_shown_is_refused(self, tmp_path, change, options, text):
        with pytest.raises(InputError, match=text):
            save_timeline(tmp_path / "t.html", replace(recording(), **change), **options)
        assert list(tmp_path.iterdir()) == []


class TestHeat:
    @settings(max_examples=60, deadline=None)
    @given(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.booleans(),
        st.integers(0, 2**32 - 1),
        st.sampled_from([1e-30, 1.0, 1e30]),
    )
    def test_eight_bits_a_cell_are_enough(self, tmp_path_factory, grid, size, rectifies, seed, scale):
        seen = recording(2, 1, size, grid, seed=seed, rectifies=rectifies, curves={})
        seen = replace(seen, maps=seen.maps * np.float32(scale))
        data = page_of(tmp_path_factory.mktemp("page"), seen, trends={}).data
        for frame in range(2):
            apart = shown(cells_of(data)[frame], size) - seen.heatmaps(frame)
            assert np.abs(apart).max() <= 2 / 255

    def test_maps_that_are_not_numbers_or_say_nothing(self, tmp_path):
        maps = np.zeros((1, 4, 3, 3), np.float32)
        maps[0, 0] = 5.0
        maps[0, 1] = np.nan
        maps[0, 2, 1] = [np.nan, 1, np.inf]
        maps[0, 3] = -np.eye(3)
        seen = replace(recording(1, 4), maps=maps, rectifies=True)
        cells = cells_of(page_of(tmp_path, seen).data)[0]
        assert not cells[[0, 1, 3]].any()
        assert cells[2].tolist() == [[0, 0, 0], [0, 0, 255], [0, 0, 0]]

    def test_maps_from_a_file_mapped_into_memory(self, tmp_path):
        seen = recording()
        np.save(tmp_path / "maps.npy", seen.maps)
        mapped = replace(seen, maps=np.load(tmp_path / "maps.npy", mmap_mode="r"))
        assert np.array_equal(cells_of(page_of(tmp_path, mapped).data), cells_of(page_of(tmp_path, seen).data))


# ---- the page in a browser


class Case(NamedTuple):
    """A page, one of the questions of timeline_questions.js, and the address after the #."""

    page: Path
    question: str
    address: str = ""
    size: tuple[int, int] = (1200, 800)


QUESTIONS = (Path(__file__).parent / "timeline_questions.js").read_text(encoding="utf-8")
TRAP = """window.failures = [];
addEventListener("error", (event) => failures.push(event.message));
addEventListener("securitypolicyviolation", (event) => failures.push(event.violatedDirective));
function fail() { failures.push("a foreign script ran"); }"""
ASK = """(async () => questions.%s)().then((result) => ({ result }), (error) => ({ failures: [String(error)] }))
  .then((told) => parent.postMessage({ failures, ...told, name: "%s" }, "*"));"""
FRAMES = """<!doctype html><style>iframe { position: absolute; inset: 0; border: 0 }</style>
<pre></pre><script>const told = {};
addEventListener("message", ({ data }) => {
  told[data.name] = data;
  document.querySelector("pre").textContent = JSON.stringify(told);
});</script>"""


def ask(folder: Path, cases: Mapping[str, Case], *flags: str) -> dict[str, Any]:
    """Open pages side by side in one browser, each with its question appended, and give the answers."""
    frames = FRAMES
    for name, case in cases.items():
        question = f"{QUESTIONS}\n{ASK % (case.question, name)}"
        text = case.page.read_text(encoding="utf-8")
        for script in (TRAP, question):  # the page's policy must allow them
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
        text = text.replace("</title>", f"</title><script>{TRAP}</script>", 1)
        text = text.replace("</body>", f"<script>{question}</script></body>")
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
        width, height = case.size
        frames += f'<iframe src="{name}.html#{case.address}" width="{width}" height="{height}"></iframe>'
    (folder / "all.html").write_text(frames, encoding="utf-8")
    dumped = re.search(r"<pre>(.*?)</pre>", chromium(folder / "all.html", "--dump-dom", *flags), re.DOTALL)
    assert dumped
    told = json.loads(html.unescape(dumped[1]) or "{}")
    assert told.keys() == cases.keys()
    assert {name: answer["failures"] for name, answer in told.items() if answer["failures"]} == {}
    return {name: answer["result"] for name, answer in told.items()}


def chromium(page: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,800"]
    words += ["--virtual-time-budget=4000", f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


def lossy() -> Recording:
    """A loss that becomes NaN, numbers of other kinds, masks, and a percentage."""
    seen = recording(masks=np.arange(3 * 48).reshape(3, 6, 8) % 2 == 0)
    steps = np.arange(1, 61)
    broken = np.where(steps > 50, np.nan, 1.0 + steps % 2)
    curves = {
        "loss": Curve(steps, broken),
        "val_loss": Curve(steps[::10], np.linspace(2, 1, 6)),
        "top5_accuracy": Curve(steps[::10], np.array([20, 30, np.nan, 50, np.inf, 70.0])),
        "learning_rate": Curve(steps, 1e-4 * np.ones(60)),
        "nothing": Curve(steps, np.full(60, np.nan)),
    }
    return replace(seen, curves=curves)


def cases(folder: Path) -> dict[str, Case]:
    """Every page that is asked, and its question."""
    save = lambda name, seen, **options: save_timeline(folder / f"of-{name}", seen, **options)  # noqa: E731
    plain = save("plain", recording())
    tiles = replace(recording(2, masks=np.ones((3, 6, 8), bool)), best=np.array([[0, 1, 0], [3, 1, 2]]))
    tiles = replace(tiles, probabilities=np.array([[0.5, 0.25, np.nan], [1, 0, 0.125]], np.float32))
    evil = replace(recording(pictures=5, labels=EVIL, names=EVIL, layer=EVIL[0]), classes=np.arange(5))
    many = recording(2, 24, (30, 30), (4, 4), labels=("a very long name of a class " * 4,) * 4)
    found = {f"heat-{n}": Case(save(f"heat-{n}", seen), "heat()") for n, seen in enumerate(HEATS)}
    return found | {
        "by-heat": Case(plain, "blend(100, true)", "step=10"),
        "evenly": Case(plain, "blend(40, false)", "step=10"),
        "keys": Case(plain, "keys()", "step=10"),
        "plays": Case(plain, "plays()"),
        "curves": Case(save("curves", lossy()), "curves()", "step=0"),
        "tiles": Case(save("tiles", tiles), "tiles()", "step=0"),
        "evil": Case(save("evil", evil, title="</title><script>fail()</script>"), "seen()", "step=0"),
        "bare": Case(save("bare", recording(1, 1, curves={}, labels=None, layer="")), "seen()"),
        "once": Case(save("once", recording(2, 3, every=1)), "fitted()", "step=0", (1400, 900)),
        "curves-only": Case(save("curves-only", recording(4, 0)), "seen()", "step=20"),
        "told": Case(plain, "seen()", "step=34&theme=dark&colours=gray&picture=2"),
        "nonsense": Case(plain, "seen()", "step=-1&theme=x&colours=constructor&picture=99&%&step=1e9"),
        "wide": Case(save("many", many), "seen()", "step=0"),
        "phone": Case(folder / "of-many", "seen()", "step=0", (390, 780)),
    }


HEATS = (
    recording(2, 2),
    recording(2, 2, (30, 50), (20, 20), rectifies=True),
    recording(2, 1, (20, 24), (40, 33)),
    replace(recording(1, 2), maps=np.array([[np.full((2, 2), 3.0), [[np.nan, 1], [0, -1]]]], np.float32)),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the pages answer; all are open side by side in one browser."""
    folder = tmp_path_factory.mktemp("pages")
    return ask(folder, cases(folder))


@in_browser
class TestInTheBrowser:
    @pytest.mark.parametrize("n", range(len(HEATS)))
    def test_heat_is_that_of_the_recording(self, answers, n):
        seen = HEATS[n]
        levels = np.array(answers[f"heat-{n}"]).reshape(*seen.maps.shape[:2], *seen.pictures.shape[1:3])
        for frame, found in enumerate(levels):
            assert np.abs(found / 255 - seen.heatmaps(frame)).max() <= 2.5 / 255  # half a level is rounding

    @pytest.mark.parametrize(("name", "alpha"), [("by-heat", "heat"), ("evenly", 0.4)])
    def test_heat_is_laid_on_the_picture_as_by_overlay(self, answers, name, alpha):
        seen = recording()
        found = np.array(answers[name]).reshape(48, 64, 4)[..., :3]
        expected = overlay(seen.pictures[0], seen.heatmaps(1)[0], cmap="turbo", alpha=alpha)
        assert np.abs(found - expected.astype(int)).max() <= 8
        assert np.abs(found - expected.astype(int)).mean() <= 1

    def test_slider_and_keys(self, answers):
        frames = [1, 6, 5, 6, 6, 0, 0, 1]
        steps = [[frame, str(frame), str(10 * frame), False] for frame in frames]
        playing = [
            [1, "1", "10", True],
            [1, "1", "10", False],
            [1, "1", "10", False],
        ]  # End on a choice is for the choice
        assert answers["keys"] == [*steps, *playing, [3, "3", "30", False]]

    def test_curves(self, answers):
        loss, shares, found, moved, rate = answers["curves"]["found"]
        assert (loss["title"], loss["raw"], loss["main"]) == ("Loss", 0, 2)  # 50 values are drawn as they are
        assert loss["legend"] == "loss 1val loss 1.4"
        assert loss["spoken"] == "Loss: loss from 2 to 1; val loss from 2 to 1"
        assert (shares["title"], shares["legend"], shares["main"]) == ("Accuracy", "top5 accuracy 50 %", 1)
        assert (found["title"], found["main"]) == ("Heat", 2)
        assert (moved["title"], moved["main"]) == ("Maps differ from", 2)
        assert (rate["title"], rate["legend"]) == ("learning rate", "learning rate 1.0e-4")
        assert all(chart["cursor"] for chart in answers["curves"]["found"][:4])

    def test_reading_and_jumping_in_a_curve(self, answers):
        seen = answers["curves"]
        assert seen["tip"] == "step 2211.6"
        assert seen["jumped"] == 2
        assert seen["left"]
        assert len(re.findall(r"[ML]", seen["path"])) == 4  # those that are numbers
        assert seen["lost"] == "loss not a numberval loss 1"

    def test_tiles(self, answers):
        seen = answers["tiles"]
        assert seen["captions"] == [
            [[False, "cap50 %"], [False, "cube25 %"], [True, "torch–✗ cap"]],
            [[True, "cap100 %✗ cards"], [False, "cube0 %"], [False, "torch13 %"]],
        ]
        assert seen["spoken"] == "picture-0.png: cap 100 %, wrong: taken for cards. Enlarge"

    def test_a_finger_shows_the_picture_and_a_mouse_enlarges_it(self, answers):
        seen = answers["tiles"]
        assert seen["bare"] == ["visible", "hidden", "visible"]
        assert seen["again"] == "visible"
        assert seen["zoomed"] == [True, False, "✓ cube, Rubik's cube 0 %, right", 1]
        assert seen["round"] == 0
        assert seen["back"] == [False, True]

    def test_looks(self, answers):
        assert answers["tiles"]["themes"] == ["light", "dark"]
        assert answers["tiles"]["outline"] == ["none", "block"]

    def test_foreign_names_are_text(self, answers):
        seen = answers["evil"]
        assert seen["heading"] == seen["title"] == "</title><script>fail()</script>"
        assert seen["about"] == f"cam at {EVIL[0]} · 7 frames of 60 steps"
        assert seen["names"] == [*EVIL[:4], "三毛猫  x"]

    def test_few_pictures_of_a_short_training(self, answers):
        seen = answers["once"]
        assert seen["about"].endswith("2 frames of 1 step")
        assert seen["tile"] > 240
        first, second, third = seen["middles"]
        assert third == pytest.approx((first + second) / 2, abs=1)  # the last row is centred

    def test_next_to_nothing(self, answers):
        seen = answers["bare"]
        assert seen["about"] == "cam · 1 frame"
        assert [title for title, drawn, _ in seen["charts"] if drawn] == ["Accuracy"]
        assert seen["charts"][0][2].startswith("watched pictures that are right ")
        assert seen["hidden"] == ["epochbox", "outlined", "more"]
        assert seen["disabled"]
        assert not seen["playing"]

    def test_curves_without_pictures(self, answers):
        seen = answers["curves-only"]
        assert [(title, drawn) for title, drawn, _ in seen["charts"]] == [("Loss", True), ("Accuracy", True)]
        assert "stage" in seen["hidden"]
        assert seen["step"] == 20

    def test_the_address_says_what_to_show(self, answers):
        seen = answers["told"]
        assert (seen["step"], seen["theme"], seen["colours"], seen["playing"]) == (30, "dark", "gray", False)
        nonsense = answers["nonsense"]
        assert (nonsense["step"], nonsense["theme"], nonsense["colours"]) == (0, "light", "jet")

    def test_all_is_in_sight(self, answers):
        wide, phone = answers["wide"], answers["phone"]
        assert not wide["wider"]
        assert not wide["taller"]
        assert wide["tile"] > 84  # 24 of them beside the curves
        assert not phone["wider"]
        assert phone["tile"] > 100

    def test_it_does_not_play_by_itself_where_the_reader_wants_no_motion(self, tmp_path):
        case = {"page": Case(save_timeline(tmp_path / "of", recording()), "plays()")}
        assert ask(tmp_path, case, "--force-prefers-reduced-motion")["page"][0] is False

    def test_it_plays_ten_frames_a_second_again_and_again(self, answers):
        by_itself, *later = answers["plays"]
        assert by_itself
        # after 0.09, 0.11 and 0.25 s; after a sleep; at twice the speed; at the end; 1.9 and 2.1 s later
        assert later == [0, 1, 2, 5, 6, 6, 0]

    def test_screenshot(self, tmp_path):
        """As it is seen: inside its green frame, one picture with its heat, enlarged by the browser."""
        smooth = np.zeros((1, 200, 200, 3), np.uint8)
        smooth[0, ..., 2] = np.arange(200)
        seen = replace(recording(1, 1, (200, 200), (5, 5)), pictures=smooth, best=np.zeros((1, 1), np.int64))
        page = save_timeline(tmp_path / "page.html", seen)
        chromium(page, f"--screenshot={tmp_path / 'page.png'}")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
        green = np.abs(pixels - [0x15, 0x80, 0x3D]).max(axis=2) <= 2
        columns, rows = np.flatnonzero(green.sum(axis=0) > 150), np.flatnonzero(green.sum(axis=1) > 150)
        inside = pixels[rows[0] + 3 : rows[0] + 3 + np.ptp(columns) - 5, columns[0] + 3 : columns[-1] - 2]
        expected = overlay(smooth[0], seen.heatmaps(0)[0], alpha="heat")
        larger = np.asarray(Image.fromarray(expected).resize(inside.shape[1::-1], Image.Resampling.BILINEAR))
        middle = slice(12, -12)  # the frame has round corners
        assert np.abs(inside - larger)[middle, middle].mean() <= 2
