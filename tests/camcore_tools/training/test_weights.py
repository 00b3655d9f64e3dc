"""Weights from files of many forms into networks, also with another head; and clear answers to what does not fit."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from pathlib import Path

import data
import numpy as np
import pytest
import torch
from camcore_tools.training.networks import build
from camcore_tools.training.weights import default_weights, load_weights, read_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from camcore.errors import InputError

State = dict[str, Tensor]


def state(network: nn.Module) -> State:
    return {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}


def same(network: nn.Module, expected: State, but: str = "-") -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], expected[name]) for name in own if not name.startswith(but))


@pytest.fixture(scope="module")
def trained() -> State:
    return state(build("small", 3, size=(32, 32), seed=5))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_of_each_format_is_loaded(trained: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(trained, path) if suffix == ".safetensors" else torch.save(trained, path)
    notes: list[str] = []
    assert same(build("small", 3, size=(32, 32), weights=path, report=notes.append), trained)
    assert not notes


def wrapped(trained: State, form: str) -> object:
    prefixed = {f"module.{name}": tensor for name, tensor in trained.items()}
    return {
        "state_dict": {"epoch": 3, "state_dict": prefixed, "best": torch.tensor(0.5)},
        "model": {"model": trained, "optimizer": {"lr": 0.1}},
        "prefixes": {f"_orig_mod.module.{name}": tensor for name, tensor in trained.items()},
    }[form]


@pytest.mark.parametrize("form", ["state_dict", "model", "prefixes"])
def test_checkpoints_and_prefixes_are_unwrapped(trained: State, tmp_path: Path, form: str) -> None:
    torch.save(wrapped(trained, form), tmp_path / "checkpoint.pth")
    assert same(build("small", 3, size=(32, 32), weights=tmp_path / "checkpoint.pth"), trained)


def test_another_classifier_is_left_out_and_reported(trained: State, tmp_path: Path) -> None:
    save_file(trained, tmp_path / "three.safetensors")
    notes: list[str] = []
    network = build("small", 5, size=(32, 32), weights=tmp_path / "three.safetensors", report=notes.append)
    assert same(network, trained, but="head.")
    assert network.head.weight.shape == (5, 64)
    (note,) = notes
    assert note.endswith("three.safetensors: left out layers that are new or cut off here: head")


def test_what_was_cut_off_may_be_in_the_file_and_a_new_head_may_lack(trained: State, tmp_path: Path) -> None:
    save_file(trained, tmp_path / "whole.safetensors")
    notes: list[str] = []
    network = build(
        "small",
        3,
        size=(32, 32),
        cut="blocks.0",
        head="maps",
        weights=tmp_path / "whole.safetensors",
        report=notes.append,
    )
    assert same(network, trained, but="head.")
    assert "whole.safetensors: left out layers that are new or cut off here: blocks.1." in notes[0]


def test_a_new_head_of_the_same_form_is_loaded_too(tmp_path: Path) -> None:
    first = build("small", 3, size=(32, 32), head="conv1024", seed=1)
    save_file(state(first), tmp_path / "first.safetensors")
    again = build("small", 3, size=(32, 32), head="conv1024", seed=2, weights=tmp_path / "first.safetensors")
    assert same(again, state(first))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("stem.0.0.weight"), r"1 tensors are missing \(stem.0.0.weight\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 tensors are not known to it \(extra\)"),
        (
            lambda s: s.update({"stem.0.0.weight": torch.zeros(2, 3, 3, 3)}),
            r"1 tensors have another shape \(stem.0.0.weight \(2, 3, 3, 3\) instead of \(16, 3, 3, 3\)\)",
        ),
    ],
)
def test_all_else_must_fit_and_nothing_is_loaded_where_it_does_not(trained: State, change: object, text: str) -> None:
    broken = OrderedDict(trained)
    change(broken)  # type: ignore[operator]
    network = build("small", 3, size=(32, 32), seed=9)
    before = state(network)
    with pytest.raises(InputError, match=f"weights x does not fit this network.*{text}"):
        load_weights(network, broken, origin="weights x", head="head", report=print)
    assert same(network, before)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a pickle was run",)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none.pth", None, "none.pth: no such file"),
        ("w.onnx", b"x", r"expected a .safetensors file, or a .pth or .pt file"),
        ("w.pth", b"not a checkpoint", "no state dict can be read from it; save one with torch.save"),
        ("w.safetensors", b"garbage", "not a safetensors file that can be read"),
        ("empty.pth", {"epoch": 3}, "holds no tensors by name; its entries are 'epoch'"),
        ("list.pth", [1, 2], "holds a list; expected a dict of tensors by name"),
        ("evil.pth", Evil(), "no state dict can be read from it"),
    ],
)
def test_bad_files_are_answered(
    name: str, content: object, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=text):
        read_weights(path)
    assert capsys.readouterr().out == ""


def test_versions_of_modules_are_minded(tmp_path: Path) -> None:
    """MNASNet refuses weights whose version is not told, as of safetensors."""
    first = models.mnasnet0_5(num_classes=4)
    save_file(state(first), tmp_path / "mnasnet.safetensors")
    torch.save(first.state_dict(), tmp_path / "mnasnet.pth")
    for path in tmp_path.iterdir():
        assert same(build("mnasnet0_5", 4, size=(64, 64), weights=path), state(first))


def test_old_names_of_dense_layers_are_understood() -> None:
    network = models.DenseNet(growth_rate=2, block_config=(1, 1), num_init_features=4, num_classes=2)
    old = OrderedDict(
        (name.replace(".norm1", ".norm.1").replace(".conv2", ".conv.2"), tensor + 1)
        for name, tensor in state(network).items()
    )
    assert any(".norm.1." in name for name in old)
    before = state(network)
    load_weights(network, old, origin="old", head="classifier", report=print)
    assert same(network, {name: tensor + 1 for name, tensor in before.items()})


def test_positions_of_a_transformer_are_resized() -> None:
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16, "num_classes": 3}
    small, large = (models.VisionTransformer(image_size=n, patch_size=8, **sizes) for n in (32, 64))
    weights = OrderedDict(state(small))
    nn.init.normal_(weights["encoder.pos_embedding"])
    load_weights(large, weights, origin="small", head="heads.head", report=print)
    place = large.state_dict()["encoder.pos_embedding"][0]
    assert torch.equal(place[0], weights["encoder.pos_embedding"][0, 0])  # of the class token
    before, after = (t[1:].reshape(n, n, 8).numpy() for t, n in ((weights["encoder.pos_embedding"][0], 4), (place, 8)))
    np.testing.assert_allclose(after[[0, 0, -1, -1], [0, -1, 0, -1]], before[[0, 0, -1, -1], [0, -1, 0, -1]], atol=1e-6)


def test_where_the_network_is_not_reachable_the_address_of_the_file_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    start = time.process_time()
    with pytest.raises(
        InputError, match=r"https://download\.pytorch\.org/.*/resnet18-\w+\.pth cannot be fetched .*Name"
    ):
        default_weights("resnet18")
    assert time.process_time() - start < 5
    with pytest.raises(InputError, match="'small' has none"):
        default_weights("small")


def test_default_weights_are_taken_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = models.squeezenet1_1()
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save(first.state_dict(), place / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert same(build("squeezenet1_1", 7, weights="default", report=lambda text: None), state(first), but="classifier")


def test_real_files_of_others_are_read() -> None:
    folder = data.folder() / "weights"
    assert read_weights(folder / "cifar10_resnet20_akamaster.pth")["conv1.weight"].shape == (16, 3, 3, 3)
    path = folder / "squeezenet1_0_songhan_deepcompression.pth"
    whole = build("squeezenet1_0", 1000, size=(64, 64), weights=path)
    assert same(whole, dict(read_weights(path)))
    notes: list[str] = []
    other = build("squeezenet1_0", 5, size=(64, 64), weights=path, head="gap", report=notes.append)
    assert same(other, state(whole), but="head.")
    assert notes[0].endswith("cut off here: classifier.1")
    with pytest.raises(InputError, match=r"does not fit this network, .* \d+ tensors are missing"):
        build("resnet18", 5, size=(64, 64), weights=folder / "cifar10_resnet20_akamaster.pth")
