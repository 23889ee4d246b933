"""A Hugging Face Hub on the loopback, for tests with the real clients."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

from . import api
from .server import Faults, Reply, Seen, Server
from .store import Account, Commit, File, Repo, is_large
from .xet import XetStore

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class LocalHub:
    """A Hub with the user `tester`, a member of the organisation `lab`, and a user `stranger`.

    `url` is the endpoint. `token` writes, `read_token` reads, both are the tester's; `other_token` is the stranger's.
    More come from `add_token`. `requests` lists what has come in, on the endpoint and on the storage of large files.
    `delay` holds back every request by that many seconds. `granted` names who may read what is gated.

    >>> with LocalHub() as hub:
    ...     commit = hub.commit("tester/rows", {"README.md": b"# Rows"})
    ...     hub.files("tester/rows")["README.md"]
    b'# Rows'
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.accounts: dict[str, Account] = {}
        self.granted: set[str] = set()
        self.requests: list[Seen] = []
        self.token = self.add_token("tester", orgs={"lab": "write"})
        self.read_token = self.add_token("tester", role="read", orgs={"lab": "write"})
        self.other_token = self.add_token("stranger")
        self._faults = Faults()
        self._folder = tempfile.TemporaryDirectory(prefix="local_hub_")
        self.xet = XetStore(Path(self._folder.name))
        self._server = Server(partial(api.answer, self), self._faults, self.requests)
        self._storage = Server(partial(api.answer_storage, self), self._faults, self.requests)
        self.url = self._server.url

    def __enter__(self) -> LocalHub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.stop()
        self._storage.stop()
        self._folder.cleanup()

    # -- what is there ------------------------------------------------------------------------------------------------
    def add_token(
        self, name: str, *, role: str = "write", orgs: Mapping[str, str] | None = None, scope: Iterable[str] = ()
    ) -> str:
        """Make a token of a user; `scope` names the repositories and namespaces of a `fineGrained` one."""
        token = f"hf_{secrets.token_hex(16)}"
        self.accounts[token] = Account(name, role, orgs or {}, frozenset(scope))
        return token

    def create_repo(
        self, repo_id: str, *, repo_type: str = "dataset", private: bool = False, gated: str | bool = False
    ) -> Repo:
        with self.lock:
            if (repo_type, repo_id) in self.repos:
                raise ValueError(f"The {repo_type} {repo_id} is already there.")
            repo = Repo(repo_type, repo_id, private, gated)
            self.repos[repo_type, repo_id] = repo
            return repo

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        message: str = "Update",
        *,
        repo_type: str = "dataset",
        branch: str = "main",
    ) -> str:
        """Write files, or delete those that are None, without a request; make the repository if need be."""
        with self.lock:
            repo = self.repos.get((repo_type, repo_id)) or self.create_repo(repo_id, repo_type=repo_type)
            changed = dict(repo.head(branch).files)
            for path, content in files.items():
                if content is None:
                    del changed[path]
                    continue
                file = changed[path] = File.of(content, lfs=is_large(path, len(content)))
                if file.sha256:
                    repo.lfs[file.sha256] = content
            return repo.add(branch, changed, message, "", repo.namespace).oid

    def repo(self, repo_id: str, repo_type: str = "dataset") -> Repo:
        return self.repos[repo_type, repo_id]

    def commits(self, repo_id: str, repo_type: str = "dataset", branch: str = "main") -> list[Commit]:
        """Give the commits, the first one first, which is the Hub's own and holds only `.gitattributes`."""
        with self.lock:
            return list(self.repo(repo_id, repo_type).branches[branch])

    def files(self, repo_id: str, repo_type: str = "dataset", revision: str = "main") -> dict[str, bytes]:
        """Give the files at a branch, tag or commit by path, without `.gitattributes`."""
        with self.lock:
            commit = self.repo(repo_id, repo_type).find(revision)
            if commit is None:
                raise KeyError(f"{repo_id} has no revision {revision!r}")
            return {path: file.content for path, file in commit.files.items() if path != ".gitattributes"}

    def storage_url(self, repo: Repo, sha256: str) -> str:
        return f"{self._storage.url}/{repo.repo_type}/{repo.repo_id}/{sha256}?signature=1"

    # -- what goes wrong ----------------------------------------------------------------------------------------------
    def fail(
        self,
        pattern: str,
        status: int = 503,
        times: int | None = 1,
        *,
        message: str = "Fault on purpose",
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Answer the next requests whose "METHOD /path" matches with an error; None times is always."""
        headers = {"X-Error-Message": message}
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"Retry-After": str(retry_after)} if retry_after is not None else {}
        self._faults.add("fail", pattern, times, Reply({"error": message}, status, headers))

    def cut(self, pattern: str, after: int = 0, times: int | None = 1) -> None:
        """Drop the connection of the next matching requests once so many bytes of the body are in."""
        self._faults.add("cut", pattern, times, after)

    def before(self, pattern: str, callback: Callable[[], object], times: int | None = 1) -> None:
        """Call a function just before the next matching requests are handled, itself free to make requests."""
        self._faults.add("before", pattern, times, callback)

    def clear_faults(self) -> None:
        self._faults.clear()

    @property
    def delay(self) -> float:
        return self._server.delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._server.delay = self._storage.delay = seconds

    def uploads(self) -> list[Seen]:
        """Give the requests that sent the content of large files by LFS; Xet sends none through here."""
        return [seen for seen in self.requests if seen.method == "PUT" and seen.path.count("/") == 4]

    # -- clients in processes of their own ----------------------------------------------------------------------------
    def environment(self, home: Path, *, xet: bool = True, token: str | None = "") -> dict[str, str]:
        """Give the variables for a process that uses this Hub, with its caches below `home`; None is no token.

        Every address but the loopback goes through this Hub as a proxy, where it is refused at once.
        """
        exclusions = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(exclusions) and name.lower() not in PROXIES
        }
        token = self.token if token == "" else token
        proxies = {"http_proxy": self.url, "https_proxy": self.url, "no_proxy": "127.0.0.1,localhost"}
        return {
            **inherited,
            **proxies,
            **({"HF_TOKEN": token} if token else {}),
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DOWNLOAD_TIMEOUT": "10",
            "HF_HUB_ETAG_TIMEOUT": "10",
        }
