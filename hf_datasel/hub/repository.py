"""One repository on the Hub: its files, and commits that are retried."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from hf_datasel.errors import PublishError
from hf_datasel.hub.retry import ATTEMPTS, TRANSPORT_ERROR, call_hub, error_line, is_temporary, wait_before_retry
from hf_datasel.hub.secrets import SecretScan

__all__ = ["PULL_REQUEST", "Hub", "PlannedFile", "PushPlan", "Snapshot", "read_card"]

logger = logging.getLogger(__name__)

PULL_REQUEST = re.compile(r"refs/pr/\d+")
_COMMIT_ERRORS = (TRANSPORT_ERROR, ConnectionError, TimeoutError, RuntimeError, ValueError)
"""Errors that `create_commit` and its uploader raise."""

BuildCommit = Callable[["Snapshot"], tuple[Mapping[str, Path], set[str]]]
"""From the current state of a branch, the files to write (path -> local file) and the paths to delete."""


@dataclass(frozen=True)
class Snapshot:
    """State of a branch at one commit.

    Args:
        commit: Hash of the commit; None for a repository without commits.
        files: Path -> sha256 of a large file, or git's hash of a small one.
        card: Text of README.md, or None.
    """

    commit: str | None
    files: Mapping[str, str]
    card: str | None


@dataclass(frozen=True)
class PlannedFile:
    """A file that a push would write or delete.

    Args:
        path: Path in the repository.
        size: Size in bytes; 0 of one that is deleted.
        change: `"new"`, `"changed"`, `"unchanged"` or `"deleted"`.
    """

    path: str
    size: int
    change: str


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Args:
        url: URL of the repository.
        revision: Branch; None for the main one.
        is_new: Whether the repository would be created.
        private: Whether the repository is or would be private; None for the default of the namespace.
        files: The files, by path.
    """

    url: str
    revision: str | None
    is_new: bool
    private: bool | None
    files: tuple[PlannedFile, ...]


