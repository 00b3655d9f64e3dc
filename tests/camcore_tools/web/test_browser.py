"""The folder of ``camcore export --web`` in Chromium: the same numbers as in Python, and a page that copes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import data
import numpy as np
import onnx
import PIL
import pytest
from browsers import CHROMIUM, FLAGS, chromium, served, wait_for, write_film
from camcore_tools.cli import main
from camcore_tools.web import ort_web
from PIL import Image

import camcore
from camcore.errors import InputError
from camcore.explanation import Explanation
from camcore.preprocess import Preprocess

EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LABELS = ("cat, felis catus", EVIL, "Élan", "cow")
PILLOW = int(PIL.__version__.partition(".")[0])  # up to 12 it goes along the rows first, always
SIZES = ((40, 90), (90, 40), (64, 64))  # of pictures, (H, W)
LISTEN = """
window.seen = [];
document.addEventListener("explained", ({ detail: { result, heat, size } }) => window.seen.push(
  { ...result, map: [...result.map], probabilities: [...result.probabilities], heat: [...heat], size }));
const Original = Worker;
window.workers = [];
window.Worker = class extends Original { constructor(...given) { super(...given); window.workers.push(this); } };
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.streams = [];
window.fails = null; // the name of the error that the camera gives
navigator.mediaDevices.getUserMedia = async (wanted) => {
  if (window.fails) throw new DOMException("", window.fails);
  window.streams.push(await ask(wanted));
  return window.streams.at(-1);
};
"""


def tiny() -> onnx.ModelProto:
    """The model of the tests of the commands."""
    place = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("tools_conftest", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: onnx.ModelProto = module.tiny()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model and its site, and pictures of three aspect ratios."""
    try:
        ort_web.runtime_files()
    except InputError as error:
        pytest.skip(f"ONNX Runtime Web is not at hand: {error}")
    place = tmp_path_factory.mktemp("web")
    onnx.save(tiny(), place / "tiny.onnx")
    (place / "names.json").write_text(json.dumps(LABELS))
    words = ["export", str(place / "tiny.onnx"), "--web", str(place / "site"), "--preprocess", "imagenet"]
    assert main([*words, "--labels", str(place / "names.json"), "--title", EVIL]) == 0
    random = np.random.default_rng(0)
    for height, width in SIZES:
        low = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        low.resize((width, height), Image.Resampling.BICUBIC).save(place / f"{height}.png")
    return place


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    y, x = np.mgrid[:48, :64]
    frames = np.stack([(128 + 100 * np.sin((x + 3 * n) / 9) * np.cos(y / 7)).astype(np.uint8) for n in range(20)])
    film = write_film(tmp_path_factory.mktemp("camera") / "film.y4m", frames)
    with chromium(f"--use-file-for-fake-video-capture={film}") as opened:
        yield opened


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield f"{found}/site/"


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages that must not complain, and waits until they take pictures."""
    complaints: list[str] = []
    contexts = []

    def open_it(url: str, width: int = 1000, height: int = 700) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(LISTEN)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(url)
        wait_for(page, "!document.getElementById('choices').hidden")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def shared(open_page: Callable[..., Any], address: str) -> Any:
    """One page for all tests that leave it as it was."""
    return open_page(address)


@pytest.fixture
def page(shared: Any) -> Any:
    shared.evaluate("() => { seen.length = 0; }")
    if shared.is_visible("#unpin"):
        shared.click("#unpin")
    shared.fill("#search", "")
    return shared


def explained(page: Any, *files: Path) -> dict[str, Any]:
    """What the page says of pictures that are given to it."""
    page.evaluate("() => { seen.length = 0; }")
    page.set_input_files("#files", list(map(str, files)))
    found: dict[str, Any] = wait_for(page, "seen[0]")
    return found


def check(found: dict[str, Any], out: Explanation, tolerance: float = 1e-3) -> None:
    """The page's result is that of Python: class, probabilities, raw map, heat, and where it lies."""
    assert found["classIndex"] == out.classes[0, 0]
    np.testing.assert_allclose(found["probabilities"], out.probabilities[0], atol=tolerance)
    assert [row["index"] for row in found["top"]] == np.argsort(-out.scores[0])[:3].tolist()
    raw = np.reshape(found["map"], found["shape"])
    assert np.abs(raw - out.maps[0, 0]).max() <= tolerance * np.abs(out.maps).max()
    heat = np.reshape(found["heat"], found["size"])
    assert np.abs(heat - out.heatmaps(found["size"])[0, 0]).max() <= tolerance
    assert out.pictures is not None
    assert out.views is not None
    height, width = out.pictures[0].pixels.shape[:2]
    view = found["view"]
    box = [view["x"] * width, view["y"] * height]
    box += [box[0] + view["width"] * width, box[1] + view["height"] * height]
    np.testing.assert_allclose(box, out.views[0], atol=1e-6)


