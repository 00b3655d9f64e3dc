"""One class for every engine that maps batches: Ray Data, Spark, Dask, the workers of a DataLoader."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import preprocess as preprocessing
from camcore.columns import as_columns, image_shape, read_images
from camcore.engine import BATCH
from camcore.errors import InputError
from camcore.half import from_half, to_half
from camcore.labels import read_labels
from camcore.opening import explainer
from camcore.preprocess import Preprocess
from camcore.rows import Facts, RowExplainer, Rows

__all__ = ["BatchExplainer"]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_DTYPES = ("float16", "float32")


class BatchExplainer:
    """Explains batches of images: a dict of arrays in, a dict of arrays out.

    It can be pickled: it holds its arguments alone, and opens the model at the first batch in the process that has it.
    It imports no engine, changes nothing that it is given, and never fails because of one image: that is a row with a
    text in ``cam_error``, NaN in ``cam`` and -1 in ``cam_class``.

    Parameters
    ----------
    model : path or bytes of an .onnx file, onnx.ModelProto, or "MODULE:FUNCTION"
        The last names a function without arguments that returns a model, as ``"torchvision.models:resnet18"``; it is
        imported and called in each process. A relative path is made absolute, since workers run in folders of their
        own.
    method, layer, target, labels, preprocess, device
        See :func:`camcore.explainer`. Class names are read here, and not by the workers.
    classes : None, str, int or list
        ``"top1"``, ``"top5"``, ``"all"``, a class, or a list of classes, the same for all images.
    column : str
        Where the images are: (N, C, *S) floats as the model takes them; or, where a preprocessing is known, (N, H, W,
        3) uint8 pictures, or objects: pictures of several sizes, bytes of files, paths.
    threads : int, optional
        Of ONNX Runtime; the environment's OMP_NUM_THREADS where absent, which Ray and Spark set in their workers and
        ONNX Runtime does not read.
    dtype : {"float16", "float32"}
        Of ``cam``.
    batch_size : int
        Images a forward pass: larger batches are cut.
    keep : bool
        Whether the column with the images is passed on as well.
    options : mapping, optional
        All others that :func:`camcore.explainer` takes.

    Examples
    --------
    >>> explain = BatchExplainer("model.onnx", preprocess="imagenet", column="path")
    >>> explain.column, explain.classes
    ('path', 'top1')
    """

    def __init__(
        self,
        model: Any,
        *,
        method: str = "auto",
        classes: str | int | Sequence[int] | Sequence[str] | None = "top1",
        column: str = "image",
        device: str = "auto",
        threads: int | None = None,
        labels: Any = None,
        preprocess: str | Preprocess | Mapping[str, Any] | None = None,
        layer: str | Sequence[str] | None = None,
        target: Any = None,
        dtype: str = "float16",
        batch_size: int = BATCH,
        keep: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}")
        self.column, self.classes, self.dtype, self.keep, self.threads = column, classes, dtype, keep, threads
        self._model = _portable(model)
        self._given: dict[str, Any] = {
            "method": method,
            "device": device,
            "layer": layer,
            "target": target,
            "labels": None if labels is None else read_labels(labels),
            "preprocess": None if preprocess is None else preprocessing.preprocess(preprocess),
            "batch_size": batch_size,
            **(options or {}),
        }
        self._forget()

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Explain a batch.

        Parameters
        ----------
        batch : dict of arrays, data frame, or list of rows
            A list is what the ``collate_fn`` of a DataLoader gets: dicts, or images alone.

        Returns
        -------
        dict of arrays
            All other columns as they came, and of N images, T classes each:

            - ``cam`` (N, T, *s) float16 or float32: raw, signed maps of the layer's own resolution;
            - ``cam_scale`` (N, T) float32, with float16: ``cam.astype("float32") * scale`` is the map. It is 1 but for
              maps that float16 cannot hold;
            - ``cam_class`` (N, T) int64, ``cam_score`` (N, T) float32, ``cam_probability`` (N, T) float32;
            - ``cam_label`` (N, T) str, where class names are known;
            - ``cam_error`` (N,) str, empty where all is well.

        Raises
        ------
        CamError
            For what is wrong with the model, the options or the whole batch.
        """
        columns, session = as_columns(batch, self.column), self._session()
        images = read_images(columns[self.column], session.explainer)
        facts = session.facts(self._shape(images.values, session))
        rows = Rows.empty(facts.shape, images.errors)
        if images.places:
            rows.put(images.places, session(images.values))
        others = {k: v for k, v in columns.items() if self.keep or k != self.column}
        results = self._results(rows, facts)
        if both := sorted(others.keys() & results.keys()):
            raise InputError(f"the batch has columns of its own called {', '.join(both)}; rename them first")
        return others | results

    def spark(self) -> Callable[[], Callable[..., dict[str, NDArray[Any]]]]:
        """For ``pyspark.ml.functions.predict_batch_udf``: what it calls in each worker to get the function of a batch.

        Spark gives the column by its place and takes no array of more than two axes and no float16: each map comes
        flat, in float32 and with its scale applied; ``cam_shape`` has its (T, *s).
        """
        return _SparkFactory(self)

    @property
    def spark_schema(self) -> str:
        """The columns of :meth:`spark`, as Spark's StructType.fromDDL reads them."""
        numbers = "cam_class array<bigint>, cam_score array<float>, cam_probability array<float>"
        return f"cam array<float>, cam_shape array<bigint>, {numbers}, cam_label array<string>, cam_error string"

    def __repr__(self) -> str:
        name = self._model if isinstance(self._model, str) else type(self._model).__name__
        return f"BatchExplainer({name!r}, method={self._given['method']!r}, classes={self.classes!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._opened: tuple[int, RowExplainer] | None = None

    def _session(self) -> RowExplainer:
        """The model, opened in this process; one from before a fork has lost its threads."""
        if self._opened is not None and self._opened[0] != os.getpid():
            self._forget()
        with self._lock:
            if self._opened is None:
                self._opened = os.getpid(), self._open()
            return self._opened[1]

    def _open(self) -> RowExplainer:
        model = _made(self._model)
        threads = _env_threads() if self.threads is None else self.threads
        on_onnx = isinstance(model, (str, bytes))
        given = self._given | ({"threads": threads} if threads is not None and on_onnx else {})
        return RowExplainer(explainer(model, **given), self.classes)

    @staticmethod
    def _shape(images: NDArray[Any], session: RowExplainer) -> tuple[int, ...]:
        """(C, *S): that of the images, of which there may be none."""
        shape = images.shape[1:] or image_shape(session.explainer)
        if shape is None:
            raise InputError(
                "none of the images could be read, and the model does not say their size; give preprocess="
            )
        return shape

    def _results(self, rows: Rows, facts: Facts) -> dict[str, NDArray[Any]]:
        results: dict[str, NDArray[Any]] = {"cam": rows.maps}
        if self.dtype == "float16":
            results["cam"], results["cam_scale"] = to_half(rows.maps)
        results |= {"cam_class": rows.classes, "cam_score": rows.scores, "cam_probability": rows.probabilities}
        if facts.class_names is not None:  # one width for all batches
            names = np.array(["", *facts.class_names])
            results["cam_label"] = names[rows.classes + 1]
        return results | {"cam_error": np.array(rows.errors, str)}


