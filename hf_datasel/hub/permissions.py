"""Checks before anything is published: whether the token may write, and whether the parent's rows may be shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
from hf_datasel.hub.card_yaml import inherited_metadata, split_card
from hf_datasel.hub.repository import PULL_REQUEST, Hub, read_card
from hf_datasel.hub.retry import call_hub, error_line, status_code

__all__ = ["is_unchanged", "parent_metadata", "sign_in"]

logger = logging.getLogger(__name__)

_PUBLISH_PRIVATELY = {
    "hint": "Publish to a private repository: private=True.",
    "cli_hint": "Publish to a private repository: --private true.",
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


def parent_metadata(hub: Hub, name: str, revision: str | None, private: bool) -> dict[str, Any]:
    """Return the licence, languages and task from the card of the parent dataset.

    Args:
        hub: Repository that the selected rows are published in.
        name: Repository of the parent dataset.
        revision: Commit of the parent dataset; None for its latest one.
        private: Whether the selected rows are published privately.

    Raises:
        PublishError: Rows of a private or gated parent would become public, or that cannot be checked.
    """
    try:
        try:
            info = call_hub(lambda: hub.api.dataset_info(name, revision=revision))
        except RevisionNotFoundError:  # its history was rewritten
            info, revision = call_hub(lambda: hub.api.dataset_info(name)), None
    except RepositoryNotFoundError as error:
        if private:
            logger.warning("The parent %s cannot be accessed on the Hub, so its licence is not copied.", name)
            return {}
        raise PublishError(
            f"The parent {name!r} does not exist or cannot be accessed with this token, so it cannot be checked "
            "whether its rows may be public.",
            **_PUBLISH_PRIVATELY,
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise PublishError(f"Cannot access the parent {name!r} on the Hub: {error_line(error)}") from error
    if not private and (info.private or info.gated):
        state = "private" if info.private else "gated"
        raise PublishError(
            f"The parent {name!r} is {state}, but {hub.repo_id!r} would show its rows.", **_PUBLISH_PRIVATELY
        )
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
