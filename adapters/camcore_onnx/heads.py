"""Find the head of a graph: walk back from the scores until the pooling is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from camcore.errors import HeadNotFound
from camcore.head import WHOLE, Head
from camcore.walk import HeadWalk, refusal, times
from camcore_onnx.constants import Constants
from camcore_onnx.steps import POOLS, STEPS, Step, channels_of, is_one, space_of

__all__ = ["Found", "find_head", "last_map"]


_DEQUANTISED = "dequantised features"


@dataclass(frozen=True, eq=False)
class Found:
    """Where the features are and how the scores come from them.

    Attributes
    ----------
    logits : ir.Value
        The scores meant: before a final softmax where there is one.
    features : ir.Value or None
        What the pooling reads; the last feature map where there is no such head; None where there is no map at all.
    channel_axis : int
        1, or the last axis for channels-last graphs.
    obstacle : str
        Why ``head`` is None.
    """

    logits: ir.Value
    features: ir.Value | None
    head: Head | None
    how: str = ""
    obstacle: str = ""
    scores_are: str = "logit"
    slack: Any = 0.0
    span: tuple[float, float] = WHOLE
    channel_axis: int = 1

    def reads(self, value: ir.Value) -> bool:
        """Whether a tensor is the features, or nothing but copies and casts stand between."""
        at = self.features
        while at is not None and at is not value:
            node = at.producer()
            at = node.inputs[0] if node is not None and node.op_type in ("Identity", "Cast", "Dropout") else None
        return at is value


def find_head(output: ir.Value, constants: Constants) -> Found:
    """Walk back from an output until the pooling is reached.

    Parameters
    ----------
    output : ir.Value
        A graph output with class scores.
    constants : Constants

    Returns
    -------
    Found
        Without a head where there is none; ``obstacle`` then names the operator in the way.
    """
    walk = HeadWalk()
    value = logits = output
    axis = 1
    try:
        while not walk.pooled:
            step = _next_step(value, walk, constants)
            before = walk.untouched
            value = step.back()
            axis = step.channel_axis or axis
            if before and walk.scores_are != "logit" and step.node.op_type in ("Softmax", "Sigmoid", "LogSoftmax"):
                logits = value
        value, axis = _more_pools(value, axis, walk, constants)
        value = _unflatten(value) if axis == 1 else value
        head = walk.head(channels_of(value, axis) or walk.width or _static(logits))
    except HeadNotFound as error:
        obstacle = _explain(output, value, walk, error)
        return Found(logits, last_map(value, constants), None, obstacle=obstacle, scores_are=walk.logits_are)
    return Found(
        logits,
        value,
        head,
        how=f"{_DEQUANTISED} -> {walk.how()}" if _is_dequantised(value) else walk.how(),
        scores_are=walk.logits_are,
        slack=walk.slack,
        span=walk.span,
        channel_axis=axis,
    )


def _is_dequantised(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _next_step(value: ir.Value, walk: HeadWalk, constants: Constants) -> Step:
    node = value.producer()
    if node is None:
        raise HeadNotFound("the way back reaches the input of the model")
    if node.op_type not in STEPS or node.domain not in ("", "ai.onnx"):
        name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
        raise HeadNotFound(f"{name} stands in front of the scores, and it is not linear")
    return Step(node, walk, constants)


def _more_pools(value: ir.Value, axis: int, walk: HeadWalk, constants: Constants) -> tuple[ir.Value, int]:
    """A mean over one axis after a mean over another is one mean over both."""
    while (node := value.producer()) is not None and node.op_type in POOLS:
        step = Step(node, HeadWalk(), constants)
        try:
            source = step.back()
        except HeadNotFound:
            return value, axis  # a smaller pooling is part of the network
        if not step.attribute("keepdims", 1):  # the axes averaged away were dropped: count them again
            rank = len(source.shape or ()) or axis + 1
            axis = [a for a in range(rank) if a not in step.averaged][axis]
        if axis in step.averaged:
            return value, axis
        value = source
        walk.pool(node.op_type, step.walk.gain)
    return value, axis


def _unflatten(value: ir.Value) -> ir.Value:
    """(N, C, H*W) made of (N, C, H, W), or (N, C, 1, L) made of (N, C, L): the features are what it was made of."""
    node = value.producer()
    while node is not None and node.op_type in ("Reshape", "Flatten", "Unsqueeze"):
        source = node.inputs[0]
        if source is None or space_of(source) is None or not _same_channels(source, value):
            break
        value, node = source, source.producer()
    return value


def _same_channels(a: ir.Value, b: ir.Value) -> bool:
    return channels_of(a) is not None and channels_of(a) == channels_of(b)


def _explain(output: ir.Value, value: ir.Value, walk: HeadWalk, error: HeadNotFound) -> str:
    space = space_of(value)
    flat = bool(space) and not all(is_one(n) for n in space or ()) and walk.path[-1:] in (["Reshape"], ["Flatten"])
    shown = f"{value.name!r} ({times([channels_of(value), *(space or ())])})" if flat else None
    return refusal([repr(output.name), *walk.path], walk.pooled, str(error), shown)


def last_map(value: ir.Value, constants: Constants) -> ir.Value | None:
    """The last tensor with spatial axes on the way back from ``value``."""
    seen: set[ir.Value] = set()
    queue = [value]
    while queue:
        value = queue.pop(0)
        if value in seen or constants.is_constant(value):
            continue
        seen.add(value)
        space = space_of(value)
        node = value.producer()
        if node is None:
            continue
        if (
            space is not None
            and not all(is_one(n) for n in space)
            and node.op_type not in ("QuantizeLinear", "Reshape")
        ):
            return value
        queue += [v for v in node.inputs if v is not None]
    return None


def _static(logits: ir.Value) -> int:
    count = channels_of(logits)
    if count is None:
        raise HeadNotFound("the number of classes is not known: the model states no shapes")
    return count
