"""The public function: a model that gives gradients, or the map made of them, in any runtime."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import onnx_ir as ir

from camcore.errors import InputError
from camcore.evidence import InputSpec
from camcore.methods import Method, method
from camcore.scores import top_count
from camcore.targets import target as named_target
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.gradients.build import Built, Order, build
from camcore_onnx.gradients.facts import Feed, image_of, probes
from camcore_onnx.gradients.finish import can_finish
from camcore_onnx.gradients.raise_opset import raised
from camcore_onnx.reading.load import Loaded
from camcore_onnx.unfold.integers import whole_of

__all__ = ["add_tail_gradients", "gradient_model"]

_MOST_CLASSES = 100  # each is a run of the tail


def add_tail_gradients(
    model: Any,
    layers: str | Sequence[str | None] | None = None,
    *,
    target: str | None = None,
    classes: str | int = "input",
    maps: str | Method | None = None,
    output: str | None = None,
    size: tuple[int, ...] | None = None,
    grid: tuple[int, ...] | None = None,
    prefix: int | None = None,
) -> Any:
    """Add the gradient of a class score with respect to feature maps, as ordinary nodes.

    Reverse-mode differentiation of the network between the scores and the layers: each operator's vector-Jacobian
    product is appended as operators of the same opset. Any runtime computes it, without a training framework.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
        Not changed. Weights in external files stay there: save the result into the same folder.
    layers : str or sequence of str, optional
        Tensor names, node names or PyTorch module paths; the features that the head reads where absent.
    target : str, optional
        What is differentiated: ``"logit"`` (the default, but for methods with a target of their own),
        ``"probability"``, ``"log-probability"``, ``"rest"``, ``"difference"``, ``"difference:7"`` or ``"finer"``; see
        :func:`camcore.targets.target`. Logits are found behind a final softmax.
    classes : str or int
        ``"input"``: the model gets an int32 input ``cam_class`` (N,), where -1 stands for the best class; ``"inputs"``:
        the same as (N, T), -1 in column t for the class of rank t; ``"top1"``, ``"top5"``: the best ones; a number:
        that class; ``"all"``: each of them, in their order. The tail is in the graph twice where there are several
        classes, and runs for each of them. An index that the model does not have is refused by the runtime, or gives
        gradients of zero.
    maps : str or Method, optional
        A method, whose map is given instead: gradcam, gradcam++, xgradcam, hirescam, layercam, gradcam-elementwise,
        finercam or shapleycam. Nothing large leaves the runtime then.
    output : str, optional
        The output with the class scores, as in :class:`camcore_onnx.OnnxBackend`.
    size : tuple of int, optional
        A size (H, W) of images that the model takes, where it does not state one and takes no usual one.
    grid, prefix
        How tokens lie on the picture, for maps; found where absent.

    Returns
    -------
    onnx.ModelProto
        The outputs of the model, and then, of each layer: its features under their own name and ``gradient``
        (N, T, *features), or ``cam`` (N, T, *S), raw and signed; ``cam_classes`` (N, T). Of several layers the names
        end in ``/layer``. The names of all nodes added begin with ``grad/``, of a second tail with ``again/``.

    Raises
    ------
    MethodNotPossible
        If an operator behind a layer has no derivative, the scores do not depend on it, or it does not hold floats.
    InputError
        For an unknown layer, target or method, or a model that has such outputs already.

    Notes
    -----
    Opset 9 or later; an older model is converted to 11. Conventions at kinks are PyTorch's: the derivative of ReLU at 0
    is 0, of equal numbers in a max pooling the first one counts. Through QuantizeLinear gradients pass straight, masked
    where it saturates: an approximation. Shapes are learned from runs of the model on random images, of up to three
    sizes where it takes any.
    """
    return ir.to_proto(
        gradient_model(
            OnnxBackend(model, device="cpu", output=output, grid=grid, prefix=prefix),
            [layers] if layers is None or isinstance(layers, str) else list(layers),
            target=target,
            classes=classes,
            maps=maps,
            size=size,
        ).model
    )


def gradient_model(
    backend: OnnxBackend,
    layers: Sequence[str | None],
    *,
    target: str | None = None,
    classes: str | int = "input",
    maps: str | Method | None = None,
    size: tuple[int, ...] | None = None,
) -> Built:
    """As :func:`add_tail_gradients`, of a backend; gives what was built."""
    row = None if maps is None else _finished(maps)
    values = [whole_of(backend.value(layer)) for layer in layers]
    if not values or len(set(values)) < len(values):
        raise InputError(f"layers {list(layers)} are not all different, or none; give each layer once")
    loaded = raised(backend.loaded)
    order = Order(
        scores=backend.found.logits.name or "",
        layers=tuple(v.name or "" for v in values),
        target=_code(target or (row.target if row is not None else "logit")),
        classes=_every(backend) if classes == "all" else _checked(classes, backend.found.logits),
        every=classes == "all",
        method=row,
        layouts=() if row is None else tuple(backend.layout(layer, size) for layer in layers),
        alone=backend.found.scores_are == "independent logit",
        titles=("",)
        if len(values) == 1
        else tuple(f"/{layer or v.name}" for layer, v in zip(layers, values, strict=True)),
        full=True,
    )
    return _for_any_size(loaded, order, probes(loaded, backend.input, size), backend.input)


def _for_any_size(loaded: Loaded, order: Order, feeds: list[Feed], spec: InputSpec) -> Built:
    """Lengths that are the same by chance show on images of twice the size, which are then learned from too."""
    built, (first, *others) = build(loaded, order, feeds), [feed[spec.name].shape for feed in feeds]
    if any(shape[2:] != first[2:] for shape in others):
        free = [n is None for n in spec.shape[2:]]
        large = image_of(spec, first[0], [2 * n if f else n for n, f in zip(first[2:], free, strict=True)])
        with suppress(InputError):  # it does not take that
            if built.facts is not None and not built.facts.hold(loaded, large):
                return build(loaded, order, [*feeds, large])
    return built


def _finished(maps: str | Method) -> Method:
    row = maps if isinstance(maps, Method) else method(maps)
    if not can_finish(row):
        raise InputError(
            f"the map of {row.name} cannot be made in the graph; take gradcam, gradcam++, xgradcam, hirescam, "
            "layercam, gradcam-elementwise, finercam or shapleycam, or leave maps out and combine gradients yourself"
        )
    return row


def _code(target: str) -> str:
    found = named_target(target)
    if not found.code:
        raise InputError(f"target {found.name!r} is a function; the graph takes targets by name")
    return found.code


def _every(backend: OnnxBackend) -> str:
    """All classes, where they are few enough to run the tail for each."""
    count = _known(backend.found.logits)
    if count is None or not 1 <= count <= _MOST_CLASSES:
        raise InputError(
            f"all {count or 'its'} classes at once would run the network behind the layer for each of them; at most "
            f"{_MOST_CLASSES} are taken. Take the best ones ('top5'), or name one by the input ('input')"
        )
    return f"top{count}"


def _known(scores: ir.Value) -> int | None:
    """How many classes there are, where the graph states it."""
    count = scores.shape[1] if scores.shape is not None and len(scores.shape) > 1 else None
    return count if isinstance(count, int) else None


def _checked(classes: str | int, scores: ir.Value) -> str | int:
    """Of the best classes no more than there are."""
    count = _known(scores)
    if isinstance(classes, str) and (classes in ("input", "inputs") or top_count(classes) > 0):
        return f"top{count}" if count is not None and top_count(classes) > count else classes
    if not isinstance(classes, int) or classes < 0:
        raise InputError(f"classes is {classes!r}; expected 'input', 'inputs', 'all', 'top1', 'top5' or a class index")
    if count is not None and classes >= count:
        raise InputError(f"there is no class {classes}: the model has {count} classes, 0 to {count - 1}")
    return classes
