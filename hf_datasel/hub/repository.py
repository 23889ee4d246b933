"""One repository on the Hub: what is there, and a commit that is retried until it holds."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
from hf_datasel.hub.retry import ATTEMPTS, TRANSPORT, asked, line_of, may_pass, wait

__all__ = ["PULL_REQUEST", "Hub", "Snapshot", "read_card"]

logger = logging.getLogger(__name__)

PULL_REQUEST = re.compile(r"refs/pr/\d+")


@dataclass(frozen=True)
class Snapshot:
    """A branch of a repository at one commit.

    Attributes:
        commit: its hash; None for a repository without any.
        files: path -> sha256 of a large file, git's hash of a small one.
        card: text of README.md, or None.
    """

    commit: str | None
    files: Mapping[str, str]
    card: str | None


class Hub:
    """One dataset repository, with one token, which stays in here.

    Args:
        repo_id: `"name"` or `"namespace/name"`.
        token: by default the one that is logged in.
        revision: branch; by default the main one.
    """

    def __init__(self, repo_id: str, token: str | bool | None = None, revision: str | None = None):
        if not isinstance(repo_id, str) or not repo_id:
            raise PublishError(f"repo_id={repo_id!r} is no name for a repository.")
        if token is False:
            raise PublishError("token=False: publishing needs a token. Leave it out for the one that is logged in.")
        token = token if isinstance(token, str) and token else None  # True means the same
        self.api = HfApi(token=token)
        self._token = token or get_token()
        self.repo_id = repo_id
        self.revision = revision

    @property
    def url(self) -> str:
        """Address of the repository."""
        return f"{self.api.endpoint}/datasets/{self.repo_id}"

    @property
    def files_url(self) -> str:
        """What stands before a file's path in its address."""
        return f"{self.url}/resolve/{quote(self.revision or 'main', safe='')}/"

    # ---- before anything is sent ----

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if it is not there yet."""
        try:
            return bool(asked(lambda: self.api.dataset_info(self.repo_id)).private)
        except RepositoryNotFoundError:
            return None
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {line_of(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show {self.repo_id!r}: {line_of(error)}") from error

    def validate(self, card: str) -> None:
        """Ask the Hub whether it takes the metadata of a card.

        Raises:
            PublishError: it does not; with its reasons.
        """
        try:
            asked(lambda: self._validated(card))
        except HfHubHTTPError as error:
            reasons = " ".join(str(error).split())
            raise PublishError(f"The Hub does not take the metadata of the card: {reasons}") from error

    def _validated(self, card: str) -> None:
        # not by DatasetCard.validate, which in older versions asks the public Hub whatever the endpoint is
        body = {"repoType": "dataset", "content": card}
        url = f"{self.api.endpoint}/api/validate-yaml"
        hf_raise_for_status(get_session().post(url, json=body, headers=build_hf_headers(token=self._token)))

    def check_secret(self, files: Mapping[str, Path]) -> None:
        """Refuse to publish a text in which the token stands.

        Raises:
            PublishError: names the file.
        """
        for path, file in files.items():
            if self._token and file.suffix in (".json", ".yaml", ".md") and self._token in file.read_text("utf-8"):
                raise PublishError(f"{path} holds the access token, from a setting of the run. It is not published.")

    # ---- what is there, and the commit ----

    def create(self, private: bool | None) -> None:
        """Make the repository and the branch, where they are not there yet.

        Raises:
            PublishError: the token does not permit it.
        """
        if self.revision is not None and PULL_REQUEST.fullmatch(self.revision):
            return
        try:
            asked(lambda: self.api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True))
            if self.revision is not None:
                branch = self.revision
                asked(lambda: self.api.create_branch(self.repo_id, branch=branch, repo_type="dataset", exist_ok=True))
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {line_of(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"{self.repo_id!r} cannot be written with this token: {line_of(error)}") from error

    def snapshot(self) -> Snapshot:
        """What is on the branch now; on the main one, where the branch is not there yet.

        Raises:
            PublishError: the Hub does not show it.
        """
        api, name = self.api, self.repo_id
        try:
            try:
                sha = asked(lambda: api.dataset_info(name, revision=self.revision)).sha
            except RevisionNotFoundError:
                sha = asked(lambda: api.dataset_info(name)).sha
            tree = asked(lambda: list(api.list_repo_tree(name, recursive=True, revision=sha, repo_type="dataset")))
            files = {
                each.path: each.lfs.sha256 if each.lfs is not None else each.blob_id
                for each in tree
                if isinstance(each, RepoFile)
            }
            card = None
            if "README.md" in files:
                card = read_card(
                    asked(lambda: api.hf_hub_download(name, "README.md", repo_type="dataset", revision=sha))
                )
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show {name!r}: {line_of(error)}") from error
        return Snapshot(sha, files, card)

    def commit(self, build: Callable[[Snapshot], tuple[Mapping[str, Path], set[str]]], message: str) -> CommitInfo:
        """Bring the branch to a state in one commit; nothing is sent for what is there already.

        Args:
            build: from what is there, the files that should be there (path -> local file) and the paths that should
                not. Called again where somebody else was faster.
            message: of the commit.

        Raises:
            PublishError: it did not hold, after several attempts. The branch is then as it was; what was uploaded is
                kept by the Hub, so that another push does not send it again.
        """
        for attempt in range(ATTEMPTS):
            now = self.snapshot()
            wanted, removed = build(now)
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(path_in_repo=path, path_or_fileobj=file)
                for path, file in wanted.items()
                if now.files.get(path) not in _hashes(file)
            ]
            operations += [CommitOperationDelete(path_in_repo=path) for path in sorted(removed & set(now.files))]
            if not operations:
                return self._unchanged(now, message)
            try:
                return self.api.create_commit(
                    self.repo_id,
                    operations,
                    commit_message=message,
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=now.commit,
                )
            except OfflineModeIsEnabled as error:
                raise PublishError("HF_HUB_OFFLINE is set, so that nothing can be published.") from error
            except (TRANSPORT, ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
                if not may_pass(error):
                    raise PublishError(f"The Hub refused the commit to {self.repo_id!r}: {line_of(error)}") from error
                problem: Exception = error
            logger.info("Attempt %d of %d to push to %s: %s", attempt + 1, ATTEMPTS, self.repo_id, line_of(problem))
            if attempt + 1 < ATTEMPTS:
                wait(attempt, problem)
        raise PublishError(
            f"The push to {self.repo_id!r} did not get through in {ATTEMPTS} attempts ({line_of(problem)}). The "
            "repository is as it was. Push again later: what has been sent is not sent again."
        ) from problem

    def _unchanged(self, now: Snapshot, message: str) -> CommitInfo:
        logger.info("%s has all of it already: nothing is uploaded.", self.repo_id)
        return CommitInfo(
            commit_url=f"{self.url}/commit/{now.commit}",
            commit_message=message,
            commit_description="",
            oid=now.commit or "",
            _endpoint=self.api.endpoint,
        )

    # ---- reading ----

    def pin(self) -> list[str]:
        """Read from now on what is on the branch at this moment; returns the paths of all its files.

        Raises:
            PublishError: there is no such repository or branch.
        """
        try:
            self.revision = asked(lambda: self.api.dataset_info(self.repo_id, revision=self.revision)).sha
            return list(
                asked(lambda: self.api.list_repo_files(self.repo_id, repo_type="dataset", revision=self.revision))
            )
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise PublishError(f"There is no dataset {self.repo_id!r} on the Hub that this token may read.") from error
        except RevisionNotFoundError as error:
            raise PublishError(f"{self.repo_id!r} has no revision {self.revision!r}.") from error
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {line_of(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show {self.repo_id!r}: {line_of(error)}") from error

    def download(self, path: str) -> Path:
        """A local copy of a file.

        Raises:
            PublishError: it cannot be had.
        """
        try:
            return Path(
                asked(
                    lambda: self.api.hf_hub_download(self.repo_id, path, repo_type="dataset", revision=self.revision)
                )
            )
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not give {path} of {self.repo_id!r}: {line_of(error)}") from error


def read_card(path: str) -> str:
    """A card that was downloaded.

    Raises:
        PublishError: it is no text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")  # line ends as they are
    except UnicodeDecodeError as error:
        raise PublishError("The card that is there is no text in UTF-8.") from error


def _hashes(file: Path) -> tuple[str, str]:
    """Hashes of a file as a large one (sha256) and as a small one (git's)."""
    large, small = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    small.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            large.update(block)
            small.update(block)
    return large.hexdigest(), small.hexdigest()
