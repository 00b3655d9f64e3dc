"""A run is read from its folder, also an unfinished or damaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from camcore_tools.training.feeds import PictureFeed, inputs
from camcore_tools.training.job import Job
from camcore_tools.training.material import rule_of
from camcore_tools.training.measure import measure
from camcore_tools.training.runs import open_run
from camcore_tools.training.session import carry_out
from camcore_tools.training.settings import Settings
from camcore_torch.recam import ReCam
from tiny_training import write_folder

from camcore.errors import InputError

SETTINGS = Settings(epochs=2, batch=8, lr=0.01, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures", each=5)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with a frozen trunk and ReCAM."""
    folder = tmp_path_factory.mktemp("finished")
    settings = Settings(**{**SETTINGS.to_json(), "recam": "class"})
    job = Job(str(data), size=(16, 16), head="maps", maps=4, freeze=True, watch=2, export=False, settings=settings)
    carry_out(job, folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def test_what_is_in_a_run(run: Path, data: Path) -> None:
    found = open_run(run)
    assert found.classes == ("bright", "dark", "middle")
    assert found.rule == rule_of(found.job)
    assert found.rule.size == (16, 16)
    assert [row.epoch for row in found.history] == [c.epoch for c in found.checkpoints] == [1, 2]
    assert found.best in found.checkpoints
    assert found.config["job"]["head"] == "maps"
    assert found.recording().steps[0] == 0
    split = found.data()
    assert (len(split.train), len(split.validation)) == (12, 3)
    assert found.data(shutil.copytree(data, run.parent / "moved")).validation.names == split.validation.names


def test_networks_are_those_of_their_epochs(run: Path) -> None:
    found = open_run(run)
    validation = found.data().validation
    for checkpoint, row in zip(found.checkpoints, found.history, strict=True):
        for wanted in (checkpoint, checkpoint.path, checkpoint.epoch):
            network = found.network(wanted)
            assert isinstance(network, ReCam)
            assert not any(module.training for module in network.modules())
            assert measure(network, PictureFeed(validation, found.rule), batch=8).loss == row.validation_loss
    images = inputs(validation.pixels([0]), found.rule)
    assert found.best is not None
    with torch.inference_mode():
        assert torch.equal(found.network()(images), found.network(found.best)(images))


def test_a_checkpoint_that_is_not_there(run: Path) -> None:
    with pytest.raises(InputError, match="has no checkpoint of epoch 7; those that were kept: 1, 2"):
        open_run(run).network(7)
    (run / "last.safetensors").unlink()
    with pytest.raises(InputError, match="has no checkpoint yet; the training has not finished its first epoch"):
        open_run(run).network()


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder; expected a folder that camcore train wrote"):
        open_run(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no run in it \(config.json is missing\)"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 2}, "not the configuration of a run of this version of camcore"),
        ({"job": None}, "its entry 'job' is missing or of another kind"),
        ({"job": {}}, "the configuration of the run cannot be read"),
        ({"classes": ["one"]}, "its classes are not two names or more"),
        ({"classes": [1, 2]}, "its classes are not two names or more"),
        ({"rule": {"scale": "x"}}, "the preprocessing recorded in the model cannot be read"),
    ],
)
def test_a_damaged_configuration(run: Path, changes: dict[str, Any], text: str) -> None:
    config = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=text):
        open_run(run)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_configuration_that_is_none(run: Path, content: bytes) -> None:
    (run / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config.json: (cannot be read|not the configuration)"):
        open_run(run)


def test_damaged_weights(run: Path) -> None:
    found = open_run(run)
    best = found.best
    assert best is not None
    whole = best.path.read_bytes()
    best.path.write_bytes(whole[:200])
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        found.network()
    shutil.copy(run / "trunk.safetensors", best.path)
    with pytest.raises(InputError, match="the checkpoint is of a training with another second loss"):
        found.network()
    best.path.write_bytes(whole)
    shutil.copy(best.path, run / "trunk.safetensors")
    with pytest.raises(InputError, match=r"trunk.safetensors is of another network: \d+ of its tensors do not fit"):
        found.network()
    (run / "trunk.safetensors").unlink()
    with pytest.raises(InputError, match="no such file; expected a checkpoint"):
        found.network()


def test_other_pictures_than_before(run: Path, data: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    name = open_run(run).data().train.names[0]
    (moved / name).unlink()
    with pytest.raises(InputError, match=rf"1 are gone \(such as '{name}'\)"):
        open_run(run).data(moved)
    with pytest.raises(InputError, match="no such folder"):
        open_run(run).data(tmp_path / "absent")


def test_the_trunk_is_that_of_the_start(finished: Path) -> None:
    found = open_run(finished)
    first, second = (found.network(c).state_dict() for c in found.checkpoints)
    changed = {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}
    assert "recam_weight" in changed
    assert {name.split(".")[1] for name in changed - {"recam_weight"}} == {"head"}
