"""The front door: a model in, a callable out that explains images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camcore import labels as label_files
from camcore import preprocess as preprocessing
from camcore.errors import HeadNotFound, InputError
from camcore.evidence import Adapter, Backend, Evidence, Tap, accept_images
from camcore.explanation import Explanation
from camcore.head import LinearHead, global_mean
from camcore.methods import Method
from camcore.pictures import Picture, load_picture
from camcore.plan import Plan, make_plan
from camcore.preprocess import Preprocess, View
from camcore.scores import Classes, wrong_shape

__all__ = ["Explainer", "explainer", "open_backend"]

Floats = NDArray[np.floating[Any]]
BATCH = 32


class Explainer:
    """Explains images of one model with one method. Holds no state of a call, so threads may share it.

    Parameters
    ----------
    backend : Backend
    method, layer, labels, preprocess
        See :func:`explainer`.
    batch_size : int
        Images a forward pass; larger batches are cut, so that no more than this many features are held.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        method: str = "auto",
        layer: str | Sequence[str] | None = None,
        labels: Any = None,
        preprocess: str | Preprocess | Mapping[str, Any] | None = None,
        batch_size: int = BATCH,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1")
        self.backend = backend
        self.labels = backend.labels if labels is None else label_files.read_labels(labels)
        self.preprocess = backend.preprocess if preprocess is None else preprocessing.preprocess(preprocess)
        self.batch_size = batch_size
        self._method, self._layer = method, _one_layer(layer)
        self._plan: Plan | None = None
        self._checked = False

    @property
    def plan(self) -> Plan:
        """What will be done."""
        return self._planned(None)

    def _planned(self, example: Floats | None) -> Plan:
        """Made at the first need, since a PyTorch model must be run once to be understood."""
        if self._plan is None:
            self._plan = make_plan(self._method, self.backend, self._layer, example)
        return self._plan

    def __repr__(self) -> str:
        return f"Explainer({self.backend.kind} on {self.backend.device}, method {self._method})"

    def __call__(self, images: Any, classes: Classes = None) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        images : (N, C, *S) float array, or path(s), PIL image(s), (H, W, 3) uint8 array(s)
            Arrays are taken exactly as the model takes them. Pictures need a known preprocessing.
        classes : None, str, int, list or (N, T) array
            See :func:`camcore.choose_classes`: None is the best class of each image, ``"top5"`` the best five.

        Raises
        ------
        InputError
            If an image or a class cannot be used.
        MethodNotPossible
            If the model cannot give what the method needs.
        """
        if _is_array(images):
            return self._explain(accept_images(images, self.backend.input), classes, None, None)
        pictures = [load_picture(p) for p in _as_list(images)]
        batch, views = self.prepare(pictures)
        return self._explain(batch, classes, pictures, views)

    def prepare(self, pictures: Sequence[Picture]) -> tuple[Floats, list[View]]:
        """Preprocess pictures into one (N, C, H, W) batch, and say which part of each it shows."""
        if self.preprocess is None:
            raise InputError(
                "the model does not say how pictures become its input; give preprocess= one of "
                f"{', '.join(preprocessing.PRESETS)} or a dict with mean and std, or pass a float array (N, C, H, W)"
            )
        spec = self.backend.input
        rule = self.preprocess
        if rule.size is None and spec.size is not None:
            rule = preprocessing.preprocess(rule, size=spec.size)
        done = [rule(p.pixels, channels=spec.channels or 3) for p in pictures]
        shapes = {image.shape for image, _ in done}
        if len(shapes) > 1:
            raise InputError(
                f"the pictures have different sizes {sorted(shapes)}; give them one by one, or resize='squash'"
            )
        batch = np.stack([image for image, _ in done])
        return accept_images(batch, spec), [view for _, view in done]

    def _explain(
        self, images: Floats, classes: Classes, pictures: Sequence[Picture] | None, views: Sequence[View] | None
    ) -> Explanation:
        plan = self._planned(images)
        parts = [
            self._maps(plan, images[i : i + self.batch_size], _part(classes, i, self.batch_size, len(images)))
            for i in range(0, len(images), self.batch_size)
        ]
        maps, scores, chosen = (np.concatenate(list(p)) if len(parts) > 1 else p[0] for p in zip(*parts, strict=True))
        names = _fitting(self.labels, scores.shape[1])
        return Explanation(
            maps=maps,
            scores=scores,
            classes=chosen,
            scores_are=plan.tap.scores_are,
            method=plan.method.name,
            layer=plan.tap.layer,
            head=plan.tap.how,
            input_size=images.shape[2:],
            rectifies=plan.method.rectifies,
            images=images,
            class_names=names,
            pictures=pictures,
            views=views,
            device=self.backend.device,
        )

    def _maps(self, plan: Plan, images: Floats, classes: Classes) -> tuple[Floats, Floats, NDArray[np.int64]]:
        row, checking = plan.method, "head" in plan.method.needs and not (self._checked and self.backend.fixed)
        short = row.from_class_maps if self.backend.gives_class_maps else None
        needs = row.needs if short is None else frozenset({"class_maps"}) | (row.needs if checking else frozenset())
        seen = self.backend.observe(images, needs=needs, layer=plan.layer, classes=classes, labels=self.labels)
        if "head" in row.needs:
            check_scores(seen.scores)
        if checking:
            check_evidence(seen, plan.tap)
            self._checked = bool(seen.features is not None and seen.features.any())  # zeros would prove nothing
        maps = _apply(row, seen) if short is None or seen.class_maps is None else short(seen.class_maps)
        return maps.astype(np.float32, copy=False), seen.scores, seen.classes


def _apply(row: Method, seen: Evidence) -> Floats:
    given = {need: getattr(seen, need) for need in row.needs}
    with np.errstate(over="ignore", invalid="ignore"):  # float16 features may hold inf: the check has spoken
        maps: Floats = row.formula(classes=seen.classes, **given)
    return maps


def check_scores(scores: Floats) -> None:
    """Of what is not a number there is no map."""
    if not np.isfinite(scores).all():
        raise InputError("the model's scores are NaN or infinite for this input, so there is nothing to explain")


def check_evidence(seen: Evidence, tap: Tap) -> None:
    """The head must reproduce the scores of the classes to be explained; else its map would be an invention.

    Raises
    ------
    HeadNotFound
        With the largest difference and what to do.
    """
    head, features = seen.head, seen.features
    assert head is not None  # the backend's contract for these needs
    assert features is not None
    if (head.channels, head.classes) != (features.shape[1], seen.scores.shape[1]):
        raise InputError(
            f"the head is for {head.channels} channels and {head.classes} classes, the network has "
            f"{features.shape[1]} channels at {tap.layer} and {seen.scores.shape[1]} classes"
        )
    expected = np.take_along_axis(seen.scores, seen.classes, axis=1)
    slack = tap.slack[seen.classes] if np.ndim(tap.slack) else tap.slack
    with np.errstate(over="ignore", invalid="ignore"):  # infinite features do not reproduce finite scores
        rebuilt = _rows(head, global_mean(features), seen.classes)
        difference = np.abs(rebuilt - expected) - slack
    scales = np.abs(seen.scores).max(axis=1, keepdims=True)  # each image by its own, so that its batch does not matter
    if not (difference <= tap.tolerance * np.maximum(scales, 1e-30)).all():
        worst, scale = float(np.max(difference)), float(scales.max())
        raise HeadNotFound(
            f"the head found ({tap.how}) at {tap.layer} does not reproduce the scores: they differ by up to "
            f"{worst:.3g}, with scores up to {scale:.3g}. So the map would not explain this score. Give layer= and "
            "head= by hand, or a method that needs no head"
        )


def _rows(head: LinearHead, pooled: Floats, classes: NDArray[np.int64]) -> Floats:
    """The scores of some classes only: (N, C) pooled and (N, T) classes to (N, T)."""
    bias = head.bias[classes]
    if head.is_identity:
        return np.take_along_axis(pooled, classes, axis=1) + bias
    if classes.shape[1] * 4 > head.classes:
        return np.take_along_axis(head(pooled), classes, axis=1)
    return np.einsum("ntc,nc->nt", head.weight[classes], pooled) + bias


def _fitting(names: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    """The names of the classes.

    A much longer list is one that the model uses the beginning of. One name more, or fewer, is the list of another
    model, often with or without a background class, and would shift every name.
    """
    if names is None or len(names) == classes or len(names) >= 2 * classes:
        return names if names is None else names[:classes]
    raise InputError(
        f"{len(names)} class names were given, the model has {classes} classes; give one name a class (a difference of "
        "one is often a background class)"
    )


def _is_array(images: Any) -> bool:
    """A batch as the model takes it, not a picture: a NumPy array that is not uint8, or a tensor."""
    if isinstance(images, np.ndarray):
        return not (images.dtype == np.uint8 and images.ndim in (2, 3))
    return hasattr(images, "detach") or (hasattr(images, "__array__") and hasattr(images, "shape"))


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        if not images:
            raise InputError("no images were given; expected at least one")
        return list(images)
    return [images]


def _part(classes: Classes, start: int, count: int, total: int) -> Classes:
    """The classes of a part of the batch."""
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


def _one_layer(layer: str | Sequence[str] | None) -> str | None:
    if layer is None or isinstance(layer, str):
        return layer
    if len(layer) != 1:
        raise InputError(f"layer is a list of {len(layer)}; the methods at hand read one layer: give one name")
    return layer[0]


def explainer(
    model: Any,
    *,
    method: str = "auto",
    layer: str | Sequence[str] | None = None,
    labels: Any = None,
    preprocess: str | Preprocess | Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int = BATCH,
    **options: Any,
) -> Explainer:
    """Make an explainer of a model.

    Parameters
    ----------
    model : path to an .onnx file, onnx.ModelProto, bytes, or torch.nn.Module
    method : str
        A name of ``camcore.METHODS``; ``"auto"`` is ``cam`` where the head allows it.
    layer : str, optional
        Found where absent. A tensor name, a node name, or a PyTorch module path such as ``"layer4"``, which means the
        tensor that the module returns.
    labels : path, sequence or mapping, optional
        Class names; those in the model where absent.
    preprocess : str, Preprocess or dict, optional
        ``imagenet``, ``tf``, ``caffe``, ``unit``, or mean and std; what the model says where absent.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    batch_size : int
        Images a forward pass.
    **options
        For the backend: ``threads=`` (ONNX); ``head=``, ``mode=`` (PyTorch); ``output=``.

    Returns
    -------
    Explainer

    Raises
    ------
    InputError
        If the model is missing, damaged, or of a kind that no adapter takes.
    """
    backend = open_backend(model, device=device, **options)
    return Explainer(backend, method=method, layer=layer, labels=labels, preprocess=preprocess, batch_size=batch_size)


def open_backend(model: Any, **options: Any) -> Backend:
    """The backend of the first installed adapter that accepts the model."""
    found = entry_points(group="camcore.backends")
    for entry in found:
        adapter: Adapter = entry.load()
        if adapter.accepts(model):
            try:
                return adapter.backend(model, **options)
            except TypeError as error:
                if "unexpected keyword argument" not in str(error):
                    raise
                raise InputError(f"an option that {entry.name} models do not have: {error}") from error
    known = ", ".join(sorted(e.name for e in found)) or "none"
    raise InputError(
        f"a model of type {type(model).__name__} cannot be explained; expected a path to an .onnx file, an ONNX model, "
        f"its bytes or a torch.nn.Module (adapters installed: {known})"
    )
