"""The front door: a model in, a callable out that explains images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from camcore.engine import BATCH, Explainer
from camcore.errors import InputError, suggest
from camcore.evidence import Adapter, Backend
from camcore.fuse import Fusion
from camcore.methods import METHODS, Method
from camcore.preprocess import Preprocess
from camcore.smoothing import Smoothing

__all__ = ["explainer", "open_backend"]


def explainer(
    model: Any,
    *,
    method: str | Method = "auto",
    layer: str | Sequence[str] | None = None,
    target: Any = None,
    fusion: Fusion = "max",
    scaling: str | None = None,
    fusion_size: str = "largest",
    smoothing: str | Smoothing | None = None,
    labels: Any = None,
    preprocess: str | Preprocess | Mapping[str, Any] | None = None,
    independent: bool | None = None,
    device: str = "auto",
    batch_size: int = BATCH,
    **options: Any,
) -> Explainer:
    """Make an explainer of a model.

    Parameters
    ----------
    model : path to an .onnx file, onnx.ModelProto, bytes, or torch.nn.Module
    method : str or Method
        A name of ``camcore.METHODS``; ``"auto"`` is ``cam`` where the head allows it, else ``gradcam``.
    layer : str or list of str, optional
        Found where absent. A tensor name, a node name, or a PyTorch module path such as ``"layer4"``, which means the
        tensor that the module returns. The maps of several layers are fused into one.
    target : str, Target or callable, optional
        What is explained: ``"logit"``, ``"probability"``, ``"log-probability"``, ``"difference"`` to the best other
        class, ``"difference:7"`` to class 7, or a function of (M, K) scores; see :func:`camcore.targets.target`. The
        method's own where absent, which is the logit for most.
    fusion : {"max", "mean", "product"} or list of float
        How several layers are joined; numbers are weights, one a layer.
    scaling : str, optional
        How each of several layers is scaled first; see :func:`camcore.normalize`. ``"relu-max"`` for methods that
        rectify, else ``"minmax"``, where absent.
    fusion_size : {"largest", "input"}
        The size that they are resized to: the largest of them, or the image's.
    smoothing : {"flip", "scales", "flip+scales", "flip+gains"} or Smoothing, optional
        Average the maps of changed copies of the image.
    labels : path, sequence or mapping, optional
        Class names; those in the model where absent.
    preprocess : str, Preprocess or dict, optional
        ``imagenet``, ``tf``, ``caffe``, ``unit``, or mean and std; what the model says where absent.
    independent : bool, optional
        Whether each class has a probability of its own, the sigmoid of its logit (multi-label), or all share one, by
        softmax. What the model says where absent; many leave a sigmoid to their loss, and then do not say it.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; of ONNX models also ``"tensorrt"`` and plugins.
    batch_size : int
        Images a forward pass.
    **options
        Of the method, as ``camcore methods`` lists them (``variant="official"``); all others are for the backend:
        ``threads=``, ``provider_options=``, ``strict=``, ``tf32=``, ``cuda_graph=`` (ONNX); ``head=``, ``mode=``
        (PyTorch); ``output=``, ``grid=``, ``prefix=``.

    Returns
    -------
    Explainer

    Raises
    ------
    InputError
        If the model is missing, damaged, or of a kind that no adapter takes.
    """
    row = method if isinstance(method, Method) else METHODS.get(str(method))
    mine = {name: options.pop(name) for name in [*options] if row is not None and name in row.options}
    backend = open_backend(model, device=device, **options)
    return Explainer(
        backend,
        method=method,
        layer=layer,
        target=target,
        options=mine,
        fusion=fusion,
        scaling=scaling,
        fusion_size=fusion_size,
        smoothing=smoothing,
        labels=labels,
        preprocess=preprocess,
        independent=independent,
        batch_size=batch_size,
    )


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
                name = str(error).rpartition("argument ")[2].strip("'")
                offered = [n for n in signature(explainer).parameters if n not in ("model", "options")]
                raise InputError(
                    f"an option that {entry.name} models do not have: {name!r}. {suggest(name, offered)} Options of a "
                    "method are listed by camcore methods NAME"
                ) from error
    known = ", ".join(sorted(e.name for e in found)) or "none"
    raise InputError(
        f"a model of type {type(model).__name__} cannot be explained; expected a path to an .onnx file, an ONNX model, "
        f"its bytes or a torch.nn.Module (adapters installed: {known})"
    )
