"""Claims on the cells of an experiment, so that several processes and machines can work on one folder."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from hf_datasel.atomic import write_file
from hf_datasel.errors import EvaluationError

__all__ = ["HEARTBEAT_SECONDS", "STALE_SECONDS", "claim", "is_claimed"]

HEARTBEAT_SECONDS = 30.0
"""Seconds between two signs of life of a claim."""
STALE_SECONDS = 600.0
"""Seconds without a sign of life after which a claim of another machine is taken over."""

_CLAIM, _LOCK = "claim.json", ".claims.lock"


@contextmanager
def claim(folder: Path, processes: tuple[int, ...] = ()) -> Iterator[bool]:
    """Claim the folder of a cell inside the context.

    A claim is a file with the host and the processes that work on the folder, whose modification time is renewed every
    30 seconds. It is free again when the context is left, when all its processes have ended (on the same host), or
    after ten minutes without a sign of life (another host).

    Args:
        folder: Folder of the cell; its parent holds the lock under which claims are made.
        processes: Ids of further processes that work on the folder, besides this one.

    Yields:
        Whether the claim was made: False if another process works on the folder.
    """
    token = uuid.uuid4().hex
    record = {"host": socket.gethostname(), "processes": [os.getpid(), *processes], "token": token}
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / _LOCK)
    with lock:
        taken = not is_claimed(folder)
        if taken:
            write_file(folder / _CLAIM, json.dumps(record), EvaluationError)
    if not taken:
        yield False
        return
    ended = threading.Event()
    heartbeat = threading.Thread(target=_renew, args=(folder / _CLAIM, ended), daemon=True)
    heartbeat.start()
    try:
        yield True
    finally:
        ended.set()
        heartbeat.join()
        with lock:
            if _read(folder).get("token") == token:
                (folder / _CLAIM).unlink(missing_ok=True)


def is_claimed(folder: Path) -> bool:
    """Whether a process that is alive has claimed the folder of a cell.

    Args:
        folder: Folder of the cell.
    """
    record = _read(folder)
    if not record:
        return False
    if record.get("host") == socket.gethostname():
        processes = record["processes"]
        return isinstance(processes, list) and any(map(_is_alive, processes))
    return _age(folder) < STALE_SECONDS


def _read(folder: Path) -> dict[str, object]:
    try:
        record = json.loads((folder / _CLAIM).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def _age(folder: Path) -> float:
    """Return the seconds since the claim was renewed, by the clock of the file system, which all machines share."""
    probe = folder / f".{uuid.uuid4().hex}.now"
    probe.touch()
    try:
        return probe.stat().st_mtime - (folder / _CLAIM).stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink()


def _is_alive(process: object) -> bool:
    try:
        os.kill(int(str(process)), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # there is no /proc
        return True
    return state != "Z"  # ended, and nobody has asked for its exit code


def _renew(file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(file, (now := time.time(), now))
        except OSError:  # the file system cannot be reached now: the next time, or the claim becomes stale
            continue
