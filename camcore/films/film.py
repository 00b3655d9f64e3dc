"""Frames into animated files: GIF and WebP, ten frames a second, repeated endlessly, the last frame held."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.films.frames import Film, frames_of
from camcore.films.theme import RGB, image_of
from camcore.recording.recording import Recording

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["Film", "frames_of", "save_gif", "save_webp", "write_gif", "write_webp"]

_FRAME_MS, _LAST_MS = 100, 4000
_COLOURS = 250  # fewer than 256: one must be left to say that a pixel did not change
_SAMPLE, _SAMPLED_FRAMES = 100_000, 16
_QUALITY = 78


def save_gif(path: str | PathLike[str], recording: Recording, **options: Any) -> Path:
    """Write a recording as an animated GIF.

    Parameters
    ----------
    path : path
        Ends in .gif. A file that is there is replaced.
    recording : Recording
    **options
        See `camcore.films.frames.frames_of`.

    Raises
    ------
    InputError
        For another suffix, and as `camcore.films.frames.frames_of`.
    OSError
        As `camcore.files.write_atomically`.
    """
    return write_gif(path, frames_of(recording, **options))


def save_webp(path: str | PathLike[str], recording: Recording, **options: Any) -> Path:
    """Write a recording as an animated WebP: all colours, and of photographs less than half the size of the GIF.

    ``path`` ends in .webp; for all else see `save_gif`.
    """
    return write_webp(path, frames_of(recording, **options))


def write_gif(path: str | PathLike[str], frames: Sequence[RGB]) -> Path:
    """Write frames with one palette of their own colours, which does not flicker.

    Until the file is written they are held in memory with one byte a pixel.
    """
    from PIL import Image

    path, palette = _checked(path, ".gif", frames), _palette(frames)
    # Not dithered: dots that jump about flicker, and compress badly.
    drawn = (image_of(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    first = next(drawn)
    options: dict[str, Any] = {"append_images": drawn, "optimize": True, "loop": 0, "duration": _durations(frames)}
    return write_atomically(path, lambda file: first.save(file, "GIF", save_all=True, **options))


def write_webp(path: str | PathLike[str], frames: Sequence[RGB]) -> Path:
    """Write frames, of which no more than one at a time is held in memory."""
    path, reel = _checked(path, ".webp", frames), _reel(frames)
    options: dict[str, Any] = {"quality": _QUALITY, "method": 4, "loop": 0, "duration": _durations(frames)}
    return write_atomically(path, lambda file: reel.save(file, "WEBP", save_all=True, **options))


def _checked(path: str | PathLike[str], suffix: str, frames: Sequence[RGB]) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"the file is called {path.name!r}; expected a name that ends in {suffix}")
    if len(frames) == 0:
        raise InputError("there are no frames; expected at least one")
    return path


def _durations(frames: Sequence[RGB]) -> list[int]:
    return [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]


def _palette(frames: Sequence[RGB]) -> PilImage:
    """The colours of a sample of pixels of a sample of frames, the last among them."""
    chosen = np.unique(np.rint(np.linspace(0, len(frames) - 1, _SAMPLED_FRAMES)).astype(int)).tolist()
    size = frames[-1].shape[0] * frames[-1].shape[1]
    stride = max(1, round((len(chosen) * size / _SAMPLE) ** 0.5))
    pixels = np.concatenate([frames[n][::stride, ::stride] for n in chosen])
    return image_of(pixels).quantize(_COLOURS, kmeans=1)


def _reel(frames: Sequence[RGB]) -> PilImage:
    """Frames as one image of many, which Pillow goes through as it does through an animated file."""
    from PIL import Image

    class Reel(Image.Image):
        n_frames = len(frames)

        def seek(self, frame: int) -> None:
            drawn = image_of(frames[frame])
            self.im, self._mode, self._size = drawn.im, drawn.mode, drawn.size
            self._frame = frame

        def tell(self) -> int:
            return self._frame

    reel = Reel()
    reel.seek(0)
    return reel