class Hub:
    """One repository, accessed with one token, which is never passed on.

    Args:
        repo_id: `"name"` or `"namespace/name"`.
        token: Access token; the token of the login by default.
        revision: Branch; the main one by default.
        repo_type: `"dataset"` or `"model"`.

    Raises:
        PublishError: `repo_id` is not a name, or `token` is False.
    """

    def __init__(
        self, repo_id: str, token: str | bool | None = None, revision: str | None = None, repo_type: str = "dataset"
    ):
        if not isinstance(repo_id, str) or not repo_id:
            raise PublishError(f"repo_id={repo_id!r} is not a valid repository name.")
        if token is False:
            raise PublishError("token=False, but publishing needs a token. Omit it to use the token of the login.")
        token = token if isinstance(token, str) and token else None  # True means the same
        self.api = HfApi(token=token)
        self.token = token or get_token()
        self.repo_id = repo_id
        self.revision = revision
        self.repo_type = repo_type

    @property
    def url(self) -> str:
        """URL of the repository."""
        path = self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"
        return f"{self.api.endpoint}/{path}"

    @property
    def files_url(self) -> str:
        """URL prefix of the files on the branch."""
        return f"{self.url}/resolve/{quote(self.revision or 'main', safe='')}/"

    # ---- checks before the upload ----

    def is_private(self) -> bool | None:
        """Return whether the repository is private; None if it does not exist yet.

        Raises:
            PublishError: The name is not valid, or the Hub refuses access.
        """
        try:
            return bool(call_hub(lambda: self._info()).private)
        except RepositoryNotFoundError:
            return None
        except HFValidationError as error:
            raise self._name_error(error) from error
        except HfHubHTTPError as error:
            raise PublishError(f"Cannot access {self.repo_id!r} on the Hub: {error_line(error)}") from error

    def _info(self, revision: str | None = None) -> Any:
        return self.api.repo_info(self.repo_id, revision=revision, repo_type=self.repo_type)

    def validate(self, card: str) -> None:
        """Check the metadata of a card with the Hub.

        Raises:
            PublishError: The Hub rejects the metadata; the message holds its reasons.
        """
        try:
            call_hub(lambda: self._validate(card))
        except HfHubHTTPError as error:
            reasons = " ".join(str(error).split())
            raise PublishError(f"The Hub rejects the metadata of the card: {reasons}") from error

    def _validate(self, card: str) -> None:
        # not by DatasetCard.validate, which in older versions asks the public Hub whatever the endpoint is
        body = {"repoType": self.repo_type, "content": card}
        url = f"{self.api.endpoint}/api/validate-yaml"
        hf_raise_for_status(get_session().post(url, json=body, headers=build_hf_headers(token=self.token)))

    def secret_scan(self, allow: bool = False) -> SecretScan:
        """Return a search for secrets, which knows the access token.

        Args:
            allow: Whether to accept what has the shape of a secret.
        """
        return SecretScan(self.token, allow)

    # ---- commits ----

    def create(self, private: bool | None) -> None:
        """Create the repository and the branch if they do not exist.

        Args:
            private: Whether a new repository is private; None for the default of the namespace.

        Raises:
            PublishError: The token does not permit it, or the name is not valid.
        """
        if self.revision is not None and PULL_REQUEST.fullmatch(self.revision):
            return
        try:
            call_hub(
                lambda: self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, exist_ok=True)
            )
            if self.revision is not None:
                branch = self.revision
                call_hub(
                    lambda: self.api.create_branch(
                        self.repo_id, branch=branch, repo_type=self.repo_type, exist_ok=True
                    )
                )
        except HFValidationError as error:
            raise self._name_error(error) from error
        except HfHubHTTPError as error:
            raise PublishError(f"This token cannot write to {self.repo_id!r}: {error_line(error)}") from error

    def snapshot(self) -> Snapshot:
        """Return the current state of the branch, or of the main branch if the branch does not exist yet.

        Raises:
            PublishError: The Hub refuses access.
        """
        api, name = self.api, self.repo_id
        try:
            try:
                sha = call_hub(lambda: self._info(self.revision)).sha
            except RevisionNotFoundError:
                sha = call_hub(lambda: self._info()).sha
            tree = call_hub(
                lambda: list(api.list_repo_tree(name, recursive=True, revision=sha, repo_type=self.repo_type))
            )
            files = {
                entry.path: entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
                for entry in tree
                if isinstance(entry, RepoFile)
            }
            card = None
            if "README.md" in files:
                card = read_card(
                    call_hub(lambda: api.hf_hub_download(name, "README.md", repo_type=self.repo_type, revision=sha))
                )
        except HfHubHTTPError as error:
            raise PublishError(f"Cannot access {name!r} on the Hub: {error_line(error)}") from error
        return Snapshot(sha, files, card)

    def commit(self, build: BuildCommit, message: str) -> CommitInfo:
        """Write and delete files in one commit; files that exist with the same content are not uploaded.

        Args:
            build: Returns the files to write and the paths to delete. Called again if another commit was made first.
            message: Commit message.

        Raises:
            PublishError: The Hub refuses the commit, or cannot be reached in several attempts. The branch is then
                unchanged. The Hub keeps uploaded files, so another push does not upload them again.
        """
        for attempt in range(ATTEMPTS):
            current = self.snapshot()
            operations = _operations(current, *build(current))
            if not operations:
                return self._unchanged(current, message)
            try:
                return self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    repo_type=self.repo_type,
                    revision=self.revision,
                    parent_commit=current.commit,
                )
            except OfflineModeIsEnabled as error:
                raise PublishError("HF_HUB_OFFLINE is set, so nothing can be published.") from error
            except _COMMIT_ERRORS as error:
                if not is_temporary(error):
                    raise PublishError(
                        f"The Hub refused the commit to {self.repo_id!r}: {error_line(error)}"
                    ) from error
                problem: Exception = error
            if attempt + 1 < ATTEMPTS:
                wait_before_retry(attempt, problem)
        raise PublishError(
            f"The push to {self.repo_id!r} failed in {ATTEMPTS} attempts ({error_line(problem)}). The repository is "
            "unchanged. Push again later: uploaded files are not uploaded again."
        ) from problem

    def plan(self, build: BuildCommit, *, is_new: bool, private: bool | None) -> PushPlan:
        """Return what `create` and `commit` would do.

        Args:
            build: As for `commit`.
            is_new: Whether the repository does not exist yet.
            private: Whether it is or would be private.

        Raises:
            PublishError: The Hub refuses access.
        """
        current = Snapshot(None, {}, None) if is_new else self.snapshot()
        files, deleted = build(current)
        planned = [
            PlannedFile(path, file.stat().st_size, _change(current, path, file)) for path, file in files.items()
        ]
        planned += [PlannedFile(path, 0, "deleted") for path in deleted & set(current.files)]
        ordered = tuple(sorted(planned, key=lambda file: file.path))
        return PushPlan(self.url, self.revision, is_new, private, ordered)

    def _unchanged(self, current: Snapshot, message: str) -> CommitInfo:
        logger.info("%s is up to date: nothing is uploaded.", self.repo_id)
        return CommitInfo(
            commit_url=f"{self.url}/commit/{current.commit}",
            commit_message=message,
            commit_description="",
            oid=current.commit or "",
            _endpoint=self.api.endpoint,
        )

    def _name_error(self, error: HFValidationError) -> PublishError:
        return PublishError(f"repo_id={self.repo_id!r} is not a valid repository name: {error_line(error)}")

    # ---- reading ----

    def pin(self) -> list[str]:
        """Fix the revision at the current commit of the branch, and return the paths of all its files.

        Raises:
            PublishError: The repository or the branch does not exist, or the Hub refuses access.
        """
        api, name = self.api, self.repo_id
        try:
            self.revision = call_hub(lambda: self._info(self.revision)).sha
            return list(call_hub(lambda: api.list_repo_files(name, repo_type=self.repo_type, revision=self.revision)))
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise PublishError(
                f"There is no {self.repo_type} {name!r} on the Hub that this token may read."
            ) from error
        except RevisionNotFoundError as error:
            raise PublishError(f"{name!r} has no revision {self.revision!r}.") from error
        except HFValidationError as error:
            raise self._name_error(error) from error
        except HfHubHTTPError as error:
            raise PublishError(f"Cannot access {name!r} on the Hub: {error_line(error)}") from error

    def download(self, path: str) -> Path:
        """Download a file and return its local path.

        Args:
            path: Path in the repository.

        Raises:
            PublishError: The file cannot be downloaded.
        """
        api, name = self.api, self.repo_id
        try:
            return Path(
                call_hub(lambda: api.hf_hub_download(name, path, repo_type=self.repo_type, revision=self.revision))
            )
        except HfHubHTTPError as error:
            raise PublishError(f"Cannot download {path} of {name!r}: {error_line(error)}") from error


def read_card(path: str) -> str:
    """Return the text of a downloaded card.

    Args:
        path: Local path of README.md.

    Raises:
        PublishError: The file is not UTF-8 text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")  # line ends as they are
    except UnicodeDecodeError as error:
        raise PublishError("The existing card is not UTF-8 text.") from error


def _operations(
    current: Snapshot, files: Mapping[str, Path], deleted: set[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return what changes the branch to these files, without the files that are equal already."""
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=file)
        for path, file in files.items()
        if _change(current, path, file) != "unchanged"
    ]
    return operations + [CommitOperationDelete(path_in_repo=path) for path in sorted(deleted & set(current.files))]


def _change(current: Snapshot, path: str, file: Path) -> str:
    if path not in current.files:
        return "new"
    return "unchanged" if current.files[path] in _hashes(file) else "changed"


def _hashes(file: Path) -> tuple[str, str]:
    """Return the hashes of a file as a large one (sha256) and as a small one (git's)."""
    large, small = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    small.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            large.update(block)
            small.update(block)
    return large.hexdigest(), small.hexdigest()
