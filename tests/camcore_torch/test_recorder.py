from __future__ import annotations

import copy
import functools
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings
import torch
from camcore_torch import CamRecorder
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import camcore
from camcore.errors import InputError, MethodNotPossible
from camcore.preprocess import preprocess
from camcore.recording.files import load_recording

CLASSES = 4


@functools.cache
def table(size: int) -> Tensor:
    """What many networks keep outside of their modules: made at the first need, used in every training step."""
    return torch.linspace(0.5, 1.5, size)


class Tricky(nn.Module):
    """Everything that a forward pass may disturb, or be disturbed by: see each line."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout2d(0.2))
        self.head = nn.Linear(12, CLASSES)
        self.scale = nn.Parameter(torch.ones(12))
        self.calls, self.cache, self.kept = 0, {}, []
        self.average = torch.zeros(12)  # no buffer, written in place in whatever mode

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if "scale" not in self.cache:  # with a graph, for a while
            self.cache["scale"] = self.scale * 1.5
        noise = random.random() + float(np.random.random()) + float(torch.rand(()))  # noqa: NPY002
        features = self.blocks(self.stem(x))
        features = features * table(features.shape[-1]) * (1 + 0.01 * noise + 0.01 * (self.calls % 3))
        pooled = features.mean((2, 3)) * self.cache["scale"]
        self.average.mul_(0.9).add_(pooled.detach().float().mean(0), alpha=0.1)
        return self.head(nn.functional.dropout(pooled, 0.3, self.training)) + self.head(self.average)


def tricky(seed: int = 0) -> Tricky:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    return Tricky()


IMAGES = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(48) % CLASSES
Watcher = Callable[[nn.Module], Any]


def watching(model: nn.Module, **options: Any) -> CamRecorder:
    return CamRecorder(model, IMAGES[:5], LABELS[:5], **{"every": 1, **options})


def trained(
    watch: Watcher | None, *, steps: int = 4, amp: bool = False, prepare: Any = None, often: bool = True
) -> dict[str, Any]:
    """All that is left of a training with gradients accumulated over two batches.

    ``watch`` looks at every moment, or only after the steps.
    """
    model = tricky()
    network = (prepare or (lambda m: m))(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05, momentum=0.9, nesterov=True)
    look = watch(network) if watch else lambda: None
    between = look if often else lambda: None
    losses: list[float] = []
    for _ in range(steps):
        for part in range(2):
            batch = torch.randint(48, (16,))
            with torch.autocast("cpu", torch.bfloat16) if amp else nullcontext():
                between()
                scores = network(IMAGES[batch])
                between()
                loss = functional.cross_entropy(scores, LABELS[batch])
            between()
            loss.backward()
            model.cache.clear()
            losses.append(loss.item())
            between()
            if part:
                optimizer.step()
                look()
                optimizer.zero_grad()
    return {
        "state": model.state_dict(),
        "grads": [p.grad for p in model.parameters()],
        "optimizer": optimizer.state_dict()["state"],
        "flags": [m.training for m in model.modules()],
        "own": [model.calls, model.average, sorted(model.cache), model.kept],
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],  # noqa: NPY002
        "losses": losses,
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def every_moment(**options: Any) -> Watcher:
    """A recorder that takes a frame whenever asked: between forward and backward, backward and step, ..."""

    def watch(model: nn.Module) -> Callable[[], None]:
        recorder = watching(model, **options)

        def look() -> None:
            frames = len(recorder.recording)
            recorder.step(loss=1.0)
            assert len(recorder.recording) == frames + 1

        return look

    return watch


def frozen(model: Tricky) -> nn.Module:
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    model.stem.eval()
    return model


WAYS: dict[str, dict[str, Any]] = {
    "closed form": {},
    "gradients at a layer": {"method": "gradcam", "layer": "stem"},
    "several layers": {"method": "layercam", "layer": ["stem", "blocks"]},
    "as the training runs it": {"mode": "caller"},
}


class TestTheTraining:
    """Bit for bit what it is without a recorder."""

    @pytest.mark.parametrize("amp", [False, True], ids=["float32", "autocast"])
    @pytest.mark.parametrize("way", WAYS)
    def test_is_not_changed(self, way: str, amp: bool) -> None:
        plain = trained(None, amp=amp, steps=3)
        watched = trained(every_moment(**WAYS[way]), amp=amp, steps=3)
        for what, value in plain.items():
            assert equal(value, watched[what]), what

    def test_is_changed_by_a_plain_forward_pass(self) -> None:
        """The test above can fail."""

        def careless(model: nn.Module) -> Callable[[], Any]:
            return lambda: model(IMAGES[:5])

        plain, watched = trained(None), trained(careless, often=False)
        assert all(not equal(plain[what], watched[what]) for what in ("state", "own", "random", "losses"))

    def test_is_not_changed_where_layers_are_frozen(self) -> None:
        plain, watched = trained(None, prepare=frozen), trained(every_moment(), prepare=frozen)
        assert all(equal(value, watched[what]) for what, value in plain.items())

    @pytest.mark.parametrize("kind", ["plain", "compiled", "runs of the tail"])
    def test_is_not_changed_in_a_loop_as_people_write_it(self, kind: str) -> None:
        """With AdamW and a learning-rate schedule."""
        options = {"method": "ablationcam", "layer": "0"} if kind == "runs of the tail" else {}

        def run(*, record: bool) -> dict[str, Any]:
            torch.manual_seed(1)
            model: Any = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), Head(6))
            if kind == "compiled":
                torch._dynamo.reset()
                model = torch.compile(model, backend="eager")
            optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)
            recorder = watching(model, every=3, **options) if record else None
            for _ in range(20):
                loss = functional.cross_entropy(model(IMAGES), LABELS)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                if recorder is not None:
                    recorder.step(loss=loss, rate=schedule.get_last_lr()[0])
            return {"state": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}

        assert equal(run(record=False), run(record=True))

    def test_a_tensor_that_the_network_keeps_can_still_be_trained_on(self) -> None:
        """Not so where the recorder ran it in inference mode, as this shows."""
        model = tricky()
        table.cache_clear()
        with torch.inference_mode():
            model(IMAGES[:2])
        model.cache.clear()
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            model(IMAGES[:2])
        table.cache_clear()
        model = tricky()
        watching(model).frame()
        model(IMAGES[:2]).sum().backward()
        assert model.scale.grad is not None


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), Head(6))


def steps_of(model: nn.Module, seed: int = 0) -> Iterator[float]:
    """An endless training; each item is the loss of one step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(seed)
    while True:
        batch = torch.randint(48, (16,), generator=generator)
        loss = functional.cross_entropy(model(IMAGES[batch]), LABELS[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


class TestFrames:
    def test_are_those_of_the_explainer(self) -> None:
        model = small()
        recorder, training = watching(model, every=4), steps_of(model)
        explainer = camcore.explainer(model)
        seen = [explainer(IMAGES[:5], LABELS[:5].numpy())]
        for step in range(1, 9):
            recorder.step(loss=next(training))
            if step % 4 == 0:
                seen.append(explainer(IMAGES[:5], LABELS[:5].numpy()))
        recording = recorder.recording
        assert recording.steps.tolist() == [0, 4, 8]
        for frame, out in enumerate(seen):
            np.testing.assert_array_equal(recording.maps[frame], out.maps[:, 0])
            np.testing.assert_array_equal(recording.best[frame], out.scores.argmax(1))
            np.testing.assert_array_equal(
                recording.probabilities[frame], out.probabilities[np.arange(5), LABELS[:5].numpy()]
            )
        assert not np.array_equal(recording.maps[0], recording.maps[1])
        assert (recording.method, recording.layer, recording.rectifies) == ("cam", "2", False)

    @pytest.mark.parametrize(("way", "layer"), [("gradients at a layer", "0"), ("several layers", ["1", "2"])])
    def test_of_other_methods(self, way: str, layer: Any) -> None:
        model, options = small(), WAYS[way] | {"layer": layer}
        recorder = watching(model, **options)
        next(steps_of(model))
        recorder.step()
        out = camcore.explainer(model, **options)(IMAGES[:5], LABELS[:5].numpy())
        recording = recorder.recording
        np.testing.assert_array_equal(recording.maps[1], out.maps[:, 0])
        assert recording.rectifies == out.rectifies
        assert recording.layer == out.layer

    def test_when_asked_for(self) -> None:
        recorder = watching(small(), every=0)
        for _ in range(3):
            recorder.step(loss=1)
        assert recorder.recording.steps.tolist() == [0]
        assert recorder.frame()
        assert recorder.frame()  # there is one of this step
        recorder.step(loss=1)
        recorder.finish()
        assert recorder.recording.steps.tolist() == [0, 3, 4]

    def test_more_than_a_batch_of_pictures(self) -> None:
        recorder = CamRecorder(small(), IMAGES, LABELS, batch_size=10)
        assert recorder.recording.maps.shape == (1, 48, 7, 7)
        np.testing.assert_allclose(recorder.recording.maps[0, :5], watching(small()).recording.maps[0], atol=1e-6)

    def test_of_a_thousand_classes_keep_those_of_the_pictures(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1000))
        recording = CamRecorder(model, IMAGES[:2], [999, 0]).recording
        assert recording.maps.shape == (1, 2, 14, 14)
        assert recording.probabilities.shape == recording.best.shape == (1, 2)

    def test_the_picture_tensor_may_change(self) -> None:
        images = IMAGES[:5].clone()
        model = small()
        recorder = CamRecorder(model, images, LABELS[:5])
        images.zero_()
        recorder.steps = 1
        assert recorder.frame()
        np.testing.assert_array_equal(recorder.recording.maps[0], recorder.recording.maps[1])

    def test_context_manager_takes_the_last(self) -> None:
        with watching(small(), every=10) as recorder:
            for _ in range(3):
                recorder.step(loss=0.5)
        assert recorder.recording.steps.tolist() == [0, 3]

    def test_an_error_of_the_loop_goes_through_it(self, tmp_path: Path) -> None:
        def loop() -> None:
            with watching(small(), folder=tmp_path, every=0) as recorder:
                for _ in range(3):
                    recorder.step(loss=0.5)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            loop()
        assert load_recording(tmp_path).curves["loss"].steps.tolist() == [1, 2, 3]


class TestListeners:
    def test_are_told_of_each_frame(self) -> None:
        recorder, seen = watching(small(), every=2), []
        recorder.on_frame.append(lambda r: seen.append((r.steps, int(r.recording.steps[-1]), len(r.recording))))
        for _ in range(5):
            recorder.step(loss=1)
        recorder.frame()
        recorder.frame()
        assert seen == [(2, 2, 2), (4, 4, 3), (5, 5, 4)]

    def test_that_fail_do_not_end_the_training_nor_change_it(self) -> None:
        def fail(recorder: CamRecorder) -> None:
            random.random()
            raise OSError("no more room")

        recorder = watching(small())
        recorder.on_frame.append(fail)
        before = random.getstate()
        with pytest.warns(RuntimeWarning, match="a listener to the frame of step 1 failed: no more room"):
            recorder.step(loss=1)
        assert random.getstate() == before
        assert recorder.recording.steps.tolist() == [0, 1]

    def test_are_not_told_of_a_frame_that_was_left_out(self) -> None:
        model, seen = small(), []
        recorder = watching(model)
        recorder.on_frame.append(seen.append)
        model[0] = nn.Conv2d(4, 6, 3)
        with pytest.warns(RuntimeWarning, match="left out"):
            recorder.step()
        assert seen == []


class TestNumbers:
    def test_are_logged(self) -> None:
        recorder = watching(small(), every=10)
        recorder.step(loss=torch.tensor(0.5, requires_grad=True), accuracy=np.float32(0.25), rate=1)
        recorder.log(top5=torch.tensor([[1.0]]))
        recorder.step(loss=float("nan"), accuracy=None)
        recorder.log(loss=3.0)
        curves = recorder.recording.curves
        assert {name: (c.steps.tolist(), c.values.tolist()) for name, c in curves.items()} == {
            "loss": ([1, 2], [0.5, 3.0]),
            "accuracy": ([1], [0.25]),
            "rate": ([1], [1.0]),
            "top5": ([1], [1.0]),
        }
        assert recorder.recording.total == 2

    @pytest.mark.parametrize("wrong", ["high", torch.ones(2), [1.0], torch.tensor(1j)])
    def test_that_are_none(self, wrong: Any) -> None:
        with pytest.raises(InputError, match=r"loss is (str|Tensor|list); expected a number"):
            watching(small()).step(loss=wrong)

    def test_on_a_device_wait_there(self) -> None:
        """A number on a device is copied where it is, and read with the next frame."""
        recorder = watching(small(), every=0)
        running = torch.tensor(0.0, device="meta")  # the only other device that every machine has
        recorder.step(loss=running)
        ((step, numbers),) = recorder._waiting
        assert step == 1
        assert isinstance(numbers["loss"], Tensor)
        assert numbers["loss"] is not running
        recorder._waiting.clear()


class TestDivergence:
    def test_is_recorded(self) -> None:
        model = small()
        recorder = watching(model)
        with torch.no_grad():
            model[0].weight.fill_(float("nan"))
        recorder.step(loss=float("nan"))
        recording = recorder.recording
        assert recording.steps.tolist() == [0, 1]
        assert recording.best[1].tolist() == [-1] * 5
        assert np.isnan(recording.maps[1]).all()
        assert np.isnan(recording.probabilities[1]).all()
        assert not recording.right[1].any()
        assert not recording.heatmaps(1).any()
        assert recording.label(int(recording.best[1, 0])) == "no class"

    def test_of_some_pictures_leaves_the_others(self) -> None:
        class Fragile(Head):
            limit = float("inf")

            def forward(self, x: Tensor) -> Tensor:
                pooled = x.mean((2, 3))
                scores = self.fc(pooled)
                return torch.where(scores[:, :1] > self.limit, float("inf"), scores)

        model = small()
        model[3] = Fragile(6)
        recorder = watching(model, method="gradcam")
        first = recorder.recording
        model.eval()
        with torch.no_grad():
            scores = model(IMAGES[:5])[:, 0]
        model[3].limit = float(scores.sort().values[2])
        lost = (scores > model[3].limit).numpy()
        recorder.step()
        recording = recorder.recording
        assert lost.sum() == 2
        assert (recording.best[1] == -1).tolist() == lost.tolist()
        assert np.isnan(recording.maps[1][lost]).all()
        np.testing.assert_allclose(recording.maps[1][~lost], first.maps[0][~lost], atol=1e-6)

    def test_infinite_weights(self) -> None:
        model = small()
        recorder = watching(model, method="layercam", layer="0")
        with torch.no_grad():
            model[3].fc.weight.fill_(float("inf"))
        recorder.step()
        assert recorder.recording.best[1].tolist() == [-1] * 5

    def test_whatever_goes_wrong_is_a_warning(self) -> None:
        model = small()
        recorder = watching(model)
        model[0] = nn.Conv2d(4, 6, 3)
        with pytest.warns(RuntimeWarning, match="the frame of step 1 was left out: the model cannot take images"):
            recorder.step(loss=1.0)
        assert recorder.recording.steps.tolist() == [0]
        assert recorder.recording.curves["loss"].values.tolist() == [1.0]

    def test_a_head_that_is_none_any_more(self) -> None:
        class Other(Head):
            def forward(self, x: Tensor) -> Tensor:
                return self.fc(x.amax((2, 3)))

        model = small()
        recorder = watching(model)
        model[3] = Other(6)
        with pytest.warns(RuntimeWarning, match="the frame of step 1 was left out: cam is not possible any more"):
            recorder.step()

    def test_maps_of_another_size_are_left_out(self) -> None:
        model = small()
        recorder = watching(model)
        model[0].stride = (1, 1)
        with pytest.warns(RuntimeWarning, match=re.escape("the maps are (5, 14, 14) and were (5, 7, 7)")):
            recorder.step()


class TestPictures:
    def test_of_files(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for name, size in (("cap.png", (40, 30)), ("mug.png", (24, 24))):
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / name)
        paths = [tmp_path / "cap.png", tmp_path / "mug.png"]
        rule = preprocess("unit", size=(16, 16), resize="squash")
        recorder = CamRecorder(
            small(),
            paths,
            ["mug", "cap"],
            labels=["cap", "mug", "pen", "cube"],
            preprocess=rule,
            boxes=[(0, 0, 15, 40), []],
        )
        recording = recorder.recording
        assert recording.names == ("cap", "mug")
        assert recording.classes.tolist() == [1, 0]
        assert recording.labels == ("cap", "mug", "pen", "cube")
        assert recording.pictures.shape == (2, 40, 40, 3)
        assert recording.masks is not None
        assert recording.masks[0].mean() == 0.5
        assert not recording.masks[1].any()

    def test_classes_that_the_network_takes_them_for(self) -> None:
        model = small()
        recording = CamRecorder(model, IMAGES[:5]).recording
        assert recording.classes.tolist() == recording.best[0].tolist()

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"classes": [0, 1]}, r"classes have shape \(2,\) for 5 images"),
            ({"classes": "top2"}, r"classes are \(5, 2\); expected one a picture"),
            ({"classes": [0, 1, 2, 3, 4]}, "class 4 is out of range"),
            ({"classes": ["a"] * 5}, "the model has no class names"),
            ({"images": IMAGES[:5, :2]}, "images have 2 channels|cannot take images"),
            ({"images": torch.full((5, 3, 16, 16), float("nan"))}, "pixels that are NaN"),
            ({"images": ["nowhere.png"]}, "preprocess|no such file"),
            ({"every": -1}, "every is -1; expected a number of steps"),
            ({"every": True}, "every is True"),
            ({"every": 2.5}, "every is 2.5"),
            ({"layer": "layer9"}, "no layer is called 'layer9'"),
            ({"labels": ["a", "b"]}, "2 class names were given, the model has 4"),
            ({"device": "cuda"}, "device 'cuda' was asked for"),
            ({"colour": 1}, "an option that torch models do not have: 'colour'"),
            ({"names": ["a"]}, "1 names were given for 5 images"),
        ],
    )
    def test_that_do_not_fit(self, given: dict[str, Any], text: str) -> None:
        arguments = {"images": IMAGES[:5], "classes": LABELS[:5]} | given
        images, classes = arguments.pop("images"), arguments.pop("classes")
        with pytest.raises((InputError, camcore.DeviceError), match=text):
            CamRecorder(small(), images, classes, **arguments)

    def test_a_network_that_cannot_give_it(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 4))
        with pytest.raises(MethodNotPossible, match="flattened"):
            CamRecorder(model, IMAGES[:2], [0, 1], method="cam")
        assert CamRecorder(model, IMAGES[:2], [0, 1]).recording.method == "gradcam"

    def test_a_network_that_is_not_whole(self) -> None:
        with pytest.raises(InputError, match="run a batch through the network before"):
            watching(nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)))

    def test_a_network_that_has_diverged_already(self) -> None:
        model = small()
        nn.init.constant_(model[3].fc.weight, float("nan"))
        with pytest.raises(InputError, match="scores are NaN"):
            watching(model)


