"""What TensorBoard reads of a recording: each frame once, as the montage draws it, and its trends."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import CamRecorder
from camcore_torch.callbacks.tensorboard import TensorBoardSink, add_cams
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from camcore import InputError
from camcore.drift import trends
from camcore.films.montage import Montage
from camcore.recording import Recording

STEPS = [0, 10, 25]


def recording(**changes: Any) -> Recording:
    random = np.random.default_rng(0)
    masks = np.zeros((4, 16, 16), bool)
    masks[:, 2:9, 3:12] = True
    given: dict[str, Any] = {
        "steps": np.array(STEPS),
        "maps": random.standard_normal((3, 4, 4, 4)).astype(np.float32),
        "probabilities": random.random((3, 4)).astype(np.float32),
        "best": random.integers(0, 3, (3, 4)),
        "classes": np.array([0, 1, 2, 0]),
        "pictures": random.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        "labels": ("cat", "крот", "otter"),
        "masks": masks,
    }
    return Recording(**given | changes)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


def pixels(image: Any) -> np.ndarray:
    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
        return np.asarray(picture)


def test_every_frame_is_written_once(tmp_path: Path) -> None:
    whole, sink = recording(), TensorBoardSink(tmp_path, tag="cams")
    sink(whole.frames([0]))
    sink(whole)
    sink(whole)
    sink.writer.close()
    read = events(tmp_path)
    assert [image.step for image in read.Images("cams")] == STEPS
    drawn = Montage(whole, (960, 640), font=14)
    for frame, image in enumerate(read.Images("cams")):
        np.testing.assert_array_equal(pixels(image), drawn.draw(frame))


def test_another_training_is_written_from_its_beginning(tmp_path: Path) -> None:
    whole, sink = recording(), TensorBoardSink(tmp_path, tag="cams")
    sink(whole)
    sink(whole.frames([0]))
    sink(whole.frames([0, 1]))
    sink.writer.close()
    assert [image.step for image in events(tmp_path).Images("cams")] == [*STEPS, *STEPS[:2]]


def test_the_trends_are_those_of_the_whole_recording(tmp_path: Path) -> None:
    whole = recording()
    sink = TensorBoardSink(SummaryWriter(str(tmp_path)))
    sink(whole)
    sink.writer.close()
    read, expected = events(tmp_path), trends(whole)
    assert sorted(read.Tags()["scalars"]) == ["cam/drift_previous", "cam/energy_inside", "cam/peaks_inside"]
    for name, first in (("drift_previous", 1), ("energy_inside", 0), ("peaks_inside", 0)):
        found = read.Scalars(f"cam/{name}")
        assert [scalar.step for scalar in found] == STEPS[first:]
        np.testing.assert_allclose([s.value for s in found], expected[name].values[first:], rtol=1e-6)


@pytest.mark.parametrize(("step", "written"), [(None, 25), (25, 25), (24, 10), (10, 10), (1000, 25), (0, 0)])
def test_one_frame_up_to_a_step(tmp_path: Path, step: int | None, written: int) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        add_cams(writer, recording(masks=None), step=step)
    read = events(tmp_path)
    assert [image.step for image in read.Images("cam")] == [written]
    assert [s.step for s in read.Scalars("cam/drift_previous")] == [written] if written else True
    assert "cam/energy_inside" not in read.Tags()["scalars"]


@pytest.mark.parametrize(
    ("source", "step", "text"),
    [
        (recording(steps=np.array([5, 10, 25])), 4, "there is no frame up to step 4; the first is of step 5"),
        (replace(recording(), steps=np.zeros(0, np.int64)), None, "the recording has no frame"),
    ],
)
def test_no_such_frame(tmp_path: Path, source: Recording, step: int | None, text: str) -> None:
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(InputError, match=text):
        add_cams(writer, source, step=step)


def recorder_of_a_network() -> tuple[nn.Sequential, CamRecorder]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return model, CamRecorder(model, torch.randn(2, 3, 12, 12), [0, 1], every=2)


def test_frames_are_written_while_they_are_recorded(tmp_path: Path) -> None:
    model, recorder = recorder_of_a_network()
    sink = TensorBoardSink(tmp_path)
    recorder.on_frame.append(sink)
    for _ in range(4):
        with torch.no_grad():
            model[0].weight += 0.1
        recorder.step()
    assert [image.step for image in events(tmp_path).Images("cam")] == [0, 2, 4]  # before the writer is closed
    sink.writer.close()


def test_a_writer_that_fails_does_not_end_a_training() -> None:
    _, recorder = recorder_of_a_network()
    recorder.on_frame.append(TensorBoardSink(object()))
    recorder.step()
    with pytest.warns(RuntimeWarning, match=r"a listener to the frame of step 2 failed: 'object' object has no attr"):
        recorder.step()
    assert recorder.recording.steps.tolist() == [0, 2]
