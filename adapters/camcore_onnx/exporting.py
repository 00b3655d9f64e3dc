"""Write a model that shows its features, or holds its map, with all that is needed to explain it, and verify it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.evidence import Tap
from camcore.preprocess import Preprocess
from camcore_onnx import surgery
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.cards import card_of
from camcore_onnx.checking.sandbox import doing
from camcore_onnx.checking.sandbox import wanted as wanted_apart
from camcore_onnx.checking.verify import (
    Check,
    Reference,
    check_against,
    check_model,
    check_second_weight,
    sample_inputs,
)
from camcore_onnx.embedding import embed as embed_map
from camcore_onnx.embedding import refuse_embedded
from camcore_onnx.embedding.check import check_embedded
from camcore_onnx.embedding.wanted import Wanted
from camcore_onnx.exporting_apart import can_be_sent, export_apart
from camcore_onnx.float16 import half_error, to_float16
from camcore_onnx.metadata import Card, write_card
from camcore_onnx.reading.load import Loaded, load
from camcore_onnx.report import Report
from camcore_onnx.second import add_second_weight
from camcore_onnx.writing import clean, take_in, target_path, write_model

__all__ = ["Report", "export"]

_SINGLE, _HALF = 1e-4, 1e-2  # how far scores and maps may be from those of PyTorch, or of float32


def export(
    source: Any,
    path: str | PathLike[str],
    *,
    layer: str | None = None,
    labels: Any = None,
    preprocess: str | Preprocess | None = None,
    features: str = "features",
    embed: bool = False,
    method: str = "auto",
    classes: str = "top5",
    heatmap: str | Sequence[int] | None = None,
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str = "cam",
    fp16: bool = False,
    opset: int | None = None,
    overwrite: bool = True,
    verify: bool = True,
    second_weight: NDArray[Any] | None = None,
    reference: Reference | None = None,
    batches: Sequence[NDArray[Any]] | None = None,
    sandbox: bool | None = None,
) -> Report:
    """Add the features or the map behind a model's own outputs, describe it in its metadata, write it, verify it.

    Parameters
    ----------
    source : path, bytes, onnx.ModelProto or onnx_ir.Model
    path : path
        Written atomically: on any error an older file stays as it was.
    layer : str, optional
        The features; those that the head reads where absent.
    labels, preprocess : optional
        Recorded in the file; kept as they are in ``source`` where absent.
    features : str
        The name of the new output, where the features are given.
    embed : bool
        Give the map instead of the features; see :func:`camcore_onnx.embed_cam` for what follows up to ``name``.
    method, classes, heatmap, target, options, name
        What map, of which classes, and what is added beside it.
    fp16 : bool
        Convert the model to half precision first; what is embedded is summed in float32 all the same.
    opset : int, optional
        Convert to this opset; as it is where absent.
    overwrite : bool
        False raises where ``path`` exists.
    verify : bool
        Run the checks.
    second_weight : (K, C) ndarray, optional
        Of a second classifier that reads the same features as the head, for the method ``recam``; it becomes the last
        output, which depends on no input. One that is in ``source`` already stays.
    reference : callable, optional
        Images -> (scores, maps of all classes) of the network that ``source`` was exported from; maps of any kind where
        the ``layer`` given has no head.
    batches : sequence of (N, C, *S) ndarray, optional
        Inputs to verify with; random ones where absent.
    sandbox : bool, optional
        Do it all in a process of its own, with limits, so that a model that brings ONNX Runtime down ends in an error;
        see :mod:`camcore_onnx.checking.sandbox`. Where absent it is so unless ``CAMCORE_SANDBOX=off``, or an argument
        cannot be sent there.

    Returns
    -------
    Report
        ``passed`` is False if a check failed; the file is then written all the same, for inspection.

    Raises
    ------
    HeadNotFound
        If the model has no head that a CAM could be made of, and no ``layer`` is given.
    MethodNotPossible
        If the map cannot be made in the graph.
    InputError
        If the source cannot be read or the target cannot be written.
    CrashError
        If the process died, hung or took too much memory; a file that it wrote by then is not verified.

    Notes
    -----
    Weights that lie in files of their own become part of the file up to 1 GiB; more are not read, and stay apart.
    """
    order = {key: value for key, value in locals().items() if key not in ("source", "path", "sandbox")}
    if sandbox or (wanted_apart(sandbox) and can_be_sent(order)):
        return export_apart(source, path, **order)
    goal = target_path(path, overwrite=overwrite, source=source)
    doing(f"exporting {source if isinstance(source, (str, PathLike)) else 'the model'}")
    given = OnnxBackend(source, device="cpu")
    refuse_embedded(given)
    loaded = _converted(given.loaded, opset, fp16)
    backend = given if loaded is given.loaded else OnnxBackend(loaded.model, device="cpu")
    wanted = Wanted(method, layer, classes, heatmap, name, target, options)  # type: ignore[arg-type]
    tap = _tap(backend, layer, embed=embed)
    _check_second(second_weight, tap)
    if embed:
        done = embed_map(backend, wanted, labels=labels, preprocess=preprocess)
        model, card = done.model, done.card
    else:
        card = card_of(backend, tap, labels=labels, preprocess=preprocess)
        model = surgery.add_outputs(loaded, {features: backend.value(layer)})
    if second_weight is not None:
        card = replace(card, second_weight=add_second_weight(model, second_weight))
    model.metadata_props.update(write_card(card))
    clean(model)
    report = _report(model, card, tap, given.loaded.name, goal, write_model(model, loaded, goal))
    if verify:
        inputs = list(batches) if batches is not None else sample_inputs(backend.input)
        plain = backend if fp16 else given
        report.checks = _verified(report, plain, wanted, inputs, features=wanted.name if embed else features, fp16=fp16)
        if second_weight is not None and report.passed:
            report.checks.append(check_second_weight(goal, second_weight))
        if fp16 and report.passed:
            report.checks.append(_half_check(given, backend, inputs))
        if reference is not None and report.passed:
            report.checks += check_against(
                goal, reference, inputs, head=_has_head(backend, layer), limit=_limit(backend, fp16)
            )
    return report


def _tap(backend: OnnxBackend, layer: str | None, *, embed: bool) -> Tap:
    """The features; where they are given themselves they must be those of a head, or be named."""
    tap = backend.tap(layer)
    if layer is None and not embed:
        tap.need_head()
    return tap


def _verified(
    report: Report, backend: OnnxBackend, wanted: Wanted, inputs: Sequence[NDArray[Any]], *, features: str, fp16: bool
) -> list[Check]:
    """The checks against the model that the file was made of; in half precision, against that in half precision."""
    kinds: dict[str, Any] = {"head": _has_head(backend, wanted.layer)}
    if fp16:
        kinds["limit"] = _HALF
    checks = check_model(report.path, backend.loaded, features=features, batches=inputs, **kinds)
    checks = [_explained(check, backend) for check in checks]
    if report.cam is not None and all(check.passed for check in checks):
        checks += check_embedded(report.path, backend, report.cam, inputs, limit=_limit(backend, fp16))
    return checks


def _explained(check: Check, backend: OnnxBackend) -> Check:
    """The check, with the cause where it is known."""
    pairs = (node for node in backend.graph if node.op_type == "QuantizeLinear")
    if check.passed or check.name != "outputs" or not any(n.outputs[0].dtype == ir.DataType.INT8 for n in pairs):
        return check
    why = (
        "activations are int8, of which ONNX Runtime on x86 loses integer kernels where a tensor is read twice; "
        "quantise activations to uint8"
    )
    return replace(check, detail=f"{check.detail}: {why}")


def _has_head(backend: OnnxBackend, layer: str | None) -> bool:
    return backend.tap().head is not None if layer is not None else backend.found.head is not None


def _limit(backend: OnnxBackend, fp16: bool) -> float:
    """How far maps may be apart: as far as the coarsest numbers between the image and them allow."""
    dtype = backend.found.logits.dtype
    half = fp16 or (dtype is not None and dtype.name in ("FLOAT16", "BFLOAT16"))
    return _HALF if half else _SINGLE


def _half_check(given: OnnxBackend, half: OnnxBackend, inputs: Sequence[NDArray[Any]]) -> Check:
    """What half precision changes, beside the model in float32."""
    before = given.loaded.path or given.loaded.model  # weights in other files lie beside the path
    error = half_error(before, half.loaded.model, inputs[-1])
    return Check("float16 against float32", error.scores <= _HALF, str(error), error.scores, _HALF)


def _report(model: ir.Model, card: Card, tap: Tap, source: str, goal: Path, size: int) -> Report:
    return Report(
        path=goal,
        layer=tap.layer,
        head=tap.how,
        outputs=[v.name or "" for v in model.graph.outputs],
        opset=model.opset_imports.get("", 0),
        ir_version=model.ir_version,
        size=size,
        source=source,
        cam=card.cam,
    )


def _converted(loaded: Loaded, opset: int | None, fp16: bool) -> Loaded:
    """In another opset, in half precision, or as it is."""
    loaded = _at_opset(loaded, opset)
    return load(to_float16(loaded.path or loaded.model)) if fp16 else loaded


def _at_opset(loaded: Loaded, opset: int | None) -> Loaded:
    if opset is None or loaded.model.opset_imports.get("") == opset:
        return loaded
    model = loaded.model.clone()
    take_in(model)
    proto = ir.to_proto(model)
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own kinds
        raise InputError(f"the model cannot be converted to opset {opset}: {str(error).splitlines()[0]}") from error
    return load(converted)


def _check_second(weight: NDArray[Any] | None, tap: Tap) -> None:
    if weight is None:
        return
    head = tap.need_head()
    if weight.shape != (head.classes, head.channels):
        raise InputError(
            f"the weight of the second classifier has shape {weight.shape}; expected that of the head, "
            f"({head.classes}, {head.channels})"
        )
