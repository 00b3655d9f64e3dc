"""From a live module to a verified ONNX file that shows its features."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camcore.errors import InputError, MissingPackage
from camcore.head import LinearHead
from camcore.methods import cam
from camcore.preprocess import Preprocess
from camcore_torch.backend import TorchBackend, unwrap
from camcore_torch.network import second_weight_of
from camcore_torch.quiet import undisturbed
from camcore_torch.record import scores_of
from camcore_torch.steps import array

if TYPE_CHECKING:
    from camcore_onnx.report import Report

__all__ = ["EXPORTERS", "example_of", "export", "to_onnx"]

Exporter = Literal["dynamo", "torchscript"]
EXPORTERS = ("dynamo", "torchscript")
_ROOT = "camcore_root"  # where a wrapped model lies; taken out of the names again


def export(
    module: nn.Module,
    example: Any,
    path: str | PathLike[str],
    *,
    exporter: Exporter = "dynamo",
    opset: int = 18,
    free_size: bool = False,
    layer: str | None = None,
    labels: Any = None,
    preprocess: str | Preprocess | None = None,
    features: str = "features",
    overwrite: bool = True,
    verify: bool = True,
    **embedding: Any,
) -> Report:
    """Export a PyTorch classifier to one ONNX file with its features or its map as an output, and verify it.

    Parameters
    ----------
    module : nn.Module
        Exported in evaluation mode; left as it is. With a :class:`ReCam` the weight of its second classifier goes into
        the file, as an output behind all others.
    example : (N, C, *S) tensor or ndarray, or that shape
        The batch axis becomes free, whatever N is.
    path : path
    exporter : {"dynamo", "torchscript"}
    opset : int
        ``dynamo`` writes at least 18.
    free_size : bool
        Free spatial axes too.
    layer, labels, preprocess, features, overwrite, verify
        See :func:`camcore_onnx.export`.
    **embedding
        ``embed=True`` for the map instead of the features, with ``method``, ``classes``, ``heatmap``, ``target``,
        ``options`` and ``name``; and ``fp16``. See there too.

    Returns
    -------
    camcore_onnx.exporting.Report
        The checks include scores and maps of all classes, PyTorch against ONNX Runtime, with batches of 1 and 5; scores
        alone where a ``layer`` of a network without a pooled head is given.
    """
    from camcore_onnx.exporting import export as finish

    images = example_of(example)
    data = to_onnx(module, images, exporter=exporter, opset=opset, free_size=free_size)
    backend, second = TorchBackend(module), second_weight_of(module)
    return finish(
        data,
        path,
        layer=layer,
        labels=labels,
        preprocess=preprocess,
        features=features,
        overwrite=overwrite,
        verify=verify,
        second_weight=None if second is None else array(second),
        reference=lambda x: _reference(backend, x),
        batches=[_random(images, n) for n in (1, 5)],
        **embedding,
    )


def _reference(backend: TorchBackend, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores, and the maps of all classes where there is a head that makes them."""
    if backend.tap(None, images).head is None:
        return backend.scores(images), np.empty(0)
    (seen,) = backend.observe(images, needs=frozenset({"features", "head"}))
    assert seen.features is not None  # asked for, and found before
    assert isinstance(seen.head, LinearHead)  # found before
    return seen.scores, cam(seen.features, seen.head)


def to_onnx(
    module: nn.Module, example: Any, *, exporter: Exporter = "dynamo", opset: int = 18, free_size: bool = False
) -> bytes:
    """The plain ONNX model of a module with one image input and one output of scores; see :func:`export`."""
    if exporter not in EXPORTERS:
        raise InputError(f"exporter is {exporter!r}; expected 'dynamo' or 'torchscript'")
    model = unwrap(module)
    with undisturbed(model):
        tensor = _batch_of_two(_like(model, example_of(example)))
        plain = isinstance(_tried(model, tensor), Tensor)
        wrapped = model if plain else _ScoresOnly(model)
        return _made(wrapped, tensor, exporter, opset, free_size)


