"""Publish selections on the Hub."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.cards.build import Place, check_together, gather
from hf_datasel.cards.card import card, updated_card
from hf_datasel.cards.course import warmups
from hf_datasel.cards.facts import Facts, Result, Training
from hf_datasel.cards.repository_files import belongs, belongs_config, owned, write_data, write_page
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import data_configs, joined
from hf_datasel.hub.permissions import is_unchanged, parent_metadata, sign_in
from hf_datasel.hub.repository import Hub, Snapshot
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import origins

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo

__all__ = ["check_access", "check_push", "push_selections"]

logger = logging.getLogger(__name__)

_DATA = re.compile(r".+\.(parquet|jsonl?|csv|tsv|arrow|txt|zip|tar|gz|zst)")
_CONFIG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_RESERVED = re.compile(r"scores|(.+-)?round-\d+|.+-scores")


def push_selections(
    selections: Sequence[Selection],
    repo_id: str,
    dataset: Dataset | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    config_name: str | None = None,
    results: Sequence[Result] = (),
    training: Training | None = None,
) -> CommitInfo:
    """Publish one selection, or all rounds of one run, in one commit; see `Selection.push_to_hub`.

    Args:
        selections: one, whose rows become the configuration `config_name`; or the rounds of one run, each of which
            becomes one of its own (`round-0`, ...), the last being the default.
        repo_id, dataset, private, token, revision, commit_message, config_name: as for `Selection.push_to_hub`.
        results: measurements of models trained on the rows, for the card.
        training: the run that chose, for the card.

    Raises:
        PublishError: see `Selection.push_to_hub`.
        DatasetMismatchError: the dataset is not the one the selections were made from.
    """
    check_together(selections)
    publication = _publication(config_name)
    parent = dataset if dataset is not None else selections[-1].dataset
    if parent is None:
        raise PublishError(
            "The selection does not hold the rows it chose. Pass the dataset that it was made from: dataset=..."
        )
    selections[-1].check(parent)  # all are of the same dataset
    hub = Hub(repo_id, token, revision)
    sign_in(hub)
    there, recorded = hub.is_private(), selections[-1].provenance["dataset"]
    sources, public = _sources(parent, recorded), _is_public(hub, there, private)
    metadata = _metadata(hub, sources, public)
    if public and not sources:
        logger.warning(
            "Where the rows come from is not known, so that nobody can tell whether they may be public: %s will be.",
            hub.repo_id,
        )
    if there is not None:
        _check_room(hub, hub.snapshot(), publication)
    with tempfile.TemporaryDirectory(prefix="hf_datasel_") as scratch:
        folder = Path(scratch)
        page = gather(
            selections,
            parent,
            title=hub.repo_id.split("/")[1],
            place=Place(hub.repo_id, revision, publication, hub.files_url),
            metadata=metadata,
            changed=_changed(sources, recorded["id"]),
            configs=write_data(folder, selections, parent, publication),
            results=results,
            training=training,
        )
        write_page(folder, page)
        if there is None:
            hub.validate(card(page))
        return _commit(hub, folder, page, private, commit_message or _message(page))


def check_push(repo_id: str, dataset: Dataset, *, private: bool | None = None, token: str | None = None) -> None:
    """Find out, before any work is done, whether rows of a dataset can be published.

    Args:
        repo_id, dataset, private, token: as for `push_selections`.

    Raises:
        PublishError: the token, the repository or the parent does not permit it.
    """
    hub = Hub(repo_id, token)
    check_access(hub, dataset, private)
    if hub.is_private() is not None:
        _check_room(hub, hub.snapshot(), "default")


def check_access(hub: Hub, dataset: Dataset, private: bool | None) -> None:
    """Refuse a token that may not write, and rows of a parent that may not be shown.

    Raises:
        PublishError: says which.
    """
    sign_in(hub)
    _metadata(hub, _sources(dataset, {}), _is_public(hub, hub.is_private(), private))


def _commit(hub: Hub, folder: Path, page: Facts, private: bool | None, message: str) -> CommitInfo:
    """Send the files of the folder, and the card as it is there with our part of it made new."""
    publication = page["publication"]
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hub.check_secret(files)

    def build(now: Snapshot) -> tuple[dict[str, Path], set[str]]:
        _check_room(hub, now, publication)
        readme = folder / "README.md"
        readme.write_text(_card(now, page, publication), encoding="utf-8", newline="")
        hub.check_secret({"README.md": readme})
        wanted = {**files, "README.md": readme}
        return wanted, {path for path in now.files if belongs(path, publication) and path not in wanted}

    hub.create(private)
    return hub.commit(build, message)


def _publication(config_name: str | None) -> str:
    if config_name is None or config_name == "default":
        return "default"
    if not _CONFIG.fullmatch(config_name) or _RESERVED.fullmatch(config_name):
        raise PublishError(
            f"config_name={config_name!r} has to be letters, digits, '-', '_' and '.', and none of the names that are "
            "given to scores and rounds ('scores', 'round-0', ...)."
        )
    return config_name


def _is_public(hub: Hub, there: bool | None, private: bool | None) -> bool:
    if there is False and private:
        raise PublishError(
            f"{hub.repo_id!r} is public already, and private=True does not change that. Change it in the settings of "
            "the repository, or choose another repo_id."
        )
    return not (there if there is not None else private)


def _sources(dataset: Dataset, recorded: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Places on the Hub that the rows come from: what the dataset knows, else what was recorded of it."""
    return [*origins(dataset)] or ([recorded] if recorded.get("name") else [])


