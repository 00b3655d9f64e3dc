"""What a recording becomes: a film, a timeline, a filmstrip and how far the maps moved, in one folder."""

from __future__ import annotations

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any

from camcore.drift import trends
from camcore.errors import InputError
from camcore.files import write_atomically
from camcore.recording import Recording
from camcore.recording_files import save_recording

__all__ = ["save_products"]


def save_products(folder: str | PathLike[str], recording: Recording) -> list[Path]:
    """Write recording.npz, training.gif, training.webp, timeline.html, filmstrip.png and drift.json.

    Parameters
    ----------
    folder : path
        Made if absent; files of these names are replaced.
    recording : Recording

    Returns
    -------
    list of Path
        The files.

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
        return [*_data(folder, recording), *_pictures(folder, recording)]
    except OSError as error:
        raise InputError(
            f"{error.strerror or error}: {str(folder)!r}; choose a folder that you may write to"
        ) from error


def _data(folder: Path, recording: Recording) -> list[Path]:
    text = json.dumps(_drift(recording), indent=1, allow_nan=False)
    return [
        save_recording(folder / "recording.npz", recording),
        write_atomically(folder / "drift.json", lambda file: file.write(text.encode())),
    ]


def _drift(recording: Recording) -> dict[str, Any]:
    """Each trend by its name: values at the steps of the frames, null where there is none."""
    curves = {name: curve.values.tolist() for name, curve in trends(recording).items()}
    numbers = {name: [v if math.isfinite(v) else None for v in values] for name, values in curves.items()}
    return {"steps": recording.steps.tolist(), **numbers}


def _pictures(folder: Path, recording: Recording) -> list[Path]:
    return []
