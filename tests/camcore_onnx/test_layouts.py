"""Where exported networks keep their channels and tokens, and what a class token is explained by."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from camcore_onnx.constants import Constants
from camcore_onnx.heads import find_head
from camcore_onnx.layers import find_layer
from camcore_onnx.layouts import layout_of, token_features
from camcore_onnx.reading.load import infer_shapes, load
from camcore_torch.exporting import to_onnx
from onnx_graphs import Graph, images, run_plainly
from token_networks import Tokens, convnext, first, swin, vit
from torch import nn

from camcore import InputError
from camcore.head import NormHead, head_error
from camcore.layout import Layout

EXPORTS = [("dynamo", 18), ("torchscript", 18), ("torchscript", 16)]  # below 17, nine operators are a normalisation


@dataclass(frozen=True)
class Opened:
    """A graph whose shapes are known."""

    data: Any
    graph: ir.Graph
    constants: Constants

    def layout(self, name: str, **options: Any) -> Layout:
        return layout_of(find_layer(self.graph, name), self.constants, **options)

    def run(self, value: ir.Value, pixels: Any) -> list[Any]:
        """The scores and a tensor."""
        self.graph.outputs.append(value)
        try:
            return run_plainly(ir.to_proto(ir.Model(self.graph, ir_version=10)), pixels)
        finally:
            self.graph.outputs.pop()

    def features(self) -> ir.Value | None:
        return token_features(self.graph.outputs[0], self.constants)


def opened(model: Any) -> Opened:
    loaded = load(model)
    infer_shapes(loaded.model)
    return Opened(model, loaded.model.graph, Constants(loaded))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (vit, (3, 32, 32)),
    "swin": (swin, (3, 32, 64)),
    "convnext": (convnext, (3, 64, 64)),
    "class token": (lambda: Tokens(first), (3, 12, 20)),
    "two tokens": (lambda: Tokens(lambda x: (x[:, 0] + x[:, 1]) / 2, prefix=2), (3, 12, 20)),
    "registers": (lambda: Tokens(first, prefix=5, by_hand=True), (3, 12, 20)),
    "post-norm": (lambda: Tokens(first, post_norm=True), (3, 12, 20)),
    "no convolution": (lambda: Tokens(first, patches="reshape"), (3, 12, 20)),
    "volume": (lambda: Tokens(first, axes=3), (3, 4, 6, 8)),
    "signal": (lambda: Tokens(first, axes=1), (3, 16)),
    "mean": (lambda: Tokens(lambda x: x.mean(1)), (3, 12, 20)),
    "mean of patches": (lambda: Tokens(lambda x: x[:, 1:].mean(1)), (3, 12, 20)),
    "maximum": (lambda: Tokens(lambda x: x.amax(1)), (3, 12, 20)),
}


@cache
def exported(name: str, exporter: str = "torchscript", opset: int = 18) -> Opened:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return opened(to_onnx(model, torch.zeros(2, *shape), exporter=exporter, opset=opset))


@pytest.fixture(params=EXPORTS, ids=lambda e: f"{e[0]}-{e[1]}")
def export(request: pytest.FixtureRequest) -> Callable[[str], Opened]:
    """A network by its name, in each of the forms."""
    return lambda name: exported(name, *request.param)


class TestLayouts:
    def test_convnext(self, export: Callable[[str], Opened]) -> None:
        net = export("convnext")
        for path in ("features.0", "features.0.1", "features.1.0", "features.2", "features"):
            assert net.layout(path) == Layout("first"), path
        for path in ("features.1.0.block.2", "features.1.0.block.3", "features.1.0.block.5"):
            assert net.layout(path) == Layout("last"), path  # 16 maps of 16x16: no length tells them apart

    def test_swin(self, export: Callable[[str], Opened]) -> None:
        net = export("swin")
        assert net.layout("features.0.0") == Layout("first")
        for path in ("features.0", "features.1.0", "features.1.1", "features.2", "norm"):
            assert net.layout(path) == Layout("last"), path
        assert net.layout("avgpool") == Layout("first")

    def test_vit(self, export: Callable[[str], Opened]) -> None:
        net = export("vit")
        assert net.layout("conv_proj") == Layout("first")
        for path in ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1", "encoder.ln"):
            assert net.layout(path) == Layout("tokens", 1, (4, 4)), path

    @pytest.mark.parametrize(
        ("name", "prefix", "grid"),
        [
            ("two tokens", 2, (6, 10)),
            ("registers", 5, (6, 10)),
            ("no convolution", 1, (6, 10)),
            ("volume", 1, (2, 3, 4)),
            ("signal", 1, (8,)),
        ],
    )
    def test_prefixes_and_grids(self, name: str, prefix: int, grid: tuple[int, ...]) -> None:
        tokens = prefix + math.prod(grid)  # the TorchScript exporter does not state it
        assert exported(name).layout("norm", tokens=tokens) == Layout("tokens", prefix, grid)

    def test_what_the_user_says_wins(self) -> None:
        net = exported("class token", "dynamo")
        assert net.layout("norm", grid=(4, 15)) == Layout("tokens", 1, (4, 15))
        with pytest.raises(InputError, match="prefix=0, grid=\\(6, 10\\) was given for 61 tokens"):
            net.layout("norm", grid=(6, 10), prefix=0)

    def test_features_that_were_cut_to_tokens_on_the_way(self) -> None:
        """(N, 3, 4, C) to (N, 12, C): the grid is that of the map, though 12 = 2x6 in the image too."""
        g = Graph(17)
        last = g.add("Transpose", g.image(["N", 8, 3, 4]), perm=[0, 2, 3, 1])
        row = g.add("Reshape", g.add("MatMul", last, g.const(g.normal(8, 6))), g.ints(0, 12, 6), to="row")
        g.out(g.add("Relu", row, to="end"), ["N", 12, 6])
        assert opened(g.model()).layout("end") == Layout("tokens", 0, (3, 4))

    @pytest.mark.parametrize(
        ("op", "options", "found"),
        [
            ("GlobalAveragePool", {}, "first"),
            ("LRN", {"size": 3}, "first"),
            ("ReduceMean", {"axes": [2, 3]}, "first"),
            ("ReduceMean", {"axes": [1, 2]}, "last"),
            ("ReduceMean", {"axes": [3]}, "first"),
            ("Relu", {}, "first"),
        ],
    )
    def test_what_reads_a_tensor_says_it_where_its_maker_does_not(
        self, op: str, options: dict[str, Any], found: Any
    ) -> None:
        g = Graph(13)
        g.out(g.add(op, g.add("Tanh", g.image(["N", 6, 6, 6]), to="tanh"), **options))
        assert opened(g.model()).layout("tanh") == Layout(found)

    def test_a_matrix_from_the_left_works_on_the_axis_before_the_last(self) -> None:
        g = Graph(17)
        row = g.add("Reshape", g.image(["N", 6, 3, 4]), g.ints(0, 6, 12))
        g.out(g.add("MatMul", g.const(g.normal(5, 6)), row, to="left"), ["N", 5, 12])
        assert opened(g.model()).layout("left") == Layout("first")

    def test_tokens_of_a_free_number(self) -> None:
        g = Graph(17)
        g.out(g.add("MatMul", g.image(["N", "T", 6]), g.const(g.normal(6, 5)), to="row"), ["N", "T", 5])
        net = opened(g.model())
        with pytest.raises(
            InputError, match="the graph does not state the number of tokens of 'row'; say how they lie"
        ):
            net.layout("row")
        assert net.layout("row", tokens=7) == Layout("tokens", 1, (6,))
        assert net.layout("row", grid=(2, 5), prefix=3) == Layout("tokens", 3, (2, 5))

    def test_a_tensor_that_nothing_is_known_of_is_channels_first(self) -> None:
        g = Graph(17)
        flat = g.add("Flatten", g.add("Tanh", g.image(["N", 6, 6, 6]), to="tanh"), to="flat")
        g.out(flat, ["N", 216])
        assert opened(g.model()).layout("tanh") == opened(g.model()).layout("flat") == Layout()


class TestTokenFeatures:
    def test_torchvision(self, export: Callable[[str], Opened]) -> None:
        net = export("vit")
        found = net.features()
        assert found is not None
        assert found is find_layer(net.graph, "encoder.layers.encoder_layer_1.ln_1")
        assert layout_of(found, net.constants) == Layout("tokens", 1, (4, 4))

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("class token", "norms.1"),
            ("two tokens", "norms.1"),
            ("registers", "norms.1"),
            ("post-norm", "norms.0"),
            ("volume", "norms.1"),
            ("signal", "norms.1"),
        ],
    )
    @pytest.mark.parametrize("opset", [16, 18])
    def test_the_input_of_the_last_attention(self, name: str, path: str, opset: int) -> None:
        net = exported(name, "torchscript", opset)
        found = net.features()
        assert found is not None
        assert found is find_layer(net.graph, path)
        tokens = net.run(found, images(1, *NETWORKS[name][1]))[1].shape[1]
        assert layout_of(found, net.constants, tokens=tokens).kind == "tokens"

    @pytest.mark.parametrize("name", ["mean", "mean of patches", "maximum", "swin", "convnext"])
    @pytest.mark.parametrize("opset", [16, 18])
    def test_none_where_positions_are_pooled(self, name: str, opset: int) -> None:
        assert exported(name, "torchscript", opset).features() is None

    def test_none_without_attention(self) -> None:
        g = Graph(17)
        conv = g.conv(g.image(["N", 3, 4, 4]), 3, 6)
        g.out(g.add("Gemm", g.add("Flatten", conv), g.const(g.normal(96, 5))), ["N", 5])
        assert opened(g.model()).features() is None

    @pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
    def test_attention_in_one_operator(self, op: str) -> None:
        g = Graph(23 if op == "Attention" else 17)
        row = g.add("LayerNormalization", g.image(["N", 5, 8]), g.const(np.ones(8)), to="row")
        q, k, v = (g.add("MatMul", row, g.const(g.normal(8, 8))) for _ in range(3))
        if op == "Attention":
            mixed = g.add(op, q, k, v, q_num_heads=2, kv_num_heads=2)
        else:
            mixed = g.add(op, q, k, v, num_heads=2, domain="com.microsoft")
        g.out(g.add("Gather", mixed, g.const(np.array(0), dtype=np.int64), axis=1), ["N", 8])
        found = opened(g.model(domains=[] if op == "Attention" else ["com.microsoft"])).features()
        assert found is not None
        assert found.name == "row"

    def test_values_that_are_pooled_on_the_way(self) -> None:
        """As in MViT: the values are maps that a convolution makes smaller, so the row in front of that is taken."""
        g = Graph(17)
        row = g.add("LayerNormalization", g.image(["N", 16, 8]), g.const(np.ones(8)), to="row")
        maps = g.add("Reshape", g.add("Transpose", row, perm=[0, 2, 1]), g.ints(0, 8, 4, 4))
        small = g.add("Reshape", g.add("AveragePool", maps, kernel_shape=[2, 2], strides=[2, 2]), g.ints(0, 8, 4))
        values = g.add("Transpose", small, perm=[0, 2, 1])
        weights = g.add("Softmax", g.add("MatMul", row, small), axis=-1)
        g.out(g.add("Gather", g.add("MatMul", weights, values), g.const(np.array(0), dtype=np.int64), axis=1))
        found = opened(g.model()).features()
        assert found is not None
        assert found.name == "row"


def test_the_mean_of_patches_makes_a_head_of_tokens() -> None:
    net = exported("mean of patches", "dynamo")
    found = find_head(net.graph.outputs[0], net.constants)
    assert found.head is not None, found.obstacle
    assert found.features is not None
    scores, features = net.run(found.features, images(3, *NETWORKS["mean of patches"][1]))
    layout = layout_of(found.features, net.constants)
    assert layout == Layout("tokens", 0, (6, 10))
    assert head_error(found.head, layout.maps(features), scores) < 1e-5


@pytest.mark.parametrize("name", ["convnext", "swin"])
def test_the_head_behind_them_reproduces_the_scores(export: Callable[[str], Opened], name: str) -> None:
    net = export(name)
    found = find_head(net.graph.outputs[0], net.constants)
    assert found.head is not None, found.obstacle
    assert found.features is not None
    assert isinstance(found.head, NormHead) == (name == "convnext")
    scores, features = net.run(found.features, images(3, *NETWORKS[name][1]))
    maps = layout_of(found.features, net.constants).maps(features)
    assert maps.shape[1] == found.head.channels
    assert head_error(found.head, maps, scores) < 1e-5
