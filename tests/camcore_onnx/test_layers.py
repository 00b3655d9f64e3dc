"""The names of layers, against what PyTorch's modules return."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from camcore_onnx import OnnxBackend, expose_features
from camcore_onnx.layers import find_layer, module_path, module_paths
from onnx_graphs import Graph, images, onnx_bytes, run_plainly
from torch import Tensor, nn

from camcore.errors import InputError

SCOPES = "pkg.torch.onnx.name_scopes"


def chain(*names: str, scopes: list[str] | None = None) -> ir.Graph:
    """Relu nodes in a row, called so; each gives a tensor t0, t1, ..."""
    g = Graph()
    value = g.image(["N", 3, 8, 8])
    for i, name in enumerate(names):
        meta = {SCOPES: scopes[i]} if scopes is not None else None
        value = g.add("Relu", value, name=name, to=f"t{i}", meta=meta)
    g.out(value, ["N", 3, 8, 8])
    return ir.from_proto(g.model()).graph


class TestTensorsAndNodes:
    def test_tensor(self):
        assert find_layer(chain("a", "b"), "t0").name == "t0"

    def test_node(self):
        assert find_layer(chain("a", "b"), "a").name == "t0"

    def test_a_tensor_comes_before_a_node_of_the_same_name(self):
        assert find_layer(chain("t1", "b"), "t1").name == "t1"

    def test_a_node_with_several_outputs_means_the_first(self):
        g = Graph(13)
        image = g.image(["N", 4, 8, 8])
        g.add("Split", image, to=["left", "right"], name="cut", axis=1)
        g.out("left", ["N", 2, 8, 8])
        graph = ir.from_proto(g.model()).graph
        assert find_layer(graph, "cut").name == "left"
        assert find_layer(graph, "right").name == "right"

    @pytest.mark.parametrize("name", ["", " ", "relu", "T0", "image"])
    def test_unknown(self, name):
        with pytest.raises(InputError, match=f"no layer is called '{name}': no tensor, node or PyTorch module"):
            find_layer(chain("", "b"), name)

    def test_the_nearest_names_are_offered(self):
        graph = chain("/layer4/layer4.1/relu/Relu", "/fc/Gemm")
        with pytest.raises(InputError, match=re.escape("Did you mean 'layer4.1.relu'")):
            find_layer(graph, "layer4.1.relo")
        with pytest.raises(InputError, match=re.escape("Did you mean 'layer4'")):
            find_layer(graph, "layer5")

    def test_all_names_are_offered_where_none_is_near(self):
        with pytest.raises(InputError, match=re.escape("Known: 't0', 't1', 'a', 'b'.")):
            find_layer(chain("a", "b"), "xyzzy")


class TestTorchScriptNames:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("/layer4/layer4.1/relu_1/Relu", "layer4.1.relu_1"),
            ("/features/features.0/features.0.0/Conv", "features.0.0"),
            ("/stem/Conv", "stem"),
            ("/Flatten", ""),
            ("Relu_3", ""),
            ("", ""),
            ("/", ""),
            ("//", ""),
        ],
    )
    def test_paths(self, name, path):
        assert module_path(next(iter(chain(name)))) == path

    def test_a_module_means_the_last_tensor_that_leaves_it(self):
        graph = chain("/a/a.0/Conv", "/a/a.1/Relu", "/b/Relu", "/Flatten")
        assert find_layer(graph, "a").name == "t1"
        assert find_layer(graph, "a.0").name == "t0"
        assert find_layer(graph, "b").name == "t2"

    def test_a_module_called_twice_means_its_last_call(self):
        graph = chain("/b/relu/Relu", "/b/conv/Conv", "/b/relu_1/Relu", "/c/Relu")
        assert find_layer(graph, "b.relu").name == "t2"
        assert find_layer(graph, "b.relu_1").name == "t2"

    def test_a_longer_name_is_not_within_a_shorter_one(self):
        graph = chain("/a/Relu", "/ab/Relu", "/abc/Relu")
        assert find_layer(graph, "a").name == "t0"
        assert find_layer(graph, "ab").name == "t1"

    def test_paths_are_listed_outer_ones_first(self):
        assert module_paths(list(chain("/a/a.0/Conv", "/a/a.1/Relu", "/Flatten"))) == ["a", "a.0", "a.1"]


class TestScopes:
    def test_paths(self):
        graph = chain("n0", "n1", scopes=["['', 'a', 'a.0', 'conv']", "['', 'view']"])
        assert [module_path(n) for n in graph] == ["a.0", ""]

    def test_metadata_count_more_than_the_node_name(self):
        graph = chain("/wrong/Relu", scopes=["['', 'right', 'relu']"])
        assert module_path(next(iter(graph))) == "right"

    def test_modules_with_numbered_names_are_kept_apart(self):
        graph = chain("n0", "n1", "n2", scopes=["['', 'conv', 'x']", "['', 'conv_1', 'y']", "['', 'z']"])
        assert find_layer(graph, "conv").name == "t0"
        assert find_layer(graph, "conv_1").name == "t1"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[",
            "{[]: 1}",
            "['a'",
            "__import__('os').abort()",
            "[" * 5000,
            "-" * 9000 + "1",
            "['" + "a" * 20_000 + "', 'b']",
            "7",
            "'text'",
            "[[1], 2, None]",
            "['a\\0']",
            "b'bytes'",
            "9" * 5000,
        ],
    )
    def test_what_cannot_be_read_is_no_path(self, text):
        graph = chain("n0", "n1", scopes=[text, "['', 'b', 'relu']"])
        assert module_path(next(iter(graph))) == ""
        assert find_layer(graph, "b").name == "t1"
        with pytest.raises(InputError, match="no layer is called"):
            find_layer(graph, "c")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv_1 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv_1(self.relu(self.bn(self.conv(x)))) + x)


class Residual(nn.Module):
    """A ReLU called twice a block, a Sequential of Sequentials, additions and a flatten outside of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.layer1 = nn.Sequential(Block(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()), Block())
        self.drop, self.pool, self.fc = nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.drop(self.layer1(self.stem(x)))).flatten(1))


