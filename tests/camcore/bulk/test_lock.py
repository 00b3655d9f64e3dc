"""Two processes on one folder: the second is refused; a dead one holds nothing."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from camcore import InputError
from camcore.bulk import lock
from camcore.bulk.lock import FolderLock

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from camcore.bulk.lock import FolderLock\n"
    "with FolderLock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with holder:
        with (
            pytest.raises(InputError, match=f"process {holder.pid} on .* is writing to it; wait until"),
            FolderLock(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".lock").exists()
        with FolderLock(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_twice_in_one_process(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(InputError, match="is writing to it"), FolderLock(tmp_path):
        pass
    with FolderLock(tmp_path):
        assert "process " in (tmp_path / ".lock").read_text()


def test_a_lock_file_that_was_taken_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking it, its holder has ended and removed it: then it locks nothing."""
    take, calls = lock._take, []

    def slow(file: object) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(file)
        take(file)  # type: ignore[arg-type]

    monkeypatch.setattr(lock, "_take", slow)
    with FolderLock(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_take", refuse)
    with pytest.raises(InputError, match=r"has no locks \(No locks available\), .* choose a folder on a local disk"):
        FolderLock(tmp_path).__enter__()
