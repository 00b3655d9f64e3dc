"""A folder of results: overlays as they come, then ``maps.npz`` and ``result.json``, all written atomically."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import figures, multilabel
from camcore.errors import InputError
from camcore.explanation import Explanation
from camcore.files import save_picture, write_atomically
from camcore.labels import escaped
from camcore.multilabel.pictures import IGNORED, label_picture
from camcore.multilabel.together import ClassColors
from camcore.regions import Box, boxes

__all__ = ["ResultFolder", "check_writable", "describe"]


class ResultFolder:
    """Collects explanations into a folder; use it as a context manager.

    Parameters
    ----------
    folder : path
        Made if absent. Nothing in it is deleted; files of the same names are replaced.
    top : int
        How many classes each picture's caption and record name.
    together : float, optional
        Of classes of at least this probability draw all heat on one picture; see :func:`camcore.figures.together`.
        Nothing is written of the others.
    label_masks : float, optional
        Write label masks with this background score, of the same classes (those of 0.5 where ``together`` is absent).
    **style
        See :func:`camcore.figures.overlays`, or for ``together`` that function. The threshold of drawn ``boxes``
        holds for those recorded too (0.2 where none are drawn).

    Raises
    ------
    InputError
        If the folder cannot be written to: before any work is done.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        top: int = 3,
        together: float | None = None,
        label_masks: float | None = None,
        **style: Any,
    ) -> None:
        self.folder = Path(folder)
        self.files: list[Path] = []
        self.pictures: list[Path] = []
        self.records: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self._style, self._top = style, top
        self._threshold = 0.2 if style.get("boxes") is None else float(style["boxes"])
        self._together, self._label_masks, self._colors = together, label_masks, ClassColors()
        self._chosen = together is not None or label_masks is not None
        self._present = 0.5 if together is None else together
        multilabel.check(self._present)
        multilabel.check_score(label_masks or 0.0)
        self._maps: list[NDArray[np.float32]] = []
        self._names: set[str] = set()
        check_writable(self.folder)

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self.records:  # also after an error: what was done is not lost
            self.close()

    def add(self, out: Explanation) -> None:
        """Write the overlays of a batch, and keep its maps and records."""
        self.summary = self.summary or _summary(out) | self._thresholds()
        for n in range(len(out)):
            self._add(out.only_present(n, self._present) if self._chosen else out[n])

    def _add(self, one: Explanation) -> None:
        name = self._free_name(one.pictures[0].name if one.pictures is not None else f"image-{len(self.records)}")
        record = describe(one, 0, top=self._top, threshold=self._threshold) | {"name": name}
        if len(one.input_size) == 2:
            record["overlay"] = self._write(f"{name}.png", lambda path: save_picture(path, self._picture(one)))
            self.pictures.append(self.files[-1])
        if len(one.input_size) == 2 and self._label_masks is not None:
            record["label_mask"] = self._write_labels(one, name, self._label_masks)
        self.records.append(record)
        self._maps.append(one.maps[0])

    def _thresholds(self) -> dict[str, float]:
        """Those that shape what is recorded."""
        given = {"present_threshold": self._present if self._chosen else None, "background_score": self._label_masks}
        return {"box_threshold": self._threshold} | {k: v for k, v in given.items() if v is not None}

    def _write(self, name: str, save: Callable[[Path], object]) -> str:
        self.files.append(self.folder / name)
        save(self.files[-1])
        return name

    def _picture(self, one: Explanation) -> NDArray[np.uint8]:
        if self._together is None:
            return figures.sheet(one, 0, top=self._top, **self._style)
        style = dict(self._style)
        floor = style.pop("threshold", 0.0)
        return figures.together(one, 0, threshold=self._together, colors=self._colors, floor=floor, **style)

    def _write_labels(self, one: Explanation, name: str, score: float) -> dict[str, Any]:
        """The label mask in a file, and what its numbers mean."""
        labels = label_picture(one, 0, threshold=score, colors=self._colors)
        (self.folder / "label-masks").mkdir(exist_ok=True)
        counts = np.bincount(labels.pixels.ravel(), minlength=256).tolist()
        return {
            "file": self._write(f"label-masks/{name}.png", labels.save),
            "background": 0,
            "ignored": IGNORED,
            "legend": [
                {
                    "index": index,
                    "class": c,
                    "label": None if one.class_names is None else one.class_names[c],
                    "color": "#{:02x}{:02x}{:02x}".format(*labels.colors[index]),
                    "pixels": counts[index],
                }
                for index, c in labels.classes.items()
            ],
        }

    def lines(self, out: Explanation, n: int) -> list[str]:
        """The best names and probabilities of an image; those of all that are there, where that was asked for."""
        if not self._chosen:
            return figures.top_lines(out, n, self._top)
        return figures.present_lines(out, n, self._present)

    def add_error(self, path: str, text: str) -> None:
        """Record a picture that could not be explained."""
        self.records.append({"image": path, "error": text})

    def document(self) -> dict[str, Any]:
        """What ``result.json`` holds."""
        return {**self.summary, "images": self.records}

    def close(self) -> None:
        """Write ``maps.npz`` and ``result.json``."""
        if self._maps:
            self.files.append(
                write_atomically(self.folder / "maps.npz", lambda f: np.savez_compressed(f, **self._arrays()))
            )
        text = escaped(json.dumps(self.document(), indent=1, ensure_ascii=False, allow_nan=False))
        self.files.append(write_atomically(self.folder / "result.json", lambda f: f.write(_utf8(text))))

    def _arrays(self) -> dict[str, Any]:
        good = [r for r in self.records if "error" not in r]
        arrays: dict[str, Any] = {"names": np.array([r["name"] for r in good])}
        if len({m.shape for m in self._maps}) == 1:
            classes = np.array([[m["class"] for m in r["maps"]] for r in good], np.int64)
            return arrays | {"maps": np.stack(self._maps), "classes": classes}
        for record, maps in zip(good, self._maps, strict=True):
            arrays[f"maps/{record['name']}"] = maps
            arrays[f"classes/{record['name']}"] = np.array([m["class"] for m in record["maps"]], np.int64)
        return arrays

    def _free_name(self, wanted: str) -> str:
        stem = re.sub(r"[^\w.+-]+", "_", wanted).strip("._")[:80] or "image"
        name, count = stem, 1
        while name.lower() in self._names:
            count += 1
            name = f"{stem}-{count}"
        self._names.add(name.lower())
        return name


