"""What is true of a graph's tensors whatever the images: shapes, types and computed integers, seen by running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from camcore.errors import CamError, InputError
from camcore.evidence import InputSpec
from camcore_onnx.constants import Constants
from camcore_onnx.gradients.tensor import Lengths
from camcore_onnx.reading.load import Loaded
from camcore_onnx.running.runtime import make_session

__all__ = ["TYPES", "Facts", "Feed", "image_of", "probes", "see"]

Feed = Mapping[str, NDArray[Any]]
_SIZES = (224, 299, 256, 128, 96, 64, 32, 28, 384, 16, 512)  # tried in turn where the size of the images is free
_PRIMES, _EVEN = (37, 41, 43), (32, 64, 96)  # how much larger an image is, along each axis, to see what follows it
_MAX_ELEMENTS = 1 << 16
_OPAQUE = ("If", "Loop", "Scan", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
TYPES = {
    "tensor(float)": ir.DataType.FLOAT,
    "tensor(double)": ir.DataType.DOUBLE,
    "tensor(float16)": ir.DataType.FLOAT16,
    "tensor(bfloat16)": ir.DataType.BFLOAT16,
    "tensor(int64)": ir.DataType.INT64,
    "tensor(int32)": ir.DataType.INT32,
    "tensor(int8)": ir.DataType.INT8,
    "tensor(uint8)": ir.DataType.UINT8,
    "tensor(int16)": ir.DataType.INT16,
    "tensor(uint16)": ir.DataType.UINT16,
    "tensor(bool)": ir.DataType.BOOL,
}


@dataclass(eq=False)
class Facts:
    """Shapes, types and constant integers of a graph's tensors.

    Attributes
    ----------
    constants : Constants
        Of the same graph.
    shapes : dict
        A tensor's shape, None for each length that differed between the probes.
    types : dict
    numbers : dict
        Integers that the graph computes, and that came out the same in all probes.
    """

    constants: Constants
    shapes: dict[ir.Value, Lengths] = field(default_factory=dict)
    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    numbers: dict[ir.Value, NDArray[Any]] = field(default_factory=dict)

    def shape(self, value: ir.Value) -> Lengths:
        """The lengths of a tensor, None for those that follow the images."""
        if value in self.shapes:
            return self.shapes[value]
        if value.shape is not None and all(isinstance(n, int) for n in value.shape):
            return tuple(int(n) for n in value.shape if isinstance(n, int))
        stored = self.constants.value(value)
        if stored is None:
            raise InputError(f"nothing is known of the shape of {value.name!r}")
        return tuple(stored.shape)

    def dtype(self, value: ir.Value) -> ir.DataType:
        """The type of a tensor; UNDEFINED where it is not known."""
        found = self.types.get(value, value.dtype)
        if found is None and value.const_value is not None:
            return value.const_value.dtype
        if found is None and (stored := self.constants.value(value)) is not None:
            return ir.DataType.from_numpy(stored.dtype)
        return ir.DataType.UNDEFINED if found is None else found

    def is_dequantized(self, value: ir.Value) -> bool:
        """Whether a tensor is computed of stored integers: runtimes would dequantise these again in every run."""
        top: ir.Value | None = value
        while top is not None and self.constants.is_constant(top):
            producer = top.producer()
            if producer is None or producer.op_type == "DequantizeLinear":
                return producer is not None
            top = next(iter(producer.inputs), None)
        return False

    def number(self, value: ir.Value | None) -> NDArray[Any] | None:
        """The array of a tensor that is the same for all images, or None."""
        if value is None:
            return None
        return self.numbers[value] if value in self.numbers else self.constants.value(value)

    def hold(self, loaded: Loaded, feed: Feed) -> bool:
        """Whether a run on other images shows the same: lengths may have agreed between the probes by chance.

        Parameters
        ----------
        loaded : Loaded
            The model as it came; its tensors are known by their names.
        feed : dict
        """
        values = {v.name: v for node in loaded.model.graph for v in node.outputs}
        names = {v: (v.name or "").removeprefix("again/") for v in self.shapes}  # a second tail is as the first
        pairs = [(v, values[name]) for v, name in names.items() if name in values]
        seen = see(loaded, [value for _, value in pairs], [feed])
        same = all(_fits(self.shapes[v], seen.shapes[value]) for v, value in pairs if value in seen.shapes)
        fixed = [(self.numbers[v], seen.numbers.get(value)) for v, value in pairs if v in self.numbers]
        return same and all(found is not None and np.array_equal(n, found) for n, found in fixed)


def see(loaded: Loaded, values: Iterable[ir.Value], feeds: Sequence[Feed]) -> Facts:
    """Run a model, and note the shapes and types of some tensors, and the integers among them.

    Parameters
    ----------
    loaded : Loaded
        Not changed.
    values : iterable of ir.Value
        Of its graph.
    feeds : sequence of dict
        Inputs by name, for each run: lengths that differ between the runs are taken as free. The model must take the
        first; others are left out where it does not.
    """
    facts = Facts(Constants(loaded))
    wanted = [v for v in dict.fromkeys(values) if not facts.constants.is_constant(v)]
    if not wanted:
        return facts
    session = make_session(
        _with_shapes(loaded.model, wanted), device="cpu", optimization="disabled", folder=loaded.folder
    )
    types = {o.name: TYPES.get(o.type) for o in session.get_outputs()}
    ints = [v for v in wanted if _is_whole(types.get(v.name or "")) and _follows_lengths(v)]
    for value in wanted:
        dtype = types.get(value.name or "")
        if dtype is not None:
            facts.types[value] = dtype
    names = [_shape_name(i) for i in range(len(wanted))]
    wanted_names = [*names, *(v.name or "" for v in ints)]
    runs = [_run(session, wanted_names, feeds[0]), *_others(session, wanted_names, feeds[1:])]
    for i, value in enumerate(wanted):
        facts.shapes[value] = _common([tuple(run[i].tolist()) for run in runs])
    for i, value in enumerate(ints, start=len(wanted)):
        first = runs[0][i]
        if first.size <= _MAX_ELEMENTS and all(np.array_equal(run[i], first) for run in runs[1:]):
            facts.numbers[value] = first
    return facts


def _run(session: Any, names: Sequence[str], feed: Feed) -> Any:
    try:
        return session.run(names, dict(feed))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
        raise InputError(f"the model does not run on {shapes}: {_reason(error)}") from error


def _others(session: Any, names: Sequence[str], feeds: Sequence[Feed]) -> Iterator[Any]:
    """The runs that the model takes: one of a free batch axis may hold its batch inside."""
    for feed in feeds:
        with suppress(Exception):  # ONNX Runtime's exceptions share no base class
            yield session.run(names, dict(feed))


def _with_shapes(model: ir.Model, wanted: Sequence[ir.Value]) -> ir.Model:
    """A copy that gives the shapes of some tensors, and these themselves; runtimes find out their types."""
    copy = model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs} | {v.name: v for v in copy.graph.inputs}
    outputs = set(copy.graph.outputs)
    for i, original in enumerate(wanted):
        value = values[original.name]
        shape = ir.Value(name=_shape_name(i), type=ir.TensorType(ir.DataType.INT64))
        copy.graph.append(ir.Node("", "Shape", [value], outputs=[shape], name=_shape_name(i)))
        copy.graph.outputs.append(shape)
        if value not in outputs and value.producer() is not None:
            copy.graph.outputs.append(value)
    return copy


def _follows_lengths(value: ir.Value) -> bool:
    """Whether lengths of the inputs alone decide it, not their numbers, nor chance: what probes show then holds."""
    stack, seen = [value], {value}
    while stack:  # no recursion: graphs are deep
        top = stack.pop()
        producer = top.producer()
        if producer is None:
            if top.const_value is None:
                return False
        elif producer.op_type in _OPAQUE:
            return False
        elif producer.op_type not in ("Shape", "Size"):
            new = {v for v in producer.inputs if v is not None} - seen
            seen |= new
            stack += new
    return True


def _shape_name(i: int) -> str:
    return f"camcore/shape/{i}"


def _is_whole(dtype: ir.DataType | None) -> bool:
    return dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def _common(shapes: Sequence[tuple[int, ...]]) -> Lengths:
    return tuple(lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*shapes, strict=True))


def _fits(known: Lengths, seen: Lengths) -> bool:
    return len(known) == len(seen) and all(n in (None, m) for n, m in zip(known, seen, strict=True))


def probes(loaded: Loaded, spec: InputSpec, example: tuple[int, ...] | None = None) -> list[Feed]:
    """Images that show which lengths follow the batch and the size of the image.

    Parameters
    ----------
    loaded : Loaded
    spec : InputSpec
    example : tuple of int, optional
        The size (H, W) of images that the model is known to take.

    Returns
    -------
    list of dict
        The first is of the smallest batch; the other one, if any, differs from it in the batch, and in the size where
        the model takes another one.

    Raises
    ------
    InputError
        If the model runs on no image of a usual size; it then is told to give one.
    """
    space = spec.shape[2:]
    fixed = tuple(n for n in space if n is not None)
    batches = (2, 3) if spec.shape[0] is None else (spec.shape[0],)
    if len(fixed) == len(space):
        return [image_of(spec, batch, fixed) for batch in batches]
    session = make_session(loaded.model, device="cpu", optimization="disabled", folder=loaded.folder)
    tried = [example] if example is not None else [tuple(size if n is None else n for n in space) for size in _SIZES]
    reason = ""
    for size in tried:
        first = image_of(spec, batches[0], size)
        reason = _refused(session, first)
        if not reason:
            larger = [
                tuple(n + more if free is None else n for n, free, more in zip(size, space, steps, strict=False))
                for steps in (_PRIMES, _EVEN)
            ]
            others = (image_of(spec, batches[-1], other) for other in (*larger, size))
            return [first, *islice((other for other in others if not _refused(session, other)), 1)]
    raise InputError(
        f"{loaded.name}: the model runs on no image of "
        f"{', '.join('x'.join(map(str, size)) for size in tried)}: {reason}. Give the size it takes"
    )


def image_of(spec: InputSpec, batch: int, size: Sequence[int]) -> Feed:
    """Random images of a size."""
    numbers = np.random.default_rng(0).random((batch, spec.channels or 3, *size))
    return {spec.name: (numbers * 255 if spec.dtype == "uint8" else numbers - 0.5).astype(spec.dtype)}


def _refused(session: Any, feed: Feed) -> str:
    """Why ONNX Runtime does not run it; empty where it does."""
    try:
        session.run(None, dict(feed))
    except CamError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