# ---- numbers


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_those_of_python(page: Any, folder: Path, size: tuple[int, int]) -> None:
    path = folder / f"{size[0]}.png"
    out = camcore.explainer(folder / "tiny.onnx", preprocess="imagenet")(path)
    check(explained(page, path), out, 1e-5)


def test_maps_of_a_real_model(open_page: Callable[..., Any], folder: Path) -> None:
    model = data.folder() / "models" / "squeezenet1_0_songhan_deepcompression_ts13.onnx"
    assert main(["export", str(model), "--web", str(folder / "real"), "--preprocess", "caffe", "--no-verify"]) == 0
    explainer = camcore.explainer(model, preprocess="caffe")
    with served(folder) as found:
        page = open_page(f"{found}/real/#device=wasm")
        for name in ("chelsea.png", "grace_hopper.png"):
            path = data.folder() / "images" / name
            check(explained(page, path), explainer(path))
        page.context.close()


def test_pixels_are_those_of_python(page: Any) -> None:
    """Resizing up and down by all rules, channel orders, grey: bit by bit."""
    random = np.random.default_rng(1)
    cases = []
    for n in range(24):
        height, width = random.integers(1, 70, 2).tolist()
        rule = Preprocess(
            scale=1 / 127.5,
            mean=(0.4, 0.5, 0.6),
            std=(0.2, 0.3, 0.4),
            order=("RGB", "BGR")[n % 2],  # type: ignore[arg-type]
            size=tuple(random.integers(1, 50, 2).tolist()),
            resize=("short", "squash", "none")[n % 3],  # type: ignore[arg-type]
            crop=float(random.uniform(0.3, 1)),
        )
        cases.append((random.integers(0, 256, (height, width, 3), dtype=np.uint8), rule, 1 if n % 5 == 0 else 3))
    asked = [
        {"pixels": pixels.ravel().tolist(), "shape": pixels.shape[:2], "rule": rule.to_json(), "channels": channels}
        for pixels, rule, channels in cases
    ]
    answers = page.evaluate(
        """async (cases) => {
          const { layout, resized, values } = await import("./resample.js");
          return cases.map(({ pixels, shape: [height, width], rule, channels }) => {
            const plan = layout(height, width, rule);
            const part = (left, top, wide, high) => {
              const found = new Uint8ClampedArray(wide * high * 4);
              for (let k = 0; k < wide * high; k++) {
                const at = 3 * ((top + Math.floor(k / wide)) * width + left + (k % wide));
                found.set(pixels.slice(at, at + 3), 4 * k);
              }
              return found;
            };
            const rgb = resized(height, width, plan, part);
            return { view: plan.view, size: plan.size, input: [...values(rgb, channels, rule)] };
          });
        }""",
        asked,
    )
    for (pixels, rule, channels), answer in zip(cases, answers, strict=True):
        expected, view = rule(pixels, channels=channels)
        apart = np.abs(np.float32(answer["input"]).reshape(-1, *answer["size"]) - expected).max()
        assert apart <= (0 if PILLOW >= 13 else 1.01 * rule.scale / min(rule.std))
        height, width = pixels.shape[:2]
        found = answer["view"]
        assert found["x"] * width == pytest.approx(view[0], abs=1e-9)
        assert (found["y"] + found["height"]) * height == pytest.approx(view[3], abs=1e-9)


