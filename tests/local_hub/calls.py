"""A request to the local Hub with its token, its repository and its rights, checked before an endpoint sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import HubError, Request
from .store import Account, Commit

if TYPE_CHECKING:
    from .hub import LocalHub


class Call:
    """Who asks, for which repository, and the rest of the address after the action."""

    def __init__(self, hub: LocalHub, request: Request) -> None:
        self.hub, self.request = hub, request
        self.account = self._authenticate()
        self.segments: list[str] = []

    def _authenticate(self) -> Account | None:
        header = self.request.headers.get("Authorization")
        if header is None:
            return None
        account = self.hub.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return account

    def open_repo(self, repo_type: str, repo_id: str, need: str) -> None:
        """Find the repository and check the right to it; who may not read it cannot tell that it is there."""
        repo = self.hub.repos.get((repo_type, repo_id))
        readable = repo is not None and (self.account.can_read(repo) if self.account else not repo.private)
        if repo is None or not readable:
            raise HubError(404 if self.account else 401, "Repository not found", "RepoNotFound")
        if need == "write":
            self.require_write(repo_id)
        self.repo = repo

    def require_write(self, repo_id: str) -> Account:
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        if not self.account.can_write(repo_id):
            raise HubError(403, f"Forbidden: this token cannot write to {repo_id}.")
        return self.account

    def require_content(self) -> None:
        granted = self.account and (self.account.can_write(self.repo.repo_id) or self.account.name in self.hub.granted)
        if self.repo.gated and not granted:
            message = f"Access to {self.repo.repo_id} is restricted. You must have access to it and be authenticated."
            raise HubError(403 if self.account else 401, message, "GatedRepo")

    def commit(self, revision: str) -> Commit:
        return self.line(revision)[-1]

    def line(self, revision: str) -> list[Commit]:
        line = self.repo.history(revision)
        if line is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return line

    def branch(self) -> str:
        branch = self.segments[0].removeprefix("refs/heads/")
        if branch not in self.repo.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return branch
