"""Files as ONNX Runtime's own tools write them: optimised, fused for transformers, and quantised."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch_autograd  # noqa: F401  (it keeps PyTorch to one thread)
from camcore_onnx.reading.load import load, serialize
from camcore_onnx.running.runtime import make_session
from camcore_onnx.unfold import unfold
from camcore_torch.exporting import to_onnx
from numpy.typing import NDArray
from onnx_graphs import images
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 16
X = images(2, 3, SIZE, SIZE, seed=50)
Q = {"scale": np.float32(0.05), "zero": np.uint8(100)}  # of inputs
R = {"scale_out": np.float32(0.04), "zero_out": np.uint8(120)}  # of outputs


class Convolutions(nn.Module):
    """Activations, a residual sum, a gate, a join, poolings and resizing, as far as quantisers know them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.c, self.d = nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(16, 16, 1)
        self.e, self.f = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.a(x)), 3, 2, 1)
        y = torch.relu(self.b(x) + x)
        z = F.leaky_relu(self.c(y), 0.1)
        x = F.avg_pool2d(torch.cat([y * torch.sigmoid(z), z], 1), 2)
        x = torch.relu(self.d(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.f(torch.relu(self.e(x.mean((2, 3)))))


class Activations(nn.Module):
    """Every activation that ONNX Runtime fuses with a convolution or a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        kinds = [nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardsigmoid()]
        steps = [nn.Sequential(nn.Conv2d(8 if i else 3, 8, 3, padding=1), kind) for i, kind in enumerate(kinds)]
        self.body, self.a, self.b = nn.Sequential(*steps), nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.leaky_relu(self.a(self.body(x).mean((2, 3))), 0.3))


class Patches(nn.Module):
    """A vision transformer with two blocks; queries, keys and values of a matrix each, as in Hugging Face's."""

    def __init__(self, gelu: str = "none") -> None:
        super().__init__()
        self.embed, self.place = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, SIZE + 1, 16))
        self.token, self.gelu = nn.Parameter(torch.randn(1, 1, 16)), gelu
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(5))
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
        self.up = nn.ModuleList(nn.Linear(16, 32) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for i in range(2):
            x = x + self.attend(self.norms[i](x), i)
            x = x + self.down[i](F.gelu(self.up[i](self.norms[i + 2](x)), approximate=self.gelu))
        return self.head(self.norms[4](x)[:, 0])

    def attend(self, x: Tensor, i: int) -> Tensor:
        split = (x.shape[0], SIZE + 1, 2, 8)
        q, k, v = (part(x).view(split).permute(0, 2, 1, 3) for part in self.parts[4 * i : 4 * i + 3])
        mixed = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v
        return self.parts[4 * i + 3](mixed.permute(0, 2, 1, 3).reshape(x.shape))


NETWORKS = {"convolutions": Convolutions, "activations": Activations, "patches": Patches}


@cache
def exported(name: str, opset: int = 17) -> bytes:
    torch.manual_seed(3)
    return to_onnx(NETWORKS[name]().eval(), (2, 3, SIZE, SIZE), exporter="torchscript", opset=opset)


def optimised(data: bytes, level: str = "ORT_ENABLE_EXTENDED") -> bytes:
    """As ``optimized_model_filepath`` saves it."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        options.log_severity_level = 4
        ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return Path(options.optimized_model_filepath).read_bytes()


def fused(data: bytes, **options: bool) -> bytes:
    """As onnxruntime.transformers writes a vision transformer."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    wanted = FusionOptions("vit")
    for name, value in options.items():
        setattr(wanted, name, value)
    with TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "plain.onnx")
        path.write_bytes(data)
        found = optimize_model(str(path), "vit", num_heads=2, hidden_size=16, optimization_options=wanted, opt_level=0)
        return found.model.SerializeToString()


def quantised(data: bytes, *, form: str, activations: str = "QUInt8", per_channel: bool = False) -> bytes:
    """As onnxruntime.quantization writes it: ``form`` is QOperator or QDQ."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{input_name(data): images(2, 3, SIZE, SIZE, seed=i)} for i in range(8)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    with TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "plain.onnx")
        path.write_bytes(data)
        quantize_static(
            str(path),
            str(Path(folder, "quantised.onnx")),
            Images(),
            quant_format=QuantFormat[form],
            activation_type=QuantType[activations],
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
        return Path(folder, "quantised.onnx").read_bytes()


def input_name(data: bytes) -> str:
    return onnx.load_from_string(data).graph.input[0].name


def feeds(data: bytes) -> list[dict[str, NDArray[Any]]]:
    return [{input_name(data): X[:1]}, {input_name(data): X}]


def run(data: bytes, feed: Any, optimization: str = "all") -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = make_session(data, device="cpu", optimization=optimization).run(None, feed)
    return found


def distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max() / np.abs(b).max())


def check_node(model: onnx.ModelProto, feed: Any, *, steps: int = 0, optimization: str = "all") -> None:
    """One node, written out: floats to 1e-6, integers to so many steps."""
    loaded = load(model)
    unfold(loaded.model, list(loaded.model.graph), [feed])
    found = run(serialize(loaded.model), feed, optimization)
    wanted = run(model.SerializeToString(), feed, optimization)
    before, after = ([(n.domain, n.op_type) for n in m.graph] for m in (load(model).model, loaded.model))
    assert not Counter(before) & Counter(after)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        if a.dtype.kind in "iu":
            assert np.abs(a.astype(np.int64) - b).max() <= steps
        else:
            assert distance(a, b) < (2e-3 if a.dtype == np.float16 else 1e-6)


def whole(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype=dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
