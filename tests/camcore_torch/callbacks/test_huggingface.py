"""The Hugging Face callback in real trainings of small vision models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch.callbacks.huggingface import CamCallback
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from camcore.recording.files import load_recording

pytestmark = [
    pytest.mark.filterwarnings("ignore:::(transformers|accelerate)"),
    pytest.mark.filterwarnings("ignore:::torch.utils.data"),
]

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(16, 3, 32, 32, generator=GENERATOR)
LABELS = torch.randint(3, (16,), generator=GENERATOR)
NAMES = {0: "cat", 1: "dog", 2: "otter"}


class Pictures(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": IMAGES[index], "labels": LABELS[index]}


def vit() -> nn.Module:
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(1)
    return ViTForImageClassification(
        ViTConfig(**size, image_size=32, patch_size=8, hidden_dropout_prob=0.1, id2label=NAMES)
    )


def resnet() -> nn.Module:
    torch.manual_seed(1)
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=NAMES)
    )


def trainer_of(model: nn.Module, folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    quiet = {"report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False, "use_cpu": True}
    given = {"max_steps": 6, "per_device_train_batch_size": 4, "save_strategy": "no", "learning_rate": 0.01}
    args = TrainingArguments(str(folder), **{**quiet, **given, **options})
    return Trainer(model, args, train_dataset=Pictures(), eval_dataset=Pictures(), callbacks=list(callbacks))


@pytest.mark.parametrize(("make", "method"), [(vit, "gradcam"), (resnet, "cam")])
def test_the_training_is_the_same(make: Any, method: str, tmp_path: Path) -> None:
    plain, watched = make(), make()
    trainer_of(plain, tmp_path).train()
    callback = CamCallback(IMAGES[:4], LABELS[:4], every=2)
    trainer_of(watched, tmp_path, callback).train()
    recording = callback.recording
    assert (recording.steps.tolist(), recording.method) == ([0, 2, 4, 6], method)
    assert recording.maps.shape == (4, 4, 4, 4)
    assert np.ptp(recording.maps[-1] - recording.maps[0]) > 0
    before, after = plain.state_dict(), watched.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_names_of_the_classes_are_those_of_the_model(tmp_path: Path) -> None:
    own, given = CamCallback(IMAGES[:2], ["otter", "cat"]), CamCallback(IMAGES[:2], [2, 0], labels=["a", "b", "c"])
    trainer_of(resnet(), tmp_path, own, given, max_steps=1).train()
    assert own.recording.classes.tolist() == [2, 0]
    assert (own.recording.labels, given.recording.labels) == (("cat", "dog", "otter"), ("a", "b", "c"))


def test_a_step_is_one_of_the_optimizer_and_numbers_are_those_that_are_logged(tmp_path: Path) -> None:
    callback = CamCallback(IMAGES[:2], LABELS[:2], every=3)
    options = {"gradient_accumulation_steps": 2, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    trainer = trainer_of(resnet(), tmp_path, callback, **options)
    trainer.train()
    recording = callback.recording
    assert recording.steps.tolist() == [0, 3, 6]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert recording.curves["loss"].steps.tolist() == [entry["step"] for entry in logged] == [2, 4, 6]
    assert recording.curves["loss"].values.tolist() == [entry["loss"] for entry in logged]
    assert recording.curves["eval_loss"].steps.tolist() == [3, 6]
    assert set(recording.curves) == {"loss", "grad_norm", "learning_rate", "epoch", "eval_loss"}


@pytest.mark.usefixtures("no_films")
def test_a_resumed_training_goes_on_with_its_recording(tmp_path: Path) -> None:
    def callback(name: str) -> CamCallback:
        return CamCallback(IMAGES[:2], LABELS[:2], every=2, folder=tmp_path / name)

    saving = {"save_strategy": "steps", "save_steps": 3}
    straight, lost, again = callback("straight"), callback("resumed"), callback("resumed")
    trainer_of(resnet(), tmp_path / "runs", straight, **saving).train()
    trainer_of(resnet(), tmp_path / "runs", lost, **saving).train()
    assert lost.recording.steps.tolist() == [0, 2, 4, 6]
    checkpoint = str(tmp_path / "runs" / "checkpoint-3")
    trainer_of(resnet(), tmp_path / "runs", again, **saving).train(resume_from_checkpoint=checkpoint)
    assert again.recorder is not None
    assert again.recorder.steps == 6
    assert again.recording.steps.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(again.recording.maps, straight.recording.maps, rtol=1e-5, atol=1e-6)


def test_products_are_saved_at_the_end(tmp_path: Path) -> None:
    callback = CamCallback(IMAGES[:2], LABELS[:2], every=2, folder=tmp_path / "cams")
    trainer_of(resnet(), tmp_path, callback, max_steps=3).train()
    found = load_recording(tmp_path / "cams" / "recording.npz")
    assert found.steps.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(found.maps, callback.recording.maps)


def test_an_evaluation_without_a_training_records_nothing(tmp_path: Path) -> None:
    callback = CamCallback(IMAGES[:2], LABELS[:2])
    trainer_of(resnet(), tmp_path, callback).evaluate()
    assert callback.recorder is None
