"""The loop learns, goes on after any epoch as if nothing had been, and says when it cannot."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from camcore_tools.training.feeds import inputs
from camcore_tools.training.loop import Diverged, Training, choose_device
from camcore_tools.training.settings import Settings
from camcore_torch import CamRecorder
from tiny_training import RULE, SIDE, Tiny, split, tiny, weights
from torch import Tensor, nn
from torch.nn import functional

from camcore.errors import DeviceError, InputError

SETTINGS = Settings(epochs=3, batch=8, lr=0.05, schedule="onecycle", label_smoothing=0.1, device="cpu")
DATA = split()

State = tuple[dict[str, Tensor], dict[str, Any]]


def trained(settings: Settings, network: nn.Module | None = None, **options: Any) -> Training:
    training = Training(network or tiny(), DATA, settings, RULE, **options)
    training.run()
    return training


def copied(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state[0].items()}, state[1]


def measured(training: Training) -> list[dict[str, Any]]:
    """The history without the times."""
    return [row.to_json() | {"seconds": 0} for row in training.history]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    expected = weights(other)
    for name, values in weights(one).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_it_learns() -> None:
    training = trained(replace(SETTINGS, epochs=10, batch=6))
    assert training.stopped == "epochs"
    assert [row.epoch for row in training.history] == list(range(1, 11))
    assert training.step == training.history[-1].step == 10 * 5
    assert training.best is not None
    assert training.best.top1 == 1.0
    assert training.history[-1].loss < 0.7 * training.history[0].loss


def test_the_first_step_is_that_of_a_plain_loop() -> None:
    """Written anew in a few lines; the loss, and all weights after one epoch of one step."""
    settings = Settings(epochs=1, batch=99, lr=0.1, schedule="constant", label_smoothing=0.1, device="cpu")
    settings = replace(settings, weight_decay=0.01, momentum=0.5, nesterov=True)
    network, twin = tiny(), tiny()
    network.top[3], twin.top[3] = nn.Identity(), nn.Identity()  # without dropout the order does not matter
    training = trained(settings, network)
    twin.train()
    images = inputs(DATA.train.pixels(range(len(DATA.train))), RULE)
    scores = twin(images)
    labels = torch.from_numpy(DATA.train.labels)
    target = torch.full_like(scores, 0.1 / 3)
    target[torch.arange(len(scores)), labels] += 0.9
    loss = -(target * scores.log_softmax(dim=1)).sum(dim=1).mean()
    loss.backward()
    for parameter in twin.parameters():
        assert parameter.grad is not None
        gradient = parameter.grad + 0.01 * parameter.data
        parameter.data -= 0.1 * (gradient + 0.5 * gradient)
    plain = -scores.log_softmax(dim=1)[torch.arange(len(scores)), labels].mean()  # is logged: smoothing is left out
    assert training.history[0].loss == pytest.approx(plain.item(), rel=1e-5)
    for name, values in weights(twin).items():
        np.testing.assert_allclose(weights(network)[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine", "warmup": 0.5, "amp": True},
        {"optimizer": "adam", "lr": 0.01, "schedule": "inverse", "rotate": 15.0, "shift": 0.1, "flip": True},
        {"recam": "class"},
        {"recam": "self", "recam_weight": 0.5},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_going_on_after_any_epoch_gives_the_same_bits(changes: dict[str, Any]) -> None:
    """With a network that starts from other weights, and whatever the random state is."""
    settings = replace(SETTINGS, **changes)
    states: list[State] = []
    whole = trained(settings, at_epoch=lambda training: states.append(copied(training.state())))
    assert len(states) == 1 + settings.epochs
    for tensors, info in states:
        torch.manual_seed(99)
        later = Training(tiny(7), DATA, settings, RULE)
        later.load(tensors, info)
        later.run()
        assert_same(later.objective, whole.objective)
        assert measured(later) == measured(whole)


def test_a_scaled_loss_goes_on_with_its_scale() -> None:
    """As on CUDA in mixed precision; here the scale grows after each third step."""

    def scaled(seed: int, states: list[State] | None = None) -> Training:
        save = None if states is None else lambda training: states.append(copied(training.state()))
        training = Training(tiny(seed), DATA, SETTINGS, RULE, at_epoch=save)
        training.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        return training

    states: list[State] = []
    whole, later = scaled(0, states), scaled(7)
    whole.run()
    later.load(*states[2])
    assert later.scaler.get_scale() == 1024.0 * 2**2
    later.run()
    assert later.scaler.state_dict() == whole.scaler.state_dict()
    assert_same(later.network, whole.network)


def test_a_frozen_trunk_stays_and_is_not_in_the_state() -> None:
    network = tiny(freeze=True)
    before = weights(network)
    states: list[State] = []
    whole = trained(SETTINGS, network, at_epoch=lambda training: states.append(copied(training.state())))
    after = weights(network)
    for name in before:
        assert np.array_equal(before[name], after[name]) == name.startswith("trunk."), name
    assert not any("trunk" in name for tensors, _ in states for name in tensors)
    later = Training(tiny(freeze=True), DATA, SETTINGS, RULE)
    later.load(*states[1])
    later.run()
    assert_same(later.network, whole.network)


def test_the_recorder_goes_on_too() -> None:
    images, labels = inputs(DATA.validation.pixels([0, 5]), RULE), DATA.validation.labels[[0, 5]]
    states: list[State] = []
    network = tiny()
    recorder = CamRecorder(network, images, labels, every=2)
    whole = trained(SETTINGS, network, recorder=recorder, at_epoch=lambda t: states.append(copied(t.state())))
    assert_same(whole.network, trained(SETTINGS).network)  # recording changes nothing
    later = Training(tiny(1), DATA, SETTINGS, RULE)
    later.recorder = CamRecorder(later.network, images, labels, every=2)
    later.load(*states[2])
    later.run()
    one, other = recorder.recording, later.recorder.recording
    assert whole.total == 12
    assert one.steps.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert other.steps.tolist() == [8, 10, 12]
    np.testing.assert_array_equal(one.maps[-3:], other.maps)
    assert one.curves["accuracy"].steps.tolist() == one.curves["epoch"].steps.tolist() == [0, 4, 8, 12]
    assert one.curves["epoch"].values.tolist() == [0, 1, 2, 3]
    assert one.curves["accuracy"].values[1:].tolist() == [row.top1 for row in whole.history]
    assert one.curves["validation_loss"].values[1:].tolist() == [row.validation_loss for row in whole.history]
    assert len(one.curves["loss"].steps) == 12


def test_random_numbers_are_those_of_the_seed_alone_and_pytorchs_stay() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = trained(replace(SETTINGS, rotate=10.0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert_same(trained(replace(SETTINGS, rotate=10.0)).network, first.network)
    other = weights(trained(replace(SETTINGS, rotate=10.0, seed=1)).network)
    assert not np.array_equal(other["head.weight"], weights(first.network)["head.weight"])


class TestDivergence:
    def test_the_step_and_the_epoch_are_told_and_the_weights_are_those_before(self) -> None:
        saved: list[int] = []
        settings = replace(SETTINGS, lr=1e30, schedule="constant", epochs=9)
        training = Training(tiny(), DATA, settings, RULE, at_epoch=lambda t: saved.append(len(t.history)))
        with pytest.raises(Diverged, match=r"the training loss is (nan|inf) at step (\d+), in epoch 1: ") as caught:
            training.run()
        assert "Try a new run with a lower learning rate than 1e+30 or a warm-up" in str(caught.value)
        assert caught.value.step == training.step + 1
        assert saved == [0]
        assert not training.history

    def test_a_loss_that_breaks_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = tiny()
        training = Training(network, DATA, replace(SETTINGS, amp=True), RULE)
        forward = training.objective.forward

        def broken(images: Tensor, labels: Tensor) -> Any:
            loss, first, second = forward(images, labels)
            return (loss * math.nan if training.step == 6 else loss), first, second

        monkeypatch.setattr(training.objective, "forward", broken)
        with pytest.raises(Diverged, match=r"at step 7, in epoch 2.*a warm-up or no mixed precision") as caught:
            training.run()
        assert (caught.value.step, caught.value.epoch) == (7, 2)
        assert len(training.history) == 1
        assert all(np.isfinite(values).all() for values in weights(network).values())

    def test_of_the_validation_loss(self) -> None:
        class Overflowing(Tiny):
            def forward(self, images: Tensor) -> Tensor:
                scores = super().forward(images)
                return scores if self.training else scores * torch.inf

        with pytest.raises(Diverged, match="the validation loss is nan at step 0, in epoch 0"):
            trained(SETTINGS, Overflowing())


def test_early_stops() -> None:
    settings = replace(SETTINGS, lr=1e-12, schedule="constant", epochs=9)
    stopped = trained(replace(settings, stop_ratio=0.01))
    assert (stopped.stopped, len(stopped.history)) == ("stop_ratio", 1)
    plateau = trained(replace(settings, patience=2, momentum=0.0), nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    assert plateau.stopped == "patience"
    assert len(plateau.history) < 9


def test_what_cannot_be_trained() -> None:
    frozen = tiny().requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that could be trained: all are frozen"):
        Training(frozen, DATA, SETTINGS, RULE)
    deep = nn.Sequential(nn.Conv2d(3, 4, SIDE), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"cannot be trained on images \(1, 3, 16, 16\): Expected more than 1 value"):
        trained(replace(SETTINGS, batch=1), deep)
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        Training(tiny(), DATA, SETTINGS, RULE).load({}, {})


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(DeviceError, match=r"device is 'gpu', which cannot be used: .*; take 'auto' or 'cpu'"):
        choose_device("gpu")


def test_recams_loss_counts_with_its_weight() -> None:
    settings = replace(SETTINGS, recam="self", recam_weight=0.25, label_smoothing=0.0)
    network = tiny().eval()
    training = Training(network, DATA, settings, RULE)
    images, labels = inputs(DATA.train.pixels(range(30)), RULE), torch.from_numpy(DATA.train.labels)
    with torch.no_grad():
        found = [float(loss) for loss in training.objective(images, labels)]
        features = network.top(network.trunk(images)).double()
        weight, bias = network.head.weight.double(), network.head.bias.double()
        maps = torch.einsum("nk,nkhw->nhw", weight[labels], features).relu()
        mask = maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)
        masked = (mask[:, None] * features).mean((2, 3)) @ weight.t() + bias
        first = functional.cross_entropy(features.mean((2, 3)) @ weight.t() + bias, labels).item()
        second = functional.cross_entropy(masked, labels).item()
    assert found == pytest.approx([first + 0.25 * second, first, second], rel=1e-5)
