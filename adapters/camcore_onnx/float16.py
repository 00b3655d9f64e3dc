"""Half precision: weights and arithmetic in float16, and what that costs in scores and maps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.engine import Explainer
from camcore.errors import InputError, MethodNotPossible, suggest
from camcore.opening import open_backend
from camcore_onnx.reading.load import Loaded, infer_shapes, load
from camcore_onnx.running.packages import onnxruntime

__all__ = ["HalfError", "half_error", "to_float16"]

_LIMIT = 2**31 - 2**20  # bytes of weights; what surrounds them must fit into a message of 2 GiB too
_QUANTISED = ("QLinear", "QGemm", "QAttention", "QuantizeLinear", "DequantizeLinear", "DynamicQuantize")
_INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits")


def to_float16(model: Any, *, keep_io: bool = True, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A copy of a model that stores its weights and computes in half precision.

    Parameters
    ----------
    model : path, bytes, onnx.ModelProto or onnx_ir.Model
        Not changed. Weights in external files are read.
    keep_io : bool
        Whether the inputs and outputs stay float32, with a ``Cast`` behind the one and before the other, so that
        callers need not change.
    keep : collection of str
        Kinds of operators, or names of nodes, that go on in float32: those whose values exceed 65504, such as
        ``{"Pow", "ReduceMean"}`` of a layer norm made of parts.

    Returns
    -------
    onnx.ModelProto
        Half as large. Operators that take no float16 at the model's opset go on in float32 between two casts.
        Numbers below 6e-8 become 6e-8 and those above 65504 become 65504, with their signs.

    Raises
    ------
    InputError
        If the model is quantised, holds no float32, has a map embedded already, or is larger than 2 GiB.

    Notes
    -----
    The conversion is that of ``onnxruntime.transformers.float16``. What it leaves to its caller is done here: weights
    that are inputs too (IR version 3) are stored, which operators have no float16 is looked up in the schemas of the
    opset, and the nodes are put in order.

    Convert before a map is embedded: the sum of the map is to be done in float32.
    """
    loaded = load(model)
    _check(loaded)
    source = loaded.model.clone()
    _check_kept(source, keep)
    _store_weights(source)
    names = _name_nodes(source, keep)
    kinds = sorted(_float32_only(source) | set(keep))
    return _in_order(_convert(ir.to_proto(source), keep_io, kinds, names))


def _check(loaded: Loaded) -> None:
    model = loaded.model
    if "camcore.cam" in model.metadata_props:
        raise InputError(
            f"{loaded.name}: a map is embedded already, and its sum belongs in float32; convert the model to float16 "
            "first, then embed"
        )
    kinds = [node.op_type for node in ir.traversal.RecursiveGraphIterator(model.graph)]
    quantised = next((k for k in kinds if k.startswith(_QUANTISED) or k in _INTEGER), None)
    if quantised is not None:
        raise InputError(
            f"{loaded.name}: the model is quantised ({quantised}); float16 would undo that. Convert the model that it "
            "was made of"
        )
    if not any(v.dtype == ir.DataType.FLOAT for v in _stored(model)):
        raise InputError(f"{loaded.name}: the model holds no float32 weights; there is nothing to convert")
    size = sum(v.const_value.nbytes for v in _stored(model) if v.const_value is not None)
    if size > _LIMIT:
        raise InputError(
            f"{loaded.name}: {size / 2**30:.1f} GiB of weights do not fit into one message (2 GiB); export it in half "
            "precision instead: torch.onnx.export(model.half(), ...)"
        )


def _stored(model: ir.Model) -> Iterable[ir.Value]:
    yield from model.graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        value = node.outputs[0] if node.op_type == "Constant" and node.outputs else None
        if value is not None and value.const_value is not None:
            yield value


def _store_weights(model: ir.Model) -> None:
    """Weights are in the file, and are no inputs: an input would get a cast of its own at each run."""
    ir.external_data.load_to_model(model)
    stored = model.graph.initializers
    model.graph.inputs[:] = [
        v for v in model.graph.inputs if v.name not in stored or v.dtype not in (ir.DataType.FLOAT, None)
    ]
    model.ir_version = max(model.ir_version, 4)


def _check_kept(model: ir.Model, keep: Collection[str]) -> None:
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    known = {node.op_type: None for node in nodes} | {node.name: None for node in nodes if node.name}
    for name in keep:
        if name not in known:
            offer = suggest(name, known)
            raise InputError(f"keep={name!r}: the model has no operator of this kind or name. {offer}")


def _name_nodes(model: ir.Model, keep: Collection[str]) -> list[str]:
    """Give each node a name of its own, by which the converter knows it; those of the nodes to keep are returned."""
    seen: set[str] = set()
    kept = []
    for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph)):
        wanted = node.name in keep
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}/camcore_{i}"
        seen.add(node.name)
        kept += [node.name] if wanted else []
    return kept


def _float32_only(model: ir.Model) -> set[str]:
    """The kinds of operators whose floats cannot be float16 at the opset of the model."""
    return {
        node.op_type
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if not _takes_half(node.domain, node.op_type, model.opset_imports.get(node.domain, 1))
    }


