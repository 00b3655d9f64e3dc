"""Checkpoints are whole or absent, never run anything, and tell what is wrong with them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from camcore_tools.training.checkpoints import (
    Checkpoint,
    epoch_file,
    find_checkpoints,
    load_tensors,
    read_info,
    save_tensors,
)
from safetensors.torch import save_file

from camcore.errors import InputError


def test_tensors_and_document_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "turned": shared.t(),
        "again": shared,
        "same": shared,
        "whole": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "grid": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    info = {"step": 3, "loss": 0.1 + 0.2, "name": "Шапка"}
    save_tensors(tmp_path / "a.safetensors", tensors, info)
    loaded, read = load_tensors(tmp_path / "a.safetensors")
    assert read == read_info(tmp_path / "a.safetensors") == info
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"step": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .a.safetensors. in the folder .* No space left on device"
    ) as caught:
        save_tensors(path, {"x": torch.zeros(2)}, {"step": 2})
    assert caught.value.errno == errno.ENOSPC
    assert read_info(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; expected a checkpoint"):
        load_tensors(tmp_path / "absent.safetensors")
    path = save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(200)}, {"step": 1})
    for length in (0, 5, 40, 300):
        (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:length])
        with pytest.raises(InputError, match="the checkpoint is damaged"):
            load_tensors(tmp_path / "cut.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="was not written by camcore train"):
        read_info(tmp_path / "other.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "list.safetensors", {"camcore": "[]"})
    with pytest.raises(InputError, match="describes itself as list"):
        read_info(tmp_path / "list.safetensors")


def test_epochs_are_found_in_their_order(tmp_path: Path) -> None:
    for name in (epoch_file(10_000), epoch_file(2), epoch_file(11), "epoch-x.safetensors", "last.safetensors"):
        (tmp_path / name).touch()
    found = find_checkpoints(tmp_path)
    assert [c.epoch for c in found] == [2, 11, 10_000]
    assert found[0] == Checkpoint(2, tmp_path / "epoch-0002.safetensors")
    assert find_checkpoints(tmp_path / "absent") == []