# Left out: the convolutions that exporters merge with the normalisation behind them, and the dropout, which is gone.
PATHS = [
    *("stem", "stem.2", "layer1", "pool", "fc"),
    *("layer1.0", "layer1.0.relu", "layer1.0.conv_1", "layer1.1", "layer1.1.0", "layer1.1.1"),
    *("layer1.2", "layer1.2.relu", "layer1.2.conv_1"),
]


def export(net: nn.Module, dynamo: bool) -> Any:
    file = io.BytesIO()
    example = (torch.zeros(2, 3, 8, 8),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter says that it is old, the new one much else
        if dynamo:
            return torch.onnx.export(net, example, dynamo=True, verbose=False).model_proto
        torch.onnx.export(net, example, file, dynamo=False)
    return onnx.load_from_string(file.getvalue())


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Residual()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def returned(net: nn.Module) -> dict[str, Any]:
    """What each module returned at its last call."""
    seen: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda m, i, out, path=path: seen.__setitem__(path, out.detach().numpy().copy()))
        for path, module in net.named_modules()
    ]
    with torch.no_grad():
        net(torch.from_numpy(images(2, 3, 8, 8)))
    for handle in handles:
        handle.remove()
    return seen


@pytest.fixture(scope="module", params=[False, True], ids=["torchscript", "dynamo"])
def exported(request: Any, net: nn.Module) -> Any:
    return export(net, request.param)


class TestRealExports:
    @pytest.mark.parametrize("path", PATHS)
    def test_a_path_means_what_the_module_returns(self, exported, returned, path):
        exposed = expose_features(exported, path)
        found = run_plainly(exposed, images(2, 3, 8, 8))[-1]
        np.testing.assert_allclose(found, returned[path], rtol=1e-4, atol=1e-5)

    def test_the_head_reads_what_the_last_block_returns(self, exported):
        backend = OnnxBackend(onnx_bytes(exported), device="cpu")
        assert backend.tap("layer1").layer == backend.tap().layer
        assert backend.tap("layer1").head is not None
        assert backend.tap("layer1.0").head is None
