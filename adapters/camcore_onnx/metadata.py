"""What travels inside a model: labels, preprocessing and how its CAM is made; read back as untrusted data."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from camcore.errors import InputError
from camcore.labels import read_labels
from camcore.preprocess import Preprocess

__all__ = ["Card", "read_card", "write_card"]

PREFIX = "camcore."
_LIMIT = 8 << 20
_LONGEST = 4000  # characters of a text
_TEXTS = ("version", "layer", "head", "second_weight")
_MAP_KEYS = frozenset(
    {"method", "target", "layer", "classes", "way", "rectifies", "heatmap", "scores_are", "name", "options"}
)


@dataclass(frozen=True)
class Card:
    """``layer`` and ``head`` are for readers; the graph itself is what is believed.

    ``second_weight`` names the tensor with the weight of a second classifier; ``cam`` tells of a map inside the graph.
    """

    labels: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    layer: str | None = None
    head: str | None = None
    second_weight: str | None = None
    cam: Mapping[str, Any] | None = None
    version: str | None = None


def write_card(card: Card) -> dict[str, str]:
    """The card as metadata of an ONNX model: JSON texts under ``camcore.*`` keys."""
    fields: dict[str, Any] = {
        "version": card.version,
        "layer": card.layer,
        "head": card.head,
        "second_weight": card.second_weight,
        "cam": None if card.cam is None else dict(card.cam),
        "labels": None if card.labels is None else list(card.labels),
        "preprocess": None if card.preprocess is None else card.preprocess.to_json(),
    }
    return {PREFIX + k: json.dumps(v, ensure_ascii=False) for k, v in fields.items() if v is not None}


def read_card(metadata: Mapping[str, str]) -> tuple[Card, list[str]]:
    """The card in a model's metadata, and complaints about what in it could not be read.

    ``names`` as Ultralytics writes it is understood too.
    """
    complaints: list[str] = []
    found = {name: _parse(metadata, PREFIX + name, complaints) for name in (*_TEXTS, "labels", "preprocess", "cam")}
    labels = found["labels"] if found["labels"] is not None else _foreign_names(metadata)
    return (
        Card(
            labels=_try(read_labels, labels, complaints) if isinstance(labels, (list, dict)) else None,
            preprocess=_try(Preprocess.from_json, found["preprocess"], complaints),
            cam=_try(_map_entry, found["cam"], complaints),
            **{k: _text(found[k]) for k in _TEXTS},
        ),
        complaints,
    )


def _text(value: Any) -> str | None:
    """As it is, since it may name a tensor; whoever shows it cleans it."""
    return value if isinstance(value, str) and len(value) <= _LONGEST else None


def _map_entry(data: Any) -> Mapping[str, Any]:
    """What is said of a map inside the graph: texts, numbers and a size, and no key that nobody knows."""
    if not isinstance(data, dict) or not isinstance(data.get("name", "cam"), str):
        raise InputError("metadata 'camcore.cam' does not tell of a map and was ignored")
    return {key: value for key, value in data.items() if key in _MAP_KEYS and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 3 and all(isinstance(n, int) and 0 < n < 1 << 31 for n in value)
    if isinstance(value, dict):
        return len(value) <= 16 and all(_text(k) is not None and _is_single(v) for k, v in value.items())
    return _is_single(value)


def _is_single(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or _text(value) is not None


def _parse(metadata: Mapping[str, str], key: str, complaints: list[str]) -> Any:
    text = metadata.get(key)
    if text is None:
        return None
    if len(text) > _LIMIT:
        complaints.append(f"metadata {key!r} is larger than {_LIMIT >> 20} MiB and was ignored")
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for numbers of thousands of digits
        complaints.append(f"metadata {key!r} is no JSON and was ignored")
        return None


def _try(read: Any, data: Any, complaints: list[str]) -> Any:
    if data is None:
        return None
    try:
        return read(data)
    except InputError as error:
        complaints.append(str(error))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        complaints.append(f"metadata of an unexpected kind was ignored: {error}")
    return None


def _foreign_names(metadata: Mapping[str, str]) -> Any:
    """``{0: 'cat', 1: 'dog'}``, the form of a Python dict."""
    text = metadata.get("names", "")
    if not text.startswith(("{", "[")) or len(text) > _LIMIT:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