def run(folder: Path | None, steps: int, *, stop: int | None = None, resume: dict[str, Any] | None = None) -> Any:
    """A training with a recorder, from a checkpoint where there is one; gives the recorder and a checkpoint."""
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if resume:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    recorder = watching(model, every=3, folder=folder)
    if resume:
        recorder.load_state_dict(resume["recorder"])
    checkpoint = None
    for step in range(recorder.steps, steps):
        batch = torch.randint(48, (16,), generator=torch.Generator().manual_seed(step))
        loss = functional.cross_entropy(model(IMAGES[batch]), LABELS[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss=loss)
        if step + 1 == stop:
            parts = {"model": model, "optimizer": optimizer, "recorder": recorder}
            checkpoint = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
    return recorder, checkpoint


class TestResuming:
    @pytest.mark.parametrize("stop", [6, 8])
    def test_gives_the_recording_of_an_undisturbed_run(self, tmp_path: Path, stop: int) -> None:
        whole = run(tmp_path / "whole", 14)[0].recording
        _, checkpoint = run(tmp_path / "killed", 11, stop=stop)  # goes on after its checkpoint, and is gone
        resumed = run(tmp_path / "killed", 14, resume=checkpoint)[0]
        assert recordings.equal(resumed.recording, whole)
        resumed.finish()
        assert load_recording(tmp_path / "killed").steps.tolist() == [0, 3, 6, 9, 12, 14]

    def test_in_memory_of_the_same_process(self) -> None:
        recorder, _ = run(None, 10)
        before = recorder.recording
        recorder.load_state_dict({"step": 4})
        assert recorder.recording.steps.tolist() == [0, 3]
        assert recorder.recording.curves["loss"].steps.tolist() == [1, 2, 3, 4]
        recorder.step(loss=9)
        assert before.steps.tolist() == [0, 3, 6, 9]
        assert before.curves["loss"].values[-1] != 9

    def test_without_the_frames_of_before_it_begins_there(self, tmp_path: Path) -> None:
        _, checkpoint = run(None, 7, stop=7)
        recorder, _ = run(tmp_path, 10, resume=checkpoint)
        assert recorder.recording.steps.tolist() == [7, 9]
        assert recorder.recording.curves["loss"].steps.tolist() == [8, 9, 10]

    def test_beginning_again_begins_the_recording_again(self, tmp_path: Path) -> None:
        first = run(tmp_path, 10)[0].recording
        again = watching(small(seed=5), every=3, folder=tmp_path)
        again.finish()
        assert recordings.equal(again.recording, first)  # nothing is lost by looking
        again.step(loss=1)
        assert again.recording.steps.tolist() == [0]
        assert not np.array_equal(again.recording.maps[0], first.maps[0])
        assert first.maps.shape[0] == 4
        assert np.isfinite(first.maps).all()

    def test_classes_that_were_found_stay(self, tmp_path: Path) -> None:
        model = small()
        found = CamRecorder(model, IMAGES[:5], folder=tmp_path).recording.classes
        with torch.no_grad():
            model[3].fc.bias[(found[0] + 1) % CLASSES] += 100
        assert CamRecorder(model, IMAGES[:5], folder=tmp_path).recording.classes.tolist() == found.tolist()

    @pytest.mark.parametrize("state", [{}, None, {"step": -1}, {"step": "3"}, {"step": True}])
    def test_a_state_of_something_else(self, state: Any) -> None:
        with pytest.raises(InputError, match="the state of a recorder has step"):
            watching(small()).load_state_dict(state)


class TestFolder:
    def test_has_the_same_as_memory(self, tmp_path: Path) -> None:
        kept, _ = run(None, 10)
        written, _ = run(tmp_path / "deep" / "folder", 10)
        assert recordings.equal(written.recording, kept.recording)
        written.finish()
        assert recordings.equal(load_recording(tmp_path / "deep" / "folder"), written.recording)
        assert isinstance(written.recording.maps, np.memmap)

    def test_of_another_recording_is_refused(self, tmp_path: Path) -> None:
        watching(small(), folder=tmp_path)
        for options, text in (
            ({"layer": "1", "method": "gradcam"}, "another method, 'cam' and not 'gradcam'"),
            ({"names": list("abcde")}, "other names"),
            ({"labels": list("abcd")}, "other labels"),
        ):
            with pytest.raises(InputError, match=f"has a recording of {text}; choose another folder"):
                watching(small(), folder=tmp_path, **options)
        with pytest.raises(InputError, match="has a recording of other classes"):
            CamRecorder(small(), IMAGES[:5], LABELS[1:6], folder=tmp_path)
        with pytest.raises(InputError, match="has a recording of other classes"):
            CamRecorder(small(), IMAGES[:4], LABELS[:4], folder=tmp_path)

    def test_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(InputError, match=r"the recording cannot be written to '.*file/rec': .*; choose a folder"):
            watching(small(), folder=tmp_path / "file" / "rec")

    def test_that_is_full_during_the_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder, real = watching(small(), folder=tmp_path), Path.open

        def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "+" in mode:
                raise OSError(28, "No space left on device")
            return real(path, mode, *rest, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            for _ in range(2):
                with pytest.warns(
                    RuntimeWarning, match=r"left out: (?!.*Errno).*No space left on device.*; make room on"
                ):
                    recorder.step(loss=0.5)
        recorder.step(loss=0.25)
        assert load_recording(tmp_path).steps.tolist() == [0, 3]
        assert load_recording(tmp_path).curves["loss"].values.tolist() == [0.5, 0.5, 0.25]


SCRIPT = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from camcore_torch import CamRecorder
from torch import nn
from torch.nn import functional

folder = Path(sys.argv[1])
dist.init_process_group("gloo")
rank = dist.get_rank()
images, labels = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4


def trained(record):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    network = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    recorder = CamRecorder(network, images[:5], labels[:5], every=3, folder=folder / "recording") if record else None
    torch.manual_seed(rank)
    for step in range(8):
        batch = torch.randint(32, (8,))
        loss = functional.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(loss=loss)
    return [*model.state_dict().values(), torch.get_rng_state()], recorder


plain, _ = trained(record=False)
watched, recorder = trained(record=True)
assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
assert recorder.records == (rank == 0)
recorder.log(accuracy=0.5)
assert recorder.state_dict() == {"step": 8}
recorder.load_state_dict({"step": 8})
assert recorder.frame() == (rank == 0)
recorder.finish()
if rank:
    assert recorder.save(folder / "nothing") == []
    assert repr(recorder) == "CamRecorder(nothing: another process records)"
dist.barrier()
(folder / f"done{rank}").touch()
dist.destroy_process_group()
"""


def test_two_processes_record_once(tmp_path: Path) -> None:
    """Under DistributedDataParallel with gloo: the first records, nobody waits, and the weights are the same."""
    (tmp_path / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", tmp_path / "script.py", tmp_path],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "done0", "done1", "recording"}
    assert load_recording(tmp_path / "recording").steps.tolist() == [0, 3, 6, 8]


def test_a_process_that_does_not_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    model = small()
    model.forward = None  # type: ignore[assignment, method-assign]  # is not run
    recorder = watching(model)
    recorder.step(loss=1.0)
    assert (recorder.records, recorder.steps, recorder.frame()) == (False, 1, False)
    with pytest.raises(InputError, match="only the first process of a distributed training records"):
        recorder.recording  # noqa: B018


def test_beside_the_workers_of_a_data_loader() -> None:
    """These are forked in the middle of it."""
    model, count = small(), 0
    data = torch.utils.data.TensorDataset(IMAGES, LABELS)
    recorder = watching(model)
    for _ in range(2):
        for images, labels in torch.utils.data.DataLoader(data, 24, num_workers=2):
            functional.cross_entropy(model(images), labels).backward()
            recorder.step()
            count += 1
    assert len(recorder.recording) == count + 1 == 5


LONG = """
import sys
import torch
from camcore_torch import CamRecorder
from torch import nn

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024

images, labels = torch.randn(12, 3, 64, 64), torch.arange(12) % 5
model = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
recorder = CamRecorder(model, images, labels, every=1, folder=sys.argv[1])
recorder.step(loss=1.0)
start = resident()
for _ in range(9_999):
    recorder.step(loss=1.0, accuracy=0.5)
print(resident() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell of memory")
def test_ten_thousand_steps_take_little_memory(tmp_path: Path) -> None:
    """123 MB of maps: the process must not grow by them."""
    command = [sys.executable, "-c", LONG, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert load_recording(tmp_path).maps.nbytes > 120e6
    assert float(done.stdout) < 40


def test_says_what_it_is() -> None:
    recorder = watching(small())
    recorder.step()
    assert repr(recorder) == "CamRecorder(cam at 2, 5 pictures, 2 frames, step 1)"
