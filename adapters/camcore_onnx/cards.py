"""What a file that is made of a model says of itself."""

from __future__ import annotations

from typing import Any

import camcore
from camcore.errors import InputError
from camcore.evidence import Tap
from camcore.labels import read_labels
from camcore.preprocess import Preprocess, preprocess
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.metadata import Card

__all__ = ["card_of"]


def card_of(backend: OnnxBackend, tap: Tap, *, labels: Any = None, preprocess: str | Preprocess | None = None) -> Card:
    """The card of a model, with what is new in it.

    Parameters
    ----------
    backend : OnnxBackend
    tap : Tap
        The features that it tells of.
    labels, preprocess : optional
        Kept as they are in the model where absent.

    Raises
    ------
    InputError
        If there are more or fewer names than classes, or the preprocessing is not known.
    """
    card = Card(
        labels=backend.labels if labels is None else read_labels(labels),
        preprocess=backend.preprocess if preprocess is None else _rule(preprocess, backend),
        layer=tap.layer,
        head=tap.how or None,
        second_weight=backend.card.second_weight,
        version=camcore.__version__,
    )
    if card.labels is not None and tap.head is not None and len(card.labels) != tap.head.classes:
        raise InputError(f"{len(card.labels)} class names were given, the model has {tap.head.classes} classes")
    return card


def _rule(rule: str | Preprocess, backend: OnnxBackend) -> Preprocess:
    found = preprocess(rule)
    size = backend.input.size
    return preprocess(found, size=size) if found.size is None and size is not None else found
