"""Publishing selections on the Hub."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.cards.build import PublishTarget, check_together, gather
from hf_datasel.cards.card import card, updated_card
from hf_datasel.cards.evaluation_files import item_files, write_evaluation
from hf_datasel.cards.facts import Facts, TrainingRun
from hf_datasel.cards.repository_files import (
    data_folders,
    is_config_of,
    is_file_of,
    write_data,
    write_page,
)
from hf_datasel.cards.results import check_results
from hf_datasel.cards.round_wording import warm_up_rounds
from hf_datasel.cards.row_examples import RowExamples
from hf_datasel.errors import PublishError
from hf_datasel.hub.card_yaml import data_configs, is_data_file
from hf_datasel.hub.parents import Parents, merged_parents, parents_of, recorded_parents
from hf_datasel.hub.permissions import is_unchanged, sign_in, visibility
from hf_datasel.hub.repository import Hub, PushPlan, Snapshot
from hf_datasel.hub.secrets import SecretScan
from hf_datasel.selection import Selection

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitInfo

__all__ = ["check_access", "check_push", "plan_push", "push_selections"]

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
    allow_secrets: bool = False,
    results: Sequence[Mapping[str, Any]] = (),
    items: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    training: TrainingRun | None = None,
) -> CommitInfo:
    """Publish one selection, or all rounds of one run, in one commit; see `Selection.push_to_hub`.

    Args:
        selections: One selection, whose rows become the configuration `config_name`; or the rounds of one run, each of
            which becomes a configuration of its own (`round-0`, ...), the last one being the default.
        repo_id: As for `Selection.push_to_hub`.
        dataset: As for `Selection.push_to_hub`.
        private: As for `Selection.push_to_hub`.
        token: As for `Selection.push_to_hub`.
        revision: As for `Selection.push_to_hub`.
        commit_message: As for `Selection.push_to_hub`.
        config_name: As for `Selection.push_to_hub`.
        allow_secrets: As for `Selection.push_to_hub`.
        results: Evaluation results of models trained on the rows, for the card: mappings with the keys of
            `hf_datasel.cards.Result`. They are also saved in the repository, where `pull_evaluation` reads them.
        items: Files with the result of every question, as `save` of the results of `hf_datasel.evaluation` writes
            them: name -> file, or a folder, of which all such files are published, also those in its folders. They
            are in `evaluation/` of the repository, and no configuration of the dataset.
        training: The training run that selected, for the card.

    Raises:
        PublishError: See `Selection.push_to_hub`.
        DatasetMismatchError: The dataset is not the one the selections were made from.
    """
    with _built(
        selections,
        repo_id,
        dataset,
        private=private,
        token=token,
        revision=revision,
        config_name=config_name,
        allow_secrets=allow_secrets,
        results=results,
        items=items,
        training=training,
    ) as push:
        return push.commit(commit_message)


def plan_push(selections: Sequence[Selection], repo_id: str, dataset: Dataset | None = None, **more: Any) -> PushPlan:
    """Return what `push_selections` would publish, with the same arguments and checks, and upload nothing.

    Args:
        selections: As for `push_selections`.
        repo_id: As for `push_selections`.
        dataset: As for `push_selections`.
        **more: Further arguments of `push_selections`, other than `commit_message`.

    Raises:
        PublishError: As `push_selections` does.
        DatasetMismatchError: The dataset is not the one the selections were made from.
    """
    with _built(selections, repo_id, dataset, **more) as push:
        return push.plan()


@dataclass(frozen=True)
class _Push:
    """Files of a publication in a local folder, before they are uploaded."""

    hub: Hub
    folder: Path
    page: Facts
    private: bool | None
    is_new: bool
    scan: SecretScan

    def commit(self, message: str | None) -> CommitInfo:
        """Commit the files of the folder, and the existing card with the generated page replaced."""
        files = self._files()
        self.hub.create(self.private)
        return self.hub.commit(lambda current: self._build(files, current), message or _message(self.page))

    def plan(self) -> PushPlan:
        """Return what `commit` would do."""
        files = self._files()
        private = self.private if self.is_new else self.hub.is_private()
        return self.hub.plan(lambda current: self._build(files, current), is_new=self.is_new, private=private)

    def _files(self) -> dict[str, Path]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        files = {path.relative_to(self.folder).as_posix(): path for path in paths}
        self.scan.check_files(files)
        return files

    def _build(self, files: Mapping[str, Path], current: Snapshot) -> tuple[dict[str, Path], set[str]]:
        publication = self.page["publication"]
        _check_conflicts(self.hub, current, publication)
        readme = self.folder / "README.md"
        readme.write_text(_card(current, self.page, publication), encoding="utf-8", newline="")
        self.scan.check_files({"README.md": readme})
        written = {**files, "README.md": readme}
        return written, {path for path in current.files if is_file_of(path, publication) and path not in written}


@contextmanager
def _built(
    selections: Sequence[Selection],
    repo_id: str,
    dataset: Dataset | None = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    config_name: str | None = None,
    allow_secrets: bool = False,
    results: Sequence[Mapping[str, Any]] = (),
    items: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
    training: TrainingRun | None = None,
) -> Iterator[_Push]:
    """Check that selections can be published, and write their files to a temporary folder."""
    check_together(selections)
    results = check_results(results, "results")
    files = {} if items is None else item_files(items)
    if files and not results:
        raise PublishError(
            "Results of questions are published together with the results computed from them.",
            hint="Pass results, too.",
            cli_hint="Pass --results, too.",
        )
    config = _publication(config_name)
    parent = dataset if dataset is not None else selections[-1].dataset
    if parent is None:
        raise PublishError("The selection does not contain the dataset that it was made from. Pass it: dataset=...")
    selections[-1].check(parent)  # all are of the same dataset
    hub = Hub(repo_id, token, revision)
    sign_in(hub)
    recorded = selections[-1].provenance["dataset"]
    parents = _parents(parent, recorded)
    _check_not_a_parent(hub, parents)
    private, metadata = visibility(hub, parents, private)
    is_new = hub.is_private() is None
    if not is_new:
        _check_conflicts(hub, hub.snapshot(), config)
    scan = hub.secret_scan(allow_secrets)
    rows = np.unique(np.concatenate([selection.indices for selection in selections]))
    scan.check_rows(parent.select(rows), rows)
    with tempfile.TemporaryDirectory(prefix="hf_datasel_") as scratch:
        folder = Path(scratch)
        page = gather(
            selections,
            parent,
            title=hub.repo_id.split("/")[1],
            target=PublishTarget(hub.repo_id, revision, config, hub.files_url),
            metadata=metadata,
            parents=parents,
            changed=_changed(parents, recorded),
            configs=write_data(folder, selections, parent, config),
            results=results,
            training=training,
        )
        scan.check_texts({"the rows of the card": _text_of_rows(page)})
        if written := write_evaluation(folder, config, page["sections"]["evaluation"], files, scan):
            page["items"] = written
        write_page(folder, page)
        if is_new:
            hub.validate(card(page))
        yield _Push(hub, folder, page, private, is_new, scan)


def _text_of_rows(facts: Facts) -> str:
    rows: RowExamples | None = facts["sections"]["rows"]
    return "\n".join(row[part] for row in (rows or {"rows": []})["rows"] for part in ("prompt", "response"))


def check_push(repo_id: str, dataset: Dataset, *, private: bool | None = None, token: str | None = None) -> None:
    """Check, before the selection, whether rows of a dataset can be published.

    Args:
        repo_id: As for `push_selections`.
        dataset: As for `push_selections`.
        private: As for `push_selections`.
        token: As for `push_selections`.

    Raises:
        PublishError: The token, the repository or the parent dataset does not permit it.
    """
    hub = Hub(repo_id, token)
    check_access(hub, dataset, private)
    if hub.is_private() is not None:
        _check_conflicts(hub, hub.snapshot(), "default")


def check_access(hub: Hub, dataset: Dataset, private: bool | None) -> tuple[bool | None, dict[str, Any]]:
    """Raise if the token may not write, or if rows of a private or gated parent would become public.

    Args:
        hub: The repository.
        dataset: The dataset whose rows are published.
        private: Whether a new repository is private.

    Returns:
        Whether a new repository is to be private (True also for rows of unknown origin, unless `private` is False),
        and licence, languages and tasks of the parents.

    Raises:
        PublishError: One of the two is the case; the message says which.
    """
    sign_in(hub)
    parents = parents_of(dataset)
    _check_not_a_parent(hub, parents)
    return visibility(hub, parents, private)


def _publication(config_name: str | None) -> str:
    if config_name is None or config_name == "default":
        return "default"
    if not _CONFIG.fullmatch(config_name) or _RESERVED.fullmatch(config_name):
        raise PublishError(
            f"config_name={config_name!r} has to consist of letters, digits, '-', '_' and '.', and must not be a name "
            "for scores or rounds ('scores', 'round-0', ...)."
        )
    return config_name


def _parents(dataset: Dataset, recorded: Mapping[str, Any]) -> Parents:
    """Return where the rows come from: by the dataset itself, else as recorded when they were selected."""
    parents = parents_of(dataset)
    if parents.complete:
        return parents
    earlier = recorded_parents(recorded)
    return Parents(merged_parents([parents, earlier]).datasets, earlier.complete)


def _check_not_a_parent(hub: Hub, parents: Parents) -> None:
    if any(name.lower() == hub.repo_id.lower() for name in parents.names):
        raise PublishError(
            f"{hub.repo_id!r} is the parent dataset itself, whose rows the selection would hide. Use another repo_id."
        )


def _changed(parents: Parents, recorded: Mapping[str, Any]) -> bool | None:
    """Return whether the pool differs from its only parent; None if that cannot be checked."""
    if not parents.only:
        return bool(parents.datasets)
    unchanged = is_unchanged(parents.only, recorded["id"], recorded.get("columns"))
    return None if unchanged is None else not unchanged


def _check_conflicts(hub: Hub, current: Snapshot, publication: str) -> None:
    """Raise if the repository holds another dataset that the selection would overwrite or hide."""
    configs = data_configs(current.card)
    folders = data_folders(current.files)
    for name, patterns in configs.items():
        if is_config_of(name, publication) and not all(pattern.startswith(folders) for pattern in patterns):
            raise PublishError(
                f"{hub.repo_id!r} has a configuration {name!r} with other files. Pass a config_name, or use another "
                "repo_id."
            )
    other = [path for path in current.files if is_data_file(path) and not path.startswith(folders)]
    if other and not configs:
        raise PublishError(
            f"{hub.repo_id!r} holds another dataset ({other[0]}) without configurations in its card, so it could no "
            "longer be loaded. Use another repo_id."
        )
    if conflicts := [path for path in other if is_file_of(path, publication)]:
        raise PublishError(
            f"{hub.repo_id!r} has a file {conflicts[0]!r} that is not from a selection. Use another repo_id."
        )


def _card(current: Snapshot, facts: Facts, publication: str) -> str:
    if current.card is None:
        return card(facts)
    replaced = {name for name in data_configs(current.card) if is_config_of(name, publication)}
    return updated_card(current.card, facts, replaced | {config["name"] for config in facts["configs"]})


def _message(facts: Facts) -> str:
    last = facts["rounds"][-1]
    rounds = len(facts["rounds"]) - len(warm_up_rounds(facts["rounds"]))
    in_rounds = f" in {rounds} rounds" if rounds > 1 else ""
    return f"{last['rows']:,} of {facts['parent']['rows']:,} rows selected by {facts['method']['name']}{in_rounds}"
