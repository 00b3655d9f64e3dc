"""Write a model that shows its features, with all that is needed to explain it, and verify it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import InputError
from camcore.evidence import Tap
from camcore.files import write_atomically
from camcore.preprocess import Preprocess
from camcore_onnx import surgery
from camcore_onnx.backend import OnnxBackend
from camcore_onnx.cards import card_of
from camcore_onnx.load import Loaded, load, serialize
from camcore_onnx.metadata import Card, write_card
from camcore_onnx.second import add_second_weight
from camcore_onnx.verify import Check, Reference, check_against, check_model, check_second_weight, sample_inputs

__all__ = ["Report", "export"]

_PRIVATE = (
    "pkg.torch.onnx.stack_trace",
    "pkg.torch.onnx.fx_node",
    "namespace",
)  # paths and names of the author's machine
_SAFE_IR = 10


@dataclass
class Report:
    """What an export found, wrote and verified."""

    path: Path
    layer: str
    head: str
    outputs: list[str]
    opset: int
    ir_version: int
    size: int
    checks: list[Check] = field(default_factory=list)
    source: str = ""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; an infinite difference (other shapes, NaN) is None."""
        document = asdict(self) | {"path": str(self.path), "passed": self.passed}
        for check in document["checks"]:
            if check["difference"] is not None and not math.isfinite(check["difference"]):
                check["difference"] = None
        return document


def export(
    source: Any,
    path: str | PathLike[str],
    *,
    layer: str | None = None,
    labels: Any = None,
    preprocess: str | Preprocess | None = None,
    features: str = "features",
    opset: int | None = None,
    overwrite: bool = True,
    verify: bool = True,
    second_weight: NDArray[Any] | None = None,
    reference: Reference | None = None,
    batches: Sequence[NDArray[Any]] | None = None,
) -> Report:
    """Add the features behind a model's own outputs, describe it in its metadata, write one file, verify it.

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
        The name of the new output.
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

    Returns
    -------
    Report
        ``passed`` is False if a check failed; the file is then written all the same, for inspection.

    Raises
    ------
    HeadNotFound
        If the model has no head that a CAM could be made of, and no ``layer`` is given.
    InputError
        If the source cannot be read or the target cannot be written.
    """
    target = _target(path, overwrite)
    backend = OnnxBackend(source, device="cpu")
    tap = backend.tap(layer)
    if layer is None:
        tap.need_head()
    loaded = _at_opset(backend.loaded, opset)
    _check_second(second_weight, tap)
    card = card_of(backend, tap, labels=labels, preprocess=preprocess)
    model = _prepared(loaded, tap.layer, features, card, second_weight)
    data = _one_file(model, loaded)
    write_atomically(target, lambda file: file.write(data))
    report = Report(
        path=target,
        layer=tap.layer,
        head=tap.how,
        outputs=[v.name or "" for v in model.graph.outputs],
        opset=model.opset_imports.get("", 0),
        ir_version=model.ir_version,
        size=len(data),
        source=loaded.name,
    )
    if verify:
        inputs = list(batches) if batches is not None else sample_inputs(backend.input)
        head = layer is None or backend.tap().head is not None
        report.checks = check_model(target, backend.loaded, features=features, batches=inputs, head=head)
        if second_weight is not None and report.passed:
            report.checks.append(check_second_weight(target, second_weight))
        if reference is not None and report.passed:
            report.checks += check_against(target, reference, inputs, head=head)
    return report


def _target(path: str | PathLike[str], overwrite: bool) -> Path:
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target}: is a folder; expected the name of a file, such as {target / 'model.onnx'}")
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; choose another name or allow to overwrite it")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder; make it first")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent}: cannot be written to; choose another folder")
    return target


def _at_opset(loaded: Loaded, opset: int | None) -> Loaded:
    if opset is None or loaded.model.opset_imports.get("") == opset:
        return loaded
    model = loaded.model.clone()
    _take_in(model)
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


def _prepared(
    loaded: Loaded, layer: str, features: str, card: Card, second_weight: NDArray[Any] | None = None
) -> ir.Model:
    values = {v.name: v for node in loaded.model.graph for v in node.outputs}
    if layer not in values:  # a converted model has other names: look again
        found = OnnxBackend(ir.to_proto(loaded.model), device="cpu").tap()
        layer = found.layer
    model = surgery.add_outputs(loaded, {features: values[layer]})
    for node in model.graph:
        for key in _PRIVATE:
            node.metadata_props.pop(key, None)
        node.doc_string = None
    if second_weight is not None:
        card = replace(card, second_weight=add_second_weight(model, second_weight))
    model.metadata_props.update(write_card(card))
    lowest = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items() if d in ("", "ai.onnx.ml")], True
    )
    model.ir_version = max(min(model.ir_version, _SAFE_IR), lowest)
    return model


def _one_file(model: ir.Model, loaded: Loaded) -> bytes:
    if loaded.folder is not None:
        _take_in(model)
    return serialize(model)


def _take_in(model: ir.Model) -> None:
    """Weights of external files become part of the model."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
