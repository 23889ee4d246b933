"""All that talks to the Hub: who we are, what is there, and one commit that is retried until it holds."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from hf_datasel.errors import PublishError, did_you_mean
from hf_datasel.publish.metadata import carried_over, split_card

__all__ = ["Hub", "Snapshot"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 6
_WAIT = 1.0
"""Seconds before the second attempt; doubled before each further one."""
_STALE = (409, 412)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]  # of whichever HTTP library this version is built on
_FailedUpload = (_TRANSPORT, RuntimeError, ConnectionError, TimeoutError)

Answer = TypeVar("Answer")


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

    def __init__(self, repo_id: str, token: str | None = None, revision: str | None = None):
        self._api = HfApi(token=token)
        self._token = token or get_token()
        self.repo_id = repo_id
        self.revision = revision

    # ---- before anything is sent ----

    def sign_in(self) -> None:
        """Check that the token is there, is right and may write to the namespace; complete the name of the repository.

        Raises:
            PublishError: says which of these is not so.
        """
        try:
            me = self._passing(lambda: self._api.whoami())
        except LocalTokenNotFoundError as error:
            raise PublishError("Nobody is logged in to the Hub. Run `hf auth login`, or pass a token.") from error
        except HfHubHTTPError as error:
            if _status(error) in (401, 403):
                raise PublishError(
                    "The Hub does not know this token. It may have expired: make another one."
                ) from error
            raise PublishError(f"The Hub does not say whose token this is: {_line(error)}") from error
        if "/" not in self.repo_id:
            self.repo_id = f"{me['name']}/{self.repo_id}"
        if (me.get("auth") or {}).get("accessToken", {}).get("role") == "read":
            raise PublishError(
                "This token may only read. Make one with write permission at settings/tokens of the Hub."
            )
        namespace = self.repo_id.split("/")[0]
        mine = [me["name"], *(each["name"] for each in me.get("orgs") or [])]
        if namespace not in mine:
            raise PublishError(
                f"{me['name']} cannot publish under {namespace!r}: that is neither the account nor an organisation of "
                f"it ({', '.join(mine)}).{did_you_mean(namespace, mine)}"
            )

    def is_private(self) -> bool | None:
        """Whether the repository is private; None if it is not there yet."""
        try:
            return bool(self._passing(lambda: self._api.dataset_info(self.repo_id)).private)
        except RepositoryNotFoundError:
            return None
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {_line(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show {self.repo_id!r}: {_line(error)}") from error

    def parent_metadata(self, name: str, revision: str | None, private: bool) -> dict[str, Any]:
        """What the card of the parent says about licence, languages and task.

        Raises:
            PublishError: rows of a private or gated parent would become public, or nobody can tell whether they would.
        """
        hint = "Pass private=True to publish to a private repository."
        try:
            info = self._passing(lambda: self._api.dataset_info(name, revision=revision))
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if private:
                logger.warning("The parent %s is not on the Hub any more, so that no licence is carried over.", name)
                return {}
            raise PublishError(
                f"The parent {name!r} is not there or not visible with this token, so that nobody can tell whether "
                f"its rows may be shown to everyone. {hint}"
            ) from error
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show the parent {name!r}: {_line(error)}") from error
        if not private and (info.private or info.gated):
            how = "private" if info.private else "gated"
            raise PublishError(f"The parent {name!r} is {how}, and {self.repo_id!r} would show its rows. {hint}")
        try:
            card = self._passing(
                lambda: self._api.hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)
            )
            return carried_over(split_card(Path(card).read_text(encoding="utf-8"))[0])
        except EntryNotFoundError:
            return {}
        except (PublishError, UnicodeDecodeError) as error:
            logger.warning("The card of %s cannot be read, so that no licence is carried over: %s", name, _line(error))
            return {}

    # ---- what is there, and the commit ----

    def create(self, private: bool | None) -> None:
        """Make the repository and the branch, where they are not there yet.

        Raises:
            PublishError: the token does not permit it.
        """
        try:
            self._passing(
                lambda: self._api.create_repo(self.repo_id, repo_type="dataset", private=private, exist_ok=True)
            )
            if self.revision is not None and not re.fullmatch(r"refs/pr/\d+", self.revision):
                branch = self.revision
                self._passing(
                    lambda: self._api.create_branch(self.repo_id, branch=branch, repo_type="dataset", exist_ok=True)
                )
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {_line(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"{self.repo_id!r} cannot be written with this token: {_line(error)}") from error

    def snapshot(self) -> Snapshot:
        """What is on the branch now."""
        info = self._passing(lambda: self._api.dataset_info(self.repo_id, revision=self.revision))
        tree = self._passing(
            lambda: list(
                self._api.list_repo_tree(self.repo_id, recursive=True, revision=info.sha, repo_type="dataset")
            )
        )
        files = {
            each.path: each.lfs.sha256 if each.lfs is not None else each.blob_id
            for each in tree
            if isinstance(each, RepoFile)
        }
        card = None
        if "README.md" in files:
            path = self._passing(
                lambda: self._api.hf_hub_download(self.repo_id, "README.md", repo_type="dataset", revision=info.sha)
            )
            card = Path(path).read_text(encoding="utf-8")
        return Snapshot(info.sha, files, card)

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
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_WAIT * 2 ** (attempt - 1))
            try:
                now = self.snapshot()
                wanted, removed = build(now)
                added = [
                    CommitOperationAdd(path_in_repo=path, path_or_fileobj=file)
                    for path, file in wanted.items()
                    if now.files.get(path) not in _hashes(file)
                ]
                deleted = [CommitOperationDelete(path_in_repo=path) for path in sorted(removed & set(now.files))]
                if not added and not deleted:
                    return self._unchanged(now, message)
                return self._api.create_commit(
                    self.repo_id,
                    [*added, *deleted],
                    commit_message=message,
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=now.commit,
                )
            except OfflineModeIsEnabled as error:
                raise PublishError("HF_HUB_OFFLINE is set, so that nothing can be published.") from error
            except _FailedUpload as error:
                problem: Exception = error
                if not _may_pass(error):
                    raise PublishError(f"The Hub refused the commit to {self.repo_id!r}: {_line(error)}") from error
                logger.info("Attempt %d of %d to push to %s: %s", attempt + 1, _ATTEMPTS, self.repo_id, _line(error))
        raise PublishError(
            f"The push to {self.repo_id!r} did not get through in {_ATTEMPTS} attempts ({_line(problem)}). The "
            "repository is as it was. Push again later: what has been sent is not sent again."
        ) from problem

    def check_secret(self, files: Mapping[str, Path]) -> None:
        """Refuse to publish a text in which the token stands.

        Raises:
            PublishError: names the file.
        """
        for path, file in files.items():
            if self._token and file.suffix in (".json", ".yaml", ".md") and self._token in file.read_text("utf-8"):
                raise PublishError(f"{path} holds the access token, from a setting of the run. It is not published.")

    @property
    def url(self) -> str:
        """Address of the repository."""
        return f"{self._api.endpoint}/datasets/{self.repo_id}"

    @property
    def files_url(self) -> str:
        """What stands before a file's path in its address."""
        return f"{self.url}/resolve/{self.revision or 'main'}/"

    # ---- reading ----

    def files(self) -> list[str]:
        """Paths of all files on the branch.

        Raises:
            PublishError: there is no such repository or branch.
        """
        try:
            return list(
                self._passing(
                    lambda: self._api.list_repo_files(self.repo_id, repo_type="dataset", revision=self.revision)
                )
            )
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise PublishError(f"There is no dataset {self.repo_id!r} on the Hub that this token may read.") from error
        except RevisionNotFoundError as error:
            raise PublishError(f"{self.repo_id!r} has no revision {self.revision!r}.") from error
        except HFValidationError as error:
            raise PublishError(f"repo_id={self.repo_id!r} is no name for a repository: {_line(error)}") from error
        except HfHubHTTPError as error:
            raise PublishError(f"The Hub does not show {self.repo_id!r}: {_line(error)}") from error

    def download(self, path: str) -> Path:
        """A local copy of a file on the branch."""
        return Path(
            self._passing(
                lambda: self._api.hf_hub_download(self.repo_id, path, repo_type="dataset", revision=self.revision)
            )
        )

    def _unchanged(self, now: Snapshot, message: str) -> CommitInfo:
        logger.info("%s has all of it already: nothing is uploaded.", self.repo_id)
        return CommitInfo(
            commit_url=f"{self.url}/commit/{now.commit}",
            commit_message=message,
            commit_description="",
            oid=now.commit or "",
            _endpoint=self._api.endpoint,
        )

    def _passing(self, ask: Callable[[], Answer]) -> Answer:
        """Ask again where the Hub has a passing problem.

        Raises:
            PublishError: there is no answer at all.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except OfflineModeIsEnabled as error:
                raise PublishError("HF_HUB_OFFLINE is set, so that the Hub cannot be asked.") from error
            except (_TRANSPORT, ConnectionError, TimeoutError) as error:
                last = attempt == _ATTEMPTS - 1
                if last and _status(error) is None:
                    raise PublishError(f"{self._api.endpoint} does not answer: {_line(error)}") from error
                if last or _status(error) in _STALE or not _may_pass(error):
                    raise
                logger.info("The Hub has a problem, asking again: %s", _line(error))
            time.sleep(_WAIT * 2**attempt)
        raise AssertionError


def _status(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _may_pass(error: BaseException | None) -> bool:
    """Whether a failure, or its cause, is of a kind that goes away: no answer, a server error, a faster commit."""
    while error is not None:
        status = _status(error)
        if status is not None:
            return status in _STALE or status in _PASSING
        if not isinstance(error, RuntimeError) or error.__cause__ is None:
            return True
        error = error.__cause__
    return True


def _hashes(file: Path) -> tuple[str, str]:
    """Hashes of a file as a large one (sha256) and as a small one (git's)."""
    large, small = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    small.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            large.update(block)
            small.update(block)
    return large.hexdigest(), small.hexdigest()


def _line(error: Exception) -> str:
    """The telling line of a client's message, which spreads over several."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = getattr(error, "server_message", None)
    return f"{lines[0] if lines else type(error).__name__}{f' ({said})' if said and said not in lines[:1] else ''}"
