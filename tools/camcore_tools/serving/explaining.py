"""One frame in, one explanation out: the model behind the page, and the thread that it runs in."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import CamError, InputError
from camcore.explanation import Explanation
from camcore.pictures import Picture
from camcore_tools.serving.media import read_picture
from camcore_tools.serving.messages import MAX_PIXELS, Request, packed

__all__ = ["Model", "Stopped", "Worker"]


class Stopped(Exception):
    """Nobody waits for this explanation any more."""


class Model:
    """An explainer as the page needs it.

    Parameters
    ----------
    explainer : Explainer

    Attributes
    ----------
    first : Explanation
        Of noise.
    info : dict
        What the page is told: labels, number of classes, input size, method, device, and how frames should come.
    seconds : float
        What the first explanation took.

    Raises
    ------
    CamError
        If the model cannot be explained: a first run on noise finds that out.
    """

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        begun = time.perf_counter()
        self.first = self._first()
        self.seconds = time.perf_counter() - begun
        self.info = self._info(self.first)

    def _first(self) -> Explanation:
        height, width = self._size()
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        out = self.explainer([Picture(noise, "noise")])
        if out.maps.ndim != 4:
            raise InputError(f"the maps of this model have the shape {out.maps.shape[2:]}; the page shows pictures")
        return out

    def _size(self) -> tuple[int, int]:
        rule, size = self.explainer.preprocess, self.explainer.backend.input.size
        return (rule.size if rule is not None else None) or size or (224, 224)

    def _info(self, out: Explanation) -> dict[str, Any]:
        rule = self.explainer.preprocess
        assert rule is not None  # it was used
        return {
            "labels": None if out.class_names is None else list(out.class_names),
            "classes": int(out.scores.shape[1]),
            "size": list(out.input_size),
            "method": out.method,
            "layer": out.layer,
            "device": out.device,
            "frame": {"resize": rule.resize, "crop": rule.crop, "size": list(out.input_size), "pixels": MAX_PIXELS},
        }

    def answer(self, request: Request, find: Callable[[str], Path], stopped: threading.Event) -> bytes:
        """Explain one frame; the message that goes back.

        Parameters
        ----------
        request : Request
        find : callable
            From the id of a picture to its file.
        stopped : Event
            Set it where the answer is not wanted any more: methods of many runs end after the next one.

        Raises
        ------
        CamError
            If the frame or the class cannot be used.
        Stopped
            If ``stopped`` was set.
        """
        begun = time.perf_counter()
        self.explainer.report = lambda done, total: _go_on(stopped)
        _go_on(stopped)
        images = [read_picture(find(request.picture))] if request.frame == "picture" else self._values(request)
        out = self.explainer(images, request.class_index)
        header = {"id": request.id, **_described(out, request.top)}
        header["milliseconds"] = round(1e3 * (time.perf_counter() - begun), 2)
        return packed(header, out.maps[0, 0])

    def _values(self, request: Request) -> NDArray[np.float32]:
        """The (1, C, H, W) input that pixels make which the page has resized and cropped."""
        rule = self.explainer.preprocess
        assert rule is not None  # the first run used it
        pixels = np.frombuffer(request.payload, np.uint8).reshape(request.height, request.width, 3)
        return rule.values(pixels, channels=self.explainer.backend.input.channels or 3)[None]


def _go_on(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise Stopped


def _described(out: Explanation, top: int) -> dict[str, Any]:
    chances = out.probabilities[0]
    best = np.argsort(-chances, kind="stable")[:top].tolist()
    return {
        "top": [{"index": c, "name": out.label(c), "probability": _number(chances[c])} for c in best],
        "classIndex": int(out.classes[0, 0]),
        "shape": list(out.maps.shape[2:]),
        "rectifies": out.rectifies,
        "view": _view(out),
    }


def _view(out: Explanation) -> dict[str, float] | None:
    """The part of the picture that the map covers, as fractions of it; None where the page has cut it out itself."""
    if out.views is None or out.pictures is None:
        return None
    x0, y0, x1, y1 = out.views[0]
    height, width = out.pictures[0].pixels.shape[:2]
    return {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(eq=False)
class Worker:
    """Runs one frame at a time in a thread of its own, first come, first served.

    Since a client has one frame under way, each gets its turn.
    """

    model: Model
    find: Callable[[str], Path]

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "explaining")
        self._under_way: set[threading.Event] = set()
        self.busy = False

    async def answer(self, request: Request) -> bytes:
        """The answer to a request; a cancelled one is taken from the queue, or ended where it runs already."""
        stopped = threading.Event()
        self._under_way.add(stopped)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, request, stopped)
        finally:
            stopped.set()
            self._under_way.discard(stopped)

    def _run(self, request: Request, stopped: threading.Event) -> bytes:
        self.busy = True
        try:
            return self.model.answer(request, self.find, stopped)
        except (CamError, Stopped):
            raise
        except Exception as error:  # one frame must not end the server
            raise InputError(f"this frame could not be explained: {type(error).__name__}: {error}") from error
        finally:
            self.busy = False

    def close(self) -> None:
        """Take no more, and end what runs as soon as it can be."""
        for stopped in self._under_way:
            stopped.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
