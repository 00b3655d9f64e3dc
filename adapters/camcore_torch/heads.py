"""Find the head in what a network did: walk back from the scores until the pooling is reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

from camcore.errors import HeadNotFound
from camcore.head import Head
from camcore.walk import HeadWalk, refusal, times
from camcore_torch.record import Recorder
from camcore_torch.steps import FLATTENERS, POOLS, SAME, STEPS, Step

__all__ = ["Found", "find_head"]


@dataclass(frozen=True, eq=False)
class Found:
    """Numbers of the values that matter in a record: the scores before a softmax, and the features.

    ``head`` is None where there is none; ``obstacle`` then says why, and ``features`` is the last map.
    """

    logits: int
    features: int | None
    head: Head | None
    how: str = ""
    obstacle: str = ""
    scores_are: str = "logit"
    channel_axis: int = 1


def find_head(record: Recorder, scores: int, start: int) -> Found:
    """Walk back from the scores until the pooling is reached.

    Parameters
    ----------
    record : Recorder
    scores : int
        Number of the value with the scores.
    start : int
        Number of the value that the record begins with: the images, or the features when only the tail was recorded.
    """
    live = record.depends_on(start)
    walk, value, logits, axis = HeadWalk(), scores, scores, 1
    try:
        while not walk.pooled:
            step = _next_step(record, value, walk, live)
            value = STEPS[step.name](step)
            axis = step.channel_axis or axis
            logits = value if walk.untouched and walk.scores_are != "logit" and step.name not in SAME else logits
        value = _more_pools(record, value, walk, live)
        value = _unflatten(record, value) if axis == 1 else value
        if value not in record.producer:
            raise HeadNotFound("the pooling reads the images themselves")
        head = walk.head(record.tensors[value].shape[axis])
    except HeadNotFound as error:
        obstacle = _explain(record, value, walk, error)
        return Found(logits, _last_map(record, value, live), None, obstacle=obstacle, scores_are=walk.logits_are)
    return Found(logits, value, head, how=walk.how(), scores_are=walk.logits_are, channel_axis=axis)


def _next_step(record: Recorder, value: int, walk: HeadWalk, live: set[int]) -> Step:
    if value not in record.producer:
        raise HeadNotFound("the way back reaches the images")
    step = Step(record, record.calls[record.producer[value]], walk, live)
    if step.name not in STEPS:
        raise HeadNotFound(f"{step.name} stands in front of the scores, and it is not linear")
    return step


def _more_pools(record: Recorder, value: int, walk: HeadWalk, live: set[int]) -> int:
    """A mean over one axis after a mean over another is one mean over both."""
    while value in record.producer and record.calls[record.producer[value]].name in POOLS:
        call = record.calls[record.producer[value]]
        try:
            value = STEPS[call.name](Step(record, call, HeadWalk(), live))
        except HeadNotFound:
            return value  # a smaller pooling is part of the network
        walk.pool(call.name)
    return value


def _unflatten(record: Recorder, value: int) -> int:
    """(N, C, H*W) made of (N, C, H, W), or (N, C, 1, L) made of (N, C, L): the features are what it was made of."""
    while value in record.producer and record.calls[record.producer[value]].name in (*FLATTENERS, "unsqueeze"):
        source = record.calls[record.producer[value]].sources[0]
        before, after = record.tensors[source].shape, record.tensors[value].shape
        if len(before) < 3 or before[:2] != after[:2]:
            break
        value = source
    return value


def _last_map(record: Recorder, value: int, live: set[int]) -> int | None:
    """The last value with spatial axes on the way back from ``value``."""
    seen: set[int] = set()
    queue = [value]
    while queue:
        number = queue.pop(0)
        if number in seen or number not in live or number not in record.producer:
            continue
        seen.add(number)
        shape = record.tensors[number].shape
        if len(shape) >= 3 and math.prod(shape[2:]) > 1:
            return number
        queue += record.calls[record.producer[number]].sources
    return None


def _explain(record: Recorder, value: int, walk: HeadWalk, error: HeadNotFound) -> str:
    shape = tuple(record.tensors[value].shape)
    flat = len(shape) > 3 and math.prod(shape[2:]) > 1 and walk.path[-1:] and walk.path[-1] in FLATTENERS
    return refusal(["scores", *walk.path], walk.pooled, str(error), f"({times(shape[1:])})" if flat else None)
