"""What has to be so before anything is published: a token that may write, and a parent whose rows may be shown."""

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
from hf_datasel.hub.card_yaml import carried_over, split_card
from hf_datasel.hub.repository import PULL_REQUEST, Hub, read_card
from hf_datasel.hub.retry import asked, line_of, status_of

__all__ = ["is_unchanged", "parent_metadata", "sign_in"]

logger = logging.getLogger(__name__)


def sign_in(hub: Hub) -> None:
    """Check that the token is there, is right and may write to the namespace; complete the name of the repository.

    Raises:
        PublishError: says which of these is not so.
    """
    try:
        me = asked(lambda: hub.api.whoami())
    except LocalTokenNotFoundError as error:
        raise PublishError("Nobody is logged in to the Hub. Run `hf auth login`, or pass a token.") from error
    except HfHubHTTPError as error:
        if status_of(error) in (401, 403):
            raise PublishError("The Hub does not know this token. It may have expired: make another one.") from error
        raise PublishError(f"The Hub does not say whose token this is: {line_of(error)}") from error
    if "/" not in hub.repo_id:
        hub.repo_id = f"{me['name']}/{hub.repo_id}"
    if hub.revision is None or not PULL_REQUEST.fullmatch(hub.revision):
        _check_namespace(hub, me)
    _check_token(hub, (me.get("auth") or {}).get("accessToken") or {})


def _check_namespace(hub: Hub, me: Mapping[str, Any]) -> None:
    namespace, name = hub.repo_id.split("/", 1)
    orgs = me.get("orgs") or []
    mine = {each.lower(): each for each in (me["name"], *(org["name"] for org in orgs))}
    if namespace.lower() not in mine:
        names = list(mine.values())
        raise PublishError(
            f"{me['name']} cannot publish under {namespace!r}: that is neither the account nor an organisation of "
            f"it ({', '.join(names)}).{did_you_mean(namespace, names)}"
        )
    hub.repo_id = f"{mine[namespace.lower()]}/{name}"
    if any(org["name"].lower() == namespace.lower() and org.get("roleInOrg") == "read" for org in orgs):
        raise PublishError(f"{me['name']} may only read in the organisation {namespace!r}.")


def _check_token(hub: Hub, about: Mapping[str, Any]) -> None:
    if about.get("role") == "read":
        raise PublishError("This token may only read. Make one with write permission at settings/tokens of the Hub.")
    limits = about.get("fineGrained")
    if about.get("role") != "fineGrained" or not isinstance(limits, Mapping):
        return
    places = {hub.repo_id.lower(), hub.repo_id.split("/")[0].lower()}
    for scope in limits.get("scoped") or []:
        name = str((scope.get("entity") or {}).get("name", "")).lower().removeprefix("datasets/")
        if name in places and "repo.write" in (scope.get("permissions") or []):
            return
    raise PublishError(
        f"This token may not write to {hub.repo_id!r}: it is a fine-grained one, and none of its permissions is "
        "for that repository or its owner."
    )


def parent_metadata(hub: Hub, name: str, revision: str | None, private: bool) -> dict[str, Any]:
    """What the card of the parent says about licence, languages and task.

    Raises:
        PublishError: rows of a private or gated parent would become public, or nobody can tell whether they would.
    """
    hint = "Publish to a private repository: private=True, or --private true."
    try:
        try:
            info = asked(lambda: hub.api.dataset_info(name, revision=revision))
        except RevisionNotFoundError:  # its history was rewritten
            info, revision = asked(lambda: hub.api.dataset_info(name)), None
    except RepositoryNotFoundError as error:
        if private:
            logger.warning("The parent %s cannot be seen on the Hub, so that no licence is carried over.", name)
            return {}
        raise PublishError(
            f"The parent {name!r} is not there or not visible with this token, so that nobody can tell whether "
            f"its rows may be shown to everyone. {hint}"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise PublishError(f"The Hub does not show the parent {name!r}: {line_of(error)}") from error
    if not private and (info.private or info.gated):
        how = "private" if info.private else "gated"
        raise PublishError(f"The parent {name!r} is {how}, and {hub.repo_id!r} would show its rows. {hint}")
    try:
        path = asked(lambda: hub.api.hf_hub_download(name, "README.md", repo_type="dataset", revision=revision))
        files = f"{hub.api.endpoint}/datasets/{name}/blob/{revision or 'main'}/"
        return carried_over(split_card(read_card(path))[0], files)
    except RemoteEntryNotFoundError:
        return {}
    except PublishError as error:
        logger.warning("The card of %s cannot be read, so that no licence is carried over: %s", name, error)
        return {}
    except HfHubHTTPError as error:
        raise PublishError(f"The Hub does not show the card of {name!r}: {line_of(error)}") from error


def is_unchanged(source: Mapping[str, Any], pool_id: str) -> bool | None:
    """Whether the rows of a dataset on the Hub are those of the pool, in their order; None if they cannot be had."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(source["name"], source["config"], split=source["split"], revision=source["revision"])
        return bool(Pool(rows).id == pool_id)
    except (DatasetsError, FormatError, HfHubHTTPError, OSError, ValueError) as error:
        logger.warning("The parent %s cannot be loaded to compare its rows: %s", source["name"], line_of(error))
        return None
