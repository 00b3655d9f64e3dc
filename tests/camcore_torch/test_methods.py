"""Every method of the table on PyTorch modules: no trace, any context, any number of axes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_autograd import forward, relative, slopes
from torch_traces import no_trace, prepared
from torchvision.models import VisionTransformer

import camcore
from camcore import METHODS, HeadNotFound, InputError, MethodNotPossible

EVERY = tuple(METHODS)
OF_THE_HEAD = {"cam", "recam"}  # defined at the features that the head reads, nowhere else
SOME = ("gradcam", "shapleycam", "ablationcam", "scorecam", "smoothgradcam++", "eigencam")  # one of each way


def quick(values: tuple[str, ...], kept: tuple[str, ...] = SOME) -> list[Any]:
    """Those that are not kept belong to the wide form."""
    return [v if v in kept else pytest.param(v, marks=pytest.mark.slow) for v in values]


def images(count: int = 2, side: int = 24) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


class Net(nn.Module):
    """Two blocks with normalisation, ReLU in place and dropout; ``fuse`` counts its calls and may blow."""

    class Fuse(nn.Module):
        left = -1

        def forward(self, x: Tensor) -> Tensor:
            Net.Fuse.left -= 1
            if Net.Fuse.left == 0:
                raise RuntimeError("out of luck")
            torch.rand(3)  # a network may draw
            return x

    def __init__(self, dropout: float = 0.1, classes: int = 3) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.fuse = Net.Fuse()
        self.two = nn.Sequential(nn.Conv2d(4, 5, 3, 2), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.drop, self.fc = nn.Dropout(dropout), nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.two(self.fuse(self.one(x))).mean((2, 3))))


def net(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return prepared(Net(**options), 24)


def few(method: str) -> dict[str, Any]:
    """Options that make it quick, and possible without a second classifier."""
    if method == "recam":
        return {"variant": "self"}
    return {"samples": 2} if "samples" in METHODS[method].options else {}


def explainer(model: nn.Module, method: str, layer: str | None = "one", **options: Any) -> camcore.Explainer:
    return camcore.explainer(
        model, method=method, layer=None if method in OF_THE_HEAD else layer or None, **few(method), **options
    )


@pytest.mark.parametrize("layer", [None, "one"])
@pytest.mark.parametrize("method", EVERY)
def test_no_trace(method: str, layer: str | None) -> None:
    model = net()
    with no_trace(model):
        out = explainer(model, method, layer)(images(), "top2")
    assert np.isfinite(out.maps).all()


@pytest.mark.parametrize("method", EVERY)
def test_no_trace_in_the_mode_of_the_caller(method: str) -> None:
    model = net(dropout=0.0)
    model.drop = nn.Identity()
    mixed = pytest.raises(MethodNotPossible, match=r"from image to image in a batch|with the statistics of the batch")
    runs = METHODS[method].needs & {"tail", "contributions"}
    with no_trace(model, versions=False), mixed if runs else nullcontext():
        explainer(model, method, mode="caller")(images(4), "top2")


@pytest.mark.parametrize("layer", quick(("", "one"), ("one",)))
@pytest.mark.parametrize("method", EVERY)
def test_no_trace_when_any_of_the_forward_passes_raises(method: str, layer: str) -> None:
    model = net()
    Net.Fuse.left = 0
    explainer(model, method, layer)(images(), "top2")
    calls, Net.Fuse.left = -Net.Fuse.left, -1
    for call in range(1, calls + 1):
        Net.Fuse.left = call
        with no_trace(model), pytest.raises(InputError, match="out of luck"):
            explainer(model, method, layer)(images(), "top2")
        assert Net.Fuse.left == 0


@pytest.mark.parametrize("method", [m for m in EVERY if METHODS[m].probe is not None or "moments" in METHODS[m].needs])
def test_no_trace_when_the_report_raises(method: str) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise Stop

    model = net()
    asked = explainer(model, method)
    asked.report = stop
    with no_trace(model), pytest.raises(Stop):
        asked(images(), "top2")
    asked.report = None
    with no_trace(model):
        again = asked(images(), "top2").maps
    np.testing.assert_array_equal(again, explainer(model, method)(images(), "top2").maps)


@pytest.mark.parametrize("layer", quick(("", "one"), ("one",)))
@pytest.mark.parametrize("method", EVERY)
def test_eight_threads_share_an_explainer(method: str, layer: str) -> None:
    model = net()
    shared = explainer(model, method, layer)
    x = [np.random.default_rng(i).standard_normal((1, 3, 24, 24)).astype(np.float32) for i in range(8)]
    expected = [explainer(model, method, layer)(one, "top2").maps for one in x]
    found: dict[int, list[np.ndarray]] = {i: [] for i in range(8)}
    with no_trace(model):
        threads = [
            threading.Thread(target=lambda i=i: found[i].extend(shared(x[i], "top2").maps for _ in range(2)))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(8):
        assert len(found[i]) == 2
        for maps in found[i]:
            assert relative(maps, expected[i]) <= 1e-6


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("context", quick((*CONTEXTS,), ("inference_mode", "autocast")))
@pytest.mark.parametrize("method", EVERY)
def test_context_of_the_caller_does_not_matter(method: str, context: str) -> None:
    model = net()
    expected = explainer(model, method)(images(), "top2").maps
    outside = explainer(model, method)
    outside(images(1))
    with CONTEXTS[context](), no_trace(model):
        np.testing.assert_array_equal(explainer(model, method)(images(), "top2").maps, expected)
        np.testing.assert_array_equal(outside(images(), "top2").maps, expected)


@pytest.mark.parametrize(
    ("method", "mode"),
    [(m, mode) for m in SOME for mode in ("eval", "caller") if (m, mode) != ("ablationcam", "caller")],
)
def test_a_training_step_under_autocast_goes_on(method: str, mode: str) -> None:
    """The cache of weights that autocast has cast: what we cast has no graph, and must not be found there."""

    def step(explain: bool) -> list[Tensor | None]:
        model = net(dropout=0.0)
        model.zero_grad()
        x = torch.from_numpy(images())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if explain:
                explainer(model, method, mode=mode)(images())
            loss = model(x).square().mean()
            if explain:
                explainer(model, method, mode=mode)(images())
            (loss + model(x).mean()).backward()
        return [p.grad for p in model.parameters()]

    for plain, explained in zip(step(False), step(True), strict=True):
        assert (plain is None) == (explained is None)
        if plain is not None and explained is not None:
            torch.testing.assert_close(explained, plain, rtol=0, atol=0)


@pytest.mark.parametrize("method", quick(EVERY))
def test_frozen_parameters(method: str) -> None:
    model = net()
    expected = explainer(model, method)(images(), "top2").maps
    for p in model.parameters():
        p.requires_grad_(False)
    with no_trace(model):
        np.testing.assert_array_equal(explainer(model, method)(images(), "top2").maps, expected)


# Maps are of products of rounded numbers, and those of mask methods of a softmax over them.
HALF = {torch.float16: 2e-2, torch.bfloat16: 2e-1}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("method", [m for m in EVERY if m != "random"])  # that is made of the bits of the features
def test_half_precision(method: str, dtype: torch.dtype) -> None:
    model = net().eval()
    model.one[0].requires_grad_(True)
    exact = explainer(model, method)(images(), [[0, 2], [1, 2]]).maps
    half = explainer(copy.deepcopy(model).to(dtype), method)(images(), [[0, 2], [1, 2]]).maps
    assert half.dtype == np.float32
    assert relative(half, exact) <= HALF[dtype]


def compiled_parts(model: nn.Module) -> nn.Module:
    model.two = torch.compile(model.two, backend="eager")
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_forward(model: nn.Module) -> nn.Module:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "compile": lambda m: torch.compile(m, backend="eager"),
    "compiled parts": compiled_parts,
    "compiled in place": compiled_in_place,
    "compiled forward": compiled_forward,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("method", SOME)
def test_wrapped_networks(method: str, wrapper: str) -> None:
    model = net(dropout=0.0).eval()
    expected = explainer(model, method)(images(), "top2").maps
    wrapped = WRAPPERS[wrapper](copy.deepcopy(model))
    with torch.no_grad():
        before = wrapped(torch.from_numpy(images()))
    asked = explainer(wrapped, method)
    for _ in range(2):
        np.testing.assert_array_equal(asked(images(), "top2").maps, expected)
    with torch.no_grad():
        assert torch.equal(wrapped(torch.from_numpy(images())), before)


@pytest.mark.parametrize("method", SOME)
def test_layers_inside_compiled_parts(method: str) -> None:
    model = net(dropout=0.0).eval()
    expected = camcore.explainer(model, method=method, layer="two.0", **few(method))(images(), "top2").maps
    wrapped = compiled_parts(copy.deepcopy(model))
    found = camcore.explainer(wrapped, method=method, layer="two._orig_mod.0", **few(method))(images(), "top2").maps
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", SOME)
def test_parameters_are_read_as_they_are_now(method: str) -> None:
    model = net()
    asked = explainer(model, method)
    first = asked(images(), 1).maps
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5).add_(0.1)
    np.testing.assert_array_equal(asked(images(), 1).maps, explainer(model, method)(images(), 1).maps)
    model.one[0] = nn.Conv2d(3, 4, 3, 2)
    model.two[0].weight = nn.Parameter(torch.randn(5, 4, 3, 3))
    np.testing.assert_array_equal(asked(images(), 1).maps, explainer(model, method)(images(), 1).maps)
    assert not np.array_equal(asked(images(), 1).maps, first)


@pytest.mark.parametrize("method", quick(EVERY))
def test_images_that_do_not_lie_in_a_row(method: str) -> None:
    model, straight = net(), images(4)
    askew = np.ascontiguousarray(straight.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)[::2]
    assert not askew.flags.c_contiguous
    expected = explainer(model, method)(np.ascontiguousarray(askew), "top2").maps
    np.testing.assert_array_equal(explainer(model, method)(askew, "top2").maps, expected)
    np.testing.assert_array_equal(explainer(model, method)(torch.from_numpy(straight)[::2], "top2").maps, expected)


@pytest.mark.parametrize("method", [m for m in EVERY if m not in {*OF_THE_HEAD, "liftcam"}])
@pytest.mark.parametrize("layer", [None, "encoder.layers.encoder_layer_0"])
def test_vision_transformer(method: str, layer: str | None) -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(24, 6, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    nn.init.normal_(vit.heads.head.weight)
    with no_trace(vit):
        out = explainer(vit, method, layer)(images(), "top2")
    assert out.maps.shape == (2, 2, 4, 4)
    assert np.isfinite(out.maps).all()
    assert out.maps.std() > 0


def test_gradients_of_a_vision_transformer() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(24, 6, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3).double()
    nn.init.normal_(vit.heads.head.weight)
    layer, x = "encoder.layers.encoder_layer_0", images().astype(np.float64)
    out = camcore.explainer(vit, method="hirescam", layer=layer)(x, "all")
    scores, values = forward(vit, x, [layer])
    products = slopes(scores, values[layer], out.classes, lambda s, c: s[c]) * values[layer].detach().numpy()[:, None]
    assert relative(out.maps, products[:, :, 1:].sum(3).reshape(2, 3, 4, 4)) <= 1e-5


@pytest.mark.parametrize("method", sorted(OF_THE_HEAD))
def test_methods_of_the_head_are_refused_elsewhere(method: str) -> None:
    with pytest.raises(HeadNotFound, match="the head does not read what 'one' returns but 'two'"):
        camcore.explainer(net(), method=method, layer="one", **few(method))(images())


class Axes(nn.Module):
    """The same small network for signals (N, C, L) and for volumes (N, C, D, H, W)."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        conv: Any = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        norm: Any = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[axes]
        self.one = nn.Sequential(conv(2, 4, 3, 2), norm(4), nn.ReLU())
        self.two = nn.Sequential(conv(4, 5, 3, 1), nn.ReLU())
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(self.one(x)).flatten(2).mean(2))


