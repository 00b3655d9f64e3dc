"""The folder of results: its files, that they can be read back, and that nothing is lost or half written."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_network import PooledNetwork, explanation
from PIL import Image

from camcore import Explainer, Explanation, InputError, __version__, figures
from camcore.multilabel.together import PALETTE
from camcore.pictures import Picture
from camcore.results import ResultFolder, describe

NAMES = ("tench", "tabby", "lynx", "crane", "otter")


def read(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "result.json").read_text(encoding="utf-8"), parse_constant=refuse)


def named(*names: str, **changes: Any) -> Explanation:
    pictures = [Picture(np.zeros((40, 60, 3), np.uint8), name, f"/in/{name}.jpg") for name in names]
    return explanation(images=len(names), pictures=pictures, views=[(0, 0, 60, 40)] * len(names), **changes)


def listed(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


class TestSave:
    def test_the_files(self, tmp_path: Path) -> None:
        out = named("cat", "dog", classes=2, class_names=NAMES)
        files = out.save(tmp_path / "a" / "b")
        assert listed(tmp_path / "a" / "b") == ["cat.png", "dog.png", "maps.npz", "result.json"]
        assert [p.name for p in files] == ["cat.png", "dog.png", "maps.npz", "result.json"]
        assert all(p.is_file() for p in files)
        with Image.open(files[0]) as sheet:
            assert sheet.size[0] > 3 * 250  # the picture and two overlays

    def test_the_arrays_are_the_maps(self, tmp_path: Path) -> None:
        out = named("cat", "dog", classes=2)
        out.save(tmp_path)
        with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
            assert set(arrays) == {"names", "maps", "classes"}
            np.testing.assert_array_equal(arrays["maps"], out.maps)
            np.testing.assert_array_equal(arrays["classes"], out.classes)
            assert arrays["names"].tolist() == ["cat", "dog"]

    def test_the_document(self, tmp_path: Path) -> None:
        out = named("cat", "dog", class_names=NAMES)
        out.save(tmp_path, top=2)
        document = read(tmp_path)
        assert {k: v for k, v in document.items() if k != "images"} == {
            "camcore": __version__,
            "method": "cam",
            "layer": "relu",
            "target": "logit",
            "head": "mean -> linear",
            "scores_are": "logit",
            "device": "cpu",
            "box_threshold": 0.2,
        }
        for n, record in enumerate(document["images"]):
            assert (record["name"], record["image"]) == (("cat", "dog")[n], f"/in/{('cat', 'dog')[n]}.jpg")
            assert record["overlay"] == f"{record['name']}.png"
            best = np.argsort(-out.scores[n])[:2].tolist()
            assert [c["class"] for c in record["top"]] == best
            assert [c["label"] for c in record["top"]] == [NAMES[c] for c in best]
            assert record["top"][0]["score"] == pytest.approx(out.scores[n, best[0]], rel=1e-6)
            assert record["top"][0]["probability"] == pytest.approx(out.probabilities[n, best[0]], rel=1e-6)
            assert [m["class"] for m in record["maps"]] == out.classes[n].tolist()

    def test_the_document_names_what_was_explained_and_where(self, tmp_path: Path) -> None:
        named("cat", method="gradcam", target="difference:3", layer="layer3, layer4").save(tmp_path)
        document = read(tmp_path)
        assert (document["target"], document["layer"]) == ("difference:3", "layer3, layer4")

    @pytest.mark.parametrize(("space", "maps"), [((40,), (5,)), ((8, 9, 10), (2, 3, 4))])
    def test_other_than_pictures_are_saved_without_overlays(
        self, tmp_path: Path, space: tuple[int, ...], maps: tuple[int, ...]
    ) -> None:
        out = explanation(space, maps)
        out.save(tmp_path)
        assert listed(tmp_path) == ["maps.npz", "result.json"]
        for n, record in enumerate(read(tmp_path)["images"]):
            peak = np.unravel_index(out.heatmaps()[n, 0].argmax(), space)
            assert record["maps"][0]["peak"] == list(peak)
            assert "boxes" not in record["maps"][0]
            assert (record["name"], record["image"], record["top"][0]["label"]) == (f"image-{n}", None, None)

    def test_scores_that_are_no_numbers_become_null(self, tmp_path: Path) -> None:
        out = named("cat")
        out.scores[0, 1] = np.nan
        out.save(tmp_path, top=5)
        assert {c["class"]: c["score"] for c in read(tmp_path)["images"][0]["top"]}[1] is None

    def test_a_second_run_replaces_its_files_and_leaves_the_others(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        for _ in range(2):
            named("cat").save(tmp_path)
        assert listed(tmp_path) == ["cat.png", "maps.npz", "notes.txt", "result.json"]
        assert (tmp_path / "notes.txt").read_text() == "mine"


class TestNames:
    @pytest.mark.parametrize(
        ("names", "files"),
        [
            (("a", "a", "a"), ["a", "a-2", "a-3"]),
            (("a-2", "a", "a"), ["a-2", "a", "a-3"]),
            (("Cat", "cat", "CAT"), ["Cat", "cat-2", "CAT-3"]),  # one file where the file system ignores case
            (("../../etc/passwd", "/etc/passwd"), ["etc_passwd", "etc_passwd-2"]),
            (("..", ".hidden", ""), ["image", "hidden", "image-2"]),
            (("a\\b:c*?", "a\nb\x1b[0m"), ["a_b_c", "a_b_0m"]),
            (("猫 1", "x" * 300), ["猫_1", "x" * 80]),
            (("stray\udce9",), ["stray"]),
        ],
    )
    def test_every_picture_gets_a_safe_name_of_its_own(
        self, tmp_path: Path, names: tuple[str, ...], files: list[str]
    ) -> None:
        named(*names).save(tmp_path / "out")
        assert [r["name"] for r in read(tmp_path / "out")["images"]] == files
        assert listed(tmp_path) == sorted(["out", *(f"out/{f}.png" for f in files), "out/maps.npz", "out/result.json"])

    def test_a_path_that_is_no_text_reads_back_the_same(self, tmp_path: Path) -> None:
        named("stray\udce9").save(tmp_path)
        assert read(tmp_path)["images"][0]["image"] == "/in/stray\udce9.jpg"

    def test_names_are_kept_over_several_batches(self, tmp_path: Path) -> None:
        with ResultFolder(tmp_path) as results:
            results.add(named("a"))
            results.add(named("a", "b"))
        assert [r["name"] for r in read(tmp_path)["images"]] == ["a", "a-2", "b"]


class TestPlaces:
    @pytest.mark.parametrize("resize", ["short", "squash"])
    def test_boxes_and_peaks_are_in_pixels_of_the_picture(self, tmp_path: Path, resize: str) -> None:
        """A bright square in a picture of 400 x 200, of which the network sees the centre, or all, at 50 x 50."""
        pixels = np.zeros((200, 400, 3), np.uint8)
        pixels[40:80, 220:280] = 255
        out = Explainer(
            PooledNetwork(space=(50, 50)), method="activationmap", preprocess={"crop": 1.0, "resize": resize}
        )(pixels)
        out.save(tmp_path)
        record = read(tmp_path)["images"][0]["maps"][0]
        x0, y0, x1, y1, score = record["boxes"][0]
        np.testing.assert_allclose((x0, y0, x1, y1), (220, 40, 280, 80), atol=8)  # a pixel of the input is up to 8 wide
        assert score == 1
        assert 220 < record["peak"][0] < 280
        assert 40 < record["peak"][1] < 80

    def test_without_a_picture_they_are_in_pixels_of_the_input(self) -> None:
        out = explanation((8, 8), (8, 8), images=1)
        out.maps[0, 0] = 0
        out.maps[0, 0, 2:4, 5:8] = 1
        out.maps[0, 0, 3, 6] = 2
        record = describe(out, 0)["maps"][0]
        assert record["boxes"] == [[5, 2, 8, 4, 1]]
        assert record["peak"] == [6.5, 3.5]


class TestFolder:
    def test_errors_are_recorded_beside_the_others(self, tmp_path: Path) -> None:
        with ResultFolder(tmp_path) as results:
            results.add(named("a"))
            results.add_error("/in/bad.jpg", "the picture is damaged")
            results.add(named("b"))
        images = read(tmp_path)["images"]
        assert images[1] == {"image": "/in/bad.jpg", "error": "the picture is damaged"}
        assert [r.get("name") for r in images] == ["a", None, "b"]
        with np.load(tmp_path / "maps.npz") as arrays:
            assert arrays["names"].tolist() == ["a", "b"]

    def test_nothing_but_errors(self, tmp_path: Path) -> None:
        with ResultFolder(tmp_path) as results:
            results.add_error("/in/bad.jpg", "the picture is damaged")
        assert listed(tmp_path) == ["result.json"]
        assert read(tmp_path) == {"images": [{"image": "/in/bad.jpg", "error": "the picture is damaged"}]}

    def test_what_was_done_before_an_error_is_not_lost(self, tmp_path: Path) -> None:
        def stopped(results: ResultFolder) -> None:
            with results:
                results.add(named("a"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped(ResultFolder(tmp_path))
        assert listed(tmp_path) == ["a.png", "maps.npz", "result.json"]

    def test_maps_of_different_sizes(self, tmp_path: Path) -> None:
        outs = named("a", maps=(4, 6)), named("b", maps=(3, 3), classes=2)
        with ResultFolder(tmp_path) as results:
            for out in outs:
                results.add(out)
        with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
            assert set(arrays) == {"names", "maps/a", "maps/b", "classes/a", "classes/b"}
            np.testing.assert_array_equal(arrays["maps/b"], outs[1].maps[0])
            np.testing.assert_array_equal(arrays["classes/b"], outs[1].classes[0])

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(InputError, match=re.escape(f"output {tmp_path / 'out'}: is a file; give a folder")):
            named("a").save(tmp_path / "out")
        with pytest.raises(InputError, match=r"cannot be written to \(Not a directory\); choose another"):
            named("a").save(tmp_path / "out" / "deeper")
        assert (tmp_path / "out").read_text() == "mine"

    def test_a_folder_that_cannot_be_written_to(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**options: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(
            InputError, match=rf"{re.escape(str(tmp_path))}: cannot be written to \(Permission denied\)"
        ):
            ResultFolder(tmp_path)

    def test_a_bad_style_is_said_and_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="style is 'odd'; expected one of alpha, matlab"):
            named("a").save(tmp_path, style="odd")
        assert listed(tmp_path) == []


class TestSeveralClasses:
    """Of independent classes: in the first picture two are there, in the second one, in the third none."""

    SCORES = np.array([[3.0, -1, 2, -2, -3], [-1, 4, -2, -3, -4], [-1, -2, -3, -4, -5]], np.float32)

    def out(self, **changes: Any) -> Explanation:
        out = named("a", "b", "c", classes=3, class_names=NAMES, scores_are="independent logit", **changes)
        return replace(out, scores=self.SCORES, classes=np.tile([0, 1, 2], (3, 1)))

    def test_only_those_that_are_there_are_written(self, tmp_path: Path) -> None:
        out = self.out()
        files = out.save(tmp_path, together=0.5)
        assert [p.name for p in files] == ["a.png", "b.png", "c.png", "maps.npz", "result.json"]
        document = read(tmp_path)
        assert document["present_threshold"] == 0.5
        assert "background_score" not in document
        assert [[m["label"] for m in r["maps"]] for r in document["images"]] == [["tench", "lynx"], ["tabby"], []]
        with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["maps/a"], out.maps[0, [0, 2]])
            np.testing.assert_array_equal(arrays["maps/b"], out.maps[1, [1]])
            assert arrays["maps/c"].shape[0] == 0
            assert arrays["classes/c"].dtype == np.int64
        with Image.open(files[0]) as picture:
            assert (np.asarray(picture)[:480, :, :] == figures.together(out, 0)[:480]).all()

    def test_label_masks_and_their_legend(self, tmp_path: Path) -> None:
        out = self.out()
        files = out.save(tmp_path, label_masks=0.3)
        names = [p.relative_to(tmp_path).as_posix() for p in files]
        assert names[:4] == ["a.png", "label-masks/a.png", "b.png", "label-masks/b.png"]
        document = read(tmp_path)
        assert (document["present_threshold"], document["background_score"]) == (0.5, 0.3)
        mask = document["images"][0]["label_mask"]
        assert (mask["file"], mask["background"], mask["ignored"]) == ("label-masks/a.png", 0, 255)
        with Image.open(tmp_path / mask["file"]) as picture:
            found, table = np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3)
        assert found.shape == (40, 60)
        assert [entry["label"] for entry in mask["legend"]] == ["tench", "lynx"]
        for entry in mask["legend"]:
            assert entry["index"] == entry["class"] + 1
            assert entry["pixels"] == (found == entry["index"]).sum() > 0
            assert entry["color"] == "#{:02x}{:02x}{:02x}".format(*table[entry["index"]])
        assert document["images"][2]["label_mask"]["legend"] == []

    def test_colours_are_the_same_in_all_files(self, tmp_path: Path) -> None:
        """Classes get theirs in the order in which they are met: tench, lynx, then tabby."""
        self.out().save(tmp_path, together=0.5, label_masks=0.2)
        masks = [record["label_mask"]["legend"] for record in read(tmp_path)["images"]]
        colors = [entry["color"] for legend in masks for entry in legend]
        assert colors == ["#{:02x}{:02x}{:02x}".format(*color) for color in PALETTE[:3]]
        for name, count in (("a", 2), ("b", 1)):
            with Image.open(tmp_path / f"{name}.png") as picture:
                below = np.asarray(picture)[480:]
            shown = [color for color in PALETTE if (below == color).all(axis=2).sum() > 500]
            assert len(shown) == count

    def test_if_all_have_as_many_the_maps_are_one_array(self, tmp_path: Path) -> None:
        out = self.out()[1:2]
        out.save(tmp_path, together=0.5)
        with np.load(tmp_path / "maps.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["maps"], out.maps[:, [1]])

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"together": 1.5}, "threshold is 1.5; expected a probability"),
            ({"label_masks": 1.0}, "threshold is 1.0; expected the score of the background"),
        ],
    )
    def test_thresholds_out_of_range_are_told_before_anything_is_written(
        self, tmp_path: Path, options: dict[str, float], text: str
    ) -> None:
        with pytest.raises(InputError, match=text):
            self.out().save(tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()
