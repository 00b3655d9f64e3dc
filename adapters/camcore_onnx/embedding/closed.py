"""Maps by closed form: the head is linear over pooled features, so nothing has to be differentiated."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from camcore.errors import MethodNotPossible
from camcore.head import LinearHead
from camcore.methods.table import Method
from camcore.targets import Target
from camcore_onnx.embedding.choice import one_hot
from camcore_onnx.embedding.site import Site, weight_of
from camcore_onnx.gradients.finish import finish
from camcore_onnx.gradients.seeds import Seeds, slopes
from camcore_onnx.gradients.tensor import Tensor

__all__ = ["class_maps", "class_rows", "gradient_maps"]

_FLOAT = ir.DataType.FLOAT
_GATHER_BY_BATCH = 12  # the opset since which GatherND has batch_dims


def class_maps(site: Site, head: LinearHead) -> Tensor:
    """``sum_k W_ck A_k``: (N, T, P), or (N, K, *S) as the features are laid out."""
    if site.classes is None:
        return _all_maps(site, head)
    if head.is_identity:
        return _picked_maps(site, site.classes)
    return weight_of(site, head.weight).gather(site.classes, 0).matmul(site.features)


def _all_maps(site: Site, head: LinearHead) -> Tensor:
    """Of every class: a convolution of 1x1, which runtimes keep in the layout of the features."""
    native = site.native
    if head.is_identity:
        return native if site.layout.kind == "first" else site.features
    weight = weight_of(site, head.weight)
    if site.layout.kind != "first" or _is_turned(site.layer):
        return weight.matmul(site.features)
    kernel = weight.unsqueeze(*range(2, native.rank))
    shape = (native.shape[0], head.classes, *native.shape[2:])
    return site.pen.op("Conv", native, kernel, shape=shape, kernel_shape=[1] * (native.rank - 2))


def _is_turned(layer: ir.Value) -> bool:
    """Whether channels were last just before: a convolution would keep runtimes from cancelling that Transpose."""
    node = layer.producer()
    return node is not None and node.op_type == "Transpose"


def _picked_maps(site: Site, classes: Tensor) -> Tensor:
    """Where the features are the class maps themselves."""
    shape = (*classes.shape, site.features.shape[2])
    if site.pen.opset >= _GATHER_BY_BATCH:
        return site.pen.op("GatherND", site.features, classes.unsqueeze(2), shape=shape, batch_dims=1)
    return one_hot(site, classes).matmul(site.features)


def gradient_maps(site: Site, head: LinearHead, method: Method, target: Target, *, alone: bool) -> Tensor:
    """(N, T, P) of a method that is made of gradients: ``W_ck / |S|``, the same at every position."""
    rows = class_rows(site, head) if target.plain else _sloped_rows(site, head, target, alone=alone)
    gradients = (rows / site.features.count(2)).unsqueeze(3)
    bend = [gradients * 0.0] if "curvature" in method.needs else []
    return finish(method, site.features, gradients, *bend)


def class_rows(site: Site, head: LinearHead) -> Tensor:
    """(N or 1, T, C): the rows of the weight."""
    if head.is_identity:
        every = site.pen.constant(np.eye(head.classes, dtype=np.float32)[None])
        return every if site.classes is None else one_hot(site, site.classes)
    weight = weight_of(site, head.weight)
    return weight.unsqueeze(0) if site.classes is None else weight.gather(site.classes, 0)


def _sloped_rows(site: Site, head: LinearHead, target: Target, *, alone: bool) -> Tensor:
    """The slopes of a target over the scores, through the weight."""
    classes, scores = site.classes, site.scores
    if classes is None:
        raise MethodNotPossible(
            f"the target {target.name!r} of all classes at once is not made in the graph; take classes='top5', 'input'"
        )
    wide = (one_hot(site, classes) * 0.0 + scores.unsqueeze(1)).reshape(-1, head.classes, shape=(None, head.classes))
    seeds = Seeds(wide, classes.reshape(-1, 1, shape=(None, 1)), alone=alone)
    slopes_ = slopes(seeds, target.code)
    rows = slopes_ if head.is_identity else slopes_.matmul(weight_of(site, head.weight))
    lengths = [site.pen.constant(np.array([-1], np.int64)), classes.length(1)]
    return rows.reshape(*lengths, head.channels, shape=(*classes.shape, head.channels))
