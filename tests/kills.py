"""Processes that die at each of their file operations in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock")
KILLED = 9


def killed_at_each_operation(run: Callable[[], object], folder: str, limit: int = 500) -> Iterator[int]:
    """Run a function in forked processes: the first dies before its first operation in the folder, and so on.

    Yields the number of the operation after each death. Ends when a process gets to its end.
    """
    for number in range(limit):
        process = os.fork()
        if not process:
            _die_at(number, folder)
            run()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code == 0:
            return
        assert code == KILLED, f"the process ended with {code} at operation {number}"
        yield number
    raise AssertionError(f"the process did not end within {limit} operations")


def _die_at(number: int, folder: str) -> None:
    count = -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS:
            return
        path = arguments[0] if arguments else ""
        if isinstance(path, int) or str(os.fspath(path) if isinstance(path, os.PathLike) else path).startswith(folder):
            count += 1
            if count == number:
                os._exit(KILLED)

    sys.addaudithook(hook)
