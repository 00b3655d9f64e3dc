"""Where the stream comes from: the camera of the browser, a video file, or the pictures of a folder."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from camcore.errors import InputError
from camcore.pictures import SUFFIXES, Picture, find_pictures, load_picture

__all__ = ["Camera", "PictureFolder", "Source", "Video", "open_source", "read_picture", "shown_picture"]

# What browsers show as it is, by suffix; anything else becomes a PNG, of which the first image counts.
_SHOWN = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif", ".jpe"), "image/jpeg"),
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
_VIDEOS = {
    **dict.fromkeys((".mp4", ".m4v"), "video/mp4"),
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    **dict.fromkeys((".ogv", ".ogg"), "video/ogg"),
    ".mkv": "video/x-matroska",
}
_MOST = 10_000


@dataclass(frozen=True)
class Camera:
    """The browser asks for it, shows it, and owns it."""

    def config(self) -> dict[str, Any]:
        """What the page is told."""
        return {"kind": "camera"}

    def __str__(self) -> str:
        return "camera (the browser asks for it)"


@dataclass(frozen=True)
class Video:
    """A file that the browser plays."""

    path: Path

    @property
    def kind(self) -> str:
        """Its media type."""
        return _VIDEOS[self.path.suffix.lower()]

    def config(self) -> dict[str, Any]:
        """What the page is told."""
        return {"kind": "video", "url": "video", "name": _text(self.path.name)}

    def __str__(self) -> str:
        return f"video {self.path}"


@dataclass(eq=False)
class PictureFolder:
    """Pictures of a folder, or one picture. Clients name them by ids that the server made, never by paths.

    Parameters
    ----------
    place : Path
        A link out of it is not followed.
    """

    place: Path
    _files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._root = self.place.resolve()
        if not self.listing():
            raise InputError(f"{self.place}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")

    def config(self) -> dict[str, Any]:
        """What the page is told."""
        return {"kind": "folder", "list": "pictures.json"}

    def listing(self) -> list[dict[str, str]]:
        """Look into the folder again: id, name and address of each picture."""
        try:
            found = find_pictures([self.place])[:_MOST]
        except InputError:  # none
            found = []
        names = {path: path.relative_to(self.place) if path != self.place else Path(path.name) for path in found}
        self._files = {_id(names[path]): path for path in found if self._holds(path)}
        return [
            {"id": i, "name": _text(str(names[path])), "url": f"pictures/{quote(i)}"} for i, path in self._files.items()
        ]

    def find(self, name: str) -> Path:
        """The file of an id.

        Raises
        ------
        InputError
            If the folder has none, or it leads out of the folder by now.
        """
        path = self._files.get(name)
        if path is None or not self._holds(path):
            raise InputError("the folder has no such picture any more; load the list anew")
        return path.resolve()

    def _holds(self, path: Path) -> bool:
        real = path.resolve()
        return real.is_file() and (real == self._root or self._root in real.parents)

    def __str__(self) -> str:
        return f"{len(self._files)} picture{'' if len(self._files) == 1 else 's'} of {self.place}"


Source = Camera | Video | PictureFolder


def _id(name: Path) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:20]


def _text(name: str) -> str:
    """File names need not be text."""
    return name.encode(errors="replace").decode()


def open_source(text: str) -> Source:
    """What ``--source`` says.

    Raises
    ------
    InputError
        If there is no such thing, or no browser plays it.
    """
    if text.lower() == "camera":
        return Camera()
    path = Path(text)
    suffix = path.suffix.lower()
    if path.is_dir() or (path.is_file() and suffix in SUFFIXES):
        return PictureFolder(path)
    if not path.is_file():
        hint = "; the browser chooses among cameras: --source camera" if text.isdigit() or "://" in text else ""
        raise InputError(f"--source {text}: no such file or folder; expected camera, a video or a folder{hint}")
    if suffix not in _VIDEOS:
        raise InputError(
            f"--source {text}: browsers play {', '.join(_VIDEOS)}, not {suffix or 'files without a suffix'}; "
            "convert it: ffmpeg -i VIDEO -c:v libx264 -pix_fmt yuv420p video.mp4"
        )
    return Video(path.resolve())


def read_picture(path: Path) -> Picture:
    """A picture of the folder.

    Raises
    ------
    InputError
        If it cannot be read. The text names the file, and not where it lies: it goes to whoever opened the page.
    """
    try:
        return load_picture(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), _text(path.name))) from error


def shown_picture(path: Path) -> tuple[bytes | Path, str]:
    """A picture as browsers show it, and its media type: the file, or a PNG made of it.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    kind = _SHOWN.get(path.suffix.lower())
    if kind is not None:
        return path, kind
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(read_picture(path).pixels).save(file, "PNG", compress_level=1)
    return file.getvalue(), "image/png"