def _tried(model: nn.Module, images: Tensor) -> Any:
    try:
        return model(images.clone())
    except Exception as error:  # a network raises what it likes
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(f"the model cannot take images of shape {tuple(images.shape)}: {reason}") from error


def _made(model: nn.Module, images: Tensor, exporter: Exporter, opset: int, free_size: bool) -> bytes:
    make = _dynamo if exporter == "dynamo" else _torchscript
    try:
        with _silence(), _attention_in_parts():
            return make(model, images, opset, free_size)
    except MissingPackage:
        raise
    except Exception as error:  # the exporters raise what they like
        other = next(e for e in EXPORTERS if e != exporter)
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(
            f"the exporter {exporter!r} cannot export this network; try {other!r}. It says: {reason}"
        ) from error


class _ScoresOnly(nn.Module):
    """A model that returns more than its scores, cut down to them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.training = False
        self.add_module(_ROOT, model)

    def forward(self, images: Tensor) -> Tensor:
        scores = scores_of(getattr(self, _ROOT)(images))
        assert scores is not None  # it was looked at before
        return scores


def _dynamo(model: nn.Module, images: Tensor, opset: int, free_size: bool) -> bytes:
    import onnx_ir as ir

    _need_onnxscript()
    axes = {0: torch.export.Dim("N")}
    if free_size:
        axes |= dict.fromkeys(range(2, images.ndim), torch.export.Dim.AUTO)
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        dynamic_shapes=(axes,),
        input_names=["images"],
        output_names=["logits"],
        opset_version=max(opset, 18),
        verbose=False,
    )
    assert program is not None  # what the signature allows for TorchScript
    proto = ir.to_proto(program.model)
    for node in proto.graph.node:
        for entry in node.metadata_props:
            entry.value = entry.value.replace(f"'{_ROOT}', ", "").replace(f"{_ROOT}.", "")
    data: bytes = proto.SerializeToString()
    return data


def _torchscript(model: nn.Module, images: Tensor, opset: int, free_size: bool) -> bytes:
    import onnx

    buffer = io.BytesIO()
    axes = {0: "N"} | ({i: f"S{i - 1}" for i in range(2, images.ndim)} if free_size else {})
    torch.onnx.export(
        model,
        (images,),
        buffer,  # type: ignore[arg-type]  # takes any binary file, as documented
        dynamo=False,
        dynamic_axes={"images": axes, "logits": {0: "N"}},
        input_names=["images"],
        output_names=["logits"],
        opset_version=opset,
    )
    proto = onnx.load_from_string(buffer.getvalue())
    for node in proto.graph.node:
        node.name = node.name.replace(f"/{_ROOT}/", "/")
    data: bytes = proto.SerializeToString()
    return data


def _need_onnxscript() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackage(
            "exporting with 'dynamo' needs onnxscript: pip install 'camcore[export]', or take exporter='torchscript'"
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The exporters warn about themselves and print; their errors still come through."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    """PyTorch's fast path of attention is one operation of its own, for which the TorchScript exporter has no words."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def example_of(example: Any) -> Tensor:
    if isinstance(example, Tensor):
        return example
    if isinstance(example, Sequence) and all(isinstance(n, int) for n in example):
        return torch.zeros(tuple(example))
    return torch.from_numpy(np.asarray(example, np.float32))


def _like(model: nn.Module, images: Tensor) -> Tensor:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images.float() if parameter is None else images.to(parameter.device, parameter.dtype)


def _batch_of_two(images: Tensor) -> Tensor:
    """torch.export takes an axis of length 1 for fixed."""
    return images[:2] if len(images) >= 2 else images[:1].repeat(2, *[1] * (images.ndim - 1))


def _random(images: Tensor, count: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(count)
    return generator.standard_normal((count, *images.shape[1:])).astype(np.float32)
