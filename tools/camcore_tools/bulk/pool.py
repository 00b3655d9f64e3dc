"""Processes that decode pictures ahead of the one that explains them, in order, and never more than a few batches."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

import numpy as np

from camcore.bulk.decoding import Decoded, decode
from camcore.errors import InputError
from camcore.preprocess import Preprocess

__all__ = ["DecodingPool"]

_AHEAD = 2  # batches a worker, so that none waits for work


class DecodingPool:
    """Use it as a context manager.

    Parameters
    ----------
    rule : Preprocess
    workers : int
        Processes; 0 decodes in this one.

    Notes
    -----
    The processes are spawned, since ONNX Runtime's threads do not survive a fork; they import neither it nor PyTorch.
    They end with this process, also when that is killed. A picture at which a process dies, twice, is one that
    cannot be read.
    """

    def __init__(self, rule: Preprocess, workers: int) -> None:
        self._rule, self._workers = rule, workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def decode(self, batches: Iterable[list[str]]) -> Iterator[Decoded]:
        """Each batch, decoded, in order."""
        if not self._workers:
            yield from (decode(paths, self._rule) for paths in batches)
            return
        waiting: deque[tuple[list[str], Future[Decoded]]] = deque()
        for paths in batches:
            waiting.append((paths, self._submit(paths)))
            if len(waiting) > _AHEAD * self._workers:
                yield self._result(*waiting.popleft())
        while waiting:
            yield self._result(*waiting.popleft())

    def _submit(self, paths: list[str]) -> Future[Decoded]:
        for _ in range(2):
            try:
                return self._started().submit(decode, paths, self._rule)
            except BrokenProcessPool:  # a process has died meanwhile
                self._stop()
        return self._started().submit(decode, paths, self._rule)

    def _result(self, paths: list[str], future: Future[Decoded]) -> Decoded:
        try:
            return future.result()
        except (BrokenProcessPool, CancelledError):  # of those that waited each is tried alone
            return _joined([self._alone(path) for path in paths])

    def _alone(self, path: str) -> Decoded:
        try:
            return self._submit([path]).result()
        except BrokenProcessPool:
            self._try_out()
        return Decoded.failed([path], f"{path}: the process that decoded it died; the file may be made to do that")

    def _try_out(self) -> None:
        """It is no fault of a picture where processes die without one."""
        try:
            self._submit([]).result()
        except BrokenProcessPool as error:
            raise InputError(
                "the processes that decode pictures die as soon as they are started; take --workers 0 to do without, "
                "or look for the reason above"
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_prepare)
        return self._executor

    def _stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


def _prepare() -> None:
    """In a worker: interruptions are for the process that started it, and it does not outlive that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _joined(parts: list[Decoded]) -> Decoded:
    good = [part for part in parts if part.places]
    return Decoded(
        [path for part in parts for path in part.paths],
        np.concatenate([part.pixels for part in good]) if good else parts[0].pixels,
        np.concatenate([part.views for part in parts]),
        [n for n, part in enumerate(parts) if part.places],
        [error for part in parts for error in part.errors],
    )
