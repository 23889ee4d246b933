"""Memory of the machine."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]

_CGROUP = Path("/sys/fs/cgroup")
_FILES = (  # limit, usage, statistics and the entry of reclaimable page cache in these
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),  # version 2 of control groups
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available_memory() -> int:
    """Return the bytes that can be taken without swapping, within the limit of the container if there is one."""
    import psutil

    return min(int(psutil.virtual_memory().available), *(_left_in_container(*files) for files in _FILES))


def _left_in_container(limit: str, usage: str, statistics: str, entry: str) -> int:
    try:
        total, used = int((_CGROUP / limit).read_text()), int((_CGROUP / usage).read_text())
        lines = dict(line.split() for line in (_CGROUP / statistics).read_text().splitlines())
        return max(total - used + int(lines[entry]), 0)
    except (OSError, ValueError, KeyError):  # there is no container, or no limit ("max")
        return 2**63
