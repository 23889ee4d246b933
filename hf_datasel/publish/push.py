"""Publish selections on the Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import PublishError
from hf_datasel.publish.card import card, updated_card
from hf_datasel.publish.facts import Facts, Result, Training
from hf_datasel.publish.files import belongs, belongs_config, write_data, write_page
from hf_datasel.publish.gather import check_together, gather
from hf_datasel.publish.hub import Hub, Snapshot
from hf_datasel.publish.metadata import data_configs
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import origin

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo

__all__ = ["check_push", "push_selections"]

_DATA = re.compile(r".+\.(parquet|jsonl?|csv|arrow|txt|zip|tar|gz|zst)")
_CONFIG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
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
    hub = Hub(repo_id, token, revision)
    hub.sign_in()
    public = _is_public(hub, private)
    metadata = _metadata(hub, origin(parent) or selections[-1].provenance["dataset"], public)
    with tempfile.TemporaryDirectory(prefix="hf_datasel_") as scratch:
        folder = Path(scratch)
        facts: dict[str, Any] = {
            "title": hub.repo_id.split("/")[1],
            "repo_id": hub.repo_id,
            "publication": publication,
            "images": hub.files_url,
            "metadata": metadata,
            "results": results,
            "training": training,
        }
        configs = write_data(folder, selections, parent, publication)
        page = gather(selections, parent, configs=configs, **facts)
        write_page(folder, page)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        hub.check_secret(files)
        hub.create(private)

        def build(now: Snapshot) -> tuple[dict[str, Path], set[str]]:
            _check_room(hub, now, publication)
            readme = folder / "README.md"
            readme.write_text(_card(now, page, publication), encoding="utf-8")
            hub.check_secret({"README.md": readme})
            wanted = {**files, "README.md": readme}
            return wanted, {path for path in now.files if belongs(path, publication) and path not in wanted}

        return hub.commit(build, commit_message or _message(page))


def check_push(repo_id: str, dataset: Dataset, *, private: bool | None = None, token: str | None = None) -> None:
    """Find out, before any work is done, whether rows of a dataset can be published.

    Args:
        repo_id, dataset, private, token: as for `push_selections`.

    Raises:
        PublishError: the token, the repository or the parent does not permit it.
    """
    hub = Hub(repo_id, token)
    hub.sign_in()
    _metadata(hub, origin(dataset), _is_public(hub, private))


def _publication(config_name: str | None) -> str:
    if config_name is None or config_name == "default":
        return "default"
    if not _CONFIG.fullmatch(config_name) or _RESERVED.fullmatch(config_name):
        raise PublishError(
            f"config_name={config_name!r} has to be letters, digits, '-', '_' and '.', and none of the names that are "
            "given to scores and rounds ('scores', 'round-0', ...)."
        )
    return config_name


def _is_public(hub: Hub, private: bool | None) -> bool:
    there = hub.is_private()
    if there is False and private:
        raise PublishError(
            f"{hub.repo_id!r} is public already, and private=True does not change that. Change it in the settings of "
            "the repository, or choose another repo_id."
        )
    return not (there if there is not None else private)


def _metadata(hub: Hub, known: Mapping[str, Any], public: bool) -> dict[str, Any]:
    if known.get("name") is None:
        return {}
    if known["name"] == hub.repo_id:
        raise PublishError(
            f"{hub.repo_id!r} is the parent itself: its rows would be hidden behind the chosen ones. Choose another "
            "repo_id."
        )
    return hub.parent_metadata(known["name"], known.get("revision"), not public)


def _check_room(hub: Hub, now: Snapshot, publication: str) -> None:
    """Refuse to put a selection where another dataset is."""
    names = {name: files for name, files in data_configs(now.card).items() if belongs_config(name, publication)}
    foreign = [name for name, files in names.items() if not all(_ours(each) for each in files)]
    if foreign:
        raise PublishError(
            f"{hub.repo_id!r} has a configuration {foreign[0]!r} with other files. Pass a config_name, or choose "
            "another repo_id."
        )
    other = [path for path in now.files if _DATA.fullmatch(path) and not _ours(path)]
    if other and not data_configs(now.card):
        raise PublishError(
            f"{hub.repo_id!r} holds another dataset ({other[0]}), whose card lists no configurations: it could not be "
            "loaded any more. Choose another repo_id."
        )


def _ours(path: str) -> bool:
    return path.startswith(("data/", "scores/", "selections/")) and path.count("/") >= 2


def _card(now: Snapshot, facts: Facts, publication: str) -> str:
    if now.card is None:
        return card(facts)
    replaced = {name for name in data_configs(now.card) if belongs_config(name, publication)}
    return updated_card(now.card, facts, replaced | {each["name"] for each in facts["configs"]})


def _message(facts: Facts) -> str:
    last, rounds = facts["choices"][-1], len(facts["choices"])
    over = f" in {rounds} rounds" if rounds > 1 else ""
    return f"{last['rows']:,} of {facts['parent']['rows']:,} rows selected by {facts['method']['name']}{over}"
