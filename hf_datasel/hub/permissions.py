"""Checks before anything is published: whether the token may write, and whether the parents' rows may be shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_datasel.errors import FormatError, PublishError, did_you_mean
from hf_datasel.formats import Pool
from hf_datasel.hub.card_yaml import combined_metadata, inherited_metadata, split_card
from hf_datasel.hub.parents import Parents
from hf_datasel.hub.repository import PULL_REQUEST, Hub, read_card
from hf_datasel.hub.retry import call_hub, error_line, status_code

__all__ = ["is_unchanged", "parents_metadata", "sign_in", "visibility"]

logger = logging.getLogger(__name__)

_PUBLISH_PRIVATELY = {
    "hint": "Publish to a private repository: private=True.",
    "cli_hint": "Publish to a private repository: --private true.",
}
_PUBLISH_ANYWAY = {
    "hint": "Publish to a private repository, or pass private=False if the rows may be public.",
    "cli_hint": "Publish to a private repository, or pass --public if the rows may be public.",
}


def sign_in(hub: Hub) -> None:
    """Check that there is a valid token that may write to the namespace, and complete the name of the repository.

    Args:
        hub: The repository; its `repo_id` becomes `"namespace/name"`.

    Raises:
        PublishError: There is no token, it is not valid, or it may not write there.
    """
    try:
        account = call_hub(lambda: hub.api.whoami())
    except LocalTokenNotFoundError as error:
        raise PublishError(
            "Not logged in to the Hub.",
            hint="Run `hf auth login`, or pass token=...",
            cli_hint="Run `hf auth login`, or set HF_TOKEN.",
        ) from error
    except HfHubHTTPError as error:
        if status_code(error) in (401, 403):
            raise PublishError("The Hub rejects this token. It may have expired: create a new one.") from error
        raise PublishError(f"Cannot look up the account of this token: {error_line(error)}") from error
    if "/" not in hub.repo_id:
        hub.repo_id = f"{account['name']}/{hub.repo_id}"
    if hub.revision is None or not PULL_REQUEST.fullmatch(hub.revision):
        _check_namespace(hub, account)
    _check_token(hub, (account.get("auth") or {}).get("accessToken") or {})


def _check_namespace(hub: Hub, account: Mapping[str, Any]) -> None:
    namespace, name = hub.repo_id.split("/", 1)
    orgs = account.get("orgs") or []
    writable = {owner.lower(): owner for owner in (account["name"], *(org["name"] for org in orgs))}
    if namespace.lower() not in writable:
        names = list(writable.values())
        raise PublishError(
            f"{account['name']} cannot publish under {namespace!r}: that is neither this account nor one of its "
            f"organisations ({', '.join(names)}).{did_you_mean(namespace, names)}"
        )
    hub.repo_id = f"{writable[namespace.lower()]}/{name}"
    if any(org["name"].lower() == namespace.lower() and org.get("roleInOrg") == "read" for org in orgs):
        raise PublishError(f"{account['name']} has only read access to the organisation {namespace!r}.")


def _check_token(hub: Hub, token_info: Mapping[str, Any]) -> None:
    if token_info.get("role") == "read":
        raise PublishError(
            "This token has only read permission. Create one with write permission in the settings of your account "
            "on the Hub."
        )
    permissions = token_info.get("fineGrained")
    if token_info.get("role") != "fineGrained" or not isinstance(permissions, Mapping):
        return
    targets = {hub.repo_id.lower(), hub.repo_id.split("/")[0].lower()}
    for scope in permissions.get("scoped") or []:
        name = str((scope.get("entity") or {}).get("name", "")).lower().removeprefix("datasets/")
        if name in targets and "repo.write" in (scope.get("permissions") or []):
            return
    raise PublishError(
        f"This fine-grained token may not write to {hub.repo_id!r}: none of its permissions is for that repository "
        "or its owner."
    )


def visibility(hub: Hub, parents: Parents, private: bool | None) -> tuple[bool | None, dict[str, Any]]:
    """Decide whether rows are published privately, and return what the cards of their parents say.

    Rows of private and gated parents are not made public. Rows that may come from elsewhere, or whose parent cannot be
    accessed, are published privately unless `private` is False.

    Args:
        hub: Repository that the rows are published in.
        parents: Where the rows come from.
        private: Whether a new repository is private; None if that is not said.

    Returns:
        Whether a new repository is private (None for the default of the namespace), and the licence, languages and
        tasks of the parents.

    Raises:
        PublishError: The rows may not be public, or that cannot be checked, but they would be.
    """
    exists_privately = hub.is_private()
    if exists_privately is False and private:
        raise PublishError(
            f"{hub.repo_id!r} is public already, and private=True does not change that. Change it in the settings of "
            "the repository, or use another repo_id."
        )
    if exists_privately and private is False:
        logger.warning("%s is private and stays so. Make it public in the settings of the repository.", hub.repo_id)
    public = not (private if exists_privately is None else exists_privately)
    metadata, unknown = [], [] if parents.complete else ["the origin of the rows is unknown"]
    for parent in parents.datasets:
        info = _parent_info(hub, parent)
        state = "private" if info["private"] else "gated" if info["gated"] else ""
        if public and state:
            raise PublishError(
                f"The parent {parent['name']!r} is {state}, but {hub.repo_id!r} would show its rows.",
                **_PUBLISH_PRIVATELY,
            )
        if info["private"] is None:
            unknown.append(f"the parent {parent['name']!r} does not exist or cannot be accessed with this token")
            if private is False and public:
                raise PublishError(
                    f"{_sentence(unknown[-1:])}, so it cannot be checked whether the rows may be public.",
                    **_PUBLISH_PRIVATELY,
                )
        metadata.append(info["metadata"])
    if public and unknown and private is None:
        reason = f"{_sentence(unknown)}, so it cannot be checked whether the rows may be public"
        if exists_privately is False:
            raise PublishError(f"{reason}, and {hub.repo_id!r} is public.", **_PUBLISH_ANYWAY)
        logger.warning("%s: %s is created as a private repository.", reason, hub.repo_id)
        private = True
    return private, combined_metadata(metadata)


def parents_metadata(hub: Hub, parents: Parents) -> dict[str, Any]:
    """Return what the cards of parents say: licence, languages and tasks.

    Args:
        hub: Access to the Hub.
        parents: The parents.

    Raises:
        PublishError: The Hub cannot be reached, or refuses access to a card.
    """
    return combined_metadata([_parent_info(hub, parent)["metadata"] for parent in parents.datasets])


def _sentence(parts: Sequence[str]) -> str:
    joined = ", and ".join(parts)
    return joined[0].upper() + joined[1:]


def _parent_info(hub: Hub, parent: Mapping[str, Any]) -> dict[str, Any]:
    """Return `private`, `gated` and `metadata` of a parent; as recorded with its rows if it cannot be accessed.

    Raises:
        PublishError: The Hub cannot be reached, or refuses access to the card.
    """
    name, revision = parent["name"], parent.get("revision")
    try:
        try:
            info = call_hub(lambda: hub.api.dataset_info(name, revision=revision))
        except RevisionNotFoundError:  # its history was rewritten
            info, revision = call_hub(lambda: hub.api.dataset_info(name)), None
    except RepositoryNotFoundError:
        licence = {"license": parent["license"]} if "license" in parent else {}
        logger.warning(
            "The parent %s cannot be accessed on the Hub, so its licence is that of the record, if any.", name
        )
        was_closed = parent.get("private") or parent.get("gated")
        return {
            "private": parent["private"] if was_closed else None,
            "gated": parent.get("gated"),
            "metadata": licence,
        }
    except (HfHubHTTPError, HFValidationError) as error:
        raise PublishError(f"Cannot access the parent {name!r} on the Hub: {error_line(error)}") from error
    return {
        "private": bool(info.private),
        "gated": bool(info.gated),
        "metadata": _card_metadata(hub, name, revision),
    }


def _card_metadata(hub: Hub, name: str, revision: str | None) -> dict[str, Any]:
    try:
        path = call_hub(lambda: hub.api.hf_hub_download(name, "README.md", repo_type="dataset", revision=revision))
        files_url = f"{hub.api.endpoint}/datasets/{name}/blob/{revision or 'main'}/"
        return inherited_metadata(split_card(read_card(path))[0], files_url)
    except RemoteEntryNotFoundError:
        return {}
    except PublishError as error:
        logger.warning("The card of %s cannot be read, so its licence is not copied: %s", name, error)
        return {}
    except HfHubHTTPError as error:
        raise PublishError(f"Cannot access the card of {name!r} on the Hub: {error_line(error)}") from error


def is_unchanged(source: Mapping[str, Any], pool_id: str, columns: Mapping[str, str] | None = None) -> bool | None:
    """Return whether a dataset on the Hub has exactly the rows of the pool, in the same order.

    Args:
        source: Name, configuration, split and revision of the dataset on the Hub.
        pool_id: Id of the pool, a hash of its rows.
        columns: Names of the columns of the row format and those of the dataset.

    Returns:
        None if the dataset cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(source["name"], source["config"], split=source["split"], revision=source["revision"])
        return bool(Pool(rows, columns).id == pool_id)
    except (DatasetsError, FormatError, HfHubHTTPError, OSError, ValueError) as error:
        logger.warning("The parent %s cannot be loaded to compare its rows: %s", source["name"], error_line(error))
        return None
