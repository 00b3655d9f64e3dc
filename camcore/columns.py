"""A column of images, in any of the forms that data engines give it, as one batch for the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import InputError, suggest
from camcore.evidence import Floats, on_host
from camcore.inputs import is_array
from camcore.pictures import load_picture
from camcore.preprocess import SIZE, Preprocess

__all__ = ["Images", "as_columns", "image_shape", "picture_rule", "read_images"]


@dataclass(frozen=True, eq=False)
class Images:
    """What could be read of a column: images of one shape, their places among all rows, and each row's error."""

    values: Floats
    places: list[int]
    errors: list[str]


def as_columns(batch: Any, column: str) -> dict[str, Any]:
    """A batch as a dict of columns: from a dict, a data frame, or a list of rows as a DataLoader collates them.

    Examples
    --------
    >>> as_columns([{"image": "a.jpg", "id": 1}, {"image": "b.jpg", "id": 2}], "image")["id"]
    array([1, 2])

    Raises
    ------
    InputError
        If there is no such column.
    """
    if isinstance(batch, (list, tuple)):
        named = len(batch) > 0 and all(isinstance(row, Mapping) for row in batch)
        rows: Sequence[Mapping[str, Any]] = batch if named else [{column: row} for row in batch]
        batch = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else {column: None})}
    if not hasattr(batch, "keys"):
        raise InputError(
            f"a batch is of type {type(batch).__name__}; expected a dict of arrays, a list or a data frame"
        )
    columns = {str(name): batch[name] for name in list(batch.keys())}
    if column not in columns:
        raise InputError(f"the batch has no column {column!r}. {suggest(column, columns)} Give column=")
    return columns


def _column(values: list[Any]) -> NDArray[Any]:
    """Numbers and texts as NumPy makes them; what has a length of its own stays as it is."""
    if all(isinstance(value, (bool, int, float, str, np.number)) for value in values):
        return np.asarray(values)
    return _objects(values)


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    for n, value in enumerate(values):
        column[n] = value
    return column


def read_images(column: Any, explainer: Explainer) -> Images:
    """The images of a column.

    Parameters
    ----------
    column : array
        (N, C, *S) floats as the model takes them; or (N, H, W, 3) or (N, H, W) uint8 pictures; or N objects: such
        arrays one by one, bytes of picture files, paths or PIL images. None is a row without an image.
    explainer : Explainer

    Raises
    ------
    InputError
        For what is wrong with all rows: whole numbers that are no pictures, or pictures without a preprocessing.
    """
    values = column.detach().cpu().numpy() if hasattr(column, "detach") else np.asarray(_listed(column))
    if values.dtype.kind in "OUS":
        return _each(values.tolist(), explainer)
    if _are_pictures(values, explainer):
        return _each(list(values), explainer)
    if values.ndim < 3 or (values.dtype.kind != "f" and explainer.backend.input.dtype != "uint8"):
        raise InputError(
            f"the images are an array {values.shape} of {values.dtype}; expected floats (N, C, *S) as the model takes "
            "them, uint8 pictures (N, H, W, 3), or objects: encoded bytes, paths, arrays of several sizes"
        )
    return Images(values, list(range(len(values))), [""] * len(values))


def _listed(column: Any) -> Any:
    """Lists of pictures of several sizes are no array."""
    return _objects(column) if isinstance(column, (list, tuple)) else column


def _are_pictures(values: NDArray[Any], explainer: Explainer) -> bool:
    """Whether bytes are pictures, and not what a model takes that reads bytes."""
    spec = explainer.backend.input
    lengths = zip(spec.shape[1:], values.shape[1:], strict=False)
    fits = len(spec.shape) == values.ndim and all(n in (None, m) for n, m in lengths)
    pictures = values.ndim == 3 or (values.ndim == 4 and values.shape[3] == 3)
    return values.dtype == np.uint8 and pictures and not (spec.dtype == "uint8" and fits)


def _each(items: Sequence[Any], explainer: Explainer) -> Images:
    """Read one by one; of several shapes that of the first counts where the model has none of its own."""
    rule = None if all(_is_input(item) for item in items) else picture_rule(explainer)
    errors, places, images = [""] * len(items), list[int](), list[Floats]()
    expected = image_shape(explainer)
    for n, item in enumerate(items):
        try:
            image = _image(item, rule, explainer)
            expected = expected or image.shape
            if image.shape != expected:
                raise InputError(f"the image has shape {image.shape}; expected {expected}")
        except InputError as error:
            errors[n] = str(error)
        else:
            images.append(image)
            places.append(n)
    return Images(np.stack(images) if images else np.zeros((0, *(expected or ())), np.float32), places, errors)


def _is_input(item: Any) -> bool:
    """Whether it needs no preprocessing."""
    return _is_missing(item) or is_array(item)


def _is_missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and np.isnan(item))  # as data frames write it


def picture_rule(explainer: Explainer) -> Preprocess:
    """The preprocessing, which must give all pictures one size.

    Raises
    ------
    InputError
        Where none is known, or it leaves each picture its own size.
    """
    rule = explainer.rule
    if rule.resize == "none":
        raise InputError(
            "resize 'none' leaves each picture its own size, so that their maps have no one shape; take 'short' or "
            "'squash', or explain them one by one with camcore.explainer"
        )
    return rule


def image_shape(explainer: Explainer) -> tuple[int, ...] | None:
    """(C, *S) of what goes into the model; None where pictures and model leave it free."""
    spec = explainer.backend.input
    fixed = tuple(n for n in spec.shape[1:] if n is not None)
    if spec.shape and len(fixed) == len(spec.shape) - 1:
        return fixed
    if explainer.preprocess is None or explainer.preprocess.resize == "none" or len(spec.shape) not in (0, 4):
        return None
    return (spec.channels or 3, *(explainer.rule.size or SIZE))


def _image(item: Any, rule: Preprocess | None, explainer: Explainer) -> Floats:
    if _is_missing(item):
        raise InputError("no image in this row")
    if _is_input(item):
        image = on_host(item)
        if image.dtype.kind != "f":
            raise InputError(f"an image is an array {image.shape} of {image.dtype}; expected floats, or uint8 pixels")
        return np.asarray(image, np.float32)
    assert rule is not None  # an item of the column is a picture
    return rule(load_picture(item).pixels, channels=explainer.backend.input.channels or 3)[0]
