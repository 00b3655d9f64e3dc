"""Processes that decode: in order, a few batches ahead, and what happens when one dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from camcore_tools.bulk import pool as pool_module
from camcore_tools.bulk.pool import DecodingPool
from PIL import Image

from camcore import InputError
from camcore.bulk.decoding import Decoded, decode
from camcore.preprocess import Preprocess, preprocess

RULE = preprocess("unit", size=(8, 8))
DEADLY = "deadly.png"


def decode_or_die(paths: Sequence[str], rule: Preprocess) -> Decoded:
    """A decoder with a defect, for the processes that import this module."""
    if any(Path(path).name == DEADLY for path in paths):
        os._exit(9)
    return decode(paths, rule)


def always_die(paths: Sequence[str], rule: Preprocess) -> Decoded:
    os._exit(9)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions above must be found by their name in a process that knows nothing of pytest."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    for function in (decode_or_die, always_die):
        monkeypatch.setattr(function, "__module__", "test_pool")
    monkeypatch.setitem(sys.modules, "test_pool", sys.modules[__name__])


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    found = []
    for n in range(10):
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.full((9, 9, 3), 20 * n, np.uint8)).save(path)
        found.append(str(path))
    return found


def batches(paths: list[str]) -> Iterator[list[str]]:
    return iter([paths[n : n + 2] for n in range(0, len(paths), 2)])


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order(paths: list[str], workers: int) -> None:
    with DecodingPool(RULE, workers) as pool:
        found = list(pool.decode(batches(paths)))
    assert [path for part in found for path in part.paths] == paths
    np.testing.assert_array_equal([p[0, 0, 0] for part in found for p in part.pixels], np.arange(10) * 20)


def test_only_a_few_batches_ahead(paths: list[str]) -> None:
    asked = []

    def endless() -> Iterator[list[str]]:
        while True:
            asked.append(1)
            yield paths[:1]

    with DecodingPool(RULE, 1) as pool:
        decoded = pool.decode(endless())
        for n in range(1, 6):
            next(decoded)
            assert len(asked) == n + 2


@pytest.mark.usefixtures("importable")
def test_a_picture_at_which_the_process_dies_is_a_row_with_an_error(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "decode", decode_or_die)
    deadly = Path(paths[3]).rename(Path(paths[3]).with_name(DEADLY))
    paths[3] = str(deadly)
    with DecodingPool(RULE, 1) as pool:
        found = list(pool.decode(batches(paths)))
    assert [path for part in found for path in part.paths] == paths
    errors = [error for part in found for error in part.errors]
    assert errors[3] == f"{deadly}: the process that decoded it died; the file may be made to do that"
    assert not any(errors[:3] + errors[4:])
    assert [part.places for part in found] == [[0, 1], [0], [0, 1], [0, 1], [0, 1]]
    assert found[1].pixels[0, 0, 0, 0] == 40


@pytest.mark.usefixtures("importable")
def test_processes_that_cannot_start_are_no_fault_of_the_pictures(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "decode", always_die)
    with (
        DecodingPool(RULE, 1) as pool,
        pytest.raises(InputError, match=r"die as soon as they are started; .*--workers 0"),
    ):
        list(pool.decode(batches(paths)))


def test_workers_end_with_the_process_that_started_them(paths: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from camcore.preprocess import preprocess\n"
        "from camcore_tools.bulk.pool import DecodingPool\n"
        "if __name__ == '__main__':\n"
        "    with DecodingPool(preprocess('unit', size=(8, 8)), 2) as pool:\n"
        "        decoded = pool.decode([[path] for path in sys.argv[1:]])\n"
        "        next(decoded)\n"
        "        print(*pool._executor._processes, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, script, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    end = time.monotonic() + 20
    while any(map(_runs, workers)):
        assert time.monotonic() < end, "a worker outlives the run"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
