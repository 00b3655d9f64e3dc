"""One process at a time in a folder: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from camcore.errors import InputError

__all__ = ["FolderLock"]

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes]) -> None:
        """One byte far behind the text, which others may read meanwhile."""
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _take(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """Holds a folder as long as its block lasts; use it as a context manager.

    The file ``.lock`` in it says who holds it. Left behind by a process that was killed it holds nothing: the lock is
    the kernel's, and a dead process has none.

    Raises
    ------
    InputError
        If another process holds the folder, or the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / ".lock"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        while self._file is None:
            file = self._path.open("a+b")
            try:
                self._lock(file)
                if not _is_there(self._path, file):  # its last holder has taken it away meanwhile
                    continue
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
                file.flush()
                self._file = file
            finally:
                if self._file is None:
                    file.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if sys.platform != "win32":  # while it is held, so that nobody locks a file that is gone
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None
        if sys.platform == "win32":
            with suppress(OSError):  # somebody has it open: then it is theirs
                self._path.unlink(missing_ok=True)

    def _lock(self, file: IO[bytes]) -> None:
        try:
            _take(file)
        except (BlockingIOError, PermissionError) as error:
            raise InputError(
                f"output folder {self._folder}: {self._holder(file)} is writing to it; wait until that has ended, or "
                "choose another folder with -o"
            ) from error
        except OSError as error:
            raise InputError(
                f"output folder {self._folder}: its file system has no locks ({error.strerror}), so that two runs "
                "could write to it at once; choose a folder on a local disk with -o"
            ) from error

    @staticmethod
    def _holder(file: IO[bytes]) -> str:
        with suppress(OSError):
            file.seek(0)
            return file.read(200).decode(errors="replace").strip() or "another process"
        return "another process"


def _is_there(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
