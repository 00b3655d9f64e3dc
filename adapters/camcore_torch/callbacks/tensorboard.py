"""Pictures and trends of a recording in TensorBoard."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import numpy as np

from camcore.drift import trends
from camcore.errors import InputError
from camcore.films.montage import Montage
from camcore.recording import Recording
from camcore_torch.callbacks.watching import lacking
from camcore_torch.recorder import CamRecorder

__all__ = ["TensorBoardSink", "add_cams"]

_BOX = (960, 640)  # pixels
_FINAL = "drift_final"  # of which nobody knows anything before the end


class TensorBoardSink:
    """Writes each frame of a recording once: the overlays as a picture, and the trends as scalars.

    Parameters
    ----------
    writer : SummaryWriter or path
        A writer of PyTorch or tensorboardX (Lightning's is ``logger.experiment``), or the folder of a new one.
    tag : str
        The name of the picture; scalars are called ``tag/drift_previous``, and with masks ``tag/energy_inside`` and
        ``tag/peaks_inside``.

    Examples
    --------
    During a training ``recorder.on_frame.append(TensorBoardSink(writer))``, or ``on_frame=[...]`` of a callback; after
    it ``TensorBoardSink("runs/cats")(recording)``. TensorBoard shows ten pictures a tag, unless it is started with
    ``--samples_per_plugin images=1000``.
    """

    def __init__(self, writer: Any, *, tag: str = "cam") -> None:
        self.writer = _opened(writer)
        self.tag = tag
        self._last = -1

    def __call__(self, source: CamRecorder | Recording) -> None:
        """Write the frames that are newer than the last one written."""
        recording = _recording(source)
        if recording.steps[-1] < self._last:  # another training, or one that began again
            self._last = -1
        for frame in np.flatnonzero(recording.steps > self._last).tolist():
            _add(self.writer, recording, frame, self.tag)
        self._last = int(recording.steps[-1])
        self.writer.flush()


def add_cams(writer: Any, source: CamRecorder | Recording, tag: str = "cam", step: int | None = None) -> None:
    """Write one frame of a recording: the last one up to a step, or the last one of all.

    Parameters
    ----------
    writer : SummaryWriter
        Of PyTorch or tensorboardX.
    source : CamRecorder or Recording
    tag : str
        See `TensorBoardSink`.
    step : int, optional

    Raises
    ------
    InputError
        If there is no frame up to this step.
    """
    recording = _recording(source)
    frame = len(recording) if step is None else int(np.searchsorted(recording.steps, step, side="right"))
    if frame == 0:
        raise InputError(f"there is no frame up to step {step}; the first is of step {recording.steps[0]}")
    _add(writer, recording, frame - 1, tag)


def _recording(source: CamRecorder | Recording) -> Recording:
    recording = source.recording if isinstance(source, CamRecorder) else source
    if len(recording) == 0:
        raise InputError("the recording has no frame; nothing can be shown of it")
    return recording


def _add(writer: Any, recording: Recording, frame: int, tag: str) -> None:
    step = int(recording.steps[frame])
    picture = Montage(recording, _BOX, font=14).draw(frame)
    writer.add_image(tag, picture, step, dataformats="HWC")
    pair = recording.frames([max(frame - 1, 0), frame] if frame else [0])
    for name, curve in trends(pair).items():
        value = float(curve.values[-1])
        if name != _FINAL and math.isfinite(value):
            writer.add_scalar(f"{tag}/{name}", value, step)


def _opened(writer: Any) -> Any:
    if not isinstance(writer, (str, PathLike)):
        return writer
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise lacking("tensorboard", "tensorboard", error) from error
    return SummaryWriter(str(writer))