class _SparkFactory:
    """Called in a worker, gives the function that Spark calls with each batch."""

    def __init__(self, explain: BatchExplainer) -> None:
        self._explain = explain

    def __call__(self) -> Callable[..., dict[str, NDArray[Any]]]:
        return self._predict

    def _predict(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        out = self._explain({self._explain.column: images})
        scales = out.pop("cam_scale", None)
        maps = out["cam"] if scales is None else from_half(out["cam"], scales)
        count = len(maps)
        flat = {k: v.reshape(count, -1) if v.ndim > 1 else v for k, v in (out | {"cam": maps}).items()}
        flat["cam_shape"] = np.tile(np.array(maps.shape[1:], np.int64), (count, 1))
        flat.setdefault("cam_label", np.full(out["cam_class"].shape, ""))
        return flat


def _portable(model: Any) -> Any:
    """What can go to another process: a path, bytes, or the name of a function that makes the model."""
    if isinstance(model, (bytes, bytearray)):
        return bytes(model)
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        return text if _FACTORY.fullmatch(text) else os.path.abspath(text)  # noqa: PTH100 - links stay as they are
    if type(model).__name__ == "ModelProto":
        serialized: bytes = model.SerializeToString()
        return serialized
    raise InputError(
        f"a model of type {type(model).__name__} cannot be sent to other processes; give the path of an .onnx file, or "
        "'MODULE:FUNCTION', which names a function without arguments that returns it there, such as "
        "'torchvision.models:resnet18'"
    )


def _made(model: Any) -> Any:
    """The model that a factory gives, or the path or bytes as they are."""
    if not isinstance(model, str) or not _FACTORY.fullmatch(model):
        return model
    module, _, name = model.partition(":")
    try:
        return getattr(import_module(module), name)()
    except Exception as error:  # the code of others raises what it likes
        raise InputError(
            f"the model {model!r} could not be made in this process: {type(error).__name__}: {error}"
        ) from error


def _env_threads() -> int | None:
    """What the environment says of threads; of "4,2" the first."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(text) if text.isdigit() and int(text) else None