@pytest.mark.parametrize("layer", [None, "one"])
@pytest.mark.parametrize(("axes", "size"), [(1, (60,)), (3, (11, 12, 13))])
@pytest.mark.parametrize("method", EVERY)
def test_signals_and_volumes(method: str, axes: int, size: tuple[int, ...], layer: str | None) -> None:
    torch.manual_seed(0)
    model = Axes(axes)
    x = np.random.default_rng(0).standard_normal((2, 2, *size)).astype(np.float32)
    with no_trace(model):
        out = explainer(model, method, layer)(x, "top2")
    grid = tuple((n - 1) // 2 - (2 if layer is None or method in OF_THE_HEAD else 0) for n in size)
    assert out.maps.shape == (2, 2, *grid)
    assert np.isfinite(out.maps).all()
    heat = out.heatmaps()
    assert heat.shape == (2, 2, *size)
    assert heat.min() >= 0
    assert heat.max() <= 1


@pytest.mark.parametrize(("axes", "size"), [(1, (60,)), (3, (11, 12, 13))])
def test_gradients_of_signals_and_volumes(axes: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Axes(axes).double()
    x = np.random.default_rng(0).standard_normal((2, 2, *size))
    scores, values = forward(model, x, ["one"])
    a = values["one"].detach().numpy()
    for method, rule in {"gradcam": lambda g: g.reshape(*g.shape[:3], -1).mean(3), "hirescam": lambda g: g}.items():
        out = camcore.explainer(model, method=method, layer="one")(x, "all")
        weights = rule(slopes(scores, values["one"], out.classes, lambda s, c: s[c]))
        weights = weights.reshape(*weights.shape, *(1 for _ in range(3 + axes - weights.ndim)))
        assert relative(out.maps, (weights * a[:, None]).sum(2)) <= 1e-5
