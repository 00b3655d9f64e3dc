"""Weights in files beside a model, named so that they lie elsewhere, or are not what they seem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from camcore_onnx.reading.external import MAX_SHARED
from camcore_onnx.reading.load import load
from hostile import answer
from onnx_graphs import classifier, onnx_bytes

from camcore.errors import InputError

POSIX = pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier in ``inside``, its weights in ``weights.bin`` beside it; ``secret.bin`` above."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    path = tmp_path / "inside" / "model.onnx"
    onnx.save(classifier(size=(6, 6)), path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert answer(path) == ""
    return path


def change(path: Path, tensor: int = 0, **entries: Any) -> None:
    """Rewrite where a weight lies; a list writes an entry several times."""
    proto = onnx.load(path, load_external_data=False)
    held = proto.graph.initializer[tensor].external_data
    kept = [(e.key, e.value) for e in held if e.key not in entries]
    del held[:]
    added = [(k, str(v)) for k, given in entries.items() for v in (given if isinstance(given, list) else [given])]
    for key, value in kept + added:
        held.add(key=key, value=value)
    path.write_bytes(onnx_bytes(proto))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        *("../secret.bin", "x/../../secret.bin", "/etc/passwd", "", "weights.bin\0", "\0", "a\nb", "a" * 5000),
        *("..\\secret.bin", "x\\..\\..\\secret.bin", "C:\\secret.bin", "C:secret.bin", "c:/secret.bin"),
        *("\\\\server\\share\\secret.bin", "//server/share/secret.bin", "\\secret.bin", "\\\\?\\C:\\secret.bin"),
    ],
)
def test_outside(model, location):
    change(model, location=location)
    text = refusal(model)
    assert "its weights point outside the model's folder (" in text
    assert text.endswith("; refused, for that file is not part of the model")
    assert not any(ord(c) < 32 for c in text)


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "file:///etc/passwd", "~/secret.bin", "$HOME/secret.bin"])
def test_what_is_no_place(model, location):
    change(model, location=location)
    text = refusal(model)
    assert "with its weights is missing" in text
    assert len(text) < 1000


@POSIX
@pytest.mark.parametrize("target", ["../secret.bin", "/etc/passwd", "/dev/zero", "real.bin"])
def test_symbolic_link(model, target):
    """Also one that stays in the folder: it could be turned after it was looked at."""
    weights = model.parent / "weights.bin"
    weights.rename(model.parent / "real.bin")
    weights.symlink_to(target)
    assert "'weights.bin' with its weights is a link or no regular file in" in refusal(model)


@POSIX
@pytest.mark.parametrize("place", ["..", "elsewhere"])
def test_folder_that_is_a_symbolic_link(model, place):
    (model.parent / "elsewhere").mkdir()
    (model.parent / "below").symlink_to(place)
    for folder in (model.parent / "elsewhere", model.parent.parent):
        (folder / "weights.bin").write_bytes(bytes(4096))
    change(model, location="below/weights.bin")
    assert "is a link or no regular file in" in refusal(model)


@POSIX
def test_hard_link(model):
    weights = model.parent / "weights.bin"
    os.link(weights, model.parent.parent / "other.bin")
    assert "is a link or no regular file in" in refusal(model)


@POSIX
def test_the_model_itself_may_lie_behind_a_link(model, tmp_path):
    """As in the cache of the Hugging Face hub; its folder is that of the file."""
    (tmp_path / "link.onnx").symlink_to(model)
    assert load(tmp_path / "link.onnx").folder == model.parent


@POSIX
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_no_regular_file(model, kind):
    place = model.parent / "odd"
    place.mkdir() if kind == "folder" else os.mkfifo(place)
    change(model, location="odd")
    assert "is a link or no regular file in" in refusal(model)


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize(
    "value", ["-1", "-9223372036854775808", "1e3", "0x10", " 8", "٣", "", "9" * 5000, ["0", "8"], "1.5", "nan"]
)
def test_numbers_that_are_none(model, key, value):
    change(model, **{key: value})
    text = refusal(model)
    assert f"the {key} of 'weight_1' in its file is " in text
    assert "expected one whole number of at least 0" in text
    assert len(text) < 1000


@pytest.mark.parametrize("entries", [{"offset": 10**18}, {"offset": 1 << 62, "length": 1 << 62}, {"offset": 4000}])
def test_beyond_the_end(model, entries):
    change(model, **entries)
    assert "'weights.bin' with its weights has " in refusal(model)


def test_a_length_that_is_not_that_of_the_shape(model):
    change(model, length=4)
    assert "the shape 6x3x3x3 of 'weight_1' means 648 bytes, and 4 in its file" in refusal(model)


def test_overlapping(model):
    change(model, tensor=1, offset=4, length=24)
    assert "the graph is damaged: tensors in 'weights.bin' overlap each other" in refusal(model)


def test_tied_weights_may_share_a_place_but_not_a_thousand(model):
    proto = onnx.load(model, load_external_data=False)
    for number in range(MAX_SHARED):
        shared = proto.graph.initializer.add()
        shared.CopyFrom(proto.graph.initializer[0])
        shared.name = f"tied{number}"
        if number == 0:
            model.write_bytes(onnx_bytes(proto))
            assert answer(model) == ""
    model.write_bytes(onnx_bytes(proto))
    assert "17 tensors lie at one place of 'weights.bin'; the limit is 16" in refusal(model)


@pytest.mark.parametrize("key", ["__class__", "dims", "__init__", "prepacked_0", "\x1b[31m" + "x" * 1000])
def test_keys_that_nobody_knows(model, key):
    """As attributes of an object they were set once: CVE-2026-34445."""
    change(model, **{key: "9"})
    text = refusal(model)
    assert "whose numbers lie in another file, has an entry" in text
    assert "expected basepath, checksum, length, location, offset" in text
    assert len(text) < 1000


def test_a_path_of_its_own_is_not_obeyed(model):
    change(model, basepath="/etc", checksum="0")
    assert answer(model) == ""
