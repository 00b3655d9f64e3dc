"""Settings are checked where they are made, and survive JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from camcore_tools.training.settings import OPTIMIZERS, RECAM, SCHEDULES, Settings
from hypothesis import given
from hypothesis import strategies as st

from camcore.errors import InputError

shares = st.floats(0, 1, exclude_max=True)


@given(
    st.builds(
        Settings,
        epochs=st.integers(1, 500),
        optimizer=st.sampled_from(OPTIMIZERS),
        schedule=st.sampled_from(SCHEDULES),
        lr=st.floats(1e-12, 1e3),
        momentum=shares,
        label_smoothing=shares,
        rotate=st.floats(0, 180),
        shift=st.floats(0, 1),
        flip=st.booleans(),
        patience=st.none() | st.integers(1, 9),
        stop_ratio=st.none() | st.floats(0.1, 9),
        recam=st.none() | st.sampled_from(RECAM),
        threads=st.none() | st.integers(1, 64),
    )
)
def test_settings_survive_json(settings: Settings) -> None:
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number, 1 or more"),
        ({"epochs": True}, "epochs is True; expected a whole number"),
        ({"epochs": None}, "epochs is None; expected a whole number"),
        ({"batch": "32"}, "batch is '32'; expected a whole number, 1 or more"),
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of 'sgd', 'adam', 'adamw'"),
        ({"schedule": None}, "schedule is None; expected one of 'constant', 'inverse', 'cosine', 'onecycle'"),
        ({"recam": "cam"}, "recam is 'cam'; expected one of 'class', 'self'"),
        ({"lr": 0.0}, "lr is 0.0; expected a number above 0"),
        ({"lr": float("nan")}, "lr is nan; expected a number above 0"),
        ({"lr": "fast"}, "lr is 'fast'; expected a number above 0"),
        ({"momentum": 1.0}, "momentum is 1.0; expected a number from 0 to below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1; expected a number from 0 to below 1"),
        ({"weight_decay": -1}, "weight_decay is -1; expected a number, 0 or more"),
        ({"stop_ratio": 0}, "stop_ratio is 0; expected a number above 0"),
        ({"rotate": 181}, "rotate is 181; expected degrees to both sides, 0 to 180"),
        ({"shift": 1.5}, "shift is 1.5; expected a share of the side, 0 to 1"),
        ({"flip": 1}, "flip is 1; expected True or False"),
        ({"device": 0}, "device is 0; expected a name such as 'auto', 'cpu' or 'cuda'"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov is a form of sgd with momentum"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is a form of sgd with momentum"),
        ({"warmup": 1, "schedule": "onecycle"}, "onecycle has a warm-up of its own"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(Settings(), **changes)
    assert str(caught.value).startswith(text) or text in str(caught.value)


def test_settings_of_untrusted_origin() -> None:
    with pytest.raises(InputError, match=r"setting 'epoch' is not known. Did you mean 'epochs'\?"):
        Settings.from_json({"epoch": 3})
    with pytest.raises(InputError, match="settings are of type list; expected names with values"):
        Settings.from_json([("epochs", 3)])  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"rotate": 5}, {"shift": 0.1}, {"flip": True}])
def test_any_change_of_pictures_augments(changes: dict[str, Any]) -> None:
    assert Settings(**changes).augments
    assert not Settings().augments