def test_heat_is_that_of_python(page: Any) -> None:
    """Also of maps that are the same everywhere, tiny, huge, or not numbers."""
    random = np.random.default_rng(2)
    maps = [random.standard_normal(shape).astype(np.float32) for shape in ((7, 7), (1, 5), (13, 2), (3, 4))]
    maps += [np.full((3, 3), 2.5, np.float32), -np.ones((2, 2), np.float32), np.full((2, 2), np.nan, np.float32)]
    maps += [maps[0] * np.float32(1e-30), maps[0] * np.float32(1e30)]
    maps.append(np.float32([[np.nan, 1, np.inf], [-np.inf, 0, 2]]))
    asked = [[[str(v) for v in m.ravel().tolist()], m.shape, rectifies] for m in maps for rectifies in (True, False)]
    answers = page.evaluate(
        """async (asked) => {
          const { heatmap } = await import("./heat.js");
          const number = (text) => ({ nan: NaN, inf: Infinity, "-inf": -Infinity })[text] ?? Number(text);
          const heat = (map, shape, rectifies) => heatmap(Float32Array.from(map, number), shape, [20, 31], rectifies);
          return asked.map((one) => [...heat(...one)]);
        }""",
        asked,
    )
    explainer = camcore.explainer(tiny())(np.zeros((1, 3, 16, 16), np.float32))
    for (_, shape, rectifies), answer in zip(asked, answers, strict=True):
        m = maps.pop(0) if rectifies else m  # noqa: F821 - each map is asked for twice
        out = Explanation(**{**vars(explainer), "maps": m[None, None], "rectifies": rectifies})
        expected = out.heatmaps((20, 31))[0, 0]
        assert np.abs(np.reshape(answer, (20, 31)) - expected).max() <= 2e-6, (shape, rectifies)


