"""Small networks with channels last or tokens: torchvision's, and one that is built in many ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer


def vit(**options: int) -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return VisionTransformer(**{**sizes, **options}, num_classes=5)


def swin() -> nn.Module:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=5)


class Tokens(nn.Module):
    """Patches of an image of any rank, ``prefix`` tokens in front, attention blocks; ``pool`` makes (N, C) of them.

    ``patches`` is how they are made: by a convolution, or by a reshape and a matrix.
    """

    def __init__(
        self,
        pool: Callable[[Tensor], Tensor],
        *,
        prefix: int = 1,
        axes: int = 2,
        patches: str = "conv",
        by_hand: bool = False,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.embed = getattr(nn, f"Conv{axes}d")(3, 8, 2, 2) if patches == "conv" else nn.Linear(12, 8)
        self.front = nn.Parameter(torch.randn(1, prefix, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.norm, self.head, self.pool = nn.LayerNorm(8), nn.Linear(8, 5), pool
        self.by_hand, self.post_norm = by_hand, post_norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) if hasattr(self.embed, "stride") else self.embed(cut(x))
        x = torch.cat([self.front.expand(x.shape[0], -1, -1), x], dim=1)
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            x = norm(x + out(self.attend(qkv(x)))) if self.post_norm else x + out(self.attend(qkv(norm(x))))
        return self.head(self.pool(self.norm(x)))

    def attend(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.reshape(*qkv.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.by_hand:
            mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        else:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)


def cut(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H/2 * W/2, 4 C): patches without a convolution."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def first(x: Tensor) -> Tensor:
    return x[:, 0]
