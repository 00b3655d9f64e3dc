"""Bad input is an answer: what came, what was expected, what to do; exit status 2, and the rest of the work is done."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from camcore_tools.cli import main
from onnx import TensorProto
from PIL import Image

import camcore
from camcore import InputError

Run = Callable[..., tuple[int, str, str]]
Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def explain(*words: object, output: Path | None = None) -> tuple[int, str, str]:
        status = main(["explain", *map(str, words), "-o", str(output or tmp_path / "out")])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return explain


def test_good_input_is_fine(run: Run, model: Path, picture: Path) -> None:
    status, out, _ = run(model, picture)
    assert status == 0
    assert "1 of 1 pictures explained" in out


def test_missing_model(run: Run, tmp_path: Path, picture: Path) -> None:
    status, _, err = run(tmp_path / "nothing.onnx", picture)
    assert status == 2
    assert "nothing.onnx: no such file; expected an .onnx file" in err


def test_text_file_named_onnx(run: Run, tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    status, _, err = run(path, picture)
    assert status == 2
    assert "not an ONNX model" in err
    assert "it is a text file beginning 'version https://git-lfs" in err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_model(run: Run, model: Path, picture: Path, share: float) -> None:
    data = model.read_bytes()
    model.write_bytes(data[: int(len(data) * share)])
    status, _, err = run(model, picture)
    assert status == 2
    assert "not an ONNX model, or cut off" in err


def test_no_image_input(tiny: Build, run: Run, tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "tokens.onnx"
    onnx.save(tiny(shape=("N", 16), kind=TensorProto.INT64), path)
    status, _, err = run(path, picture)
    assert status == 2
    assert "no image input: expected floats (N, C, *S), the model takes 'x' int64 [N, 16]" in err


def test_two_inputs(tiny: Build, run: Run, tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "two.onnx"
    onnx.save(tiny(inputs=2), path)
    status, _, err = run(path, picture)
    assert status == 2
    assert "2 inputs ('x' float [N, 3, 16, 16], 'extra1' float [N, 3, 16, 16]); expected one image input" in err


def test_unknown_layer_offers_the_nearest(run: Run, model: Path, picture: Path) -> None:
    status, _, err = run(model, picture, "--layer", "rellu")
    assert status == 2
    assert "no layer is called 'rellu'" in err
    assert "Did you mean 'relu'" in err


def test_unknown_method_offers_the_nearest(run: Run, model: Path, picture: Path) -> None:
    status, _, err = run(model, picture, "--method", "camm")
    assert status == 2
    assert "method 'camm' is not known. Did you mean 'cam'" in err


def test_class_out_of_range(run: Run, model: Path, picture: Path) -> None:
    status, _, err = run(model, picture, "--classes", "7")
    assert status == 2
    assert "class 7 is out of range: the model has 4 classes, 0 to 3" in err


def test_unknown_class_name(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("cat\ndog\nhorse\ncow\n")
    status, _, err = run(model, picture, "--classes", "hourse", "--labels", labels)
    assert status == 2
    assert "no class is called 'hourse'. Did you mean 'horse'" in err
    status, _, err = run(model, picture, "--classes", "horse")
    assert status == 2
    assert "class 'horse' is a name, but the model has no class names; give labels, or an index" in err


def test_wrong_number_of_labels(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    labels = tmp_path / "names.txt"
    labels.write_text("background\ncat\ndog\nhorse\ncow\n")
    status, _, err = run(model, picture, "--labels", labels)
    assert status == 2
    assert "5 class names were given, the model has 4 classes" in err


def test_wrong_channel_count_or_size(tiny: Build, run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    explainer = camcore.explainer(model)
    with pytest.raises(InputError, match="images have 1 channels, the model takes 3"):
        explainer(np.zeros((1, 1, 16, 16), np.float32))
    with pytest.raises(InputError, match="images have length 20 on axis 2, the model takes 16"):
        explainer(np.zeros((1, 3, 20, 16), np.float32))
    five = tmp_path / "five.onnx"
    onnx.save(tiny(shape=("N", 5, 16, 16)), five)
    status, _, err = run(five, picture)
    assert status == 2
    assert "the model takes 5 channels; a picture has 3" in err
    status, _, err = run(model, picture, "--resize", "none")
    assert status == 2
    assert "the model takes 16" in err


def test_nan_pixels(model: Path) -> None:
    images = np.zeros((2, 3, 16, 16), np.float32)
    images[1, 0, 0, :3] = np.nan
    with pytest.raises(InputError, match="image 1 has 3 pixels that are NaN or infinite; replace them first"):
        camcore.explainer(model)(images)


def test_zero_byte_image(run: Run, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    status, out, err = run(model, empty)
    assert status == 2
    assert "empty.png: the file is empty (0 bytes); expected a picture" in err
    assert "0 of 1 pictures explained" in out


def large_png(path: Path) -> None:
    """A valid header of 20000 x 10000 pixels and a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(2501) * 100)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_two_hundred_megapixels(run: Run, model: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large_png(large)
    status, _, err = run(model, large)
    assert status == 2
    assert "large.png: more than 100 megapixels (Image size (200000000 pixels)" in err
    assert "reduce the picture first" in err


def test_corrupt_jpeg_among_good_ones(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(pixels).save(folder / name)
    damaged = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(damaged[: len(damaged) // 2])
    status, out, err = run(model, folder)
    assert status == 2
    assert "b.jpg: the picture is damaged and cannot be decoded" in err
    assert "2 of 3 pictures explained" in out
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [("error" in image) for image in document["images"]].count(True) == 1
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"a.png", "c.png"}


def test_output_that_cannot_be_written(run: Run, model: Path, picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.touch()
    status, _, err = run(model, picture, output=file)
    assert status == 2
    assert "a-file: is a file; give a folder with -o" in err
    status, _, err = run(model, picture, output=Path("/proc/nothing/here"))
    assert status == 2
    assert "output folder /proc/nothing/here: cannot be written to" in err


def test_read_only_output_folder(model: Path, picture: Path, tmp_path: Path) -> None:
    """In a process of another user where the tests run as root, whom no permission stops."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from camcore.results import ResultFolder\n"
        "from camcore import InputError\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: ResultFolder(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
    )
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert "cannot be written to (Permission denied); choose another with -o" in done.stdout


def test_no_onnxruntime(model: Path, picture: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from camcore_tools.cli import main\n"
        f"sys.exit(main(['explain', {str(model)!r}, {str(picture)!r}, '-o', {str(tmp_path / 'out')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "onnxruntime cannot be imported" in done.stderr
    assert "pip install 'camcore[onnx]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_cuda_asked_for_and_absent(run: Run, model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status, _, err = run(model, picture, "--device", "cuda")
    assert status == 2
    assert "device 'cuda' was asked for, but the installed ONNX Runtime has only CPUExecutionProvider" in err
    assert "pip install 'camcore[onnx-gpu]'" in err


def external(tiny: Build, tmp_path: Path) -> Path:
    path = tmp_path / "outside.onnx"
    onnx.save(tiny(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data(tiny: Build, run: Run, picture: Path, tmp_path: Path) -> None:
    status, _, _ = run(external(tiny, tmp_path), picture)
    assert status == 0


def test_external_data_missing(tiny: Build, run: Run, picture: Path, tmp_path: Path) -> None:
    path = external(tiny, tmp_path)
    (tmp_path / "weights.bin").unlink()
    status, _, err = run(path, picture)
    assert status == 2
    assert "the file 'weights.bin' with its weights is missing; put it into" in err


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin"])
def test_external_data_outside_the_folder(tiny: Build, run: Run, picture: Path, tmp_path: Path, location: str) -> None:
    path = external(tiny, tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    status, _, err = run(path, picture)
    assert status == 2
    assert f"its weights point outside the model's folder ({location!r}); refused" in err


def test_pytorch_checkpoint_is_not_unpickled(run: Run, picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    status, _, err = run(path, picture)
    assert status == 2
    assert "PyTorch checkpoints are pickles, which run code when they are read" in err


def test_no_picture_found(run: Run, model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, err = run(model, empty)
    assert status == 2
    assert "no pictures in this folder" in err
    status, _, err = run(model, tmp_path / "*.gif")
    assert status == 2
    assert "the pattern matches no file" in err
