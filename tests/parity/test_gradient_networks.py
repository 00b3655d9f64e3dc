"""Gradients of whole networks by graph nodes, against PyTorch's autograd on the module that was exported."""

from __future__ import annotations

from typing import Any

import pytest
from camcore_torch.exporting import EXPORTERS
from network_gradients import SMALL, TORCHVISION, compare, network

QUICK = {
    ("vit", "torchscript"),
    ("vit", "dynamo"),
    ("swin", "torchscript"),
    ("mobilenet_v3_small", "torchscript"),
    ("shufflenet_v2_x0_5", "torchscript"),
    ("squeezenet1_0", "dynamo"),
    ("resnet18", "torchscript"),
}
NOT_EXPORTED: set[tuple[str, str]] = set()


def pairs() -> list[Any]:
    """Every pair of network and exporter; those that are not quick belong to the wide form."""
    return [
        pytest.param(name, exporter, marks=[] if (name, exporter) in QUICK else pytest.mark.slow)
        for name in (*SMALL, *TORCHVISION)
        for exporter in EXPORTERS
        if (name, exporter) not in NOT_EXPORTED
    ]


@pytest.mark.parametrize(("name", "exporter"), pairs())
def test_gradients_at_three_layers_are_those_of_autograd(name: str, exporter: Any) -> None:
    size, layers = (SMALL | TORCHVISION)[name]
    found = compare(name, network(name), size, layers, exporter)
    assert len(found) == 3
    assert all(f.agrees for f in found), "\n".join(map(str, found))
