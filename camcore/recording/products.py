"""What a recording becomes: films, a page, a filmstrip and how far the maps moved, in one folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from camcore.drift import trends
from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.recording.files import save_recording, unwritable
from camcore.recording.recording import Curve, Recording

__all__ = ["save_products"]

_ROWS = 3  # of the filmstrip


def save_products(folder: str | PathLike[str], recording: Recording) -> list[Path]:
    """Write recording.npz, drift.json, drift.png, training.gif, training.webp, timeline.html and filmstrip.png.

    Parameters
    ----------
    folder : path
        Made if absent; files of these names are replaced.
    recording : Recording

    Returns
    -------
    list of Path
        The files. ``drift.json`` has the curves of `camcore.drift.trends` at the steps of the frames, null where there
        is no number, and ``drift.png`` is their chart; ``filmstrip.png`` shows the first picture of each of up to
        three classes.

    Raises
    ------
    InputError
        If the recording has no frame, or the folder cannot be written to.
    """
    if not len(recording):
        raise InputError("the recording has no frame; nothing can be shown of it")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path, found = save_recording(folder / "recording.npz", recording), trends(recording)
        return [path, _save_drift(folder / "drift.json", recording, found), *_save_pictures(folder, recording, found)]
    except OSError as error:
        raise unwritable(folder, error) from error


def _save_drift(path: Path, recording: Recording, found: Mapping[str, Curve]) -> Path:
    numbers = {n: [v if math.isfinite(v) else None for v in curve.values.tolist()] for n, curve in found.items()}
    text = json.dumps({"steps": recording.steps.tolist(), **numbers}, indent=1, allow_nan=False)
    return write_atomically(path, lambda file: file.write(text.encode()))


def _save_pictures(folder: Path, recording: Recording, found: Mapping[str, Curve]) -> list[Path]:
    from camcore.films.drift_chart import save_drift_chart
    from camcore.films.film import frames_of, write_gif, write_webp
    from camcore.films.filmstrip import save_filmstrip
    from camcore.films.timeline import save_timeline

    film, strip, drift = frames_of(recording, trends=found), folder / "filmstrip.png", folder / "drift.png"
    rows = np.sort(np.unique(recording.classes, return_index=True)[1])[:_ROWS].tolist()
    save_filmstrip(strip, recording, picture=rows)
    save_drift_chart(drift, recording, trends=found)
    return [
        write_gif(folder / "training.gif", film),
        write_webp(folder / "training.webp", film),
        save_timeline(folder / "timeline.html", recording, trends=found),
        strip,
        drift,
    ]
