"""Count what is in a serialized model before it is parsed: a node of 4 bytes becomes an object of hundreds."""

from __future__ import annotations

from collections import Counter

from camcore_onnx.reading import limits

__all__ = ["Unreadable", "survey"]

# Of each message the fields that are looked into, by number: see onnx.proto
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "value", 15: "tensor"},
    "function": {4: "entry", 5: "entry", 7: "node", 11: "entry", 12: "value"},
    "node": {1: "entry", 2: "entry", 5: "attribute", 9: "entry"},
    "attribute": {
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((9, 15), "entry"),
        **dict.fromkeys((5, 10, 22, 23), "tensor"),
    },
}
_WHAT = {
    "node": ("nodes", "MAX_NODES"),
    "tensor": ("stored tensors", "MAX_TENSORS"),
    "value": ("inputs, outputs and stated shapes", "MAX_VALUES"),
    "metadata": ("metadata entries", "MAX_METADATA_KEYS"),
    "function": ("functions", "MAX_FUNCTIONS"),
    "attribute": ("attributes", "MAX_ENTRIES"),
    "entry": ("names and texts", "MAX_ENTRIES"),
    "graph": ("graphs", "MAX_NODES"),
    "training": ("training graphs", "MAX_FUNCTIONS"),
}


class Unreadable(Exception):
    """It is no serialized message of those that a model is made of."""


def survey(data: bytes, name: str) -> Counter[str]:
    """How many messages of each kind there are.

    Raises
    ------
    InputError
        If there are too many, or graphs too deep inside each other.
    Unreadable
        If there is a group in it, which no model has. What is cut off ends the count, and the parser says so.
    """
    counts: Counter[str] = Counter()
    stack = [("model", 0, len(data), 0)]
    while stack:
        kind, at, end, depth = stack.pop()
        known = _FIELDS[kind]
        while at < end:
            field, at, stop = _field(data, at, end)
            inner = known.get(field)
            if inner is not None:
                counts[inner] += 1
                if inner in _FIELDS and at < stop:
                    stack.append((inner, at, stop, depth + (inner == "graph")))
                if counts[inner] > getattr(limits, _WHAT[inner][1]):
                    what, constant = _WHAT[inner]
                    raise limits.too_many(name, f"more than {getattr(limits, constant)}", what, constant)
            at = stop
        if depth > limits.MAX_DEPTH + 1:
            raise limits.too_many(name, f"more than {limits.MAX_DEPTH}", "graphs inside each other", "MAX_DEPTH")
    return counts


def _field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """The number of a field, where its content begins and where it ends; number 0 for what is not a message."""
    tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at, end)
    kind = tag & 7
    if kind == 2:
        length, at = (data[at], at + 1) if at < end and data[at] < 128 else _varint(data, at, end)
        return ((tag & 0xFFFFFFFF) >> 3, at, at + length) if at + length <= end else (0, at, end)
    if kind == 0:
        return 0, at, _varint(data, at, end)[1]
    if kind in (1, 5):
        return 0, at, at + (8 if kind == 1 else 4)
    raise Unreadable


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends; at the end of the data that is the end."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            break
    return value, end
