"""Pictures in memory, and batches that are read ahead."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from camcore_tools.training.pictures import Numbers, PictureArray, prefetched
from numpy.typing import NDArray

from camcore import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
ARRAY = PictureArray(IMAGES, np.arange(7, dtype=np.int64) % 2, ("a", "b"), [f"{n}.png" for n in range(7)])


class Slow(PictureArray):
    """Whose third picture is gone, and which tells in which thread it was read."""

    threads: set[int] = set()  # noqa: RUF012 - of this class of tests

    def pixels(self, numbers: Numbers) -> NDArray[np.uint8]:
        self.threads.add(threading.get_ident())
        if 3 in np.asarray(numbers):
            raise InputError("3.png: no such file")
        return super().pixels(numbers)


def test_pictures_in_the_order_asked_for() -> None:
    assert len(ARRAY) == 7
    np.testing.assert_array_equal(ARRAY.pixels([5, 0, 5]), IMAGES[[5, 0, 5]])
    assert ARRAY.pixels([]).shape == (0, 4, 5, 3)


@pytest.mark.parametrize("sizes", [[], [7], [3, 3, 1], [1] * 7])
def test_batches_that_are_read_ahead_are_the_same(sizes: list[int]) -> None:
    batches = np.split(np.random.default_rng(0).permutation(7), np.cumsum(sizes)[:-1]) if sizes else []
    found = list(prefetched(ARRAY, batches))
    assert len(found) == len(sizes)
    for pixels, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(pixels, IMAGES[batch])


def test_they_are_read_elsewhere_and_one_ahead_at_most() -> None:
    asked: list[int] = []

    def batches() -> object:
        for n in (0, 1, 2):
            asked.append(n)
            yield [n]

    slow = Slow(IMAGES, ARRAY.labels, ARRAY.classes, ARRAY.names)
    stream = prefetched(slow, batches())  # type: ignore[arg-type]
    np.testing.assert_array_equal(next(stream), IMAGES[[0]])
    assert asked == [0, 1]
    stream.close()
    assert threading.get_ident() not in slow.threads


def test_an_error_comes_when_its_batch_does_and_no_thread_stays() -> None:
    before = threading.active_count()
    stream = prefetched(Slow(IMAGES, ARRAY.labels, ARRAY.classes, ARRAY.names), [[0], [3], [5]])
    np.testing.assert_array_equal(next(stream), IMAGES[[0]])
    with pytest.raises(InputError, match=r"3\.png: no such file"):
        next(stream)
    assert threading.active_count() == before
