"""What a user gives, as what the engine works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from camcore.errors import InputError
from camcore.evidence import on_host
from camcore.scores import Classes, wrong_shape

__all__ = ["as_list", "fitting_names", "is_array", "layer_names", "part_of", "stacked"]


def is_array(images: Any) -> bool:
    """A batch as the model takes it, not a picture: a NumPy array that is not uint8, or a tensor.

    Examples
    --------
    >>> is_array(np.zeros((1, 3, 8, 8))), is_array(np.zeros((8, 8, 3), np.uint8)), is_array("cat.jpg")
    (True, False, False)
    """
    if isinstance(images, np.ndarray):
        return not (images.dtype == np.uint8 and images.ndim in (2, 3))
    return hasattr(images, "detach") or (hasattr(images, "__array__") and hasattr(images, "shape"))


def stacked(images: Any) -> Any:
    """A list of (C, *S) arrays or tensors, as a data set gives them, as one batch; anything else as it is.

    Examples
    --------
    >>> stacked([np.zeros((3, 8, 8)), np.ones((3, 8, 8))]).shape
    (2, 3, 8, 8)

    Raises
    ------
    InputError
        If their shapes differ.
    """
    if not isinstance(images, (list, tuple)) or not images or not all(is_array(image) for image in images):
        return images
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise InputError(f"the images have different shapes {shapes}; bring them to one, or give them one by one")
    return np.stack([on_host(image) for image in images])


def as_list(images: Any) -> list[Any]:
    """One picture or several as a list."""
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        if not images:
            raise InputError("no images were given; expected at least one")
        return list(images)
    return [images]


def part_of(classes: Classes, start: int, count: int, total: int) -> Classes:
    """The classes of ``count`` images of a batch of ``total``.

    Raises
    ------
    InputError
        For classes of another number of images, or rows of different lengths.

    Examples
    --------
    >>> part_of([4, 0, 1], 1, 2, 3), part_of("top5", 1, 2, 3)
    ([0, 1], 'top5')
    """
    if classes is None or isinstance(classes, str):
        return classes
    try:
        axes = np.ndim(classes)
    except ValueError as error:
        raise InputError(
            "classes have rows of different lengths; give each image the same number of classes"
        ) from error
    if axes == 0:
        return classes
    chosen: Any = classes
    if len(chosen) != total:
        raise wrong_shape(np.shape(chosen), total)  # here, since a part of the batch may have that length
    part: Classes = chosen[start : start + count]
    return part


def layer_names(layer: Any) -> tuple[str | None, ...]:
    """One layer, several or none (which is found) as a tuple.

    Examples
    --------
    >>> layer_names(None), layer_names("layer4"), layer_names(["layer3", "layer4"])
    ((None,), ('layer4',), ('layer3', 'layer4'))
    """
    names = (layer,) if layer is None or isinstance(layer, str) else layer
    if not isinstance(names, (tuple, list)) or not names or not all(n is None or isinstance(n, str) for n in names):
        what = repr(layer) if type(layer).__module__ == "builtins" else f"a {type(layer).__name__}"  # modules are long
        raise InputError(f"layer is {what}; expected the name of a layer, or a list of names, such as 'layer4.1'")
    return tuple(names)


def fitting_names(names: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    """The names of the classes.

    A much longer list is one that the model uses the beginning of. One name more, or fewer, is the list of another
    model, often with or without a background class, and would shift every name.

    Raises
    ------
    InputError
        For a number of names that does not fit.
    """
    if names is None or len(names) == classes or len(names) >= 2 * classes:
        return names if names is None else names[:classes]
    raise InputError(
        f"{len(names)} class names were given, the model has {classes} classes; give one name a class (a difference of "
        "one is often a background class)"
    )
