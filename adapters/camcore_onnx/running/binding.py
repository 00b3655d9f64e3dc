"""Tensors that stay on the device: inputs are copied there ahead, and only what is asked for comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from camcore.errors import InputError
from camcore_onnx.running.packages import onnxruntime

__all__ = ["MAX_GRAPHS", "Bound", "Placed", "Recorded", "ahead"]

MAX_GRAPHS = 8
Part = TypeVar("Part")
Ready = TypeVar("Ready")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Placed:
    """An array that lies on a device, to be read by several runs."""

    value: Any
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]


class Bound:
    """Runs of a session on a device with memory of its own.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    memory : str
        How ONNX Runtime names that memory: ``"cuda"``.
    index : int
        Of the device.

    Notes
    -----
    ``put`` may be called by any thread while another one runs; ``run`` by one thread at a time.
    """

    def __init__(self, session: Any, memory: str, index: int = 0) -> None:
        self._session, self._memory, self._index = session, memory, index

    def put(self, array: NDArray[Any]) -> Any:
        """Copy an array to the device."""
        return Placed(onnxruntime().OrtValue.ortvalue_from_numpy(array, self._memory, self._index), array.shape)

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The outputs ``names`` as arrays; of ``feed``, arrays are read from the host."""
        binding = self._session.io_binding()
        for name, value in feed.items():
            if isinstance(value, Placed):
                binding.bind_ortvalue_input(name, value.value)
            else:
                binding.bind_cpu_input(name, value)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())


@dataclass(frozen=True, eq=False)
class _Graph:
    """A recorded run: what it reads, what it writes, and how it is replayed."""

    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    binding: Any
    options: Any


class Recorded(Bound):
    """Runs that CUDA records once for each shape, and then replays with one launch instead of hundreds.

    A recording reads and writes always the same memory, and takes what lies on the host as it was; so there is one for
    each choice of outputs, shapes and numbers on the host; and CUDA keeps them by thread, so that each records its own.
    """

    def __init__(self, session: Any, memory: str, index: int = 0) -> None:
        super().__init__(session, memory, index)
        self._graphs: dict[Any, _Graph] = {}

    def put(self, array: NDArray[Any]) -> Any:
        """The array as it is, marked: it is copied into the memory that the recording reads, just before the run."""
        return Placed(array, array.shape)

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The outputs ``names`` as arrays.

        Raises
        ------
        InputError
            For the ninth shape: each recording keeps its memory.
        """
        placed = {name: v.value for name, v in feed.items() if isinstance(v, Placed)}
        host = {name: v for name, v in feed.items() if not isinstance(v, Placed)}
        key = (
            tuple(names),
            tuple((name, array.shape, array.dtype.str) for name, array in placed.items()),
            tuple((name, array.tobytes()) for name, array in host.items()),
        )
        if key not in self._graphs:
            self._graphs[key] = self._record(names, placed, host)
        graph = self._graphs[key]
        for name, array in placed.items():
            graph.inputs[name].update_inplace(array)
        self._session.run_with_iobinding(graph.binding, graph.options)
        return [value.numpy() for value in graph.outputs]

    def _record(self, names: Sequence[str], placed: Mapping[str, Any], host: Mapping[str, Any]) -> _Graph:
        """Bind memory for the inputs, and for outputs as large as a run without recording makes them."""
        if len(self._graphs) == MAX_GRAPHS:
            shapes = " and ".join(str(array.shape) for array in placed.values())
            raise InputError(
                f"cuda_graph=True keeps one recording for each shape of its inputs, {MAX_GRAPHS} at most; {shapes} "
                "would be another. Give batches of the same size, or leave cuda_graph out"
            )
        make = onnxruntime().OrtValue.ortvalue_from_numpy
        inputs = {name: make(array, self._memory, self._index) for name, array in placed.items()}
        first = self._bind(inputs, host)
        for name in names:
            first.bind_output(name, self._memory, self._index)
        self._session.run_with_iobinding(first, _number(-1))
        outputs = first.get_outputs()
        binding = self._bind(inputs, host)
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Graph(inputs, outputs, binding, _number(len(self._graphs) + 1))

    def _bind(self, inputs: Mapping[str, Any], host: Mapping[str, NDArray[Any]]) -> Any:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in host.items():
            binding.bind_cpu_input(name, array)
        return binding


def _number(graph: int) -> Any:
    """Options of a run that is recorded, and replayed, under a number; -1 for one that is not."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def ahead(parts: Iterable[Part], prepare: Callable[[Part], Ready], run: Callable[[Ready], Result]) -> Iterator[Result]:
    """``run(prepare(part))`` for each part in order; the next one is prepared in a thread meanwhile.

    Two prepared parts exist at a time. What ``prepare`` raises is raised where its part's turn has come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="camcore-ahead") as thread:
        waiting = None
        for part in parts:
            following = thread.submit(prepare, part)
            if waiting is not None:
                yield run(waiting.result())
            waiting = following
        if waiting is not None:
            yield run(waiting.result())
