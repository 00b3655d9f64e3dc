"""Where real networks keep their channels and tokens, and what a class token is explained by."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from camcore_torch import TorchBackend
from camcore_torch.layouts import layout_of, token_features
from camcore_torch.record import Recorder, watching_modules
from token_networks import Tokens, convnext, first, swin, vit
from torch import Tensor, nn

from camcore import InputError
from camcore.layout import Layout


@dataclass(frozen=True)
class Seen:
    """A full forward pass: its record, the scores, and what the modules return."""

    record: Recorder
    scores: int
    modules: dict[str, int]

    def layout(self, path: str, **options: object) -> Layout:
        return layout_of(self.record, self.modules[path], **options)

    def features(self) -> str | None:
        """The module that returns the token features."""
        value = token_features(self.record, self.scores, 0)
        return next((p for p, v in self.modules.items() if v == value), None)


def seen(model: nn.Module, *shape: int, train: bool = False) -> Seen:
    """One pass, in which the images are value 0."""
    record = Recorder()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert record.number(images) == 0
    with torch.set_grad_enabled(train), watching_modules(model.eval(), record) as events, record:
        scores = model(images)
    modules = {e.path: e.value for e in events if e.kind == "exit" and e.value is not None}
    return Seen(record, record.number(scores), modules)


class TestLayouts:
    def test_convnext_is_channels_first_but_inside_its_blocks(self) -> None:
        pass_ = seen(convnext(), 1, 3, 64, 64)
        for path in ("features.0", "features.0.1", "features.1.0", "features.2", "features"):
            assert pass_.layout(path) == Layout("first"), path
        for path in ("features.1.0.block.1", "features.1.0.block.2", "features.1.0.block.5"):
            assert pass_.layout(path) == Layout("last"), path  # 16 maps of 16x16: no length tells them apart

    @pytest.mark.parametrize("train", [False, True])
    def test_swin_is_channels_last_from_the_patches_on(self, train: bool) -> None:
        pass_ = seen(swin(), 1, 3, 32, 64, train=train)
        assert pass_.layout("features.0.0") == Layout("first")
        for path in ("features.0", "features.1.0", "features.1.1.attn", "features.1.1", "features.2", "norm"):
            assert pass_.layout(path) == Layout("last"), path
        assert pass_.layout("permute") == Layout("first")

    @pytest.mark.parametrize("train", [False, True])
    @pytest.mark.parametrize("path", ["encoder.dropout", "encoder.layers.encoder_layer_0", "encoder.ln"])
    def test_vit_is_a_row_of_tokens(self, path: str, train: bool) -> None:
        pass_ = seen(vit(), 1, 3, 32, 32, train=train)
        assert pass_.layout(path) == Layout("tokens", 1, (4, 4))
        assert pass_.layout("conv_proj") == Layout("first")

    @pytest.mark.parametrize("patches", ["conv", "reshape"])
    @pytest.mark.parametrize("prefix", [0, 1, 2, 5])
    def test_any_number_of_prefix_tokens_and_maps_that_are_not_square(self, prefix: int, patches: str) -> None:
        model = Tokens(lambda x: x.mean(1), prefix=prefix, patches=patches)
        assert seen(model, 1, 3, 12, 20).layout("norm") == Layout("tokens", prefix, (6, 10))

    @pytest.mark.parametrize(("shape", "grid"), [((16,), (8,)), ((6, 8), (3, 4)), ((4, 6, 8), (2, 3, 4))])
    def test_one_two_and_three_spatial_axes(self, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
        assert seen(Tokens(first, axes=len(shape)), 1, 3, *shape).layout("norm") == Layout("tokens", 1, grid)

    def test_what_the_user_says_wins(self) -> None:
        pass_ = seen(vit(), 1, 3, 32, 32)
        assert pass_.layout("encoder.ln", grid=(2, 8)) == Layout("tokens", 1, (2, 8))
        with pytest.raises(InputError, match="prefix=2, grid=\\(4, 4\\) was given for 17 tokens"):
            pass_.layout("encoder.ln", grid=(4, 4), prefix=2)
        assert pass_.layout("conv_proj", grid=(2, 8)) == Layout("first")

    def test_maps_of_a_1d_network_are_channels_first(self) -> None:
        model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))
        assert seen(model, 1, 3, 20).layout("1") == Layout("first")

    def test_a_value_that_nothing_is_known_of_is_channels_first(self) -> None:
        assert seen(nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 5)), 1, 3, 4, 4).layout("0") == Layout()
        assert seen(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5)), 1, 3, 4, 4).layout("1") == Layout()

    def test_what_reads_a_value_says_it_where_its_maker_does_not(self) -> None:
        class Late(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.start, self.conv, self.fc = nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Linear(4, 5)

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(self.start(x)).mean((1, 2)) if x.shape[-1] == 4 else self.conv(self.start(x)).flatten(1)

        assert seen(Late(), 1, 6, 6, 4).layout("start") == Layout("last")
        assert seen(Late(), 1, 4, 6, 6).layout("start") == Layout("first")

    def test_a_mean_over_the_map_tells_the_channels(self) -> None:
        class Pooled(nn.Module):
            def __init__(self, *axes: int) -> None:
                super().__init__()
                self.start, self.axes = nn.Tanh(), axes

            def forward(self, x: Tensor) -> Tensor:
                return self.start(x).mean(self.axes)

        assert seen(Pooled(1, 2), 1, 6, 6, 4).layout("start") == Layout("last")
        assert seen(Pooled(2, 3), 1, 6, 6, 4).layout("start") == Layout("first")
        assert seen(Pooled(3), 1, 6, 6, 4).layout("start") == Layout("first")


class TestTokenFeatures:
    @pytest.mark.parametrize("train", [False, True])
    def test_torchvision(self, train: bool) -> None:
        """Also where PyTorch does the whole attention in one operation."""
        assert seen(vit(), 1, 3, 32, 32, train=train).features() == "encoder.layers.encoder_layer_1.ln_1"

    @pytest.mark.parametrize("by_hand", [False, True])
    @pytest.mark.parametrize("count", [1, 2])
    def test_the_input_of_the_last_attention(self, by_hand: bool, count: int) -> None:
        pass_ = seen(Tokens(first, by_hand=by_hand), count, 3, 12, 20)
        assert pass_.features() == "norms.1"
        assert pass_.layout("norms.1") == Layout("tokens", 1, (6, 10))

    def test_normalisation_behind_the_blocks(self) -> None:
        assert seen(Tokens(first, post_norm=True), 1, 3, 12, 20).features() == "norms.0"

    def test_two_tokens_are_read(self) -> None:
        assert seen(Tokens(lambda x: (x[:, 0] + x[:, 1]) / 2, prefix=2), 1, 3, 8, 8).features() == "norms.1"

    def test_whole_layers_in_one_operation(self) -> None:
        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 5)
                self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))

            def forward(self, x: Tensor) -> Tensor:
                x = self.embed(x).flatten(2).transpose(1, 2)
                for layer in self.layers:
                    x = layer(x)
                return self.head(x[:, 0])

        assert seen(Encoder(), 1, 3, 8, 8).features() == "layers.0"

    @pytest.mark.parametrize(
        "pool",
        [
            lambda x: x.mean(1),
            lambda x: x[:, 1:].mean(1),
            lambda x: x.sum(1),
            lambda x: x.amax(1),
            lambda x: nn.functional.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1),
            lambda x: x[:, 0] + x[:, 1:].mean(1),
        ],
    )
    def test_none_where_positions_are_pooled(self, pool: Callable[[Tensor], Tensor]) -> None:
        assert seen(Tokens(pool), 1, 3, 8, 8).features() is None

    def test_none_without_attention(self) -> None:
        assert seen(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 5)), 1, 3, 8, 8).features() is None
        assert seen(swin(), 1, 3, 32, 32).features() is None

    def test_a_pooling_that_is_an_attention_is_explained_by_what_it_reads(self) -> None:
        class Query(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.kv, self.query = nn.Linear(8, 16), nn.Parameter(torch.randn(1, 1, 8))

            def forward(self, x: Tensor) -> Tensor:
                k, v = self.kv(x).chunk(2, dim=2)
                return nn.functional.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), k, v)[:, 0]

        assert seen(Tokens(Query()), 1, 3, 8, 8).features() == "norm"

    def test_a_normalisation_written_by_hand_is_no_pooling(self) -> None:
        def by_hand(x: Tensor) -> Tensor:
            return (x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt())[:, 0]

        assert seen(Tokens(by_hand), 1, 3, 8, 8).features() == "norms.1"

    def test_gradients_reach_the_patches_there_and_not_behind_it(self) -> None:
        model = vit().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        last = model.encoder.layers[-1]
        held: list[Tensor] = []
        for module in (last.ln_1, last):
            module.register_forward_hook(lambda m, args, out: held.append(out))
        scores = model(torch.randn(1, 3, 32, 32))
        before, behind = torch.autograd.grad(scores[0, 1], held)
        assert (before[0, 1:].abs().amax(1) > 1e-3 * before.abs().max()).all()
        assert not behind[0, 1:].any()


@pytest.mark.parametrize("grid", ["x", (), (0, 4), (2.5, 4), 16, ("4", "4"), (True, 4)])
def test_what_is_no_grid(grid: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"grid is {grid!r}; expected how many tokens lie along each axis")):
        TorchBackend(nn.Linear(2, 2), grid=grid)


@pytest.mark.parametrize("prefix", ["y", -1, 1.5, (1,), False])
def test_what_is_no_number_of_tokens(prefix: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"prefix is {prefix!r}; expected how many tokens come before")):
        TorchBackend(nn.Linear(2, 2), prefix=prefix)


def test_grids_and_prefixes_of_any_kind_of_integer() -> None:
    TorchBackend(nn.Linear(2, 2), grid=[np.int64(4), 4], prefix=np.int32(0))  # type: ignore[arg-type]
