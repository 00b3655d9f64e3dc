"""What is made when a training is over: the films of the recording, the exported network, and a summary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcore.errors import HeadNotFound
from camcore.films.filmstrip import save_filmstrip
from camcore_tools.console import note
from camcore_tools.training.checkpoints import epoch_file, load_tensors
from camcore_tools.training.job import Job
from camcore_tools.training.loop import Training
from camcore_tools.training.run_folder import RunFolder
from camcore_tools.training.runs import read_json
from camcore_tools.training.watching import first_of_each_class

if TYPE_CHECKING:
    from camcore_onnx.report import Report
    from camcore_torch import CamRecorder

__all__ = ["finish", "show"]


def show(job: Job, run: RunFolder, training: Training, recorder: CamRecorder) -> list[Path]:
    """The recording as films, pages and numbers."""
    recorder.finish()
    note("making the films of the recording")
    files = recorder.save(run.path)
    if job.strip is not None:
        done = sorted({min(epoch, len(training.history)) for epoch in job.strip})
        shown = first_of_each_class(recorder.recording.classes)
        save_filmstrip(run.path / "filmstrip.png", recorder.recording, picture=shown, epochs=done)
    return files


def finish(job: Job, run: RunFolder, training: Training, recorder: CamRecorder) -> dict[str, Any]:
    """Make everything; the summary last, for it says that the rest is there."""
    files = show(job, run, training, recorder)
    best = training.best
    assert best is not None  # a training ends after an epoch
    checkpoint = Path(run.CHECKPOINTS) / epoch_file(best.epoch)
    training.objective.load(load_tensors(run.path / checkpoint)[0])
    recording = recorder.recording
    report = _exported(run, training, recording.layer) if job.export else None
    document = {
        "run": str(run.path),
        "stopped": training.stopped,
        "limit": None if training.stopped == "epochs" else getattr(training.settings, training.stopped or ""),
        "epochs": len(training.history),
        "steps": training.step,
        "seconds": sum(row.seconds for row in training.history),
        "best": best.to_json(),
        "last": training.history[-1].to_json(),
        "checkpoint": str(checkpoint),
        "recording": {
            "frames": len(recording),
            "pictures": len(recording.classes),
            "every": recorder.every,
            "method": recording.method,
            "layer": recording.layer,
        },
        "files": [path.name for path in files],
        "model": None if report is None else report.to_json(),
        **{name: read_json(run.path / run.CONFIG)[name] for name in ("pictures", "parameters", "classes", "device")},
    }
    run.write_json(run.SUMMARY, document)
    return document


def _exported(run: RunFolder, training: Training, layer: str) -> Report:
    """With the features that its head reads; where it has no pooled head, with those of the recorded layer."""
    import camcore_torch

    note(f"exporting the network of epoch {training.best.epoch if training.best else 0}")
    size = training.split.train.pixels([0]).shape[1:3]

    def export(layer: str | None = None) -> Report:
        return camcore_torch.export(
            training.objective.model,
            (1, 3, *size),
            run.path / run.MODEL,
            layer=layer,
            labels=training.split.train.classes,
            preprocess=training.rule,
        )

    try:
        return export()
    except HeadNotFound:
        return export(layer)
