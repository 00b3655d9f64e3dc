"""Networks that the tests share: small ones written in many ways, and torchvision's with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

TORCHVISION = (
    "resnet18",
    "googlenet",
    "mobilenet_v2",
    "squeezenet1_0",
    "squeezenet1_1",
    "densenet121",
    "efficientnet_b0",
    "vgg16_gap",
)


class VggGap(nn.Module):
    """A VGG16 trunk with a new head: global average pooling and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.vgg16(weights=None).features
        self.classifier = nn.Linear(512, 17)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def network(name: str, seed: int = 0) -> nn.Module:
    """A network of random weights in training mode, with batch-norm statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    if name == "vgg16_gap":
        model: nn.Module = VggGap()
    else:
        options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about the default of init_weights
            model = getattr(torchvision.models, name)(weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.train()


class Small(nn.Module):
    """A user's own network; ``tail`` maps the ReLU features, the linear layer and the 1x1 convolution to scores."""

    def __init__(
        self, tail: Callable[[Tensor, nn.Linear, nn.Conv2d], Tensor], channels: int = 6, classes: int = 4
    ) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, channels, 3, stride=2)
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        self.conv = nn.Conv2d(channels, classes, 1)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(torch.relu(self.norm(self.trunk(x))), self.fc, self.conv)


# However it is written: name -> (tail, which tensor is the features: "relu" or "conv").
TAILS: dict[str, Callable[[Tensor, nn.Linear, nn.Conv2d], Tensor]] = {
    "mean of two axes": lambda a, fc, conv: fc(a.mean((2, 3))),
    "negative axes": lambda a, fc, conv: fc(a.mean((-1, -2))),
    "mean of one axis, twice": lambda a, fc, conv: fc(a.mean(3).mean(2)),
    "flatten, then mean": lambda a, fc, conv: fc(a.flatten(2).mean(-1)),
    "view, then mean": lambda a, fc, conv: fc(a.contiguous().view(a.shape[0], a.shape[1], -1).mean(2)),
    "adaptive pooling, torch.flatten": lambda a, fc, conv: fc(torch.flatten(F.adaptive_avg_pool2d(a, 1), 1)),
    "adaptive pooling, squeeze": lambda a, fc, conv: fc(F.adaptive_avg_pool2d(a, (1, 1)).squeeze(-1).squeeze(-1)),
    "adaptive pooling, indexing": lambda a, fc, conv: fc(F.adaptive_avg_pool2d(a, 1)[:, :, 0, 0]),
    "average pooling over the whole map": lambda a, fc, conv: fc(F.avg_pool2d(a, a.shape[2:]).flatten(1)),
    "sum over the map, divided": lambda a, fc, conv: fc(a.sum((2, 3)) / (a.shape[2] * a.shape[3])),
    "einsum": lambda a, fc, conv: fc(torch.einsum("nchw->nc", a) / (a.shape[2] * a.shape[3])),
    "channels last": lambda a, fc, conv: fc(a.permute(0, 2, 3, 1).mean((1, 2))),
    "matrix product and addition": lambda a, fc, conv: a.mean((2, 3)) @ fc.weight.t() + fc.bias,
    "no bias": lambda a, fc, conv: F.linear(a.mean((2, 3)), fc.weight),
    "scaled scores": lambda a, fc, conv: 3 * fc(a.mean((2, 3))) + 1,
    "scaled features": lambda a, fc, conv: fc(a.mean((2, 3)) * 0.5 - 0.1),
    "normalised weights": lambda a, fc, conv: F.linear(a.mean((2, 3)), F.normalize(fc.weight)),
    "softmax": lambda a, fc, conv: fc(a.mean((2, 3))).softmax(1),
    "log softmax": lambda a, fc, conv: F.log_softmax(fc(a.mean((2, 3))), dim=1),
    "sigmoid": lambda a, fc, conv: torch.sigmoid(fc(a.mean((2, 3)))),
    "1x1 convolution behind the pooling": lambda a, fc, conv: conv(a.mean((2, 3), keepdim=True)).flatten(1),
    "1x1 convolution before the pooling": lambda a, fc, conv: conv(a).mean((2, 3)),
    "1x1 convolution, ReLU, pooling": lambda a, fc, conv: F.relu(conv(a)).mean((2, 3)),
    "dropout": lambda a, fc, conv: fc(F.dropout(a.mean((2, 3)), training=fc.training)),
    "in-place ReLU before the pooling": lambda a, fc, conv: fc(F.relu((a - 0.2), inplace=True).mean((2, 3))),
}

# No linear head behind a global average pooling: name -> (tail, what the error must say).
REFUSED: dict[str, tuple[Callable[[Tensor, nn.Linear, nn.Conv2d], Tensor], str]] = {
    "ReLU behind the pooling": (lambda a, fc, conv: fc(F.relu(a.mean((2, 3)) - 1)), "relu stands in front"),
    "maximum": (lambda a, fc, conv: fc(a.amax((2, 3))), "maximum over the map"),
    "flattened": (
        lambda a, fc, conv: F.adaptive_avg_pool2d(a, (1, 2)).flatten(1) @ fc.weight.t().repeat(2, 1),
        r"the map \(6x1x2\) is flattened",
    ),
    "two poolings joined": (
        lambda a, fc, conv: torch.cat([a.mean((2, 3)), a.amax((2, 3))], 1) @ fc.weight.t().repeat(2, 1),
        "cat joins several tensors",
    ),
    "layer normalisation": (lambda a, fc, conv: fc(F.layer_norm(a.mean((2, 3)), (6,))), "normalises over the channels"),
    "attention": (lambda a, fc, conv: fc(a.mean((2, 3)) * a.mean((2, 3)).softmax(1)), "joins two tensors"),
}


class Block(nn.Module):
    """A residual block whose shortcut subsamples and pads with zero channels (option A of He et al.)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.grow = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow // 2, self.grow // 2))
        return torch.relu(y + x)


class CifarResNet20(nn.Module):
    """ResNet-20 for CIFAR-10 (arXiv:1512.03385, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for i in (1, 2, 3):
            first = Block(widths[i - 1], widths[i], 1 if i == 1 else 2)
            setattr(self, f"layer{i}", nn.Sequential(first, *[Block(widths[i], widths[i], 1) for _ in range(2)]))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))