def check_writable(folder: Path) -> None:
    """Make a folder for results, and try to write into it.

    Raises
    ------
    InputError
        If that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise InputError(f"output {folder}: is a file; give a folder with -o") from error
    except OSError as error:
        raise InputError(
            f"output folder {folder}: cannot be written to ({error.strerror}); choose another with -o"
        ) from error


def _summary(out: Explanation) -> dict[str, Any]:
    from camcore import __version__

    return {
        "camcore": __version__,
        "method": out.method,
        "layer": out.layer,
        "target": out.target,
        "head": out.head,
        "scores_are": out.scores_are,
        "device": out.device,
    }


def describe(out: Explanation, n: int, *, top: int = 3, threshold: float = 0.2) -> dict[str, Any]:
    """One image as a plain dict: best classes, and for each explained class its score, peak and boxes.

    Peaks and boxes are in pixels of the picture where there is one, else of the network's input.
    """
    chances = out.probabilities[n]
    best = np.argsort(-chances, kind="stable")[:top].tolist()
    record: dict[str, Any] = {"image": out.pictures[n].path if out.pictures is not None else None}
    record["top"] = [_class(out, n, c, chances) for c in best]
    heats = out[n].heatmaps()[0]
    record["maps"] = [
        _class(out, n, c, chances) | _places(out, n, heat, threshold)
        for c, heat in zip(out.classes[n].tolist(), heats, strict=True)
    ]
    return record


def _class(out: Explanation, n: int, index: int, chances: NDArray[Any]) -> dict[str, Any]:
    name = None if out.class_names is None else out.class_names[index]
    return {
        "class": index,
        "label": name,
        "score": _number(out.scores[n, index]),
        "probability": _number(chances[index]),
    }


def _utf8(text: str) -> bytes:
    """File names need not be text: their stray bytes become the JSON escapes that read back as the same name."""
    return text.encode(errors="backslashreplace")


def _number(value: Any) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None


def _places(out: Explanation, n: int, heat: NDArray[np.floating[Any]], threshold: float) -> dict[str, Any]:
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    if heat.ndim != 2:
        return {"peak": [int(i) for i in peak]}
    y, x = (float(i) + 0.5 for i in peak)
    found = [_to_picture(out, n, box) for box in boxes(heat, threshold)]
    return {"peak": [_number(v) for v in _point(out, n, x, y)], "boxes": [[_number(v) for v in box] for box in found]}


def _to_picture(out: Explanation, n: int, box: Box) -> tuple[float, ...]:
    return (*_point(out, n, box.x0, box.y0), *_point(out, n, box.x1, box.y1), box.score)


def _point(out: Explanation, n: int, x: float, y: float) -> tuple[float, float]:
    """From pixels of the network's input to pixels of the picture."""
    if out.views is None:
        return x, y
    x0, y0, x1, y1 = out.views[n]
    height, width = out.input_size
    return round(x0 + x * (x1 - x0) / width, 2), round(y0 + y * (y1 - y0) / height, 2)
