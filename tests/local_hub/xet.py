"""Xet storage for the local Hub: folders that the real `hf_xet` writes to and reads from instead of a server."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NEVER = 9_999_999_999
# The parts of the storage that any number of readers share; the database beside them takes one process only.
SHARED = ("xorbs", "shards")
DATABASE = "global_dedup_lookup.redb"


def _hex(digest: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))


def _files_in(shard: bytes) -> Iterator[tuple[str, str]]:
    """Yield SHA-256 and Xet hash of the files that a shard lists, in records of 48 bytes after a header of one."""
    offset = 48
    while (digest := shard[offset : offset + 32]) != b"\xff" * 32:
        flags, terms = struct.unpack("<2I", shard[offset + 32 : offset + 40])
        verified, has_sha256 = bool(flags & 1 << 31), bool(flags & 1 << 30)
        offset += 48 * (1 + terms * (1 + verified))
        if has_sha256:
            yield _hex(shard[offset : offset + 32]), _hex(digest)
            offset += 48


class XetStore:
    """Each upload gets a folder of its own and each reader a view of the main one.

    A folder's database locks out other processes, and a client may hold it open for as long as it lives. So nothing
    that one client opened is ever opened by another, be it a subprocess, the test process or this store.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}
        self._uploads: list[Path] = []
        self._count = 0
        self._session: Any = None

    def upload_url(self) -> str:
        self._uploads.append(self._new_folder())
        return f"local://{self._uploads[-1]}"

    def read_url(self) -> str:
        return f"local://{self._view(self.root / 'main')}"

    def receive(self, sha256: str) -> bytes | None:
        """Give the content that some client has uploaded, and from now on serve it to readers."""
        for folder in reversed(self._uploads):
            for shard in (folder / "xet/xorbs/shards").glob("*.mdb"):
                if xet_hash := dict(_files_in(shard.read_bytes())).get(sha256):
                    content = self._read(self._view(folder), xet_hash)
                    self.hashes[sha256] = self._write(content)
                    return content
        return None

    def _new_folder(self) -> Path:
        self._count += 1
        folder = self.root / f"{self._count:06}"
        folder.mkdir(parents=True)
        return folder

    def _view(self, source: Path) -> Path:
        folder = self._new_folder()
        target, source = folder / "xet/xorbs", source / "xet/xorbs"
        target.mkdir(parents=True)
        for name in SHARED:
            (target / name).symlink_to(source / name)
        shutil.copy(source / DATABASE, target)
        return folder

    def _read(self, folder: Path, xet_hash: str) -> bytes:
        from hf_xet import XetFileInfo

        where = {"endpoint": f"local://{folder}", "token": "t", "token_expiry_unix_secs": NEVER}
        with self._open().new_download_stream_group(**where) as group:
            return b"".join(group.download_stream(XetFileInfo(xet_hash)))

    def _write(self, content: bytes) -> str:
        from hf_xet import COMPUTE_SHA256

        where = {"endpoint": f"local://{self.root / 'main'}", "token": "t", "token_expiry_unix_secs": NEVER}
        with self._open().new_upload_commit(**where) as commit:
            handle = commit.start_upload_bytes(content, sha256=COMPUTE_SHA256, name="file")
        return str(handle.result().xet_info.hash)

    def _open(self) -> Any:
        if self._session is None:
            from hf_xet import XetSession

            self._session = XetSession()
        return self._session
