"""Repositories kept in memory as Git keeps them: blobs by their content, commits in a line per branch, tags."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

LFS_SUFFIXES = (
    *(".7z", ".arrow", ".bin", ".bz2", ".gz", ".h5", ".jpg", ".msgpack", ".npy", ".npz", ".onnx", ".parquet"),
    *(".pickle", ".pkl", ".png", ".pt", ".pth", ".safetensors", ".tar", ".tgz", ".wav", ".zip", ".zst"),
)
LFS_SIZE = 10 * 1024 * 1024
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def git_oid(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    """Tell whether a file goes to LFS; an empty one never does."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_SIZE)


@dataclass(frozen=True)
class File:
    """One version of a file. `oid` is the Git blob, which for LFS is the pointer; `sha256` is None outside LFS."""

    content: bytes
    oid: str
    sha256: str | None = None
    pointer_size: int = 0

    @classmethod
    def of(cls, content: bytes, *, lfs: bool) -> File:
        if not lfs:
            return cls(content, git_oid("blob", content))
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = POINTER.format(sha256, len(content)).encode()
        return cls(content, git_oid("blob", pointer), sha256, len(pointer))

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files, oldest ancestor first in its branch."""

    oid: str
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, File]

    def under(self, folder: str) -> dict[str, File]:
        prefix = f"{folder}/" if folder else ""
        return {path: file for path, file in self.files.items() if path.startswith(prefix)}

    def folders(self) -> list[str]:
        return sorted({path[: slash.start()] for path in self.files for slash in re.finditer("/", path)})

    def folder_oid(self, folder: str) -> str:
        lines = sorted(f"{path}\0{file.oid}" for path, file in self.under(folder).items())
        return git_oid("tree", "\n".join(lines).encode())


@dataclass
class Repo:
    """A dataset or a model; `lfs` holds uploaded large files by SHA-256, whether a commit names them yet or not."""

    repo_type: str
    repo_id: str
    private: bool = False
    gated: str | bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    created: str = ""

    def __post_init__(self) -> None:
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        first = self._snapshot(
            {".gitattributes": File.of(rules.encode(), lfs=False)}, "", "initial commit", "", "system"
        )
        self.branches["main"] = [first]
        self.created = first.date

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    @property
    def path(self) -> str:
        """The address below the endpoint."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def head(self, branch: str = "main") -> Commit:
        return self.branches[branch][-1]

    def history(self, revision: str) -> list[Commit] | None:
        """Give the commits up to a branch, a tag or a commit (whole or its first seven digits), oldest first."""
        revision = re.sub(r"^refs/(heads|tags)/", "", revision)
        if revision in self.branches:
            return self.branches[revision]
        tagged = self.tags.get(revision)
        for line in self.branches.values():
            for end, commit in enumerate(line, 1):
                if commit is tagged or (len(revision) >= 7 and commit.oid.startswith(revision)):
                    return line[:end]
        return [tagged] if tagged else None

    def find(self, revision: str) -> Commit | None:
        line = self.history(revision)
        return line[-1] if line else None

    def add(self, branch: str, files: Mapping[str, File], title: str, message: str, author: str) -> Commit:
        line = self.branches[branch]
        commit = self._snapshot(files, line[-1].oid, title, message, author)
        line.append(commit)
        return commit

    def last_change(self, line: list[Commit], path: str) -> Commit:
        """Find the commit that wrote the file or folder as it stands at the end of the line."""
        expected = {name: file.oid for name, file in line[-1].files.items() if f"{name}/".startswith(f"{path}/")}
        latest = line[-1]
        for commit in reversed(line):
            if {name: commit.files[name].oid for name in expected if name in commit.files} != expected:
                break
            latest = commit
        return latest

    def _snapshot(self, files: Mapping[str, File], parent: str, title: str, message: str, author: str) -> Commit:
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        files = dict(sorted(files.items()))
        tree = "\n".join(f"{path}\0{file.oid}" for path, file in files.items())
        count = sum(len(line) for line in self.branches.values())  # two commits in one millisecond differ
        text = f"{self.repo_type} {self.repo_id} {parent} {count} {date} {title}\n{message}\n{tree}"
        return Commit(git_oid("commit", text.encode()), title, message, author, date, files)


@dataclass(frozen=True)
class Account:
    """What a token stands for. `orgs` maps an organisation to the role in it.

    `role` is that of the token: write, read, or fineGrained, which writes only in `scope` (repositories, namespaces).
    """

    name: str
    role: str = "write"
    orgs: Mapping[str, str] = field(default_factory=dict)
    scope: frozenset[str] = frozenset()

    def can_read(self, repo: Repo) -> bool:
        if self.role == "fineGrained" and repo.private:
            return self._in_scope(repo.repo_id)
        return not repo.private or repo.namespace == self.name or repo.namespace in self.orgs

    def can_write(self, repo_id: str) -> bool:
        namespace = repo_id.split("/")[0]
        member = namespace == self.name or self.orgs.get(namespace) in ("write", "admin", "contributor")
        return member and (self.role == "write" or (self.role == "fineGrained" and self._in_scope(repo_id)))

    def _in_scope(self, repo_id: str) -> bool:
        return bool(self.scope & {repo_id, repo_id.split("/")[0]})

    def describe(self) -> dict[str, object]:
        token: dict[str, object] = {"displayName": "test", "role": self.role}
        if self.role == "fineGrained":
            token["fineGrained"] = {"global": [], "scoped": list(self._scopes())}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        auth = {"type": "access_token", "accessToken": token}
        return {"type": "user", "id": self.name, "name": self.name, "fullname": self.name, "orgs": orgs, "auth": auth}

    def _scopes(self) -> Iterator[dict[str, object]]:
        for name in sorted(self.scope):
            kind = "repo" if "/" in name else "user" if name == self.name else "org"
            yield {"entity": {"type": kind, "name": name}, "permissions": ["repo.content.read", "repo.write"]}
