"""A map is put into a model without reading its weights: files are as large as can be, and hold almost nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from camcore_onnx.running.runtime import make_session
from numpy.typing import NDArray
from onnx import TensorProto, helper

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")

ROOT = Path(__file__).resolve().parents[3]
CLASSES = 10
MIB = 1 << 20

# The largest memory that a fresh process had, before and after; that of a child would begin with its parent's.
MEASURED = """
import sys
sys.path[:0] = [{root!r}, {adapters!r}]
import onnxruntime
import camcore_onnx
from camcore_onnx.embedding import embed_cam
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = peak()
{code}
print(peak() - before)
"""


@dataclass
class Holes:
    """Weights in a file of zeros that takes no room on the disk, but for the values that are written."""

    file: Path
    end: int = 0
    tensors: list[TensorProto] = field(default_factory=list)

    def add(self, name: str, shape: Sequence[int], values: NDArray[np.float32] | None = None) -> str:
        length = 4 * int(np.prod(shape))
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.file.name), ("offset", self.end), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.truncate(self.end + length)
            if values is not None:
                file.seek(self.end)
                file.write(values.tobytes())
        self.end += length
        return name


def large(folder: Path, layers: int, width: int = 8192) -> tuple[Path, NDArray[np.float32]]:
    """Convolutions of ``width`` x ``width``, 256 MiB each as they come, and the map that each class has everywhere."""
    random = np.random.default_rng(0)
    bias, weight = random.random(width, np.float32), random.standard_normal((CLASSES, width)).astype(np.float32)
    holes, nodes, before, channels = Holes(folder / "model.onnx.data"), [], "image", 3
    for i in range(layers):
        words = [before, holes.add(f"w{i}", (width, channels, 1, 1)), holes.add(f"b{i}", (width,), bias)]
        nodes += [helper.make_node("Conv", words, [f"c{i}"], name=f"conv{i}", kernel_shape=[1, 1])]
        nodes += [helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}")]
        before, channels = f"r{i}", width
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", holes.add("fc", weight.shape, weight)], ["scores"], transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "large", [image], [scores], holes.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx", weight @ bias


def grown(code: str) -> int:
    """By how many MiB the memory of a process grew, at most, while it did this."""
    words = {"root": str(ROOT), "adapters": str(ROOT / "adapters"), "code": code}
    done = subprocess.run([sys.executable, "-c", MEASURED.format(**words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def embed(path: Path, **options: object) -> tuple[int, Path]:
    target = path.with_name("model.cam.onnx")
    made = f"embed_cam({str(path)!r}, **{options!r}).SerializeToString()"
    return grown(f"open({str(target)!r}, 'wb').write({made})"), target


@pytest.mark.parametrize("options", [{}, {"classes": "input", "heatmap": (32, 32)}, {"method": "layercam"}])
def test_the_weights_are_not_read(options: dict[str, object], tmp_path: Path) -> None:
    path, _ = large(tmp_path, 4)
    assert path.with_name("model.onnx.data").stat().st_size > 768 * MIB
    memory, target = embed(path, **options)
    assert memory < 100
    assert target.stat().st_size < 20_000


def test_exported_beside_it_they_are_neither_read_nor_copied(tmp_path: Path) -> None:
    path, _ = large(tmp_path, 6)  # above the GiB that would become part of the file
    words = f"{str(path)!r}, {str(tmp_path / 'shipped.onnx')!r}, embed=True, verify=False, sandbox=False"
    assert grown(f"camcore_onnx.export({words})") < 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data", "shipped.onnx"]
    told = onnx.load(tmp_path / "shipped.onnx", load_external_data=False)
    assert [o.name for o in told.graph.output] == ["scores", "cam", "cam_classes", "cam_scores"]


def test_the_map_of_a_model_with_its_weights_apart(tmp_path: Path) -> None:
    path, wanted = large(tmp_path, 2, width=256)
    check(embed(path)[1], wanted)


def check(path: Path, wanted: NDArray[np.float32]) -> None:
    session = make_session(str(path), device="cpu", threads=1)
    scores, cam, classes, best = session.run(None, {"image": np.ones((2, 3, 3, 2), np.float32)})
    order = np.argsort(-wanted, kind="stable")[:5]
    np.testing.assert_allclose(scores, np.stack([wanted] * 2), rtol=1e-3)
    assert classes.tolist() == [order.tolist()] * 2
    assert cam.shape == (2, 5, 3, 2)
    np.testing.assert_allclose(cam, np.broadcast_to(wanted[order][None, :, None, None], cam.shape), rtol=1e-3)
    np.testing.assert_allclose(best, np.stack([wanted[order]] * 2), rtol=1e-3)


@pytest.mark.slow
def test_above_two_gigabytes(tmp_path: Path) -> None:
    """More than a message of protobuf holds; the session at the end reads all of it."""
    path, wanted = large(tmp_path, 10)
    assert path.with_name("model.onnx.data").stat().st_size > 2.2e9
    memory, target = embed(path)
    assert memory < 200
    check(target, wanted)