def _changed(sources: Sequence[Mapping[str, Any]], pool_id: str) -> bool | None:
    """Whether the pool is another dataset than its one parent; None where nobody can tell."""
    if len(sources) != 1:
        return bool(sources)
    unchanged = is_unchanged(sources[0], pool_id)
    return None if unchanged is None else not unchanged


def _metadata(hub: Hub, sources: Sequence[Mapping[str, Any]], public: bool) -> dict[str, Any]:
    """What the cards of the parents say; refuses what may not be shown."""
    for each in sources:
        if each["name"].lower() == hub.repo_id.lower():
            raise PublishError(
                f"{hub.repo_id!r} is the parent itself: its rows would be hidden behind the chosen ones. Choose "
                "another repo_id."
            )
    return joined([parent_metadata(hub, each["name"], each.get("revision"), not public) for each in sources])


def _check_room(hub: Hub, now: Snapshot, publication: str) -> None:
    """Refuse to put a selection where another dataset is."""
    configs = data_configs(now.card)
    ours = owned(now.files)
    for name, patterns in configs.items():
        if belongs_config(name, publication) and not all(each.startswith(ours) for each in patterns):
            raise PublishError(
                f"{hub.repo_id!r} has a configuration {name!r} with other files. Pass a config_name, or choose "
                "another repo_id."
            )
    other = [path for path in now.files if _DATA.fullmatch(path) and not path.startswith(ours)]
    if other and not configs:
        raise PublishError(
            f"{hub.repo_id!r} holds another dataset ({other[0]}), whose card lists no configurations: it could not be "
            "loaded any more. Choose another repo_id."
        )
    if taken := [path for path in other if belongs(path, publication)]:
        raise PublishError(f"{hub.repo_id!r} has a file {taken[0]!r} that is no selection's. Choose another repo_id.")


def _card(now: Snapshot, facts: Facts, publication: str) -> str:
    if now.card is None:
        return card(facts)
    replaced = {name for name in data_configs(now.card) if belongs_config(name, publication)}
    return updated_card(now.card, facts, replaced | {each["name"] for each in facts["configs"]})


def _message(facts: Facts) -> str:
    last = facts["choices"][-1]
    rounds = len(facts["choices"]) - len(warmups(facts["choices"]))
    over = f" in {rounds} rounds" if rounds > 1 else ""
    return f"{last['rows']:,} of {facts['parent']['rows']:,} rows selected by {facts['method']['name']}{over}"