def test_half_precision_is_that_of_numpy(page: Any) -> None:
    values = np.float32([0, -0.0, 1, 65504, 65519, 65520, 1e-8, 3e-8, 6e-5, 6.1e-5, 0.1, -2 / 3, 1e9, -1e-3])
    values = np.concatenate([values, np.random.default_rng(3).standard_normal(200).astype(np.float32)])
    bits, back = page.evaluate(
        """async (values) => {
          const { fromHalf, toHalf } = await import("./half.js");
          const bits = values.map(toHalf);
          return [bits, bits.map(fromHalf).map(String)];
        }""",
        values.tolist(),
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    assert np.array_equal(np.uint16(bits), expected.view(np.uint16))
    assert np.array_equal(np.float64([b.replace("Infinity", "inf") for b in back]), expected.astype(np.float64))


# ---- the reader


def test_a_class_is_pinned_and_let_go(page: Any, folder: Path) -> None:
    path = folder / "64.png"
    top = explained(page, path)["classIndex"]
    other = next(n for n in (3, 0) if n != top)
    page.evaluate("() => { seen.length = 0; }")
    page.fill("#search", ("cat", "", "", "COW")[other])
    assert page.locator("#classes li").count() == 1
    page.press("#search", "Enter")
    found = wait_for(page, "seen[0]")
    check(found | {"classIndex": other}, camcore.explainer(folder / "tiny.onnx", preprocess="imagenet")(path, other))
    assert found["classIndex"] == other
    assert page.inner_text("#shown") == ("cat", "", "", "cow")[other]
    assert page.get_attribute(f"#class-{other}", "aria-selected") == "true"
    page.evaluate("() => { seen.length = 0; }")
    page.click("#unpin")
    assert wait_for(page, "seen[0]")["classIndex"] == top
    page.evaluate("() => { seen.length = 0; }")
    page.click(f"#top button[data-class='{other}'], #top li:last-child button")
    assert wait_for(page, "seen[0]")["classIndex"] != top
    page.press("body", "Escape")
    wait_for(page, f"seen.at(-1).classIndex === {top}")
    assert page.is_hidden("#unpin")


def test_the_list_of_classes_is_searched(page: Any) -> None:
    page.fill("#search", "elan")  # without its accent
    assert page.locator("#classes li span").all_text_contents() == ["Élan"]
    page.fill("#search", "2")
    assert page.locator("#classes li small").all_text_contents() == ["2"]
    page.fill("#search", "no such class")
    assert page.inner_text("#more") == "No class is called so."
    page.press("#search", "Escape")
    assert page.locator("#classes li").count() == 4
    page.press("#search", "ArrowDown")
    page.press("#search", "ArrowDown")
    assert page.get_attribute("#search", "aria-activedescendant") == "class-1"


def test_foreign_names_stay_text(page: Any, folder: Path) -> None:
    explained(page, folder / "64.png")
    page.evaluate("() => { seen.length = 0; }")
    page.click("#class-1")
    assert wait_for(page, "seen[0]")["classIndex"] == 1
    assert page.inner_text("#class-1 span") == EVIL
    assert page.inner_text("h1") == EVIL
    assert page.evaluate("() => document.querySelectorAll('main img, main script').length") == 0
    assert page.evaluate("() => window.hacked") is None


def test_heat_lies_on_what_the_model_saw(page: Any, folder: Path) -> None:
    """Opacity 0 shows the picture; outside of the view it is veiled; colours can be chosen."""
    found = explained(page, folder / "40.png")

    def drawn(opacity: int) -> np.ndarray:
        page.evaluate(
            """(value) => {
              const slider = document.getElementById("opacity");
              slider.value = value;
              slider.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            opacity,
        )
        address = page.evaluate("() => document.getElementById('view').toDataURL()")
        with urlopen(address) as file:  # it is data, within the address
            return np.asarray(Image.open(file).convert("RGB")).astype(int)

    bare, hot = drawn(0), drawn(100)
    height, width = bare.shape[:2]
    assert width / height == pytest.approx(90 / 40, rel=0.01)
    view = found["view"]
    x0, x1 = round(view["x"] * width), round((view["x"] + view["width"]) * width)
    y0, y1 = round(view["y"] * height), round((view["y"] + view["height"]) * height)
    changed = np.abs(hot - bare).max(axis=2) > 3
    assert changed[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].mean() > 0.5
    changed[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = False
    assert not changed.any()
    whole = np.asarray(Image.open(folder / "40.png").resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    inside = np.abs(bare - whole)[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4]
    assert inside.mean() < 6
    assert bare[:, : x0 - 4].mean() < 0.65 * whole[:, : x0 - 4].mean()
    page.select_option("#colours", "gray")
    grey = drawn(100)
    assert np.abs(grey - hot).max() > 50
    page.select_option("#colours", "turbo")
    drawn(75)


def test_several_pictures_are_leafed_through(page: Any, folder: Path) -> None:
    explained(page, *(folder / f"{height}.png" for height, _ in SIZES))
    assert page.inner_text("#place") == "1 of 3"
    page.evaluate("() => { seen.length = 0; }")
    page.click("#before")
    wait_for(page, "document.getElementById('place').textContent === '3 of 3'")
    wait_for(page, "seen[0]")
    page.press("body", "ArrowRight")
    wait_for(page, "document.getElementById('place').textContent === '1 of 3'")


def test_files_that_are_no_pictures(page: Any, folder: Path) -> None:
    explained(page, folder / "64.png")
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#files", [str(broken)])
    wait_for(
        page, "document.getElementById('headline').textContent === 'This is no picture that the browser can read.'"
    )
    assert "broken.png: take a PNG, JPEG or WebP." in page.inner_text("#advice")
    assert page.is_visible("#choose")
    explained(page, folder / "64.png")
    assert page.is_hidden("#message")


def test_the_engine_is_lost_and_comes_back(page: Any, folder: Path) -> None:
    before = explained(page, folder / "64.png")
    page.evaluate(
        """() => {
          seen.length = 0;
          window.banners = [];
          const banner = document.getElementById("banner");
          new MutationObserver(() => banners.push(banner.textContent)).observe(banner, { childList: true });
          workers.at(-1).dispatchEvent(new ErrorEvent("error", { message: "out of memory" }));
        }"""
    )
    after = wait_for(page, "seen[0]")
    assert page.evaluate("() => banners") == ["The engine stopped (out of memory); starting it again.", ""]
    assert page.evaluate("() => workers.length") == 2
    assert after["map"] == before["map"]


# ---- the camera


def test_a_camera_refused_allowed_paused_unplugged_and_plugged_in(open_page: Callable[..., Any], address: str) -> None:
    page = open_page(address, 390, 844)
    page.click("#camera")
    wait_for(page, "document.getElementById('headline').textContent === 'The camera was refused.'")
    assert page.inner_text("#advice").startswith("Allow it at the camera sign in the address bar")
    page.context.grant_permissions(["camera"])  # and the page goes on by itself
    seen = wait_for(page, "seen.length > 4 && seen.at(-1)")
    assert seen["view"]["height"] == pytest.approx(0.875, abs=0.02)
    wait_for(page, "document.getElementById('ratebox').hidden === false")
    assert float(page.inner_text("#rate")) > 0
    assert page.evaluate("() => [innerWidth, innerHeight, document.body.scrollWidth, document.body.scrollHeight]") == [
        390,
        844,
        390,
        844,
    ]
    page.click("#pause")
    page.wait_for_timeout(300)
    count = page.evaluate("() => seen.length")
    page.wait_for_timeout(200)
    assert page.evaluate("() => seen.length") == count
    page.click("#pause")
    wait_for(page, f"seen.length > {count + 2}")
    page.evaluate("() => { seen.length = 0; }")
    page.click("#mirror")
    assert page.get_attribute("#mirror", "aria-pressed") == "false"
    # Chromium's fake camera cannot be unplugged, so the page is told as the browser would.
    page.evaluate("() => { fails = 'NotFoundError'; streams.at(-1).getTracks()[0].dispatchEvent(new Event('ended')); }")
    wait_for(page, "document.getElementById('headline').textContent === 'The camera is gone.'")
    assert page.inner_text("#advice") == "Plug it in again: this page goes on by itself."
    page.click("#camera")
    wait_for(page, "document.getElementById('headline').textContent === 'No camera is there.'")
    page.evaluate(
        "() => { fails = null; seen.length = 0; navigator.mediaDevices.dispatchEvent(new Event('devicechange')); }"
    )
    wait_for(page, "seen.length > 1")
    assert page.is_hidden("#message")
    page.evaluate(
        "() => { fails = 'NotReadableError'; streams.at(-1).getTracks()[0].dispatchEvent(new Event('ended')); }"
    )
    page.click("#camera")
    wait_for(page, "document.getElementById('headline').textContent === 'The camera is in use.'")
    assert page.inner_text("#camera") == "Try the camera again"
    page.context.close()


def test_threads_where_the_page_is_isolated(open_page: Callable[..., Any], folder: Path) -> None:
    headers = {"Cross_Origin_Opener_Policy": "same-origin", "Cross_Origin_Embedder_Policy": "require-corp"}
    with served(folder, **headers) as found:
        page = open_page(f"{found}/site/#device=wasm&class=2&theme=dark")
        threads = max(1, min(4, page.evaluate("() => navigator.hardwareConcurrency") // 2))
        assert f"WebAssembly, {threads} thread" in page.inner_text("#about")
        assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
        path = folder / "90.png"
        check(explained(page, path), camcore.explainer(folder / "tiny.onnx", preprocess="imagenet")(path, 2), 1e-5)
        page.context.close()


# ---- the wide form


@pytest.mark.slow
@pytest.mark.parametrize("real", data.WITH_CAM, ids=lambda real: real.file.removesuffix(".onnx"))
def test_maps_of_all_real_models(open_page: Callable[..., Any], folder: Path, real: data.Real) -> None:
    site = folder / real.file
    assert main(["export", str(real.path), "--web", str(site), "--preprocess", real.preprocess, "--no-verify"]) == 0
    explainer = camcore.explainer(real.path, preprocess=real.preprocess)
    with served(folder) as found:
        page = open_page(f"{found}/{real.file}/#device=wasm")
        for name in ("chelsea.png", "coffee.png", "grace_hopper.png"):
            path = data.folder() / "images" / name
            check(explained(page, path), explainer(path))
        page.context.close()


@pytest.mark.slow
def test_webgpu(browser: Any, folder: Path, address: str) -> None:
    """By a GPU in software."""
    flags = [*FLAGS, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=flags)
    page = other.new_page()
    page.add_init_script(LISTEN)
    page.goto(address)
    if not page.evaluate("async () => !!(await navigator.gpu?.requestAdapter())"):
        pytest.skip("this Chromium has no software adapter for WebGPU")
    wait_for(page, "!document.getElementById('choices').hidden")
    assert page.inner_text("#about") == "cam · 16 × 16 · WebGPU"
    for height, _ in SIZES:
        path = folder / f"{height}.png"
        check(explained(page, path), camcore.explainer(folder / "tiny.onnx", preprocess="imagenet")(path))
    other.close()