@cache
def _takes_half(domain: str, kind: str, opset: int) -> bool:
    """Whether each input and output of an operator that may be float32 may be float16 too; True if it is unknown."""
    try:
        schema = onnx.defs.get_schema(kind, opset, domain)
    except onnx.defs.SchemaError:
        return True
    types = [set(formal.types) for formal in (*schema.inputs, *schema.outputs)]
    fixed = _FIXED.get(kind, frozenset())
    return all(
        "tensor(float16)" in allowed or i in fixed for i, allowed in enumerate(types) if "tensor(float)" in allowed
    )


_FIXED = {"Resize": frozenset({1, 2})}  # inputs that the converter itself leaves in float32


def _convert(proto: onnx.ModelProto, keep_io: bool, kinds: Sequence[str], names: Sequence[str]) -> onnx.ModelProto:
    onnxruntime()  # with its telemetry off, before its converter is imported
    float16 = import_module("onnxruntime.transformers.float16")
    proto.graph.ClearField("value_info")  # it infers types itself, and takes weights that are listed for results
    try:
        converted: onnx.ModelProto = float16.convert_float_to_float16(
            proto,
            keep_io_types=keep_io,
            op_block_list=sorted({*float16.DEFAULT_OP_BLOCK_LIST, *kinds}),
            node_block_list=list(names),
        )
    except Exception as error:  # a script's: AssertionError, ValueError, those of onnx
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"the model cannot be converted to float16: {reason[0][:300]}") from error
    return converted


def _in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With each node behind those that it reads, and the types that the tensors have now."""
    proto.graph.ClearField("value_info")
    model = ir.from_proto(proto)
    model.graph.sort()
    infer_shapes(model)
    return ir.to_proto(model)


@dataclass(frozen=True)
class HalfError:
    """What half precision changes on some images.

    Attributes
    ----------
    images : int
    scores, maps : float
        The largest difference, in parts of the largest score or map value of the same image. ``maps`` is NaN where the
        model has no map.
    largest : float
        The largest difference between two scores, as it is.
    agreement : float
        The part of the images with the same best class.
    method : str
        Whose maps were compared.
    """

    images: int
    scores: float
    largest: float
    agreement: float
    maps: float
    method: str = ""

    def __str__(self) -> str:
        maps = "no maps" if not self.method else f"{self.method} maps by up to {100 * self.maps:.2g} %"
        return (
            f"float16 on {self.images} image{'s' * (self.images != 1)}: scores differ by up to "
            f"{100 * self.scores:.2g} % ({self.largest:.2g}), {maps}; same best class in {100 * self.agreement:.4g} %"
        )


def half_error(
    before: Any,
    after: Any,
    images: NDArray[np.floating[Any]],
    *,
    method: str = "auto",
    layer: str | None = None,
    threads: int | None = None,
) -> HalfError:
    """Measure what half precision changes: scores, best classes, and maps of the classes that were best before.

    Parameters
    ----------
    before, after : path, bytes, onnx.ModelProto or onnx_ir.Model
        In float32, and what :func:`to_float16` made of it.
    images : (N, C, *S) ndarray
        As the model takes them. Noise shows less than real pictures do.
    method, layer : str, optional
        Whose maps; see :func:`camcore.explainer`.
    threads : int, optional

    Returns
    -------
    HalfError

    Notes
    -----
    Both run on the CPU, where ONNX Runtime computes in float32 what it has no float16 kernel for and rounds between
    operators: a GPU's own sums may round a little more.
    """
    with_half = [open_backend(model, device="cpu", threads=threads) for model in (before, after)]
    scores, half = (backend.scores(images).astype(np.float64) for backend in with_half)
    if scores.shape != half.shape:
        raise InputError(f"the two models give scores of shape {scores.shape} and {half.shape}; expected the same")
    maps, name = _map_error(with_half, images, method, layer)
    return HalfError(
        images=len(images),
        scores=_relative(half, scores),
        largest=float(np.abs(half - scores).max()),
        agreement=float((half.argmax(1) == scores.argmax(1)).mean()),
        maps=maps,
        method=name,
    )


def _map_error(backends: Sequence[Any], images: Any, method: str, layer: str | None) -> tuple[float, str]:
    try:
        first, second = (Explainer(backend, method=method, layer=layer) for backend in backends)
        name = first.plan.method.name
        expected = first(images)
        found = Explainer(second.backend, method=name, layer=layer)(images, expected.classes)
    except MethodNotPossible:
        return float("nan"), ""
    return _relative(found.maps, expected.maps), name


def _relative(found: Any, expected: Any) -> float:
    """The largest difference of an image, in parts of its largest value."""
    rows = expected.reshape(len(expected), -1).astype(np.float64)
    scale = np.abs(rows).max(axis=1)
    difference = np.abs(found.reshape(rows.shape) - rows).max(axis=1)
    return float(np.divide(difference, scale, out=np.where(difference > 0, np.inf, 0.0), where=scale > 0).max())
