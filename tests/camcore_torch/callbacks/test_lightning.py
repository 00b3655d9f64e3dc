"""The Lightning callback in real trainings: they stay what they were, and every optimiser step is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch.callbacks.lightning import CamCallback
from camcore_torch.callbacks.tensorboard import TensorBoardSink
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from camcore import InputError
from camcore.recording.files import load_recording

pytestmark = [
    pytest.mark.filterwarnings("ignore:::(lightning|pytorch_lightning)"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(24, 3, 12, 12, generator=GENERATOR)
LABELS = torch.randint(3, (24,), generator=GENERATOR)


def network(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(1)
    trunk = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(dropout)
    return nn.Sequential(*trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def module_of(package: str, **options: Any) -> Any:
    """A LightningModule of either package, which notes the loss of each batch."""

    class Classifier(import_module(package).LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network(**options)
            self.losses: list[float] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.net(images)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.losses.append(loss.item())
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Classifier()


def fit(
    module: Any, *callbacks: Any, package: str = PACKAGES[0], data: Any = None, resume: Any = None, **options: Any
) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"max_epochs": 2, "enable_checkpointing": False, **quiet, **options}
    trainer = import_module(package).Trainer(callbacks=list(callbacks), **given)
    torch.manual_seed(2)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), 4) if data is None else data
    trainer.fit(module, loader, DataLoader(TensorDataset(IMAGES, LABELS), 12), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("package", PACKAGES)
def test_the_training_is_the_same(package: str, tmp_path: Path) -> None:
    plain, watched = module_of(package), module_of(package)
    fit(plain, package=package)
    sink = TensorBoardSink(tmp_path)
    callback = CamCallback(IMAGES[:4], LABELS[:4], every=2, on_frame=[sink])
    fit(watched, callback, package=package)
    sink.writer.close()
    assert callback.recording.steps.tolist() == [0, 2, 4, 6, 8, 10, 12]
    shown = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload().Images("cam")
    assert [image.step for image in shown] == [0, 2, 4, 6, 8, 10, 12]
    assert np.ptp(callback.recording.maps) > 0
    before, after = plain.state_dict(), watched.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert plain.losses == watched.losses


def test_a_step_is_one_of_the_optimizer() -> None:
    module, callback = module_of(PACKAGES[0]), CamCallback(IMAGES[:4], LABELS[:4], every=2)
    fit(module, callback, accumulate_grad_batches=4)  # 6 batches an epoch: steps of 4 and of 2
    recording = callback.recording
    assert recording.steps.tolist() == [0, 2, 4]
    batches = np.split(np.array(module.losses), [4, 6, 10])
    expected = [b.sum() / 4 for b in batches]  # what Lightning's optimizer sees: the last batches count less
    np.testing.assert_allclose(recording.curves["loss"].values, expected, rtol=1e-5)


def test_metrics_are_logged_when_they_are_there() -> None:
    module, callback = module_of(PACKAGES[0]), CamCallback(IMAGES[:4], LABELS[:4], every=0)
    trainer = fit(module, callback)
    curves = callback.recording.curves
    assert {name: curve.steps.tolist() for name, curve in curves.items()} == {
        "loss": list(range(1, 13)),
        "train_loss": list(range(1, 13)),
        "train_loss_epoch": [6, 12],
        "val_acc": [6, 12],
        "epoch": [6, 12],
    }
    assert curves["epoch"].values.tolist() == [1, 2]
    np.testing.assert_allclose(curves["train_loss"].values, module.losses, rtol=1e-6)
    np.testing.assert_allclose(curves["train_loss_epoch"].values[1], np.mean(module.losses[6:]), rtol=1e-6)
    assert curves["val_acc"].values[1] == pytest.approx(float(trainer.callback_metrics["val_acc"]))
    assert callback.recording.steps.tolist() == [0, 12]  # none between, but the last


@pytest.mark.parametrize("model", ["net", lambda module: module.net])
def test_a_part_of_the_module(model: Any) -> None:
    module, callback = module_of(PACKAGES[0]), CamCallback(IMAGES[:2], LABELS[:2], model=model, method="cam")
    fit(module, callback, max_epochs=1)
    assert callback.recording.layer == "2"  # named from that part on


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("nett", "model is 'nett', and Classifier has no such part; its parts: net"),
        (lambda module: 7, "model gave int; expected a function that gives the nn.Module to be recorded"),
    ],
)
def test_no_such_part(model: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        fit(module_of(PACKAGES[0]), CamCallback(IMAGES[:2], LABELS[:2], model=model))


def test_several_optimizers_count_all_their_steps() -> None:
    class Two(type(module_of(PACKAGES[0]))):  # type: ignore[misc]
        automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            for optimizer in self.optimizers():
                loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=rate) for rate in (0.1, 0.01)]

    callback = CamCallback(IMAGES[:2], LABELS[:2], every=4)
    trainer = fit(Two(), callback, max_epochs=1)
    assert trainer.global_step == 12
    assert callback.recording.steps.tolist() == [0, 4, 8, 12]
    assert "loss" not in callback.recording.curves  # the module gave none


def test_what_was_recorded_before_an_error_is_kept(tmp_path: Path) -> None:
    class Failing(type(module_of(PACKAGES[0]))):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if index == 5:
                raise ZeroDivisionError("in the middle")
            return super().training_step(batch, index)

    callback = CamCallback(IMAGES[:4], LABELS[:4], every=2, folder=tmp_path)
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        fit(Failing(), callback)
    assert callback.recording.steps.tolist() == [0, 2, 4]
    assert json.loads((tmp_path / "drift.json").read_text())["steps"] == [0, 2, 4]


@pytest.mark.usefixtures("no_films")
def test_a_resumed_training_goes_on_with_its_recording(tmp_path: Path) -> None:
    """The checkpoint is of step 6; frames and numbers of the lost steps after it are taken anew."""
    checkpoints = import_module(PACKAGES[0]).callbacks.ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=6)
    straight = CamCallback(IMAGES[:4], LABELS[:4], every=4, folder=tmp_path / "straight")
    fit(module_of(PACKAGES[0], dropout=0), straight, max_steps=12)
    lost = CamCallback(IMAGES[:4], LABELS[:4], every=4, folder=tmp_path / "resumed")
    options = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    fit(module_of(PACKAGES[0], dropout=0), lost, checkpoints, max_steps=9, **options)
    assert lost.recording.steps.tolist() == [0, 4, 8, 9]
    again = CamCallback(IMAGES[:4], LABELS[:4], every=4, folder=tmp_path / "resumed")
    fit(module_of(PACKAGES[0], dropout=0), again, max_steps=12, resume=tmp_path / "at.ckpt")
    assert again.recording.steps.tolist() == straight.recording.steps.tolist() == [0, 4, 8, 12]
    np.testing.assert_array_equal(again.recording.maps, straight.recording.maps)
    assert again.recording.curves["loss"].steps.tolist() == list(range(1, 13))
    assert again.recording.curves["loss"].values.tolist() == straight.recording.curves["loss"].values.tolist()


@pytest.mark.usefixtures("no_films")
def test_a_new_training_in_the_folder_of_an_old_one_shows_listeners_only_its_own(tmp_path: Path) -> None:
    fit(module_of(PACKAGES[0]), CamCallback(IMAGES[:4], LABELS[:4], every=4, folder=tmp_path), max_steps=8)
    seen: list[list[int]] = []
    listener = [lambda recorder: seen.append(recorder.recording.steps.tolist())]
    callback = CamCallback(IMAGES[:4], LABELS[:4], every=3, folder=tmp_path, on_frame=listener)
    fit(module_of(PACKAGES[0]), callback, max_steps=6)
    assert seen == [[0], [0, 3], [0, 3, 6]]


def test_before_the_training_there_is_nothing() -> None:
    with pytest.raises(InputError, match="nothing is recorded yet; ask once the training has begun"):
        _ = CamCallback(IMAGES[:4]).recording


def test_products_that_cannot_be_saved_do_not_end_a_training(tmp_path: Path) -> None:
    (tmp_path / "drift.json").mkdir()
    callback = CamCallback(IMAGES[:4], LABELS[:4], every=4, folder=tmp_path)
    with pytest.warns(RuntimeWarning, match="the products of the recording were not saved: "):
        trainer = fit(module_of(PACKAGES[0]), callback)
    assert trainer.global_step == 12
    assert callback.recording.steps.tolist() == [0, 4, 8, 12]


TWO_PROCESSES = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import lightning.pytorch as pl
from camcore_torch.callbacks.lightning import CamCallback

class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        trunk = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.net = nn.Sequential(*trunk, nn.Linear(6, 3))
    def forward(self, images):
        return self.net(images)
    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

if __name__ == "__main__":
    torch.manual_seed(0)
    data, model = TensorDataset(torch.randn(32, 3, 12, 12), torch.randint(3, (32,))), Classifier()
    watching = [CamCallback(*data[:4], every=2, folder=sys.argv[1])] if len(sys.argv) > 1 else []
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    trainer = pl.Trainer(callbacks=watching, max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", **options)
    trainer.fit(model, DataLoader(data, 4))
    records = watching[0].recorder.records if watching else None
    print("said", trainer.global_rank, records, [p.double().sum().item() for p in model.parameters()])
"""


@pytest.mark.slow
def test_of_several_processes_the_first_records(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    told = []
    for words in ([str(tmp_path / "recorded")], []):
        run = [sys.executable, str(tmp_path / "train.py"), *words]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        lines = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("said")]
        told.append({rank: (records, sums) for _, rank, records, sums in lines})
    watched, plain = told
    assert {rank: records for rank, (records, _) in watched.items()} == {"0": "True", "1": "False"}
    assert {sums for _, sums in (*watched.values(), *plain.values())} == {plain["0"][1]}
    assert load_recording(tmp_path / "recorded").steps.tolist() == [0, 2, 4]
