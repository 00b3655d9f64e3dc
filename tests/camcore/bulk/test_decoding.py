"""What the decoding processes do."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcore.bulk import decoding
from camcore.bulk.decoding import Decoded, decode
from camcore.pictures import load_picture
from camcore.preprocess import preprocess

RULE = preprocess("imagenet", size=(8, 6))


def pictures(folder: Path) -> list[str]:
    for n, size in enumerate([(20, 30), (40, 10), (9, 9)]):
        pixels = np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (folder / "bad.png").write_bytes(b"nothing")
    return [str(folder / name) for name in ("0.png", "bad.png", "1.png", "absent.png", "2.png")]


def test_the_images_are_those_of_the_preprocessing(tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    found = pickle.loads(pickle.dumps(decode(paths, RULE)))
    assert found.places == [0, 2, 4]
    assert found.pixels.dtype == np.uint8
    expected = [RULE(load_picture(paths[n]).pixels) for n in found.places]
    np.testing.assert_array_equal(found.images(RULE, 3), np.stack([image for image, _ in expected]))
    np.testing.assert_array_equal(found.views, [view for _, view in expected])
    assert "bad.png: not a picture" in found.errors[1]
    assert "absent.png: no such file" in found.errors[3]
    assert [bool(error) for error in found.errors] == [False, True, False, True, False]


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    found = decode([str(tmp_path / "absent.png")] * 2, RULE)
    assert (found.places, len(found.pixels), found.views.shape) == ([], 0, (0, 4))
    assert Decoded.failed(["a", "b"], "why").errors == ["why", "why"]


def test_a_decoder_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(path: str) -> None:
        raise ZeroDivisionError("by zero") if "0" in path else MemoryError

    monkeypatch.setattr(decoding, "load_picture", odd)
    assert decode(["0.png"], RULE).errors == ["0.png: ZeroDivisionError: by zero"]
    with pytest.raises(MemoryError):
        decode(["1.png"], RULE)
