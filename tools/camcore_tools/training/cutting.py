"""Where a classifier has its feature maps and its last layer, and the part of it that ends at a layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
import torchvision
from camcore_torch.layouts import layout_of
from camcore_torch.record import Event, Recorder, watching_modules
from torch import fx, nn

from camcore.errors import InputError, suggest
from camcore.layout import Layout
from camcore_tools.training.architectures import on_meta

__all__ = ["FeatureMap", "Survey", "cut_behind", "map_size", "survey"]

_RESAMPLERS = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    nn.Flatten,
)
_ACTIVATIONS = {F.relu, F.gelu, F.silu, F.hardswish}


@dataclass(frozen=True)
class FeatureMap:
    """What a module returns: so many channels, and how they lie. ``size`` are the spatial lengths that were seen."""

    path: str
    channels: int
    layout: Layout
    size: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Survey:
    """What one forward pass showed.

    Attributes
    ----------
    classifier : str
        Path of the last ``nn.Linear`` or 1x1 ``nn.Conv2d``.
    maps : list of FeatureMap
        What modules return that have spatial axes, in the order of the forward pass.
    last : FeatureMap
        The last one that the classifier reads, in front of any pooling; of modules that return the same the outermost.
    modules : tuple of str
    """

    classifier: str
    maps: list[FeatureMap]
    last: FeatureMap
    modules: tuple[str, ...]

    def map_of(self, path: str) -> FeatureMap:
        """What the module of that path returns.

        Raises
        ------
        InputError
            If there is no such module, or it returns nothing with spatial axes.
        """
        found = {m.path: m for m in self.maps}
        if path in found:
            return found[path]
        if path in self.modules:
            raise InputError(
                f"cut {path!r}: this module returns no feature map with spatial axes, which a new head reads; "
                f"the last one that does is {self.last.path!r}"
            )
        raise InputError(f"cut {path!r}: the network has no module of that path. {suggest(path, found)}")


def survey(network: nn.Module, size: tuple[int, int]) -> Survey:
    """Learn the structure of a classifier from the shapes of one forward pass, without computing it."""
    record = Recorder()
    network.eval()
    with watching_modules(network, record) as events, record:
        on_meta(network, size)
    exits = [e for e in events if e.kind == "exit" and e.value is not None and e.path]
    classifier = [e for e in exits if _is_classifier(e.module)][-1]
    start = next(e.index for e in reversed(events) if e.kind == "enter" and e.module is classifier.module)
    maps = {e: m for e in exits for m in _map(record, e)}
    makers = {e.value: e for e in reversed(exits)}  # the innermost one leaves first
    read = [e for e in maps if e.index <= start and not isinstance(makers[e.value].module, _RESAMPLERS)]
    value = max(record.producer[e.value] for e in read if e.value is not None)
    same = [e for e in read if e.value is not None and record.producer[e.value] == value]
    last = min(same, key=lambda e: e.path.count("."))
    paths = tuple(path for path, _ in network.named_modules() if path)
    return Survey(classifier.path, list(maps.values()), maps[last], paths)


def _is_classifier(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1})


def _map(record: Recorder, event: Event) -> Iterator[FeatureMap]:
    """What the module returns, where that has spatial axes."""
    assert event.value is not None  # of those that were chosen
    native = tuple(record.tensors[event.value].shape)
    if len(native) not in (3, 4) or event.value not in record.producer:
        return
    try:
        layout = layout_of(record, event.value)
    except InputError:  # no grid of tokens
        return
    channels, *space = layout.shape(native[1:])
    lengths = tuple(n or 1 for n in space)
    if channels is not None and len(lengths) == 2 and (max(lengths) > 1 or layout.kind == "tokens"):
        yield FeatureMap(event.path, channels, layout, lengths)


def map_size(network: nn.Module, found: FeatureMap, size: tuple[int, int]) -> tuple[int, ...]:
    """The spatial lengths of a feature map, for pictures of another size than it was seen with."""
    shapes: list[tuple[int, ...]] = []
    handle = network.get_submodule(found.path).register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape)))
    try:
        on_meta(network, size)
    finally:
        handle.remove()
    channels_last = found.layout.kind == "last"
    return found.size if found.layout.kind == "tokens" else shapes[-1][1:3] if channels_last else shapes[-1][2:]


class _PathTracer(fx.Tracer):
    """Looks only into the modules that the layer lies in; all others stay whole, with their paths and their code."""

    def __init__(self, path: str) -> None:
        super().__init__(autowrap_modules=(math, torchvision.ops))
        self._path = path

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._path.startswith(f"{module_qualified_name}.")


def cut_behind(network: nn.Module, path: str, head: nn.Module, *, activation: bool = False) -> fx.GraphModule:
    """The part of a network that ends at a layer, and a new head that reads what the layer returns.

    Parameters
    ----------
    network : nn.Module
        Its modules are shared with the result.
    path : str
        Of the layer.
    head : nn.Module
        Becomes the module ``head``.
    activation : bool
        Keep an activation that the network applies to the layer in a call of its own.

    Returns
    -------
    GraphModule
        Paths of modules and names of tensors are those of ``network``; what is not needed is left out.

    Notes
    -----
    torchvision's ``create_feature_extractor`` inlines all containers, so that ``layer4`` would no longer be a layer
    that can be named, and keeps two graphs; here modules beside the path stay as they are, in training and evaluation.
    """
    graph = _PathTracer(path).trace(network)
    node = [n for n in graph.nodes if n.op == "call_module" and n.target == path][-1]
    after = list(node.users)
    if activation and len(after) == 1 and after[0].op == "call_function" and after[0].target in _ACTIVATIONS:
        node = after[0]
    (output,) = (n for n in graph.nodes if n.op == "output")
    network.add_module("head", head)
    with graph.inserting_before(output):
        output.args = (graph.call_module("head", (node,)),)
    whole = fx.GraphModule(network, graph)
    whole.graph.eliminate_dead_code()
    return fx.GraphModule(whole, whole.graph, type(network).__name__)  # takes over only what the graph calls
